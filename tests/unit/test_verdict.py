"""From expectations, checks and the journal to one verdict, with every reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.expectations import parse
from harness.records import Event, Plan
from reports.history import History
from reports.judgement import Bounds, Evidence, judge, unknown, verdict_over
from reports.keys import Fates
from reports.recovery import Recovery
from reports.summary import CheckResult, ExpectationResult
from reports.verdict import EXIT_CODES, judge_run
from reports.windows import Window, Windows

NO_FATES = Fates(0, [], [], [], [], [])
CUT = Window("cut", "partition", 10.0, 15.0)


def history(*events: Event) -> History:
    plan = Plan(schema=1, seed=1, experiment={}, nodes=[], actions=[])
    return History(Path(), plan, list(events), pa.table({}), pa.table({}))


def end(*reasons: tuple[str, str]) -> Event:
    told = [{"kind": kind, "text": text} for kind, text in reasons]
    return Event(t=60.0, wall="", event="end", detail={"reasons": told})


def expectation(verdict: Any) -> ExpectationResult:
    return ExpectationResult(text="lost == 0", verdict=verdict, measured=3, limit=0, unit="", note="too little")


def check(verdict: Any) -> CheckResult:
    return CheckResult(checker="load", verdict=verdict, evidence="so it is")


def gap(seconds: float) -> Event:
    return Event(t=5.0, wall="", event="toxiproxy-restarted", detail={"why": "it ended", "gap_s": seconds})


@pytest.mark.parametrize(
    ("verdicts", "journal", "expected"),
    [
        ((), (), "pass"),
        (("pass", "pass"), (), "pass"),
        (("pass", "unknown"), (), "inconclusive"),
        (("unknown", "fail"), (), "fail"),
        (("fail",), (("error", "toxiproxy died"),), "error"),
        (("fail",), (("error", "x"), ("interrupted", "ctrl-c")), "interrupted"),
        (("pass",), (("inconclusive", "3 first keys"),), "inconclusive"),
        (("pass",), (("fail", "links are not as they should be"),), "fail"),
    ],
)
def test_the_gravest_reason_gives_the_verdict(verdicts: Any, journal: Any, expected: Any) -> None:
    found = judge_run(history(end(*journal)), [expectation(v) for v in verdicts], [check(v) for v in verdicts])
    assert (found.verdict, found.exit_code) == (expected, EXIT_CODES[expected])


@given(
    st.lists(st.sampled_from(["pass", "fail", "unknown"]), max_size=6), st.lists(st.sampled_from(list(EXIT_CODES)[:4]))
)
def test_every_reason_is_listed_the_gravest_first(verdicts: list[Any], journal: list[Any]) -> None:
    told = [(kind, f"{kind} {n}") for n, kind in enumerate(journal)]
    results = [
        ExpectationResult(text=f"e{n}", verdict=verdict, measured=1, limit=0, unit="")
        for n, verdict in enumerate(verdicts)
    ]
    found = judge_run(history(end(*told)), results, [])
    kinds = [list(EXIT_CODES).index(reason.kind) for reason in found.reasons]
    assert kinds == sorted(kinds)
    assert len(found.reasons) == len(told) + sum(verdict != "pass" for verdict in verdicts)
    assert (found.verdict == "pass") == (not found.reasons)


def test_a_journal_without_an_end_is_an_error_whatever_was_measured() -> None:
    found = judge_run(history(), [expectation("fail")], [])
    assert (found.verdict, found.exit_code) == ("error", 3)
    assert [reason.kind for reason in found.reasons] == ["error", "fail"]


def test_a_load_worker_that_died_is_an_error_of_the_harness() -> None:
    how = "load worker load-1 ended: killed by SIGKILL\nend of its log:\n"
    died = Event(t=3.0, wall="", event="worker-exit", name="load-1", detail={"exit": how})
    found = judge_run(history(died, end()), [], [check("unknown")])
    assert [reason.text for reason in found.reasons] == [how, "load: so it is"]
    both = f"{how}\nload worker load-2 ended: exit code 3"  # what a run ends with is told once
    found = judge_run(history(died, end(("error", both))), [], [check("unknown")])
    assert [reason.text for reason in found.reasons] == [both, "load: so it is"]
    assert found.exit_code == 3


def test_an_interruption_counts_though_its_reason_was_never_written() -> None:
    assert judge_run(history(Event(t=3.0, wall="", event="interrupted")), [], []).exit_code == 130


# --- expectations -----------------------------------------------------------------------------------------------------


def judged(text: str, fates: Fates = NO_FATES, recovery: Recovery | None = None) -> ExpectationResult:
    rows = pd.DataFrame(
        {
            "kind": ["lookup"] * 400,
            "intended": [n / 10 for n in range(400)],
            "finished": [n / 10 + 0.02 for n in range(400)],
            "latency": [0.02] * 400,
            "outcome": ["ok"] * 396 + ["timeout"] * 4,
            "hops": [1] * 400,
            "rpcs": [-1] * 400,
        }
    )
    windows = Windows([CUT], [10.0], 40.0)
    return judge(text, Evidence(rows, windows, fates, {} if recovery is None else {"cut": recovery}))


@pytest.mark.parametrize(
    ("text", "verdict", "measured"),
    [
        ("lookup.success >= 99%", "pass", 0.99),
        ("lookup.success > 99%", "fail", 0.99),
        ("lookup.p99 <= 20ms", "pass", 0.02),
        ("lookup.p99.9 <= 1s", "unknown", None),
        ("lookup.success >= 50% before faults", "pass", 1.0),
        ("lookup.success >= 50% during cut", "pass", 1.0),
        ("lookup.rate >= 10/s after cut", "pass", 10.0),
        ("lookup.rpcs <= 3", "unknown", None),
        ("store.success >= 1%", "unknown", None),
        ("lookup.success >= 1% during storm", "unknown", None),
        ("lost == 0", "unknown", None),
        ("recovery <= 3s after cut", "unknown", None),
    ],
)
def test_expectations_pass_fail_or_cannot_be_told(text: str, verdict: str, measured: float | None) -> None:
    found = judged(text)
    assert (found.verdict, found.measured) == (verdict, pytest.approx(measured))
    assert bool(found.note) == (verdict == "unknown")


@pytest.mark.parametrize(
    ("recovery", "verdict"),
    [
        (Recovery(2.0, 20.0), "pass"),
        (Recovery(3.0, 20.0), "pass"),
        (Recovery(3.1, 20.0), "fail"),
        (Recovery(None, 20.0), "fail"),
        (Recovery(None, 2.0), "unknown"),
        (Recovery(None, 20.0, "no operations"), "unknown"),
    ],
)
def test_recovery_that_was_not_seen_fails_only_if_one_could_look_for_longer(recovery: Recovery, verdict: str) -> None:
    assert judged("recovery <= 3s after cut", recovery=recovery).verdict == verdict
    assert judged("recovery <= 3s", recovery=recovery).verdict == verdict


def test_what_an_unfinished_read_back_found_may_decide_already() -> None:
    unfinished = Fates(10, ["a", "b"], [], [], [], ["c"])
    assert judged("lost == 0", unfinished).verdict == "fail"
    assert judged("lost <= 2", unfinished).verdict == "unknown"
    assert judged("lost <= 3", unfinished).verdict == "pass"
    assert judged("stale == 0", unfinished).verdict == "unknown"


@given(st.sampled_from(["<=", ">=", "<", ">", "==", "!="]), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_bounds_decide_exactly_if_all_values_within_them_agree(op: str, limit: int, one: int, other: int) -> None:
    low, high = sorted((one, other))
    wanted = parse(f"lost {op} {limit}")
    held = {wanted.holds(value) for value in range(low, high + 1)}
    expected = "unknown" if len(held) > 1 else "pass" if held == {True} else "fail"
    assert verdict_over(wanted, Bounds(low, high)) == expected


def test_nothing_known_is_unknown_whatever_is_asked() -> None:
    assert verdict_over(parse("lost >= 0"), unknown("why")) == "unknown"
    assert verdict_over(parse("recovery != 1s"), Bounds(2.0, math.inf)) == "pass"


@pytest.mark.parametrize(
    ("checker", "expected"), [("durability", "inconclusive"), ("availability", "inconclusive"), ("integrity", "fail")]
)
def test_a_failure_is_not_held_against_a_network_that_the_harness_had_cut_unless_a_value_was_wrong(
    checker: str, expected: str
) -> None:
    failed = CheckResult(checker=checker, verdict="fail", evidence="so it is")
    run = history(
        gap(4.0), gap(0.5), end(("inconclusive", "Toxiproxy was away for 4.00 s"), ("fail", "slow after heal"))
    )
    judgement = judge_run(run, [expectation("fail")], [failed])
    assert judgement.verdict == expected
    excused = [reason.text for reason in judgement.reasons if "not held against the network" in reason.text]
    assert len(excused) == (3 if expected == "inconclusive" else 2)
    assert all("4.50 s" in text for text in excused)


def test_a_harness_that_broke_is_an_error_all_the_same() -> None:
    assert judge_run(history(gap(4.0), end(("error", "it ended"))), [expectation("fail")], []).verdict == "error"
