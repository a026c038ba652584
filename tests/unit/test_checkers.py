"""Checkers, on histories that are small enough to read: good ones and bad ones, each with its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.records import NODE_COLUMNS, OPERATION_COLUMNS, TABLE_COLUMNS, Action, Event, Plan, PlannedNode
from reports.checkers import Case, Finding, check_all, checkers
from reports.checkers.durability import Durability
from reports.checkers.faults import FaultsEffective
from reports.checkers.integrity import Integrity
from reports.checkers.load import LoadDelivered
from reports.checkers.members import MembersAlive
from reports.faults import summarise, together
from reports.history import History
from reports.keys import fates_of
from reports.windows import windows_of

CLOCK = Event(t=0.0, wall="", event="clock")


def op(kind: str, key: str, at: float, outcome: str = "ok", phase: str = "load", **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {name: "" if alias == "string" else -1 for name, alias in OPERATION_COLUMNS.items()}
    times = {"intended": at, "started": at, "finished": at + 0.01}
    row = {**empty, **times, "kind": kind, "key": key, "outcome": outcome, "phase": phase, "worker": "load-0"}
    return {**row, "gateway": "node-1", "error": "" if outcome == "ok" else outcome, **more}


def said(kind: str, t: float = 5.0, **more: Any) -> Event:
    return Event(t=t, wall="", event=kind, **more)


def case(
    rows: Sequence[dict[str, Any]] = (),
    events: Sequence[Event] = (),
    rate: float | None = 1,
    actions: int = 0,
    nodes: Sequence[PlannedNode] = (PlannedNode("node-0", "00", "site-0"),),
    k: int = 2,
    samples: Sequence[dict[str, Any]] = (),
    contacts: Sequence[tuple[float, str, str]] = (),
    **allowed: int,
) -> Case:
    load = {
        "rate_per_1000s": rate and rate * 1000,
        "users": None if rate else 2,
        "timeout_us": 1_000_000,
        "think_us": 0,
    }
    planned = [
        Action(at_us=2_000_000, until_us=6_000_000, fault="refuse", name="cut", entry=0, targets=["site-0"])
        for _ in range(actions)
    ]
    experiment = {"name": "x", "duration_us": 10_000_000, "load": load, "cluster": {"node": {"k": k}}}
    plan = Plan(schema=1, seed=1, experiment=experiment, nodes=list(nodes), actions=planned)
    end = said("end", 10.0, detail={"reasons": []})
    edges = [dict(zip(TABLE_COLUMNS, contact, strict=True)) for contact in contacts]
    tables = [table(rows, OPERATION_COLUMNS), table(samples, NODE_COLUMNS), table(edges, TABLE_COLUMNS)]
    history = History(Path(), plan, [CLOCK, *events, end], *tables)
    windows = windows_of(history.events, planned, 10.0)
    return Case(history, windows, fates_of(history.frame), summarise(plan, history.events, windows, {}), allowed)


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> pa.Table:
    return pa.Table.from_pylist(
        list(rows), schema=pa.schema([(name, pa.type_for_alias(alias)) for name, alias in columns.items()])
    )


def stored(*keys: str) -> list[dict[str, Any]]:
    return [op("store", key, 1.0, acks=3, version=1) for key in keys]


def read(key: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return op("lookup", key, 12.0, outcome, "readback", **more)


# --- durability -------------------------------------------------------------------------------------------------------


def test_keys_that_are_all_read_back_are_durable() -> None:
    found = Durability().check(case([*stored("a", "b"), read("a"), read("b")]))
    assert (found.verdict, found.evidence) == ("pass", "2 acknowledged keys were read back, 0 are lost")


def test_a_key_that_everybody_denies_is_lost_and_its_story_is_told() -> None:
    seen = op("lookup", "b", 3.0)
    found = Durability().check(case([*stored("a", "b"), seen, read("a"), read("b", "not_found")]))
    assert found.verdict == "fail"
    assert found.details == [
        {
            "key": "b",
            "fate": "lost",
            "stored_at": 1.01,
            "gateway": "node-1",
            "acks": 3,
            "during": [],
            "last_seen": 3.01,
        }
    ]


def test_losses_that_an_expectation_allows_do_not_fail_the_check() -> None:
    rows = [*stored("a", "b"), read("a"), read("b", "not_found")]
    assert Durability().check(case(rows, lost=1)).verdict == "pass"


@pytest.mark.parametrize("outcome", ["timeout", "refused", "error"])
def test_a_key_that_nobody_answers_for_is_unreachable_and_not_lost(outcome: str) -> None:
    one = case([*stored("a"), read("a", outcome)])
    assert (list(one.fates.lost), list(one.fates.unreachable)) == ([], ["a"])
    assert Durability().check(one).verdict == "unknown"


def test_a_read_back_that_never_came_leaves_it_open() -> None:
    one = case(stored("a", "b"))
    assert list(one.fates.unread) == ["a", "b"]
    assert Durability().check(one).verdict == "unknown"


def test_a_store_that_was_not_acknowledged_may_be_gone() -> None:
    rows = [*stored("a"), op("store", "b", 1.0, "timeout"), read("a")]
    assert Durability().check(case(rows)).verdict == "pass"


def test_without_any_acknowledged_store_nothing_is_known() -> None:
    assert Durability().check(case([])).verdict == "unknown"


def test_not_found_during_the_run_is_no_loss_if_the_key_is_there_at_the_end() -> None:
    rows = [*stored("a"), op("lookup", "a", 4.0, "not_found"), read("a")]
    assert Durability().check(case(rows)).verdict == "pass"


# --- integrity --------------------------------------------------------------------------------------------------------


def test_wrong_bytes_at_any_time_fail_the_run() -> None:
    rows = [*stored("a"), op("lookup", "a", 4.0, "wrong_value"), read("a")]
    found = Integrity().check(case(rows))
    assert (found.verdict, found.evidence) == ("fail", "1 keys with wrong values")
    assert found.details[0]["at"] == 4.01


def test_an_older_version_than_the_newest_acknowledged_one_is_stale() -> None:
    rows = [*stored("a"), op("store", "a", 2.0, version=2), read("a", version=1)]
    assert list(case(rows).fates.stale) == ["a"]
    assert Integrity().check(case(rows)).verdict == "fail"
    assert Integrity().check(case(rows, stale=1)).verdict == "pass"


def test_the_newest_acknowledged_version_is_not_stale_and_one_of_unknown_fate_is_not_missed() -> None:
    rows = [*stored("a"), op("store", "a", 2.0, "timeout", version=2), read("a", version=1)]
    assert list(case(rows).fates.stale) == []
    assert Integrity().check(case(rows)).verdict == "pass"


def test_right_answers_pass_and_no_answers_leave_it_open() -> None:
    assert Integrity().check(case([*stored("a"), read("a")])).verdict == "pass"
    assert Integrity().check(case(stored("a"))).verdict == "unknown"


# --- load -------------------------------------------------------------------------------------------------------------


def due(count: int, **more: Any) -> list[dict[str, Any]]:
    return [op("lookup", "a", 10 * n / count, **more) for n in range(count)]


def test_the_planned_number_of_operations_passes() -> None:
    assert LoadDelivered().check(case(due(1000), rate=100)).verdict == "pass"


def test_too_few_operations_leave_everything_open() -> None:
    found = LoadDelivered().check(case(due(700), rate=100))
    assert (found.verdict, found.evidence) == ("unknown", "700 operations were due in 10 s, and 1,000 were planned")


def test_a_session_that_did_nothing_is_no_pass_in_either_model() -> None:
    assert LoadDelivered().check(case(rate=100)).verdict == "unknown"
    assert LoadDelivered().check(case(rate=None)).verdict == "unknown"


def test_users_who_each_come_to_an_operation_per_timeout_pass() -> None:
    assert LoadDelivered().check(case(due(40), rate=None)).verdict == "pass"


def test_users_whose_operations_take_all_their_attempts_pass() -> None:
    crowd = case(due(160), rate=None)
    crowd.history.experiment["load"]["users"] = 50
    assert LoadDelivered().check(crowd).verdict == "unknown"
    retry = {"attempts": 2, "wait": "fixed", "first_us": 500_000, "longest_us": 500_000}
    crowd.history.experiment["load"]["retry"] = retry
    assert LoadDelivered().check(crowd).verdict == "pass"  # 50 users, four turns of 2.5 s


def test_shed_operations_were_not_delivered() -> None:
    rows = [*due(980), *due(20, outcome="error", error="shed")]
    assert "20 of 1,000 operations were shed" in LoadDelivered().check(case(rows, rate=100)).evidence


def test_a_generator_that_lags_is_told() -> None:
    late = [{**row, "started": row["intended"] + 2.0} for row in due(1000)]
    assert "the generator was too slow" in LoadDelivered().check(case(late, rate=100)).evidence


def test_a_worker_that_died_or_sent_nothing_is_told() -> None:
    one = case(due(1000), [said("worker-exit", name="load-0")], rate=100)
    one.history.workers.append("load-1")
    assert LoadDelivered().check(one).evidence == "load worker load-0 died; load worker load-1 sent nothing"


# --- faults -----------------------------------------------------------------------------------------------------------


def fault(kind: str, **more: Any) -> Event:
    return said(kind, name="cut", fault="refuse", action=0, targets=["site-0"], **more)


def test_a_fault_that_was_seen_to_come_and_go_passes() -> None:
    events = [fault("inject"), fault("observe", effective=True), fault("heal"), fault("heal-observed", effective=True)]
    assert FaultsEffective().check(case(events=events, actions=1)).verdict == "pass"


def test_an_inert_fault_proves_nothing() -> None:
    events = [fault("inject"), fault("observe", effective=False, detail={"missed": ["site-0"]}), fault("heal")]
    found = FaultsEffective().check(case(events=events, actions=1))
    assert (found.verdict, found.evidence) == ("unknown", "cut had no effect on site-0")


def test_an_effect_that_cannot_be_known_is_not_inert() -> None:
    events = [fault("inject"), fault("observe", effective=None), fault("heal")]
    assert FaultsEffective().check(case(events=events, actions=1)).verdict == "pass"


def test_an_effect_that_outlives_its_heal_fails_the_run() -> None:
    events = [fault("inject"), fault("observe", effective=True), fault("heal"), fault("heal-observed", effective=False)]
    assert FaultsEffective().check(case(events=events, actions=1)).verdict == "fail"


def test_a_fault_that_nobody_looked_at_proves_nothing() -> None:
    assert FaultsEffective().check(case(events=[fault("inject")], actions=1)).verdict == "unknown"


def test_a_planned_fault_that_never_came_proves_nothing() -> None:
    found = FaultsEffective().check(case(events=[fault("skipped")], actions=1))
    assert (found.verdict, found.evidence) == ("unknown", "cut was never injected, since site-0 had died before")


def test_observations_of_many_actions_are_put_together() -> None:
    assert together([{"ms": 1, "how": "x"}, {"ms": 5, "how": "x"}, {"ms": 3}]) == {
        "ms": {"median": 3, "min": 1, "max": 5},
        "how": "x",
    }
    assert together([{"p": {"a": "dead"}}, {"p": {"b": "dead"}}]) == {"p": {"a": "dead", "b": "dead"}}


# --- members, and the registry ----------------------------------------------------------------------------------------


def test_a_node_that_dies_unasked_fails_the_run_by_its_name() -> None:
    found = MembersAlive().check(
        case(events=[said("member-exit", 4.2, name="node-7", detail={"exit": "killed by SIGSEGV"})])
    )
    assert (found.verdict, found.evidence) == ("fail", "node-7 died unasked at 4.2 s: killed by SIGSEGV")


def test_nodes_that_ended_alike_are_told_together_and_all_are_in_the_details() -> None:
    ends = [(f"node-{n}", 30.0 + n / 10, "the engine does not answer") for n in range(8)]
    ends += [("node-8", None, "exit code 3"), ("node-9", 31.0, "exit code 3")]
    died = [said("member-exit", t, name=name, detail={"exit": how}) for name, t, how in ends]
    found = MembersAlive().check(case(events=died))
    assert found.evidence == (
        "8 nodes died unasked from 30.0 to 30.7 s: the engine does not answer "
        "(node-0, node-1, node-2, node-3, node-4 and 3 more); "
        "2 nodes died unasked up to 31.0 s, some before the clock started: exit code 3 (node-8, node-9)"
    )
    assert [one["member"] for one in found.details] == [name for name, _, _ in ends]


def test_nodes_that_all_live_pass() -> None:
    assert MembersAlive().check(case()).verdict == "pass"


class Crashing:
    def check(self, case: Case) -> Finding:
        raise RuntimeError("oops")


def test_a_checker_that_crashes_knows_nothing_and_never_passes() -> None:
    def missing() -> Crashing:
        raise ImportError("not installed")

    results = check_all(case(), {"crashing": Crashing, "missing": missing})
    assert [result.verdict for result in results] == ["unknown", "unknown"]
    assert "oops" in results[0].evidence
    assert "not installed" in results[1].evidence


def test_our_own_checkers_are_found_and_say_what_they_are_for() -> None:
    found = {name: type(load()) for name, load in checkers().items()}
    assert list(found)[:5] == ["durability", "integrity", "load", "faults", "members"]
    assert all(kind.__doc__ for kind in found.values())
