"""`comparison.html`: what changed between two sets of runs, on one offline page without scripts."""

from __future__ import annotations

import math
from typing import Any

from reports.compare import NAMED, Comparison, Difference, Side, change_text, gravest_first, tolerance_text, value_text
from reports.overlay import overlay_svg
from reports.page import environment, stylesheet

TONES = {"regression": "fail", "no regression": "pass", "cannot tell": "inconclusive"}
CHIPS = {"worse": "fail", "better": "pass", "no worse": "pass", "cannot tell": "unknown"}
WIDE, MIDDLE = 160.0, 80.0  # px of an interval's picture, and where no change lies
REACH = 3.0  # tolerances to either side that the picture shows at least


def page(comparison: Comparison, base: Side, new: Side) -> str:
    """The page."""
    from markupsafe import Markup

    head = max(comparison.sentence.find(mark) for mark in (":", " was found"))
    chart = overlay_svg(base.analyses, new.analyses)
    values: dict[str, Any] = {
        "comparison": comparison,
        "tone": TONES[comparison.verdict],
        "word": comparison.sentence[:head],
        "rest": comparison.sentence[head:],
        "rows": [_row(one) for one in gravest_first(comparison.differences)],
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
    ratio = NAMED[one.metric].scale == "ratio"
    low, change, high, limit = (
        math.log1p(max(value, -1 + 1e-9)) if ratio else value
        for value in (one.low, one.change, one.high, one.tolerance)
    )
    scale = (WIDE / 2 - 4) / max(abs(low), abs(high), REACH * limit, 1e-9)
    return {
        "left": round(MIDDLE + low * scale, 1),
        "width": round(max((high - low) * scale, 1.0), 1),
        "middle": round(MIDDLE + change * scale, 1),
        "limit": round(limit * scale, 1),
    }
