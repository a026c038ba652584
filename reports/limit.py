"""Where an objective ended while the rate went up: the steps of a search, each judged by its own rows, and their curve.

A step holds if the objective holds for what was due in it, and if its load was really delivered: a generator that lags
measures itself. The first part of a step is left out, as the network is still on its way from the step before.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd

from harness.expectations import Expectation, parse
from harness.records import Verdict
from reports.checkers.load import MOST_LAG, MOST_SHED
from reports.history import History
from reports.metrics import measure
from reports.summary import CheckResult, Limit, StepVerdict
from reports.summary import LimitStep as Step
from reports.wording import duration, rate

SETTLING = 0.2  # share of a step
ENOUGH = 0.9  # share of the planned operations that must have been due
GIVE_UP = 2  # steps in a row that do not hold end a search


def find(history: History, seen: float) -> Limit | None:
    """The search of a run, from the steps that had ended ``seen`` s after the clock's start; None if it was none."""
    asked = history.experiment.get("limit")
    if not asked:
        return None
    objective = parse(asked["objective"])
    steps = [_step(planned, objective, history.load) for planned in asked["steps"] if planned["to_us"] / 1e6 <= seen]
    return _limit(asked["objective"], steps, complete=len(steps) == len(asked["steps"]))


def ended(history: History, seen: float) -> list[str]:
    """Why a search need not go on; empty while it must."""
    limit = find(history, seen)
    last = [] if limit is None else limit.steps[-GIVE_UP:]
    if len(last) == GIVE_UP and all(step.verdict in ("missed", "not delivered") for step in last):
        return [f"{step.rate:g}/s: {step.verdict}" for step in last]
    return []


def check(limit: Limit) -> CheckResult:
    """The search as a check among the others."""
    return CheckResult(
        checker="limit",
        verdict=limit.verdict,
        evidence=limit.sentence,
        details=[msgspec.to_builtins(s) for s in limit.steps],
    )


def _limit(text: str, steps: list[Step], *, complete: bool) -> Limit:
    held = [step.rate for step in steps if step.verdict == "held"]
    found = max(held, default=None)
    above = [step for step in steps if step.verdict != "held" and (found is None or step.rate > found)]
    measured = [step for step in above if step.verdict == "missed"]  # what is known goes before what cannot be told
    missed = min(measured or above, key=lambda step: step.rate) if above else None
    if found is None:
        verdict: Verdict = "fail" if missed and missed.verdict == "missed" else "unknown"
        sentence = f"{text} held at no rate" + (f"; {_told(missed)}" if missed else ", since none was tried to its end")
    elif missed is None:
        verdict = "pass" if complete else "unknown"
        sentence = f"{text} held at every rate up to {rate(found)}: the limit lies higher (--up-to)"
    else:
        verdict = "pass" if missed.verdict == "missed" else "unknown"
        sentence = f"{text} held up to {rate(found)}; {_told(missed)}"
    return Limit(
        objective=text,
        found=found,
        missed=None if missed is None else missed.rate,
        steps=steps,
        verdict=verdict,
        sentence=sentence,
    )


def _told(step: Step) -> str:
    if step.verdict == "missed":
        return f"at {rate(step.rate)} it did not ({step.why})"
    return f"at {rate(step.rate)} it cannot be told: {step.why}"


def _step(planned: dict[str, Any], objective: Expectation, load: pd.DataFrame) -> Step:
    start, end = planned["from_us"] / 1e6, planned["to_us"] / 1e6
    start += SETTLING * (end - start)
    wanted = planned["rate_per_1000s"] / 1000
    due = load[(load["intended"] >= start) & (load["intended"] < end)]
    rows = due[due["kind"] == objective.kind]
    found = measure(objective.measure, rows, end - start)
    lag = float(np.quantile(due["started"] - due["intended"], 0.99)) if len(due) else 0.0
    verdict, why = _verdict(due, wanted * (end - start), lag)
    if verdict == "held" and found.value is None:
        verdict, why = "unknown", found.why
    elif verdict == "held" and found.value is not None and not objective.holds(found.value):
        verdict, why = "missed", f"measured {_value(objective, found.value)}"
    latencies = np.quantile(rows["latency"], [0.5, 0.99]) * 1000 if len(rows) else (None, None)
    return Step(
        rate=wanted,
        verdict=verdict,
        operations=len(due),
        measured=found.value,
        p50_ms=None if latencies[0] is None else round(float(latencies[0]), 3),
        p99_ms=None if latencies[1] is None else round(float(latencies[1]), 3),
        success=float((rows["outcome"] == "ok").mean()) if len(rows) else None,
        lag_p99_ms=round(lag * 1000, 1),
        why=why,
    )


def _verdict(due: pd.DataFrame, wanted: float, lag: float) -> tuple[StepVerdict, str]:
    """Whether a step's load was delivered."""
    shed = int((due["error"] == "shed").sum())
    if shed > MOST_SHED * len(due):
        return "missed", f"{shed:,} of {len(due):,} operations found too many in flight"
    if len(due) < ENOUGH * wanted:
        return "not delivered", f"{len(due):,} operations were due of {wanted:,.0f}"
    if lag > MOST_LAG:
        return "not delivered", f"the generator was {lag * 1000:.0f} ms late at p99: raise load.processes"
    return "held", ""


def _value(objective: Expectation, value: float) -> str:
    if objective.dimension == "time":
        return duration(value)
    return f"{value:.2%}" if objective.dimension == "share" else f"{value:g}"


# --- the curve --------------------------------------------------------------------------------------------------------


def curve_svg(limit: Limit) -> str:
    """Latency against rate as a picture: p50 and p99 of each step, on axes that suit factors."""
    import altair as alt
    import vl_convert

    records = [
        {"rate": step.rate, "ms": max(value, 0.01), "what": name, "verdict": step.verdict}
        for step in limit.steps
        for name, value in (("p50", step.p50_ms), ("p99", step.p99_ms))
        if value is not None
    ]
    x = alt.X("rate:Q", title="operations per second", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("ms:Q", title="latency, ms", scale=alt.Scale(type="log"))
    colour = alt.Color("what:N", title=None, scale=alt.Scale(range=["var(--store)", "var(--lookup)"]))
    base = alt.Chart(alt.InlineData(values=records)).encode(x=x, y=y)
    shape = alt.Shape("verdict:N", title=None, scale=alt.Scale(domain=["held", "missed", "not delivered", "unknown"]))
    layers: list[Any] = [
        base.mark_line().encode(color=colour),
        base.mark_point(filled=True, size=70).encode(color=colour, shape=shape),
    ]
    if limit.found is not None:
        rule = alt.Chart(alt.InlineData(values=[{"rate": limit.found}]))
        layers.append(rule.mark_rule(strokeDash=[4, 4], color="var(--fault)").encode(x=x))
    chart = alt.layer(*layers).properties(width=860, height=260, background="transparent")
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict(validate=False))
    return svg
