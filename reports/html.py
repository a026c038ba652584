"""`report.html`: one file that is readable offline, without scripts, on paper, on a phone and in the dark.

What stands on the page is put together here as plain values; how it looks is the template's and the style sheet's
matter. The template escapes everything but what is listed in RAW, which is made by us and not by users. A content
policy in the page forbids all requests, so that not even a defect could make one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from harness.expectations import KINDS, Scope
from reports.analysis import Analysis, figures
from reports.charts import Timeline
from reports.curve import curve_svg
from reports.headline import WORDS, key_figures
from reports.history import History
from reports.limit import curve_svg as limit_svg
from reports.metrics import scoped
from reports.moments import moments
from reports.page import asset, environment, stylesheet
from reports.summary import ExpectationResult, FaultSummary
from reports.windows import Windows

RAW = ("style", "script", "chart_svg", "curve_svg", "limit_svg", "vega", "chart_spec")
SAMPLE = 12  # operations in each sample
LOG_TAIL = 4_000  # characters of a dead member's log


def page(analysis: Analysis, vega: str) -> str:
    """The page. ``vega`` is the JavaScript that draws the interactive chart; without it the static one stays."""
    from markupsafe import Markup

    values = _values(analysis, vega)
    values |= {name: Markup(values[name]) for name in RAW}  # noqa: S704 - ours, see above
    return environment().get_template("report.html.j2").render(values)


def _values(analysis: Analysis, vega: str) -> dict[str, Any]:
    summary, history = analysis.summary, analysis.history
    chart = Timeline(history.load, analysis.windows, history.duration, history.samples)
    drawn = len(history.load) > 0
    return {
        "summary": summary,
        "description": history.experiment.get("description", ""),
        "began": history.events[0].wall[:19].replace("T", " ") if history.events else "",
        "word": WORDS[summary.verdict],
        "sentence": summary.sentence.removeprefix(f"{WORDS[summary.verdict]}: "),
        "figures": key_figures(summary, analysis.fates),
        "reasons": analysis.judgement.reasons,
        "expectations": [{"result": result, **_margin(result)} for result in summary.expectations],
        "phases": [{"fault": fault, "rows": _around(fault, analysis)} for fault in summary.faults],
        "kinds": [("Lookups", summary.lookup), ("Stores", summary.store)],
        "outcomes": _outcomes(history.load),
        "errors": _errors(history.load),
        "slowest": _sample(_slowest(history.load), analysis.windows),
        "failed": _sample(_failures(history.load), analysis.windows),
        "cluster": _cluster(history.samples),
        "deaths": _deaths(history),
        "duration_s": history.duration,
        "bucket": chart.bucket,
        "chart_svg": chart.svg() if drawn else "",
        "curve_svg": curve_svg(analysis) if drawn else "",
        "moments": moments(analysis),
        "chart_spec": _embedded(chart.spec) if drawn and vega else "",
        "limit_svg": limit_svg(summary.limit) if summary.limit is not None and summary.limit.steps else "",
        "vega": vega.replace("</script", "<\\/script"),
        "style": stylesheet(),
        "script": asset("report.js"),
    }


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it may end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


# --- tables -----------------------------------------------------------------------------------------------------------


def _margin(result: ExpectationResult) -> dict[str, Any]:
    """How much of what was allowed is used up, from 0 on, and in words; nothing where that means nothing."""
    measured, limit, op = result.measured, result.limit, result.text
    if measured is None or not math.isfinite(measured):
        return {"used": None, "margin": ""}
    if result.unit == "share":
        used = (1 - measured) / (1 - limit) if limit < 1 and ">" in op else None
        what = "of the failures that are allowed"
    else:
        used = measured / limit if limit > 0 and "<" in op else None
        what = "of the limit"
    return {"used": used, "margin": "" if used is None else f"{used:.0%} {what}"}


def _around(fault: FaultSummary, analysis: Analysis) -> list[dict[str, Any]]:
    """One row for before, during and after a fault, with the figures of both kinds."""
    if fault.injected is None:
        return []
    scopes = [
        ("before any fault", Scope("before_faults")),
        ("in its window", Scope("during", fault.name)),
        ("after its heal", Scope("after", fault.name)),
    ]
    return [{"when": when, **_scope_figures(scope, analysis)} for when, scope in scopes]


def _scope_figures(scope: Scope, analysis: Analysis) -> dict[str, Any]:
    rows = scoped(analysis.history.load, analysis.windows, scope)
    seconds = analysis.windows.seconds(scope)
    return {kind: figures(rows, kind, seconds) for kind in KINDS}


def _outcomes(load: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per kind: its outcomes with their counts and shares, ok first."""
    rows = []
    for kind in KINDS:
        counts = load.loc[load["kind"] == kind, "outcome"].value_counts()
        parts = [
            {"outcome": str(o), "count": int(c), "share": int(c) / max(1, int(counts.sum()))} for o, c in counts.items()
        ]
        rows.append({"kind": kind, "parts": [part for part in parts if part["count"]]})
    return rows


def _errors(load: pd.DataFrame) -> list[dict[str, Any]]:
    """Kinds of failures by frequency: what the client was told."""
    failed = load[load["outcome"] != "ok"]
    if failed.empty:
        return []
    counts = failed.groupby(["kind", "outcome", "error"], observed=True).size().sort_values(ascending=False)
    records = counts.head(SAMPLE).reset_index(name="count").to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def _slowest(load: pd.DataFrame) -> pd.DataFrame:
    """Of those that succeeded: failures have a sample of their own, and would crowd these out."""
    return load.loc[load.loc[load["outcome"] == "ok", "latency"].nlargest(SAMPLE).index]


def _failures(load: pd.DataFrame) -> pd.DataFrame:
    """Failed operations, a few of each kind of failure, by time."""
    failed = load[load["outcome"] != "ok"]
    few = failed.groupby(["kind", "outcome", "error"], observed=True).head(3)
    return few.head(2 * SAMPLE)


def _sample(rows: pd.DataFrame, windows: Windows) -> list[dict[str, Any]]:
    return [_operation(row, windows) for row in rows.to_dict("records")]


def _operation(row: Mapping[Hashable, Any], windows: Windows) -> dict[str, Any]:
    kept = ("kind", "intended", "latency", "outcome", "error", "gateway", "hops", "rpcs", "acks")
    return {**{name: row[name] for name in kept}, "key": row["key"][:12], "during": windows.in_force(row["intended"])}


def _cluster(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """What nodes looked like in their last samples: least, median and most over the nodes."""
    last = samples[samples["up"]].groupby("name").tail(1)
    wanted = {
        "table": "contacts in the routing table",
        "records": "records held",
        "rpcs_in": "RPCs received",
        "rpcs_out": "RPCs sent",
        "timeouts": "RPCs that timed out",
        "memory": "resident memory, MiB",
    }
    if last.empty:
        return []
    scale = {"memory": 2**20}
    return [
        {"what": what, **{name: value / scale.get(column, 1) for name, value in _spread(last[column]).items()}}
        for column, what in wanted.items()
    ]


def _spread(values: pd.Series) -> dict[str, float]:
    return {"least": float(values.min()), "median": float(values.median()), "most": float(values.max())}


def _deaths(history: History) -> list[dict[str, Any]]:
    """Members and workers that ended unasked, with the end of what they said."""
    return [
        {
            "name": event.name,
            "at": event.t,
            "exit": event.detail.get("exit"),
            "log": _tail(history, event.detail.get("log")),
        }
        for event in history.of_kind("member-exit", "worker-exit")
    ]


def _tail(history: History, log: Any) -> str:
    """The end of a log: the journal holds its text, or its name within the run folder."""
    text = str(log or "")
    inside = (history.run_dir / text).resolve() if text and "\n" not in text and len(text) < 200 else None
    if inside is not None and inside.is_file() and inside.is_relative_to(history.run_dir.resolve()):
        text = inside.read_text(errors="replace")
    return text[-LOG_TAIL:]
