"""Faults: planned by the seed, and pure effects on exactly the links and members that were asked for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.faults.churn import LAST_LEAVE, SHORTEST_DOWNTIME, SHORTEST_SESSION
from harness import faults
from harness.effects import LinkEffect, MemberClaim
from harness.errors import ExperimentError, UsageError
from harness.experiment import load_experiment
from harness.links import Topology
from harness.plan import make_plan
from harness.records import Action

HEAD = "name: x\ncluster: {cluster}\nload: {{rate: 1/s}}\nduration: 60s\nseed: {seed}\ntimeline:\n  - {entry}\n"


def planned(folder: Path, entry: str, cluster: str = "{nodes: 6}", seed: int = 1) -> tuple[list[Action], list[Any]]:
    """The actions of one entry, and the effects of the first."""
    path = folder / "x.yaml"
    path.write_text(HEAD.format(cluster=cluster, entry=entry, seed=seed))
    plan = make_plan(load_experiment(path))
    topology = Topology.build(plan.nodes, host="")
    return plan.actions, faults.get(plan.actions[0].fault).effects(plan.actions[0], topology)


def links(effects: list[Any]) -> set[tuple[str, str]]:
    return {(effect.source, effect.destination) for effect in effects}


def test_latency_is_on_every_link_from_the_source_and_on_no_other(tmp_path: Path) -> None:
    options = "{latency: 80ms, jitter: 20ms, from: node-3, toxicity: 50%}"
    (action,), effects = planned(tmp_path, f"{{at: 1s, for: 5s, latency: {options}}}")
    assert action.targets == ["site-3"]
    assert (action.at_us, action.until_us) == (1_000_000, 6_000_000)
    attributes = (("jitter", 20), ("latency", 80))
    assert effects == [LinkEffect("site-3", f"site-{n}", "latency", attributes, 500) for n in (0, 1, 2, 4, 5)]


@pytest.mark.parametrize("fault", ["latency: 5ms", "blackhole: {}", "refuse: {}"])
def test_links_within_a_shared_site_are_links_too(tmp_path: Path, fault: str) -> None:
    _, effects = planned(tmp_path, f"{{at: 1s, for: 5s, {fault}}}", "{nodes: 3, sites: 2}")
    assert links(effects) == {("site-0", "site-0"), ("site-0", "site-1"), ("site-1", "site-0")}


def test_a_black_hole_swallows_one_direction(tmp_path: Path) -> None:
    _, effects = planned(tmp_path, "{at: 1s, for: 5s, blackhole: {from: node-1, to: node-2}}")
    assert effects == [LinkEffect("site-1", "site-2", "blackhole")]


def test_refusals_take_whole_links(tmp_path: Path) -> None:
    _, effects = planned(tmp_path, "{at: 1s, for: 5s, refuse: {to: node-1, toxicity: 100%}}")
    assert effects == [LinkEffect(f"site-{n}", "site-1", "refuse") for n in (0, 2, 3, 4, 5)]


def test_halves_are_cut_both_ways_and_nothing_else(tmp_path: Path) -> None:
    (action,), effects = planned(tmp_path, "{at: 1s, for: 5s, partition: halves}")
    first, second = action.options["groups"]
    crossing = {(here, there) for here in first for there in second}
    assert links(effects) == crossing | {(there, here) for here, there in crossing}
    assert {effect.kind for effect in effects} == {"blackhole"}


def test_isolation_can_be_one_way(tmp_path: Path) -> None:
    options = "{shape: isolate, nodes: [node-1, node-4], one_way: true}"
    _, effects = planned(tmp_path, f"{{at: 1s, for: 5s, partition: {options}}}")
    assert links(effects) == {
        (here, there) for here in ("site-1", "site-4") for there in ("site-0", "site-2", "site-3", "site-5")
    }


def test_a_partition_can_refuse(tmp_path: Path) -> None:
    _, effects = planned(tmp_path, "{at: 1s, for: 5s, partition: {shape: isolate, nodes: node-0, mode: refuse}}")
    assert {effect.kind for effect in effects} == {"refuse"}
    assert len(effects) == 10


def test_the_killed_stay_dead_unless_they_are_restarted(tmp_path: Path) -> None:
    (action,), effects = planned(tmp_path, "{at: 1s, kill: {nodes: [node-1, node-2]}}")
    assert action.until_us is None
    assert effects == [MemberClaim("node-1", "dead"), MemberClaim("node-2", "dead")]
    (action,), _ = planned(tmp_path, "{at: 1s, kill: {nodes: node-1, restart_after: 4s}}")
    assert action.until_us == 5_000_000


LAWS = st.sampled_from(
    ["{exponential: {mean: 700ms}}", "{weibull: {shape: 0.5, mean: 4s}}", "{weibull: {shape: 2, mean: 9s}}"]
)


@settings(max_examples=40, deadline=None)
@given(LAWS, LAWS, st.integers(0, 2**40))
def test_churned_members_alternate_and_are_all_back(
    tmp_path_factory: pytest.TempPathFactory, session: str, downtime: str, seed: int
) -> None:
    entry = f"{{at: 10s, for: 20s, churn: {{nodes: 4, session: {session}, downtime: {downtime}}}}}"
    actions, _ = planned(tmp_path_factory.getbasetemp(), entry, seed=seed)
    back: dict[str, int] = {}
    for action in actions:
        (member,) = action.targets
        assert action.until_us is not None
        assert 10_000_000 <= action.at_us <= 30_000_000 - LAST_LEAVE
        assert action.at_us + SHORTEST_DOWNTIME <= action.until_us <= 30_000_000
        if member in back:
            assert action.at_us - back[member] >= SHORTEST_SESSION
        back[member] = action.until_us
    assert 1 <= len(back) <= 4


def test_somebody_leaves_in_every_churn(tmp_path: Path) -> None:
    law = "{exponential: {mean: 60s}}"  # one in thirty draws has somebody leave
    entry = f"{{at: 1s, for: 2500ms, churn: {{nodes: 1, session: {law}, downtime: {law}}}}}"
    assert all(planned(tmp_path, entry, seed=seed)[0] for seed in range(30))


def test_leaving_by_stop_is_graceful(tmp_path: Path) -> None:
    law = "{exponential: {mean: 2s}}"
    entry = f"{{at: 1s, for: 50s, churn: {{nodes: all, leave: stop, session: {law}, downtime: {law}}}}}"
    actions, effects = planned(tmp_path, entry)
    assert effects == [MemberClaim(actions[0].targets[0], "dead", graceful=True)]


def test_every_registered_fault_is_complete() -> None:
    assert {"latency", "blackhole", "refuse", "partition", "kill", "churn"} <= set(faults.names())
    for name in faults.names():
        fault = faults.get(name)
        assert fault.key == name
        assert fault.summary
        assert fault.level in ("link", "member")
        assert fault.lasts in ("required", "optional", "refused")


def test_an_unknown_fault_says_what_was_meant() -> None:
    with pytest.raises(UsageError, match="did you mean `latency`"):
        faults.get("latensy")


def test_an_added_fault_is_there_for_a_while() -> None:
    class Quake:
        key = "quake"

    with faults.added(Quake()):  # type: ignore[arg-type]
        assert "quake" in faults.names()
        assert isinstance(faults.get("quake"), Quake)
    assert "quake" not in faults.names()


# --- the other faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "attributes"),
    [
        ("bandwidth: {rate: 16KB/s, from: node-1}", "bandwidth", (("rate", 16),)),
        (
            "slicer: {average_size: 64B, size_variation: 32B, delay: 2ms, from: node-1}",
            "slicer",
            (("average_size", 64), ("delay", 2000), ("size_variation", 32)),
        ),
        ("slow_close: {delay: 500ms, from: node-1}", "slow_close", (("delay", 500),)),
        ("limit_data: {bytes: 4KiB, from: node-1}", "limit_data", (("bytes", 4096),)),
        ("reset: {after: 1500us, from: node-1}", "reset", (("timeout", 2),)),
    ],
)
def test_link_faults_ask_for_what_toxiproxy_knows(
    tmp_path: Path, fault: str, kind: str, attributes: tuple[tuple[str, int], ...]
) -> None:
    _, effects = planned(tmp_path, f"{{at: 1s, for: 5s, {fault}}}", "{nodes: 3}")
    assert effects == [LinkEffect("site-1", f"site-{n}", kind, attributes) for n in (0, 2)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault", ["latency: 5ms", "blackhole: {}", "refuse: {}", "partition: ring", "pause: {nodes: 1}", "reset: {}"]
)
def test_without_for_a_fault_lasts_until_the_clock_stops(tmp_path: Path, fault: str) -> None:
    (action,), _ = planned(tmp_path, f"{{at: 1s, {fault}}}")
    assert action.until_us == 60_000_000


def test_groups_are_cut_as_they_are_written_and_others_hear_everybody(tmp_path: Path) -> None:
    (action,), effects = planned(tmp_path, "{at: 1s, for: 5s, partition: {groups: [[node-0, node-1], [2]]}}")
    first, second = action.options["groups"]
    assert first == ["site-0", "site-1"]
    assert len(second) == 2
    assert not set(first) & set(second)
    assert len(effects) == 8


def test_a_site_in_two_groups_is_a_mistake_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"x.yaml:7:\d+: .*site-1 is in two groups"):
        planned(tmp_path, "{at: 1s, for: 5s, partition: {groups: [[node-0, node-1], [node-1]]}}")


def test_joiners_are_planned_with_names_identities_and_sites_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    entries = (
        "{at: 1s, join: {nodes: 3}}\n  - {at: 9s, replace: {nodes: 2}}\n  - {at: 12s, join: {nodes: 25%, over: 4s}}"
    )
    path.write_text(HEAD.format(cluster="{nodes: 6}", entry=entries, seed=1))
    plan = make_plan(load_experiment(path))
    assert [node.name for node in plan.nodes] == [f"node-{n}" for n in range(14)]
    assert [node.site for node in plan.nodes[6:]] == [f"site-{n % 6}" for n in range(6, 14)]
    assert len({node.id for node in plan.nodes}) == 14
    join, replace, *later = plan.actions
    assert join.targets == ["node-6", "node-7", "node-8"]
    assert replace.options["new"] == ["node-9", "node-10"]
    assert not set(replace.options["old"]) & set(replace.options["new"])
    assert [(action.at_us, action.targets) for action in later] == [
        (12_000_000, ["node-11"]), (14_000_000, ["node-12"]), (16_000_000, ["node-13"]),
    ]  # fmt: skip


def test_selectors_follow_who_has_joined_and_who_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    entries = (
        "{at: 5s, join: {nodes: 2}}\n  - {at: 2s, kill: {nodes: all}, name: early}\n  - {at: 9s, kill: {nodes: all}}"
    )
    path.write_text(HEAD.format(cluster="{nodes: 3}", entry=entries, seed=1))
    early, _, late = make_plan(load_experiment(path)).actions
    assert early.targets == ["node-0", "node-1", "node-2"]
    assert late.targets == ["node-3", "node-4"]


def test_a_node_that_shares_its_site_with_a_joiner_cannot_be_told_apart_on_links(tmp_path: Path) -> None:
    entries = "{{at: 1s, join: {{nodes: 1}}}}\n  - {{at: {at}, for: 5s, refuse: {{to: node-0}}}}"
    with pytest.raises(ExperimentError, match=r"node-0 shares site-0 with node-3.*raise cluster\.sites to 4"):
        planned(tmp_path, entries.format(at="9s"), "{nodes: 3}")
    planned(tmp_path, entries.format(at="9s"), "{nodes: 3, sites: 4}")


def test_restarts_keep_data_unless_told_otherwise(tmp_path: Path) -> None:
    _, effects = planned(tmp_path, "{at: 1s, restart: {nodes: node-2}}")
    assert effects == [MemberClaim("node-2", "dead", keep_data=True)]
    _, effects = planned(tmp_path, "{at: 1s, restart: {nodes: node-2, keep_data: false}}")
    assert effects == [MemberClaim("node-2", "dead", keep_data=False)]


def test_a_trace_is_replayed_from_the_faults_beginning(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("node,online,offline\na,0,3\na,5,90\nb,2,90\n")
    entry = f"{{at: 10s, for: 20s, churn: {{nodes: [node-1, node-4], session: {{trace: {{file: {tmp_path}/t.csv}}}}}}}}"
    actions, _ = planned(tmp_path, entry)
    seen = [(action.targets, action.at_us / 1e6, (action.until_us or 0) / 1e6) for action in actions]
    assert seen == [(["node-4"], 10.0, 12.0), (["node-1"], 13.0, 15.0)]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bandwidth: {rate: 1500B/s}", "whole KB/s"),
        ("bandwidth: {rate: 3MB}", "a bandwidth with its unit"),
        ("slicer: {average_size: 10B, size_variation: 10B}", "less than the average size"),
        ("partition: {groups: [[node-0]]}", "two groups or more"),
        ("partition: {shape: ring, groups: [[node-0], [node-1]]}", "instead of a `shape`"),
        ("partition: {groups: [[node-0], [node-17]]}", "no node `node-17`"),
        ("pause: {nodes: nobody}", "no selector `nobody`"),
    ],
)
def test_options_are_checked_by_name_unit_and_range(tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        planned(tmp_path, f"{{at: 1s, for: 5s, {fault}}}")


@pytest.mark.parametrize("fault", ["join: {nodes: node-1}", "join: {nodes: 2, over: 90s}", "partition: bridge"])
def test_what_cannot_be_is_told(tmp_path: Path, fault: str) -> None:
    cluster = "{nodes: 2}" if "bridge" in fault else "{nodes: 6}"
    with pytest.raises(ExperimentError):
        planned(tmp_path, f"{{at: 1s, {fault}}}", cluster)
