"""The timeline of a run: Altair specifications over aggregates, as SVG for readers without scripts, and interactive.

Colours are CSS variables of the page (`var(--lookup)`), so both follow the reader's light or dark theme without being
drawn twice. All panels share one time axis, the faults' windows as bands, and, in the interactive one, what the reader
has brushed in the overview below them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import altair as alt

from reports.timeline import bucket_width, buckets
from reports.windows import Window, Windows

WIDTH = 900
BRUSH = "brush"
LANE = 22
LETTER = 6.2  # px of an average letter in labels
NAMES = {"lookup": "Lookups", "store": "Stores"}
COLOURS = {"Lookups": "var(--lookup)", "Stores": "var(--store)"}
SMALL = {  # measure of a bucket -> title and colour of its panel
    "hops": ("Hops of a lookup, mean", "var(--lookup)"),
    "up": ("Nodes up", "var(--good)"),
    "traffic": ("RPCs sent by nodes per second", "var(--muted)"),
    "lag": ("How late the generator sent, p99 (ms)", "var(--muted)"),
}
OUTCOMES = {"ok": "var(--ok)", "failed": "var(--failed)"}

Spec = dict[str, Any]
Chart = Any  # what layering and encoding return is a union of all kinds of charts


class Timeline:
    """What clients saw and what the network did over time, with the faults' windows; one specification for both kinds
    of reader. ``samples`` are the nodes'."""

    def __init__(self, load: Any, windows: Windows, duration: float, samples: Any = None) -> None:
        self._duration = duration
        self._records = buckets(load, duration, samples)
        self._bands = with_lanes([band(window, duration) for window in windows.faults], duration)

    @property
    def bucket(self) -> float:
        """Seconds per bucket."""
        return bucket_width(self._duration)

    def svg(self) -> str:
        """A static picture that scales with its container."""
        import vl_convert

        svg: str = vl_convert.vegalite_to_svg(still(self.spec, self._duration))
        return renumbered(svg, r"\bclip\d+\b", "clip")

    @cached_property
    def spec(self) -> Spec:
        """The interactive Vega-Lite specification: hover tells all figures of a moment, the overview below zooms."""
        brush = alt.selection_interval(encodings=["x"], name=BRUSH)
        scale = alt.Scale(domain=brush, nice=False)
        panels = [
            *([self._faults(scale)] if self._bands else []),
            self._panel(scale, self._success(scale), "Success", 120),
            self._panel(scale, self._rate(scale), "Operations per second", 110),
            self._panel(scale, self._latency(scale), "Latency", 170),
        ]
        small = [name for name in SMALL if any(record.get(name) is not None for record in self._records)]
        for name in small:
            marks = [_small(scale, name, colour=SMALL[name][1])]
            panels.append(self._panel(scale, marks, SMALL[name][0], 46, last=name == small[-1]))
        panels.append(self._overview(brush))
        chart = alt.vconcat(*panels, spacing=14, data=alt.NamedData("moments"), background="transparent")
        spec: Spec = chart.configure(**CONFIG).to_dict(validate=False)
        spec = json.loads(renumbered(json.dumps(spec), r"\bview_\d+\b", "view_"))
        spec["datasets"] = {"moments": self._records, "faults": self._bands}  # last: Altair copies whatever it holds
        return spec

    # --- panels -----------------------------------------------------------------------------------

    def _faults(self, scale: alt.Scale) -> Chart:
        """A strip on top: one bar per fault, its tail paler, its name in it."""
        base = alt.Chart(alt.NamedData("faults"))
        y = alt.Y("lane:O", axis=None, scale=alt.Scale(paddingInner=0.2, paddingOuter=0.05))
        bar = base.mark_rect(color="var(--fault)", opacity=0.5, cornerRadius=3, clip=True)
        tail = base.mark_rect(color="var(--fault)", opacity=0.18, cornerRadius=3, clip=True)
        label = base.mark_text(
            align="left", baseline="middle", color="var(--ink)", fontSize=11, fontWeight=600, clip=True
        )
        start = alt.X("start:Q", scale=scale, axis=None)
        layers = [
            tail.encode(x=alt.X("healed:Q", scale=scale, axis=None), x2="until:Q", y=y),
            bar.encode(x=start, x2="healed:Q", y=y),
            label.encode(x=alt.X("anchor:Q", scale=scale, axis=None), y=y, text="name:N"),
        ]
        height = LANE * (1 + max(band["lane"] for band in self._bands))
        whole_axis = alt.Chart().mark_rule(opacity=0).encode(x=alt.X("t0:Q", scale=scale, axis=None), x2="t1:Q")
        return alt.layer(whole_axis, *layers).properties(width=WIDTH, height=height)

    def _panel(
        self,
        scale: alt.Scale,
        marks: Sequence[Chart],
        title: str,
        height: int,
        last: bool = False,
    ) -> Chart:
        layers = [*self._shades(scale), *marks, _hover(scale)]
        chart = alt.layer(*layers).properties(
            width=WIDTH, height=height, title=alt.TitleParams(title, anchor="start", offset=8, frame="group")
        )
        axis = alt.Axis(title="seconds since the clock started" if last else None, labels=last, ticks=last)
        for layer in chart.layer:
            layer.encoding.x.axis = axis
        return chart

    def _shades(self, scale: alt.Scale) -> list[Chart]:
        if not self._bands:
            return []
        base = alt.Chart(alt.NamedData("faults"))
        x = {name: alt.X(f"{name}:Q", scale=scale, axis=None) for name in ("start", "healed")}
        return [
            base.mark_rect(color="var(--fault)", opacity=0.16, clip=True).encode(x=x["start"], x2="healed:Q"),
            base.mark_rect(color="var(--fault)", opacity=0.06, clip=True).encode(x=x["healed"], x2="until:Q"),
        ]

    def _success(self, scale: alt.Scale) -> list[Chart]:
        return _lines(scale, "success", alt.Axis(format=".0%", tickCount=4), alt.Scale(domain=[0, 1]))

    def _latency(self, scale: alt.Scale) -> list[Chart]:
        y_scale = alt.Scale(type="log", nice=True)
        labels = "datum.value >= 1000 ? datum.value / 1000 + ' s' : datum.value + ' ms'"
        axis = alt.Axis(labelExpr=labels, labelOverlap=False, values=[0.1, 1, 10, 100, 1000, 10000, 100000])
        return [
            *_lines(scale, "p50", axis, y_scale, strokeDash=[2, 3]),
            *_lines(scale, "p99", axis, y_scale),
        ]

    def _rate(self, scale: alt.Scale) -> list[Chart]:
        base = alt.Chart().transform_fold(list(OUTCOMES), as_=["outcome", "rate"])
        bars = base.mark_bar(opacity=0.85, clip=True, binSpacing=0).encode(
            x=alt.X("t0:Q", bin="binned", scale=scale),
            x2="t1:Q",
            y=alt.Y("rate:Q", axis=alt.Axis(title=None, tickCount=3), stack="zero"),
            color=alt.Color("outcome:N", scale=_colours(OUTCOMES), legend=None),
            order=alt.Order("outcome:N", sort="descending"),
        )
        return [bars]

    def _overview(self, brush: alt.Parameter) -> Chart:
        full = alt.Scale(domain=[0, self._duration], nice=False)
        return (
            alt.Chart()
            .mark_rect(color="var(--muted)", opacity=0.45)
            .encode(
                x2="t1:Q",
                x=alt.X(
                    "t:Q", scale=full, axis=alt.Axis(title="drag here to zoom, double-click to see all", grid=False)
                ),
                y=alt.Y("lookup_p99:Q", axis=None, scale=alt.Scale(type="sqrt")),
                y2=alt.Y2Datum(0),
            )
            .add_params(brush)
            .properties(width=WIDTH, height=36)
        )


# --- parts ------------------------------------------------------------------------------------------------------------

CONFIG: Spec = {
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "view": {"stroke": "var(--line)"},
    "title": {"color": "var(--ink)", "fontSize": 12, "fontWeight": 600},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "axisY": {"minExtent": 46, "maxExtent": 46, "domain": False, "ticks": False},
    "axisX": {"grid": False},
}


def still(spec: Spec, duration: float) -> Spec:
    """The same without what needs scripts: no overview, no columns that tell, and the whole time on every axis."""

    def fixed(part: Any) -> Any:
        if isinstance(part, dict):
            if part.get("param") == BRUSH:
                return [0, duration]
            return {name: fixed(value) for name, value in part.items()}
        return [fixed(value) for value in part if not _tells(value)] if isinstance(part, list) else part

    made: Spec = {
        name: value if name == "datasets" else fixed(value) for name, value in spec.items() if name != "params"
    }
    made["vconcat"].pop()
    return made


def _tells(part: Any) -> bool:
    return isinstance(part, dict) and "tooltip" in part.get("encoding", {})


def _lines(scale: alt.Scale, measure: str, axis: alt.Axis, y_scale: alt.Scale, **style: Any) -> list[Chart]:
    axis.title = None
    return [
        alt.Chart()
        .mark_line(color=COLOURS[name], strokeWidth=1.8, clip=True, interpolate="linear", **style)
        .encode(x=alt.X("t:Q", scale=scale, axis=None), y=alt.Y(f"{kind}_{measure}:Q", axis=axis, scale=y_scale))
        for kind, name in reversed(NAMES.items())
    ]


def _small(scale: alt.Scale, measure: str, colour: str) -> Chart:
    """One line from zero up; a step where only whole numbers are."""
    axis = alt.Axis(title=None, tickCount=2)
    base = alt.Chart()
    style: dict[str, Any] = {"color": colour, "strokeWidth": 1.6, "clip": True}
    line = base.mark_line(interpolate="step" if measure == "up" else "linear", **style)
    y = alt.Y(f"{measure}:Q", axis=axis, scale=alt.Scale(zero=True, nice=True))
    return line.encode(x=alt.X("t:Q", scale=scale, axis=None), y=y)


def _hover(scale: alt.Scale) -> Chart:
    """Invisible columns that tell a moment's figures."""
    told = [alt.Tooltip("t0:Q", title="from s"), alt.Tooltip("t1:Q", title="to s")]
    for kind, name in NAMES.items():
        told += [
            alt.Tooltip(f"{kind}_success:Q", title=f"{name} ok", format=".2%"),
            alt.Tooltip(f"{kind}_rate:Q", title=f"{name} per s", format=".1f"),
            alt.Tooltip(f"{kind}_p50:Q", title=f"{name} p50 ms", format=",.1f"),
            alt.Tooltip(f"{kind}_p99:Q", title=f"{name} p99 ms", format=",.1f"),
        ]
    told += [
        alt.Tooltip("hops:Q", title="hops of a lookup", format=".2f"),
        alt.Tooltip("rpcs:Q", title="RPCs of a lookup", format=".1f"),
        alt.Tooltip("up:Q", title="nodes up"),
        alt.Tooltip("traffic:Q", title="RPCs sent per s", format=",.0f"),
        alt.Tooltip("lag:Q", title="generator late ms", format=",.1f"),
    ]
    column = alt.Chart().mark_rect(color="var(--ink)", opacity=0, clip=True)
    return column.encode(x=alt.X("t0:Q", scale=scale), x2="t1:Q", tooltip=told)


def renumbered(text: str, pattern: str, prefix: str) -> str:
    """Names that count the charts of this process, counted from one: the same run gives the same bytes."""
    names = {name: f"{prefix}{n}" for n, name in enumerate(dict.fromkeys(re.findall(pattern, text)), start=1)}
    return re.sub(pattern, lambda found: names[found[0]], text)


def _colours(colours: dict[str, str]) -> alt.Scale:
    return alt.Scale(domain=list(colours), range=list(colours.values()))


def band(window: Window, duration: float) -> dict[str, Any]:
    return {
        "name": window.name,
        "start": max(0.0, min(window.start, duration)),
        "healed": min(window.healed, duration),
        "until": min(window.until, duration),
    }


def with_lanes(bands: Sequence[dict[str, Any]], duration: float) -> list[dict[str, Any]]:
    """Each band in the first lane where neither it nor its label meets another; its label begins at ``anchor``."""
    ends: list[float] = []
    placed = []
    for band in bands:
        label = (len(band["name"]) * LETTER + 10) * duration / WIDTH
        anchor = min(band["start"] + 5 * duration / WIDTH, max(0.0, duration - label))
        begin, until = min(band["start"], anchor), max(band["until"], anchor + label)
        lane = next((number for number, end in enumerate(ends) if end <= begin), len(ends))
        ends[lane : lane + 1] = [until]
        placed.append({**band, "lane": lane, "anchor": anchor})
    return placed
