"""The timelines of two sets of runs in one picture: each side's median over its runs, and the band of all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from reports.analysis import Analysis
from reports.charts import CONFIG, WIDTH, band, renumbered
from reports.timeline import buckets

SIDES = {"base": "var(--store)", "new": "var(--lookup)"}
PANELS = (  # record of a bucket, title, height, logarithmic
    ("lookup_success", "Lookups ok", 90, False),
    ("lookup_p50", "Lookup latency, p50", 120, True),
    ("lookup_p99", "Lookup latency, p99", 120, True),
    ("store_p99", "Store latency, p99", 120, True),
)
LATENCY = "datum.value >= 1000 ? datum.value / 1000 + ' s' : datum.value + ' ms'"

Spec = dict[str, Any]


def overlay_svg(base: Sequence[Analysis], new: Sequence[Analysis]) -> str:
    """A picture that scales with its container; empty if there is nothing to draw."""
    import vl_convert

    duration = max((a.history.duration for a in (*base, *new)), default=0.0)
    records = [*_records("base", base, duration), *_records("new", new, duration)]
    if not records:
        return ""
    windows = [band(window, duration) for window in (base or new)[0].windows.faults]
    panels = [_panel(*panel, duration, last=panel is PANELS[-1]) for panel in PANELS]
    chart = alt.vconcat(*panels, spacing=14, background="transparent")
    spec: Spec = chart.configure(**CONFIG).to_dict(validate=False)
    spec["datasets"] = {"moments": records, "faults": windows}
    svg: str = vl_convert.vegalite_to_svg(json.loads(renumbered(json.dumps(spec), r"\bview_\d+\b", "view_")))
    return renumbered(svg, r"\bclip\d+\b", "clip")


def _records(side: str, analyses: Sequence[Analysis], duration: float) -> list[dict[str, Any]]:
    """One record per bucket: for each panel's measure the median, least and most over the runs that know it."""
    runs = [buckets(analysis.history.load, duration) for analysis in analyses]
    return [{"side": side, "t": moments[0]["t"], **_spread(moments)} for moments in zip(*runs, strict=True)]


def _spread(moments: Sequence[dict[str, Any]]) -> dict[str, float]:
    told: dict[str, float] = {}
    for name, *_ in PANELS:
        known = [moment[name] for moment in moments if moment[name] is not None]
        if known:
            told |= {name: float(np.median(known)), f"{name}_low": min(known), f"{name}_high": max(known)}
    return told


def _panel(name: str, title: str, height: int, logarithmic: bool, duration: float, *, last: bool) -> Any:
    scale = alt.Scale(domain=[0, duration], nice=False)
    axis = alt.Axis(title="seconds since the clock started" if last else None, labels=last, ticks=last)
    x = alt.X("t:Q", scale=scale, axis=axis)
    y_axis = alt.Axis(labelExpr=LATENCY, tickCount=3, title=None) if logarithmic else alt.Axis(format=".0%", title=None)
    y_scale = alt.Scale(type="log") if logarithmic else alt.Scale(domain=[0, 1])
    colour = alt.Color("side:N", scale=alt.Scale(domain=list(SIDES), range=list(SIDES.values())), legend=None)
    base = alt.Chart(alt.NamedData("moments"))
    area = base.mark_area(opacity=0.18).encode(
        x=x, y=alt.Y(f"{name}_low:Q", axis=y_axis, scale=y_scale), y2=f"{name}_high:Q", color=colour
    )
    line = base.mark_line(strokeWidth=1.8).encode(x=x, y=alt.Y(f"{name}:Q", axis=y_axis, scale=y_scale), color=colour)
    shade = alt.Chart(alt.NamedData("faults")).mark_rect(color="var(--fault)", opacity=0.14, clip=True)
    fault = shade.encode(x=alt.X("start:Q", scale=scale, axis=axis), x2="healed:Q")
    return alt.layer(fault, area, line).properties(
        width=WIDTH, height=height, title=alt.TitleParams(title, anchor="start", offset=8, frame="group")
    )
