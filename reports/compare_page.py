"""`comparison.html`: what changed between two sets of runs, on one offline page without scripts."""

from __future__ import annotations

from typing import Any

from reports.compare import Comparison, Difference, Side, change_text, tolerance_text, value_text
from reports.overlay import overlay_svg
from reports.page import environment, stylesheet

TONES = {"regression": "fail", "no regression": "pass", "cannot tell": "inconclusive"}
CHIPS = {"worse": "fail", "better": "pass", "no worse": "pass", "cannot tell": "unknown"}
WIDE, MIDDLE = 160.0, 80.0  # px of an interval's picture, and where no change lies
REACH = 3.0  # tolerances to either side that the picture shows at least


def page(comparison: Comparison, base: Side, new: Side) -> str:
    """The page."""
    from markupsafe import Markup

    chart = overlay_svg(base.analyses, new.analyses)
    values: dict[str, Any] = {
        "comparison": comparison,
        "tone": TONES[comparison.verdict],
        "word": comparison.sentence.partition(":")[0] if ":" in comparison.sentence else "",
        "rows": [_row(one) for one in comparison.differences],
        "chart_svg": Markup(chart),  # noqa: S704 - drawn by us from numbers
        "style": Markup(stylesheet()),  # noqa: S704 - ours
    }
    return environment().get_template("compare.html.j2").render(values)


def _row(one: Difference) -> dict[str, Any]:
    return {
        "metric": one.metric,
        "verdict": one.verdict,
        "chip": CHIPS[one.verdict],
        "base": value_text(one.metric, one.base),
        "new": value_text(one.metric, one.new),
        "change": change_text(one),
        "tolerance": tolerance_text(one),
        "note": one.note,
        "picture": _picture(one),
    }


def _picture(one: Difference) -> dict[str, float] | None:
    """Where the interval, its middle and the tolerance lie, in px; None without an interval."""
    if one.change is None or one.low is None or one.high is None:
        return None
    reach = max(abs(one.low), abs(one.high), REACH * one.tolerance, 1e-9)
    scale = (WIDE / 2 - 4) / reach
    left, right = MIDDLE + one.low * scale, MIDDLE + one.high * scale
    return {
        "left": round(left, 1),
        "width": round(max(right - left, 1.0), 1),
        "middle": round(MIDDLE + one.change * scale, 1),
        "limit": round(one.tolerance * scale, 1),
    }
