"""Freshness, availability, routing, convergence, balance and what is known of keys: hand-written histories, and oracles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import NODE_COLUMNS, PlannedNode
from reports.checkers import Finding
from reports.checkers.availability import FEWEST, Availability, Outage, outages, seconds_served
from reports.checkers.balance import Balance, fair_shares
from reports.checkers.convergence import Convergence
from reports.checkers.freshness import Freshness, reads_of_rewritten
from reports.checkers.routing import Routing, ideal_hops
from reports.neighbours import looks, nearest, shares
from reports.setfull import key_histories
from tests.unit.test_checkers import case, fault, op, stored

FAULT = [fault("inject", t=1.0), fault("observe", effective=True), fault("heal", t=2.0)]
NODES = [PlannedNode(f"node-{n}", f"{n:02x}", f"site-{n}") for n in range(4)]


# --- what is known of keys (set-full) ---------------------------------------------------------------------------------


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return case(rows).history.frame


def fates(*rows: dict[str, Any]) -> dict[str, str]:
    """Key -> stable, lost or never read."""
    told = key_histories(frame(*rows))
    masks = {"stable": told.stable, "lost": told.lost, "never read": told.never_read}
    return {key: next(name for name, mask in masks.items() if mask[n]) for n, key in enumerate(told.keys)}


def test_a_key_that_is_found_whenever_it_is_read_is_stable_at_once() -> None:
    rows = [*stored("a"), op("lookup", "a", 2.0), op("lookup", "a", 5.0)]
    assert fates(*rows) == {"a": "stable"}
    assert key_histories(frame(*rows)).stale.tolist() == [0.0]


def test_a_key_that_reads_missed_at_first_is_stable_and_was_stale_for_so_long() -> None:
    told = key_histories(frame(*stored("a"), op("lookup", "a", 4.0, "not_found"), op("lookup", "a", 5.0)))
    assert told.stale.tolist() == pytest.approx([4.0 - 1.01])


def test_a_key_that_is_missed_in_the_end_is_lost_although_it_was_found_before() -> None:
    assert fates(*stored("a"), op("lookup", "a", 2.0), op("lookup", "a", 5.0, "not_found")) == {"a": "lost"}


def test_reads_that_began_before_the_acknowledgement_or_had_no_answer_do_not_count() -> None:
    rows = [*stored("a"), op("lookup", "a", 0.5, "not_found"), op("lookup", "a", 3.0, "timeout")]
    assert fates(*rows) == {"a": "never read"}


def test_a_key_without_acknowledgement_is_none_of_these() -> None:
    assert fates(op("store", "a", 1.0, "timeout"), op("lookup", "a", 2.0, "not_found")) == {}


def slowly(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """The same, key by key, as one would say it."""
    told = {}
    for key in {row["key"] for row in rows}:
        mine = [row for row in rows if row["key"] == key]
        acks = [row["finished"] for row in mine if row["kind"] == "store" and row["outcome"] == "ok"]
        if not acks:
            continue
        reads = [r for r in mine if r["kind"] == "lookup" and r["started"] >= min(acks)]
        definite = sorted((r["started"], r["outcome"] == "ok") for r in reads if r["outcome"] in ("ok", "not_found"))
        if not definite:
            told[key] = ("never read", 0.0)
            continue
        found = definite[-1][1]
        missed = [at for at, present in definite if not present]
        told[key] = ("stable", missed[-1] - min(acks) if missed else 0.0) if found else ("lost", 0.0)
    return told


OPERATION = st.builds(
    lambda kind, key, at, outcome: op(kind, key, at / 10, outcome),
    st.sampled_from(["store", "lookup"]),
    st.sampled_from("abc"),
    st.integers(0, 99),
    st.sampled_from(["ok", "not_found", "timeout", "error"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATION, max_size=30))
def test_what_is_known_of_keys_is_what_the_slow_oracle_says(rows: list[dict[str, Any]]) -> None:
    told = key_histories(frame(*rows))
    names = np.where(told.stable, "stable", np.where(told.lost, "lost", "never read"))
    assert {key: (names[n], pytest.approx(told.stale[n])) for n, key in enumerate(told.keys)} == slowly(rows)


# --- freshness --------------------------------------------------------------------------------------------------------


def version(kind: str, at: float, number: int, outcome: str = "ok", key: str = "a") -> dict[str, Any]:
    return op(kind, key, at, outcome, version=number)


def test_keys_that_are_never_rewritten_are_fresh() -> None:
    assert Freshness().check(case([*stored("a"), version("lookup", 3, 1)])).verdict == "pass"


def test_the_newest_acknowledged_version_is_fresh() -> None:
    rows = [version("store", 1, 1), version("store", 2, 2), version("lookup", 3, 2)]
    found = Freshness().check(case(rows))
    assert (found.verdict, found.evidence) == ("pass", "0 of 1 reads of rewritten keys were stale")


def test_an_older_version_than_one_that_was_acknowledged_before_is_stale_by_the_time_in_between() -> None:
    rows = [version("store", 1, 1), version("store", 2, 2), version("lookup", 5, 1)]
    found = Freshness().check(case(rows))
    assert found.verdict == "fail"
    assert (found.details[0]["version"], found.details[0]["newest"]) == (1, 2)
    assert found.details[0]["behind_s"] == pytest.approx(5 - 2.01)
    assert Freshness().check(case(rows, stale=1)).verdict == "pass"


def test_a_version_of_unknown_fate_is_not_missed_and_may_be_read() -> None:
    rows = [version("store", 1, 1), version("store", 2, 2), version("store", 3, 3, "timeout")]
    assert Freshness().check(case([*rows, version("lookup", 5, 2), version("lookup", 6, 3)])).verdict == "pass"


def test_a_read_that_was_under_way_when_the_store_was_acknowledged_may_have_either() -> None:
    rows = [version("store", 1, 1), {**version("store", 2, 2), "finished": 5.1}, version("lookup", 5, 1)]
    assert Freshness().check(case(rows)).verdict == "pass"


def test_stale_reads_while_a_fault_is_in_force_are_told_and_not_failed() -> None:
    rows = [version("store", 0.1, 1), version("store", 0.2, 2), version("lookup", 1.5, 1)]
    found = Freshness().check(case(rows, FAULT, actions=1))
    assert (found.verdict, found.evidence[:8], found.details[0]["during"]) == ("pass", "1 of 1 r", ["cut"])


def test_rewritten_keys_that_nobody_reads_leave_it_open() -> None:
    assert Freshness().check(case([version("store", 1, 1), version("store", 2, 2)])).verdict == "unknown"


VERSIONED = st.builds(
    lambda kind, key, at, number, outcome: version(kind, at / 10, number, outcome, key),
    st.sampled_from(["store", "lookup"]),
    st.sampled_from("ab"),
    st.integers(0, 99),
    st.integers(1, 4),
    st.sampled_from(["ok", "ok", "timeout"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VERSIONED, max_size=25))
def test_stale_reads_are_those_of_the_slow_oracle(rows: list[dict[str, Any]]) -> None:
    acked = [row for row in rows if row["kind"] == "store" and row["outcome"] == "ok"]
    rewritten = {a["key"] for a in acked if any(b["key"] == a["key"] and b["version"] != a["version"] for b in acked)}
    stale = sorted(
        (row["key"], row["started"], row["version"])
        for row in rows
        if row["kind"] == "lookup"
        and row["outcome"] == "ok"
        and row["key"] in rewritten
        and any(
            a["key"] == row["key"] and a["finished"] <= row["started"] and a["version"] > row["version"] for a in acked
        )
    )
    reads = reads_of_rewritten(frame(*rows))
    assert (reads is None) == (not rewritten)
    old = [] if reads is None else reads[reads["version"] < reads["newest"]].itertuples()
    told = list(old)
    assert sorted((row.key, row.started, row.version) for row in told) == stale
    for row in told:
        newer = [a["finished"] for a in acked if a["key"] == row.key and a["version"] > row.version]
        assert row.since == min(newer)


# --- availability -----------------------------------------------------------------------------------------------------


def due(outcomes: str, step: float = 0.1) -> list[dict[str, Any]]:
    """One lookup every ``step`` s: `.` succeeds, `x` fails."""
    return [op("lookup", "a", n * step, "ok" if one == "." else "timeout") for n, one in enumerate(outcomes)]


def test_a_network_that_always_serves_is_available() -> None:
    found = Availability().check(case(due("." * 99)))
    assert (found.verdict, found.evidence) == ("pass", "100.0% of the seconds had 99% success or more; no outage")


def test_an_outage_outside_faults_fails_the_run_with_its_place() -> None:
    found = Availability().check(case(due("." * 40 + "x" * 15 + "." * 40)))
    assert (found.verdict, found.details) == ("fail", [{"from": 4.0, "to": 5.5, "failures": 15, "during": []}])


def test_the_same_outage_within_a_faults_window_is_told_only() -> None:
    found = Availability().check(case(due("." * 15 + "x" * 15 + "." * 65), FAULT, actions=1))
    assert found.verdict == "pass"
    assert "the longest outage took 1.5 s from 1.5 s on" in found.evidence


def test_single_failures_are_no_outage_and_no_operations_say_nothing() -> None:
    assert Availability().check(case(due("x...." * 19))).verdict == "pass"
    assert Availability().check(case([])).verdict == "unknown"


@settings(deadline=None)
@given(st.text(".x", max_size=60))
def test_outages_are_those_that_one_finds_by_reading(text: str) -> None:
    found, start = [], None
    for n, one in enumerate(f"{text}."):
        if one == "x" and start is None:
            start = n
        if one == "." and start is not None:
            found += [Outage(start, n, n - start)] if n - start >= FEWEST else []
            start = None
    rows = pd.DataFrame(
        {"intended": np.arange(len(text), dtype=float), "outcome": ["ok" if c == "." else "x" for c in text]}
    )
    assert outages(rows, float(len(text))) == found


def test_seconds_served_counts_seconds_that_had_operations() -> None:
    rows = frame(*due("." * 10 + "x" + "." * 9), op("lookup", "a", 8.0))
    assert seconds_served(rows) == pytest.approx(2 / 3)


# --- neighbours, routing, convergence ---------------------------------------------------------------------------------


def tables(t: float, known: dict[int, Sequence[int]]) -> list[tuple[float, str, str]]:
    return [(t, f"node-{a}", f"node-{b}" if b >= 0 else "") for a, several in known.items() for b in several or [-1]]


WHOLE = {0: [1, 2], 1: [0, 3], 2: [3, 0], 3: [2, 1]}  # of ids 0 to 3 and k = 2: i ^ 1 and i ^ 2
STAR = {0: [0], 1: [0], 2: [0], 3: [0]}
TORN = {0: [1], 1: [0, 3], 2: [3, 0], 3: [2, 1]}


def test_a_node_knows_its_closest_if_it_has_those_that_are_up() -> None:
    (one,) = looks(case(nodes=NODES, contacts=tables(1, TORN)).history.contacts, NODES, 2)
    assert one.known_share.tolist() == [0.5, 1, 1, 1]
    assert (one.converged, one.mean_share, one.in_degree.tolist()) == (False, 0.875, [2, 2, 1, 2])
    (one,) = looks(case(nodes=NODES, contacts=tables(1, {0: [1], 1: [0]})).history.contacts, NODES, 2)
    assert one.up.tolist() == [True, True, False, False]
    assert one.converged


def test_a_node_with_an_empty_table_is_up_and_knows_nobody() -> None:
    (one,) = looks(case(nodes=NODES, contacts=tables(1, {0: [], 1: [0]})).history.contacts, NODES, 2)
    assert (one.up.tolist(), one.known_share.tolist()[:2]) == ([True, True, False, False], [0.0, 1.0])


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 2**32))
def test_shares_of_the_true_closest_are_those_of_the_slow_oracle(count: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"{one:04x}" for one in rng.choice(2**16, count, replace=False)]
    knows, up = rng.random((count, count)) < 0.5, rng.random(count) < 0.7
    told = shares(knows, up, nearest(ids), k)
    for i in range(count):
        alive = sorted((int(ids[i], 16) ^ int(ids[j], 16), j) for j in range(count) if j != i and up[j])[:k]
        slow = np.nan if not up[i] else sum(knows[i, j] for _, j in alive) / len(alive) if alive else 1.0
        assert told[i] == pytest.approx(slow, nan_ok=True)


def hopping(hops: int) -> list[dict[str, Any]]:
    return [op("lookup", "a", n / 10, hops=hops, rpcs=2) for n in range(60)]


def test_few_hops_and_whole_tables_pass() -> None:
    found = Routing().check(case(hopping(1), nodes=NODES, contacts=tables(1, WHOLE)))
    assert (found.verdict, "held 100.0% of the true closest nodes in 1 looks" in found.evidence) == ("pass", True)


def test_many_hops_fail_and_so_do_tables_that_miss_close_nodes() -> None:
    assert Routing().check(case(hopping(4), nodes=NODES)).evidence.startswith("too many hops: 4.00 hops")
    found = Routing().check(case(hopping(0), nodes=NODES, contacts=tables(1, STAR)))
    assert found.evidence.startswith("tables miss close nodes")


def test_torn_tables_while_a_fault_is_in_force_are_not_held_against_routing() -> None:
    contacts = [*tables(0.5, WHOLE), *tables(1.5, STAR)]
    assert Routing().check(case([], FAULT, nodes=NODES, actions=1, contacts=contacts)).verdict == "pass"


def test_nothing_to_look_at_leaves_routing_open() -> None:
    assert Routing().check(case([], nodes=NODES)).verdict == "unknown"


def test_the_ideal_is_near_what_was_simulated_on_full_tables() -> None:
    for nodes, simulated in ((1_000, 0.90), (10_000, 1.44), (100_000, 1.95)):
        assert ideal_hops(nodes, 20) == pytest.approx(simulated, abs=0.25)
    assert ideal_hops(10, 20) == 0


def converging(*contacts: tuple[float, dict[int, Sequence[int]]]) -> Finding:
    rows = [edge for t, known in contacts for edge in tables(t, known)]
    return Convergence().check(case([], FAULT, nodes=NODES, actions=1, contacts=rows))


def test_tables_that_are_whole_again_pass_with_the_time_that_it_took() -> None:
    found = converging((1.5, TORN), (3.0, TORN), (4.5, WHOLE), (6.0, WHOLE))
    assert (found.verdict, found.evidence) == ("pass", "whole again 2.5 s after cut")


def test_tables_that_tear_again_were_not_whole_before() -> None:
    assert converging((3.0, WHOLE), (4.5, TORN), (9.0, WHOLE)).evidence == "whole again 7.0 s after cut"


def test_a_torn_look_after_two_whole_looks_undoes_nothing() -> None:
    assert converging((3.0, WHOLE), (4.5, WHOLE), (39.0, TORN)).evidence == "whole again 1.0 s after cut"


def test_a_heal_after_which_nobody_looked_leaves_it_open() -> None:
    assert converging((0.5, WHOLE)).verdict == "unknown"


def test_tables_that_stay_torn_for_long_fail_and_for_a_moment_leave_it_open() -> None:
    assert converging((3.0, TORN), (40.0, TORN)).verdict == "fail"
    assert converging((3.0, TORN), (9.0, TORN)).verdict == "unknown"


def test_without_heals_or_tables_there_is_nothing_to_judge() -> None:
    assert Convergence().check(case([], nodes=NODES)).evidence == "no fault was healed"
    assert "not judged" in Convergence().check(case([], FAULT, nodes=NODES, actions=1)).evidence


# --- balance ----------------------------------------------------------------------------------------------------------


def holding(*records: int) -> list[dict[str, Any]]:
    empty: dict[str, Any] = dict.fromkeys(NODE_COLUMNS, 0)
    return [
        {**empty, "t": 9.0, "name": f"node-{n}", "up": True, "records": count, "rpcs_in": 10}
        for n, count in enumerate(records)
    ]


def test_nodes_that_hold_their_shares_are_balanced() -> None:
    found = Balance().check(case(stored("00", "01", "02"), nodes=NODES, samples=holding(3, 2, 1, 0)))
    assert (found.verdict, found.evidence[:25]) == ("pass", "records per node 0 to 3, ")


def test_a_node_that_holds_far_more_than_its_share_is_named() -> None:
    found = Balance().check(case(stored("00", "01", "02"), nodes=NODES, samples=holding(2, 2, 200, 1)))
    assert (found.verdict, found.details) == ("fail", [{"node": "node-2", "records": 200, "fair_share": 1.0}])


def test_survivors_may_hold_what_the_dead_held() -> None:
    samples = [{**one, "t": 1.0} for one in holding(60, 60, 60, 60)] + holding(120)
    found = Balance().check(case(stored(*(f"{n:02x}" for n in range(60))), nodes=NODES, samples=samples))
    assert (found.verdict, found.evidence[:26]) == ("pass", "records per node 120 to 12")


def test_newcomers_take_no_record_away() -> None:
    """Of 100 keys node-2 was among the two closest to 75 before node-0 came, and is to 50 at the end."""
    first = [{**one, "t": 1.0} for one in holding(0, 60, 250, 60)[1:]]
    samples = first + holding(50, 60, 250, 60)
    found = Balance().check(case(stored(*(f"{n:02x}" for n in range(100))), nodes=NODES, samples=samples))
    assert found.verdict == "pass"


def test_without_samples_or_keys_balance_is_open() -> None:
    assert Balance().check(case(stored("00"), nodes=NODES)).verdict == "unknown"
    assert Balance().check(case([], nodes=NODES, samples=holding(1, 1, 1, 1))).verdict == "unknown"


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=8),
    st.sets(st.integers(0, 255), min_size=2, max_size=6),
    st.integers(1, 4),
)
def test_fair_shares_add_up_and_go_to_the_closest(keys: list[int], ids: set[int], k: int) -> None:
    nodes = [f"{one:02x}" for one in sorted(ids)]
    told = fair_shares([f"{key:02x}" for key in keys], nodes, k)
    assert told.sum() == len(keys) * min(k, len(nodes))
    for n, node in enumerate(nodes):
        nearer = [sum(int(other, 16) ^ key < int(node, 16) ^ key for other in nodes) for key in keys]
        assert told[n] == sum(count < k for count in nearer)
