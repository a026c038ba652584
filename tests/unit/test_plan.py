"""Same file and seed, same bytes; the planner follows the membership; stored plans are checked."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExperimentError, HarnessError
from harness.experiment import load_experiment
from harness.plan import describe, load_plan, make_plan, plan_bytes, powers_by_kind, powers_needed, save_plan
from harness.records import Plan

STORM = """\
name: storm
seed: 3
cluster: {nodes: 20, node: {k: 8}}
load: {rate: 10/s}
duration: 60s
timeline:
  - {at: 30s, kill: {nodes: 5}, name: second}
  - {at: 10s, for: 2s, repeat: {every: 4s, times: 3}, latency: {latency: 1.2ms, from: "25%"}, name: flap}
  - {at: 20s, kill: {nodes: 5, restart_after: 15s}, name: first}
  - at: 31s
    for: 20s
    churn: {nodes: 100%, session: {weibull: {shape: 0.5, mean: 8s}}, downtime: {exponential: {mean: 2s}}}
  - {at: 5s, for: 5s, partition: halves}
"""
BLOWS = """\
name: blows
cluster: {nodes: 6}
load: {rate: 10/s}
duration: 60s
timeline:
  - {at: 10s, repeat: {every: 10s, times: 2}, kill: {nodes: 2}, name: two}
  - {at: 15s, kill: {nodes: 2}, name: between}
"""


def plan_of(folder: Path, text: str = STORM, *overrides: str) -> Plan:
    path = folder / "x.yaml"
    path.write_text(text)
    return make_plan(load_experiment(path, overrides))


def test_the_bytes_are_the_same_in_fresh_interpreters(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(STORM)
    code = (
        "import sys; from pathlib import Path; from harness.experiment import load_experiment; "
        "from harness.plan import make_plan, plan_bytes; "
        "sys.stdout.buffer.write(plan_bytes(make_plan(load_experiment(Path(sys.argv[1])))))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "x.yaml")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert outputs == {plan_bytes(plan_of(tmp_path))}


def test_another_seed_is_another_plan(tmp_path: Path) -> None:
    assert plan_of(tmp_path).actions != plan_of(tmp_path, STORM, "seed=4").actions


def test_an_added_entry_changes_no_other(tmp_path: Path) -> None:
    more = f"{STORM}  - {{at: 1s, for: 1s, blackhole: {{from: 3}}}}\n"
    before, after = plan_of(tmp_path).actions, plan_of(tmp_path, more).actions
    assert before == [action for action in after if action.fault != "blackhole"]


def test_node_ids_follow_from_the_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.nodes[7].id == hashlib.sha256(b"3/node/7").hexdigest()[:40]
    assert [node.site for node in plan.nodes] == [f"site-{index}" for index in range(20)]


def test_the_planner_knows_who_is_dead(tmp_path: Path) -> None:
    actions = plan_of(tmp_path).actions
    first, second = (next(set(a.targets) for a in actions if a.name == name) for name in ("first", "second"))
    churned = {name for action in actions if action.fault == "churn" for name in action.targets}
    assert not first & second  # planned by time, though `second` stands first in the file
    assert not churned & (first | second)  # `first` is away until 35 s


def test_who_is_dead_does_not_depend_on_how_entries_repeat(tmp_path: Path) -> None:
    for seed in range(20):
        strikes = plan_of(tmp_path, BLOWS, f"seed={seed}").actions
        killed = [name for action in strikes for name in action.targets]
        assert sorted(killed) == [f"node-{index}" for index in range(6)]  # nobody twice, nobody spared


def test_a_repeated_fault_strikes_at_each_time(tmp_path: Path) -> None:
    flaps = [action for action in plan_of(tmp_path).actions if action.name == "flap"]
    assert [(flap.at_us / 1e6, (flap.until_us or 0) / 1e6) for flap in flaps] == [(10, 12), (14, 16), (18, 20)]
    assert {flap.options["latency_ms"] for flap in flaps} == {2}  # rounded up


def test_actions_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    times = [action.at_us for action in plan_of(tmp_path).actions]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (BLOWS, set()),
        (BLOWS + "  - {at: 5s, for: 2s, pause: {nodes: 1}}\n", {"pause"}),
        (BLOWS.replace("{nodes: 6}", "{nodes: 6, backend: docker, limits: {cpus: 0.5}}"), {"cpus"}),
        (
            BLOWS.replace("{nodes: 6}", "{nodes: 6, backend: docker, limits: {cpus: 1, memory: 64MiB}}"),
            {"cpus", "memory"},
        ),
    ],
)
def test_a_plan_tells_what_not_every_engine_can_do(tmp_path: Path, text: str, needed: set[str]) -> None:
    assert powers_needed(plan_of(tmp_path, text)) == needed


def test_what_plans_need_is_told_for_each_kind_of_backend(tmp_path: Path) -> None:
    pausing = BLOWS + "  - {at: 5s, for: 2s, pause: {nodes: 1}}\n"
    limited = BLOWS.replace("{nodes: 6}", "{nodes: 6, backend: docker, limits: {memory: 64MiB}}")
    plans = [plan_of(tmp_path, text) for text in (pausing, limited, BLOWS.replace("6}", "6, backend: docker}"))]
    assert powers_by_kind(plans) == {("process", "kademlia"): {"pause"}, ("docker", "kademlia"): {"memory"}}


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "plan.json").write_bytes(plan_bytes(plan))
    assert load_plan(tmp_path / "plan.json") == plan


def damaged(folder: Path, changes: dict[str, Any]) -> list[str]:
    """What is said of a plan with some values changed; keys are paths such as `nodes 1 id`."""
    data = json.loads(plan_bytes(plan_of(folder)))
    for path, value in changes.items():
        *steps, last = [int(step) if step.isdigit() else step for step in path.split()]
        inside = data
        for step in steps:
            inside = inside[step]
        inside[last] = value
    path = folder / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ExperimentError) as caught:
        load_plan(path)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2"),
        ({"seed": "x"}, "not a plan"),
        ({"experiment": {}}, "lacks name"),
        ({"experiment duration_us": 0}, "no length"),
        ({"nodes": []}, "no nodes"),
        ({"nodes 1 id": "xyz"}, "40 hexadecimal digits"),
        ({"nodes 1 name": "node-0"}, "two nodes have the name"),
        ({"actions 0 fault": "partiton"}, "no fault `partiton`"),
        ({"actions 0 targets": ["site-77"]}, "no node or site site-77"),
        ({"actions 0 targets": []}, "do nothing"),
        ({"actions 0 options": {}}, "not those of `partition`"),
        ({"actions 0 options groups": [["site-0"], ["site-99"]]}, "no node or site site-99"),
        ({"actions 0 options groups": [["site-0"]]}, "do nothing"),
        ({"actions 0 until_us": 1}, "ends before it begins"),
        ({"actions 0 at_us": 59_000_000, "actions 0 until_us": None}, "not in the order"),
        ({"actions 0 at_us": -1}, "outside the run"),
    ],
)
def test_a_damaged_plan_says_what_is_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert any(words in text for text in damaged(tmp_path, changes))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"schema":1}', b'"\\ud800"'])
def test_what_is_no_plan_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(raw)
    with pytest.raises(ExperimentError, match="not a plan of Kadstorm"):
        load_plan(tmp_path / "plan.json")


def test_the_chart_shows_every_entry_at_its_time(tmp_path: Path) -> None:
    lines = describe(plan_of(tmp_path)).splitlines()
    bars = {line.split()[0]: line.split()[1] for line in lines if "·" in line}
    assert set(bars) == {"second", "flap", "first", "churn", "partition"}
    assert bars["flap"].count("█·") == 3
    assert bars["second"].count("▌") == 1
    assert abs(bars["second"].index("▌") / len(bars["second"]) - 0.5) < 0.02


def test_the_chart_has_times_above_it_where_they_belong(tmp_path: Path) -> None:
    text = "name: calm\ncluster: {nodes: 4}\nload: {rate: 1/s}\nduration: 80s\ntimeline:\n  - {at: 20s, kill: {nodes: 1}}\n"
    axis, bar = describe(plan_of(tmp_path, text), 90).splitlines()[2:4]
    assert axis.split() == ["0", "20s", "40s", "60s", "80s"]
    assert axis.index("20s") == bar.index("▌")


def test_the_chart_fits_a_terminal(tmp_path: Path) -> None:
    chart = [line for line in describe(plan_of(tmp_path), 80).splitlines() if "·" in line]
    assert {len(line) for line in chart} == {80}


def test_a_plan_without_faults_can_be_shown(tmp_path: Path) -> None:
    text = "name: calm\ncluster: {nodes: 2}\nload: {rate: 1/s}\nduration: 5s\n"
    assert "calm: 2 nodes, 5s, seed 0, 0 actions" in describe(plan_of(tmp_path, text))


def test_a_plan_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(BLOWS)
    plan, path = make_plan(load_experiment(tmp_path / "experiment.yaml", [])), tmp_path / "plan.json"
    save_plan(plan, path)
    before = path.read_bytes()
    path.with_suffix(".part").mkdir()  # nothing can be written there
    plan.seed += 1
    with pytest.raises(HarnessError, match=r"plan\.json: cannot be written: Is a directory"):
        save_plan(plan, path)
    assert path.read_bytes() == before == plan_bytes(load_plan(path))
