"""A run's folder in, everything that is known about the run out: read, measured, judged. Writes nothing.

`Analysis` holds what the writers of reports share, so that each figure is computed once and is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.expectations import KINDS, ExpectationSyntaxError, parse
from harness.records import PLAN_FILE
from reports import history as histories
from reports import limit as limits
from reports.checkers import Case, check_all
from reports.errors import RunFolderError
from reports.faults import summarise
from reports.headline import sentence
from reports.history import History
from reports.judgement import Evidence, judge
from reports.keys import Fates, fates_of
from reports.metrics import MEASURED, QUANTILES, known_mean
from reports.recovery import Recovery, recovery_after
from reports.summary import ExpectationResult, Figures, Summary
from reports.verdict import Judgement, judge_run
from reports.windows import Windows, windows_of

TOLERANCES = ("lost", "stale", "wrong", "unreachable")


@dataclass(frozen=True)
class Analysis:
    """One run, analysed."""

    history: History
    windows: Windows
    fates: Fates
    recoveries: dict[str, Recovery]
    judgement: Judgement
    summary: Summary
    case: Case  # what checkers looked at


def analyse_folder(run_dir: Path) -> Analysis:
    """Read and judge a run.

    Raises:
        RunFolderError: it is no run folder, or a file in it cannot be read; the text names the file.
    """
    history = histories.load(run_dir)
    windows = windows_of(history.events, history.plan.actions, history.horizon)
    fates = fates_of(history.frame)
    recoveries = {window.name: recovery_after(window, windows, history.load) for window in windows.faults}
    expectations = _judged(history, Evidence(history.load, windows, fates, recoveries))
    faults = summarise(history.plan, history.events, windows, recoveries)
    case = Case(history, windows, fates, faults, _allowed(expectations))
    checks = check_all(case)
    search = limits.find(history, history.horizon)
    if search is not None:
        checks.append(limits.check(search))
    judgement = judge_run(history, expectations, checks)
    cluster, end = history.experiment["cluster"], history.end or {}
    summary = Summary(
        name=history.experiment["name"],
        seed=history.plan.seed,
        backend=cluster.get("backend", ""),
        nodes=cluster.get("nodes", len(history.plan.nodes)),
        verdict=judgement.verdict,
        exit_code=judgement.exit_code,
        sentence="",
        reasons=[reason.text for reason in judgement.reasons],
        store=figures(history.load, "store", windows.end),
        lookup=figures(history.load, "lookup", windows.end),
        outcomes={kind: _outcomes(history.load, kind) for kind in KINDS},
        faults=faults,
        expectations=expectations,
        checks=checks,
        timings=end.get("timings", {}),
        environment=history.session.get("environment", {}),
        replay=history.session.get("replay", "kadstorm run plan.json"),
        notes=history.notes,
        limit=search,
    )
    summary.sentence = sentence(summary, fates)
    return Analysis(history, windows, fates, recoveries, judgement, summary, case)


def figures(load: pd.DataFrame, kind: str, seconds: float) -> Figures:
    """The figures of one kind of operation, exact from all rows however few; null where there are none."""
    rows = load.loc[load["kind"] == kind, MEASURED]
    latency = rows["latency"].to_numpy() * 1000
    some = len(rows) > 0
    quantiles = np.quantile(latency, list(QUANTILES.values())).tolist() if some else [None] * len(QUANTILES)
    p50, p90, p99, p999 = quantiles
    return Figures(
        count=len(rows),
        success=float((rows["outcome"] == "ok").mean()) if some else None,
        rate=len(rows) / seconds if seconds > 0 else None,
        mean_ms=float(latency.mean()) if some else None,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=float(latency.max()) if some else None,
        hops=known_mean(rows, "hops", enough=1).value,
        rpcs=known_mean(rows, "rpcs", enough=1).value,
    )


def _outcomes(load: pd.DataFrame, kind: str) -> dict[str, int]:
    """Outcome -> count, the most frequent first."""
    counts = load.loc[load["kind"] == kind, "outcome"].value_counts()
    return {str(outcome): int(count) for outcome, count in counts.items() if count}


def _judged(history: History, evidence: Evidence) -> list[ExpectationResult]:
    texts: Sequence[str] = history.experiment.get("expect") or []
    try:
        return [judge(text, evidence) for text in texts]
    except ExpectationSyntaxError as error:
        raise RunFolderError(f"{history.run_dir / PLAN_FILE}: expect: {error}") from error


def _allowed(results: Sequence[ExpectationResult]) -> dict[str, float]:
    """How many keys each fate may have by the experiment's own expectations: the loosest upper bound."""
    allowed: dict[str, float] = {}
    for expectation in (parse(result.text) for result in results):
        if expectation.metric in TOLERANCES and expectation.op in ("<=", "<", "=="):
            most = expectation.value - (expectation.op == "<")
            allowed[expectation.metric] = max(allowed.get(expectation.metric, 0), most)
    return allowed
