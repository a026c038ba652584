"""Latency by percentile, as HDR histograms are drawn: each step to the right leaves a tenth of the operations beyond it."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np

from harness.expectations import KINDS, Scope
from reports.analysis import Analysis
from reports.charts import COLOURS, CONFIG, NAMES, WIDTH, Spec, renumbered
from reports.metrics import BEYOND, ENOUGH, Floats

PER_DECADE = 24  # points
MOST_DECADES = 6.0
CALM, FAULTY = "outside faults", "in faults' windows"
LABELS = "datum.value <= 1 ? '0%' : (100 - 100 / datum.value) + '%'"
LATENCY = "datum.value >= 1000 ? datum.value / 1000 + ' s' : datum.value + ' ms'"


def points(latency: Floats) -> list[dict[str, float]]:
    """`beyond`, the 1 in how many operations that took longer, and `ms`; as far as BEYOND rows lie beyond it."""
    if len(latency) < ENOUGH:
        return []
    decades = min(MOST_DECADES, float(np.log10(len(latency) / BEYOND)))
    exponents = np.arange(0, decades, 1 / PER_DECADE)
    values = quantiles_of(np.sort(latency), 1 - 10**-exponents) * 1000
    return [
        {"beyond": round(float(10**x), 6), "ms": round(max(float(v), 1e-3), 4)}
        for x, v in zip(exponents, values, strict=True)
    ]


def quantiles_of(ordered: Floats, q: Floats) -> Floats:
    """numpy's linear quantiles of values in order: for many of them, sorting once is much cheaper."""
    places = q * (len(ordered) - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    found: Floats = ordered[below] + (places - below) * (ordered[above] - ordered[below])
    return found


def curve_svg(analysis: Analysis) -> str:
    """A picture that scales with its container; empty with too few operations."""
    import vl_convert

    records = _records(analysis)
    if not records:
        return ""
    x = alt.X(
        "beyond:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=[1, 2, 10, 100, 1000, 10_000, 100_000], labelExpr=LABELS, title=None, grid=True),
    )
    y = alt.Y("ms:Q", scale=alt.Scale(type="log"), axis=alt.Axis(labelExpr=LATENCY, tickCount=4, title=None))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    dash = alt.StrokeDash("scope:N", scale=alt.Scale(domain=[CALM, FAULTY], range=[[1, 0], [2, 3]]), legend=None)
    chart = (
        alt.Chart(alt.NamedData("points"))
        .mark_line(strokeWidth=1.8)
        .encode(x=x, y=y, color=colour, strokeDash=dash)
        .properties(width=WIDTH, height=220, background="transparent")
    )
    spec: Spec = chart.configure(**CONFIG).to_dict(validate=False)
    spec["datasets"] = {"points": records}
    svg: str = vl_convert.vegalite_to_svg(json.loads(renumbered(json.dumps(spec), r"\bview_\d+\b", "view_")))
    return renumbered(svg, r"\bclip\d+\b", "curve-clip")


def _records(analysis: Analysis) -> list[dict[str, Any]]:
    load, windows = analysis.history.load, analysis.windows
    calm = windows.covers(Scope("outside_faults"), load["intended"].to_numpy(), load["finished"].to_numpy())
    latency = load["latency"].to_numpy()
    records: list[dict[str, Any]] = []
    for kind in KINDS:
        mine = (load["kind"] == kind).to_numpy()
        for scope, rows in ((CALM, mine & calm), (FAULTY, mine & ~calm)):
            records += [{"kind": NAMES[kind], "scope": scope, **point} for point in points(latency[rows])]
    return records
