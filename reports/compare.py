"""Compares runs: what differs between a base and a new version by more than chance and a tolerance explain.

    worse        the whole interval lies beyond the tolerance on the bad side
    no worse     the whole interval lies on this side of that
    better       so, and the whole interval lies on the good side of no change
    cannot tell  the interval holds tolerable and intolerable changes: the runs vary too much, or are too few

Times, rates, hops and RPCs are compared by their logarithms, so their differences are ratios; shares in points, recovery
in seconds, keys as numbers. Runs that ended in an error or were interrupted are left out, and named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from harness.expectations import ExpectationSyntaxError, Scope, quantity
from harness.records import PLAN_FILE, SCHEMA
from reports.analysis import Analysis, analyse_folder, figures
from reports.errors import ReportUsageError, RunFolderError
from reports.intervals import ALPHA, LEAST_RUNS, intervals
from reports.metrics import scoped
from reports.wording import duration, number, rate, share

Change = Literal["worse", "no worse", "better", "cannot tell"]
Scale = Literal["ratio", "points", "seconds", "keys"]

LEAST: Final = {"time": 1e-5, "rate": 1e-3, "count": 0.1, "share": 0.0}  # what is below is as good as this, in a ratio
GRAIN: Final = 1e-3  # of a ratio: runs do not agree better than that
STEP: Final = 0.1  # s; how finely recovery is measured
CONDITIONS: Final = ("name", "cluster", "network", "load", "duration_us", "timeline")  # that both sides should share


@dataclass(frozen=True)
class Metric:
    """What is compared. ``worse``: +1 if more is worse, -1 if less is; ``dimension`` as expectations have it."""

    name: str
    scale: Scale
    worse: int
    dimension: Literal["time", "share", "rate", "count"]


def _of_kind(kind: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{kind}.success", "points", -1, "share"),
        Metric(f"{kind}.success outside faults", "points", -1, "share"),
        Metric(f"{kind}.p50", "ratio", 1, "time"),
        Metric(f"{kind}.p99", "ratio", 1, "time"),
        Metric(f"{kind}.p99 outside faults", "ratio", 1, "time"),
        Metric(f"{kind}.rate", "ratio", -1, "rate"),
        Metric(f"{kind}.hops", "ratio", 1, "count"),
        Metric(f"{kind}.rpcs", "ratio", 1, "count"),
    )


METRICS: Final = (
    *_of_kind("lookup"),
    *_of_kind("store"),
    Metric("recovery", "seconds", 1, "time"),
    Metric("lost", "keys", 1, "count"),
    Metric("unreachable", "keys", 1, "count"),
)
NAMED: Final = {metric.name: metric for metric in METRICS}
TOLERANCES: Final[dict[Scale, float]] = {"ratio": 0.05, "points": 0.01, "seconds": 1.0, "keys": 0.0}


class Difference(msgspec.Struct, kw_only=True):
    """One metric. ``base`` and ``new`` are the sides' values, one per run, in s, share, 1/s or plain.

    ``change``, ``low`` and ``high``: for a ratio its excess over 1 (0.2 is 20% more), else new - base; null if unknown.
    """

    metric: str
    base: list[float]
    new: list[float]
    change: float | None
    low: float | None
    high: float | None
    tolerance: float
    verdict: Change
    note: str = ""


class Comparison(msgspec.Struct, kw_only=True):
    """The whole result; what `--json` writes. ``verdict``: regression, none or cannot tell."""

    schema: int = SCHEMA
    verdict: Literal["regression", "no regression", "cannot tell"]
    exit_code: int
    sentence: str
    base: list[str]
    new: list[str]
    differences: list[Difference]
    notes: list[str]


@dataclass(frozen=True)
class Side:
    """The runs of one side that can be compared."""

    analyses: Sequence[Analysis]
    notes: Sequence[str] = ()

    @property
    def folders(self) -> list[str]:
        """Where they lie."""
        return [str(analysis.history.run_dir) for analysis in self.analyses]


def run_dirs(path: Path) -> list[Path]:
    """The run folder that ``path`` is, or those in it, by name.

    Raises:
        RunFolderError: it is neither.
    """
    if (path / PLAN_FILE).is_file():
        return [path]
    inside = sorted(plan.parent for plan in path.glob(f"*/{PLAN_FILE}")) if path.is_dir() else []
    if not inside:
        raise RunFolderError(f"{path}: is no run folder and holds none; one with a {PLAN_FILE} is wanted")
    return inside


def load_side(paths: Sequence[Path]) -> Side:
    """Analyse all runs of one side. Raises RunFolderError."""
    folders = list(dict.fromkeys(folder for path in paths for folder in run_dirs(path)))
    analyses, notes = [], []
    for folder in folders:
        analysis = analyse_folder(folder)
        if analysis.summary.verdict in ("error", "interrupted"):
            why = (analysis.summary.reasons or [analysis.summary.verdict])[0].partition("\n")[0]
            notes.append(f"{folder} is left out: {why[:160]}")
        else:
            analyses.append(analysis)
    return Side(analyses, notes)


def tolerances_of(texts: Sequence[str]) -> dict[str, float]:
    """Metric -> tolerance. ``texts``: `5%` is for all ratios; `lookup.p99=10%`, `recovery=2s`, `lost=1` for one metric.

    Raises:
        ReportUsageError: there is no such metric, or the value is none of its kind.
    """
    found = {metric.name: TOLERANCES[metric.scale] for metric in METRICS}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if equals and name not in NAMED:
            raise ReportUsageError(f"--tolerance {text}: no metric `{name}` (metrics: {', '.join(NAMED)})")
        try:
            parsed = _tolerance(NAMED.get(name), value)
        except ExpectationSyntaxError as error:
            raise ReportUsageError(f"--tolerance {text}: {error}") from error
        found |= {m.name: parsed for m in METRICS if (m.name == name if equals else m.scale == "ratio")}
    return found


def _tolerance(metric: Metric | None, text: str) -> float:
    dimensions: dict[Scale, Literal["share", "time", "count"]] = {"seconds": "time", "keys": "count"}
    return quantity("share" if metric is None else dimensions.get(metric.scale, "share"), text)


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(base: Side, new: Side, tolerances: Mapping[str, float]) -> Comparison:
    """Hold the new side's runs against the base's."""
    notes = [*base.notes, *new.notes, *_conditions(base, new)]
    if base.analyses and base.folders == new.folders:
        notes.append("both sides are the same runs")
    differences = differences_of([_values(a) for a in base.analyses], [_values(a) for a in new.analyses], tolerances)
    worse = [one for one in differences if one.verdict == "worse"]
    few = min(len(base.analyses), len(new.analyses)) < LEAST_RUNS
    told = _sentence(differences, worse, (len(base.analyses), len(new.analyses)))
    return Comparison(
        verdict="cannot tell" if few else "regression" if worse else "no regression",
        exit_code=4 if few else 1 if worse else 0,
        sentence=told,
        base=base.folders,
        new=new.folders,
        differences=differences,
        notes=notes,
    )


def differences_of(
    base: Sequence[Mapping[str, float]], new: Sequence[Mapping[str, float]], tolerances: Mapping[str, float]
) -> list[Difference]:
    """Each metric's difference. ``base`` and ``new``: per run, metric -> value (and `<kind>.count`); unknown ones absent."""
    shown = [m for m in METRICS if any(m.name in run for run in (*base, *new))]
    enough = [m for m in shown if min(_known(base, m.name), _known(new, m.name)) >= LEAST_RUNS]
    whole = [m for m in enough if all(m.name in run for run in (*base, *new))]
    found: dict[str, tuple[float, float]] = _together(base, new, whole, len(enough))
    for metric in enough:
        if metric not in whole:  # some runs do not know it: by itself, at the level that it would have had
            some = [[run for run in side if metric.name in run] for side in (base, new)]
            found |= _together(some[0], some[1], [metric], len(enough))
    return [_difference(metric, base, new, found.get(metric.name), tolerances[metric.name]) for metric in shown]


def _together(
    base: Sequence[Mapping[str, float]], new: Sequence[Mapping[str, float]], metrics: Sequence[Metric], of: int
) -> dict[str, tuple[float, float]]:
    """Metric -> (difference, half-width), on the metric's scale."""
    if not metrics:
        return {}
    sides = [np.array([[_scaled(m, run[m.name]) for m in metrics] for run in side]) for side in (base, new)]
    floors = np.array([_floor(m, [*base, *new]) for m in metrics])
    made = intervals(sides[0], sides[1], floors, ALPHA * len(metrics) / of)
    return {m.name: (float(d), float(h)) for m, d, h in zip(metrics, made.difference, made.half_width, strict=True)}


def _scaled(metric: Metric, value: float) -> float:
    return math.log(max(value, LEAST[metric.dimension])) if metric.scale == "ratio" else value


def _floor(metric: Metric, runs: Sequence[Mapping[str, float]]) -> float:
    """How much one run's value varies at the very least: by counting, or by how finely it is measured."""
    values = [run[metric.name] for run in runs]
    if metric.scale == "points":
        counts = [run.get(f"{metric.name.partition('.')[0]}.count", 1.0) for run in runs]
        shares = [(value * n + 0.5) / (n + 1) for value, n in zip(values, counts, strict=True)]
        return float(np.mean([math.sqrt(p * (1 - p) / max(n, 1)) for p, n in zip(shares, counts, strict=True)]))
    if metric.scale == "keys":
        return math.sqrt(max(float(np.mean(values)), 0.5)) if any(values) else 0.0
    return STEP if metric.scale == "seconds" else GRAIN


def _difference(
    metric: Metric,
    base: Sequence[Mapping[str, float]],
    new: Sequence[Mapping[str, float]],
    found: tuple[float, float] | None,
    tolerance: float,
) -> Difference:
    values = [[run[metric.name] for run in side if metric.name in run] for side in (base, new)]
    known = f"known of {len(values[0])} and {len(values[1])} runs"
    partial = len(values[0]) + len(values[1]) < len(base) + len(new)
    change = low = high = None
    verdict: Change = "cannot tell"
    if found is not None:
        limit = math.log1p(tolerance) if metric.scale == "ratio" else tolerance
        verdict = _verdict(metric.worse * found[0], found[1], limit)
        change, low, high = (_told(metric, found[0] + part) for part in (0.0, -found[1], found[1]))
    elif values[0] and values[1]:
        change = _told(metric, _middle(metric, values[1]) - _middle(metric, values[0]))
    return Difference(
        metric=metric.name,
        base=values[0],
        new=values[1],
        change=change,
        low=low,
        high=high,
        tolerance=tolerance,
        verdict=verdict,
        note=known if partial else "",
    )


def _verdict(worse_by: float, half_width: float, limit: float) -> Change:
    if worse_by - half_width > limit:
        return "worse"
    if worse_by + half_width < 0:
        return "better"
    return "no worse" if worse_by + half_width <= limit else "cannot tell"


def _middle(metric: Metric, values: Sequence[float]) -> float:
    return float(np.mean([_scaled(metric, value) for value in values]))


def _told(metric: Metric, difference: float) -> float:
    if metric.scale != "ratio":
        return round(difference, 9)
    return round(math.expm1(min(difference, 700.0)), 9)


# --- what a run says --------------------------------------------------------------------------------------------------


def _values(analysis: Analysis) -> dict[str, float]:
    """Metric -> value of one run, without those that it does not know."""
    found: dict[str, float | None] = {}
    windows, load = analysis.windows, analysis.history.load
    calm = scoped(load, windows, Scope("outside_faults")) if windows.faults else None
    for kind, whole in (("lookup", analysis.summary.lookup), ("store", analysis.summary.store)):
        found |= {f"{kind}.{name}": getattr(whole, name) for name in ("success", "rate", "hops", "rpcs")}
        found |= {f"{kind}.count": float(whole.count) or None}
        found |= {f"{kind}.{name}": _seconds(getattr(whole, f"{name}_ms")) for name in ("p50", "p99")}
        if calm is not None:
            part = figures(calm, kind, windows.end)
            found |= {
                f"{kind}.success outside faults": part.success,
                f"{kind}.p99 outside faults": _seconds(part.p99_ms),
            }
    fates = analysis.fates
    known = fates.acknowledged and not fates.unread
    found |= {name: float(len(fates.found(name))) if known else None for name in ("lost", "unreachable")}
    found["recovery"] = _recovery(analysis)
    return {name: value for name, value in found.items() if value is not None}


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _recovery(analysis: Analysis) -> float | None:
    """The slowest one; of a network that did not recover as long as one could look, that long at least."""
    seen = list(analysis.recoveries.values())
    if not seen or not all(recovery.known for recovery in seen):
        return None
    return max(recovery.seen if recovery.seconds is None else recovery.seconds for recovery in seen)


def _known(runs: Sequence[Mapping[str, float]], name: str) -> int:
    return sum(name in run for run in runs)


# --- words ------------------------------------------------------------------------------------------------------------


def _conditions(base: Side, new: Side) -> list[str]:
    """What was not the same on both sides, so that a difference may come of it."""
    told = []
    for name in CONDITIONS:
        sides = [_distinct(analysis.history.experiment.get(name) for analysis in s.analyses) for s in (base, new)]
        if sides[0] != sides[1] and sides[0] and sides[1]:
            told.append(f"not the same on both sides: {name.removesuffix('_us')}")
    machines = [_distinct(a.summary.environment.get("platform") for a in s.analyses) for s in (base, new)]
    if machines[0] != machines[1] and machines[0] and machines[1]:
        told.append("not the same on both sides: the machine's platform")
    return told


def _distinct(values: Any) -> list[bytes]:
    return sorted({msgspec.json.encode(value, order="sorted") for value in values})


def _sentence(differences: Sequence[Difference], worse: Sequence[Difference], runs: tuple[int, int]) -> str:
    sides = f"{runs[0]} runs against {runs[1]}"
    if min(runs) < LEAST_RUNS:
        return f"Cannot tell: {sides}, and at least {LEAST_RUNS} a side are needed."
    if worse:
        told = ", ".join(f"{one.metric} {change_text(one)}" for one in worse)
        return f"Regression: {told} ({sides})."
    unsure = [one.metric for one in differences if one.verdict == "cannot tell"]
    rest = f"; the runs vary too much to rule one out of {', '.join(unsure)}" if unsure else ""
    return f"No regression was found ({sides}){rest}."


def gravest_first(differences: Sequence[Difference]) -> list[Difference]:
    """For people: what got worse, then what cannot be told, then the rest."""
    order: list[Change] = ["worse", "cannot tell", "better", "no worse"]
    return sorted(differences, key=lambda one: order.index(one.verdict))


def change_text(one: Difference) -> str:
    """`+21.3% (+15.2% to +27.8%)`; without an interval the bare change says that it is one."""
    if one.change is None:
        return "unknown"
    metric = NAMED[one.metric]
    if one.low is None or one.high is None:
        return f"{_signed(metric, one.change)} (no interval)"
    unit = {"points": " points", "seconds": " s"}.get(metric.scale, "")
    return (
        f"{_signed(metric, one.change)} ({_signed(metric, one.low).removesuffix(unit)} to {_signed(metric, one.high)})"
    )


def _signed(metric: Metric, change: float) -> str:
    if metric.scale == "seconds":
        return f"{change:+.2f} s"
    if metric.scale == "keys":
        return f"{change:+.1f}"
    if change > 9:
        return f"×{1 + change:.3g}" if change < 1e6 else "×∞"
    return f"{change * 100:+.2f} points" if metric.scale == "points" else f"{change * 100:+.1f}%"


def tolerance_text(one: Difference) -> str:
    """The tolerance in the metric's unit."""
    scale = NAMED[one.metric].scale
    return {"ratio": f"{one.tolerance * 100:g}%", "points": f"{one.tolerance * 100:g} points"}.get(
        scale, f"{one.tolerance:g}{' s' if scale == 'seconds' else ''}"
    )


def value_text(name: str, values: Sequence[float]) -> str:
    """One side's mean, and its least and most."""
    worded = {"time": duration, "share": share, "rate": rate, "count": number}[NAMED[name].dimension]
    if not values:
        return worded(None)
    mean = float(np.mean(values))
    if min(values) == max(values):
        return worded(mean)
    return f"{worded(mean)} ({worded(min(values))} to {worded(max(values))})"
