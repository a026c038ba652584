"""Searching for a limit: the plan's steps, and what is made of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import ExperimentError, UsageError
from harness.experiment import Experiment
from harness.load_command import read, stepped
from harness.records import NODE_COLUMNS, OPERATION_COLUMNS, Plan, PlannedNode
from reports.history import History, _joined
from reports.limit import curve_svg, ended, find

STEP = 10.0  # s


def made(**options: Any) -> Experiment:
    return read(None, {"nodes": 4, **options}, [], [])


def test_the_rate_goes_up_by_half_each_step_and_not_past_its_end() -> None:
    plan = stepped(made(rate="100/s"), "lookup.p99 <= 100ms", step="5s", up_to="400/s")
    steps = plan.experiment["limit"]["steps"]
    assert [step["rate_per_1000s"] for step in steps] == [100_000, 150_000, 225_000, 337_500]
    assert plan.experiment["duration_us"] == 20_000_000
    assert plan.experiment["load"]["points"][:3] == [[0, 100_000], [5_000_000, 100_000], [5_000_000, 150_000]]


@pytest.mark.parametrize(
    ("options", "objective", "words"),
    [
        ({"users": 5}, "lookup.p99 <= 100ms", "goes with --rate"),
        ({"rate": "9000/s"}, "lookup.p99 <= 100ms", "raise it, or lower --rate"),
        ({"rate": "9/s"}, "lookup.p98 <= 100ms", "--find-limit"),
        ({"rate": "9/s"}, "lost == 0", "an objective such as"),
        ({"rate": "9/s"}, "lookup.p99 <= 100ms outside faults", "without a scope"),
    ],
)
def test_a_search_that_makes_no_sense_is_told(options: dict[str, Any], objective: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        stepped(made(**options), objective, step="5s", up_to="400/s")


def test_a_wrong_option_is_told_by_its_own_name() -> None:
    with pytest.raises(ExperimentError) as caught:
        made(rate="fast", users=3)
    assert [line.split(":")[0] for line in caught.value.mistakes] == ["--rate fast", "--users 3"]


def test_an_experiments_cluster_and_load_are_taken_and_its_faults_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ncluster: {nodes: 7}\nload: {rate: 5/s}\nduration: 9s\n"
        "timeline: [{at: 1s, for: 1s, partition: halves}]\nexpect: [recovery <= 1s after partition]\n"
    )
    taken = read(path, {"rate": "8/s"}, ["cluster.node.k=3"], ["lookup.success >= 99%"])
    assert (taken.top.cluster.nodes, taken.top.cluster.node.k, taken.top.load.rate) == (7, 3, 8000)
    assert (taken.timeline, taken.expect) == ([], ["lookup.success >= 99%"])


def history(*steps: tuple[float, float, float], planned: int = 0) -> History:
    """A search whose steps have (rate, latency, lag), in s."""
    rows = [
        {"kind": "lookup", "intended": at, "started": at + lag, "finished": at + latency, "outcome": "ok", "error": ""}
        for number, (rate, latency, lag) in enumerate(steps)
        for at in (number * STEP + count / rate for count in range(int(rate * STEP)))
    ]
    frame = pd.DataFrame(rows)
    frame["latency"] = frame["finished"] - frame["intended"]
    rates = [rate for rate, _, _ in steps] + [9999.0] * planned
    limit = {
        "objective": "lookup.p99 <= 100ms",
        "steps": [
            {
                "from_us": int(number * STEP * 1e6),
                "to_us": int((number + 1) * STEP * 1e6),
                "rate_per_1000s": int(rate * 1000),
            }
            for number, rate in enumerate(rates)
        ],
    }
    plan = Plan(schema=1, seed=0, experiment={"limit": limit}, nodes=[PlannedNode("node-0", "0" * 40, "s")], actions=[])
    empty = _joined([], OPERATION_COLUMNS), _joined([], NODE_COLUMNS)
    made_ = History(Path(), plan, [], *empty)
    made_.__dict__["load"] = frame  # the cached property: what the rows of the load come to
    return made_


GOOD, SLOW, LATE = (0.01, 0.0), (0.3, 0.0), (0.3, 0.2)


def test_the_limit_is_the_highest_rate_at_which_the_objective_held() -> None:
    limit = find(history((100, *GOOD), (150, *GOOD), (225, *SLOW)), 30.0)
    assert limit is not None
    assert (limit.found, limit.missed, limit.verdict) == (150, 225, "pass")
    assert limit.sentence == "lookup.p99 <= 100ms held up to 150/s; at 225/s it did not (measured 300 ms)"
    assert [step.verdict for step in limit.steps] == ["held", "held", "missed"]


def test_a_generator_that_was_late_is_no_limit_of_the_cluster() -> None:
    limit = find(history((100, *GOOD), (150, *LATE)), 20.0)
    assert limit is not None
    assert (limit.found, limit.verdict) == (100, "unknown")
    assert "raise load.processes" in limit.sentence


def test_a_search_that_never_failed_says_that_the_limit_lies_higher() -> None:
    limit = find(history((100, *GOOD)), 10.0)
    assert limit is not None
    assert (limit.verdict, "lies higher" in limit.sentence) == ("pass", True)


def test_an_objective_that_holds_at_no_rate_fails() -> None:
    limit = find(history((100, *SLOW), (150, *SLOW)), 20.0)
    assert limit is not None
    assert (limit.found, limit.verdict) == (None, "fail")


def test_a_search_ends_after_two_steps_in_a_row_that_do_not_hold_and_not_before() -> None:
    assert ended(history((100, *GOOD), (150, *SLOW), planned=3), 20.0) == []
    assert ended(history((100, *SLOW), (150, *GOOD), (225, *SLOW), planned=3), 30.0) == []
    assert len(ended(history((100, *GOOD), (150, *SLOW), (225, *LATE), planned=3), 30.0)) == 2


def test_a_miss_that_was_measured_goes_before_a_step_that_cannot_be_told() -> None:
    limit = find(history((100, *LATE), (150, *SLOW)), 20.0)
    assert limit is not None
    assert (limit.found, limit.missed, limit.verdict) == (None, 150, "fail")


def test_steps_that_have_not_ended_are_not_judged() -> None:
    limit = find(history((100, *GOOD), (150, *SLOW)), 15.0)
    assert limit is not None
    assert (len(limit.steps), limit.verdict) == (1, "unknown")


def test_the_curve_is_drawn() -> None:
    limit = find(history((100, *GOOD), (150, *GOOD), (225, *SLOW)), 30.0)
    assert limit is not None
    svg = curve_svg(limit)
    assert svg.startswith("<svg")
    assert "operations per second" in svg
