"""The load section: what it resolves to, what workers are told, and every mistake by its name and place."""

import json
from pathlib import Path

import msgspec
import pytest

from harness.errors import ExperimentError
from harness.experiment import load_experiment
from harness.load_options import patience, worker_options
from harness.plan import make_plan, plan_bytes
from loadtests.config import LoadOptions


def written(folder: Path, load: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(f"name: x\ncluster: {{nodes: 10}}\nduration: 20s\nload: {load}\n")
    return path


def told_to_workers(folder: Path, load: str) -> LoadOptions:
    resolved = load_experiment(written(folder, load)).resolved()["load"]
    plain = json.loads(json.dumps(resolved))  # as it comes out of a plan.json
    return msgspec.convert(worker_options(plain), LoadOptions, strict=False)


@pytest.mark.parametrize(
    ("load", "field", "value"),
    [
        ("{rate: 10/s}", "rate_per_s", 10),
        ("{users: 5, think: 50ms}", "think_s", 0.05),
        ("{rate: 10/s, shape: {ramp: {to: 20/s, over: 10s}}}", "curve", [(0, 10), (10, 20)]),
        ("{rate: 10/s, stores: 50%, rewrites: 30%}", "rewrites", 0.3),
        ("{rate: 10/s, missing: 5%}", "missing", 0.05),
        ("{rate: 10/s, popularity: zipf}", "popularity", "zipf"),
        ("{rate: 10/s, popularity: {latest: 1.5}}", "skew", 1.5),
        ("{rate: 10/s, value_size: 1KiB}", "value_size", 1024),
        ("{rate: 10/s, max_in_flight: 7}", "max_in_flight", 7),
    ],
)
def test_what_is_written_reaches_the_workers(tmp_path: Path, load: str, field: str, value: object) -> None:
    assert getattr(told_to_workers(tmp_path, load), field) == value


def test_sizes_and_retries_reach_the_workers(tmp_path: Path) -> None:
    histogram = told_to_workers(tmp_path, "{value_size: {histogram: {64B: 90%, 4KiB: 10%}}}").value_size
    assert histogram.histogram == [(64, 0.9), (4096, 0.1)]
    assert told_to_workers(tmp_path, "{value_size: {uniform: [64B, 4KiB]}}").value_size.uniform == (64, 4096)
    retry = told_to_workers(tmp_path, "{retry: {attempts: 4, wait: exponential, first: 1s, longest: 3s}}").retry
    assert retry.waits() == [1, 2, 3]
    assert told_to_workers(tmp_path, "{retry: {attempts: 3, wait: fixed, first: 1s}}").retry.waits() == [1, 1]


def test_patience_covers_all_attempts_and_waits(tmp_path: Path) -> None:
    load = "{timeout: 2s, retry: {attempts: 3, wait: exponential, first: 1s, longest: 2s}}"
    resolved = load_experiment(written(tmp_path, load)).resolved()["load"]
    assert patience(resolved) >= told_to_workers(tmp_path, load).patience_s == 9


def test_the_smallest_value_that_is_taken_reaches_the_workers_and_they_take_no_smaller_one(tmp_path: Path) -> None:
    assert told_to_workers(tmp_path, "{value_size: 8B}").value_size == 8
    plan = load_experiment(written(tmp_path, "{}")).resolved()["load"]
    for size in (7, {"uniform": [7, 64]}, {"histogram": [[7, 1_000_000]]}):
        with pytest.raises(msgspec.ValidationError, match=">= 8"):
            msgspec.convert(worker_options({**plan, "value_size": size}), LoadOptions, strict=False)


def test_sites_are_named_in_the_plan(tmp_path: Path) -> None:
    def sites(load: str) -> list[str]:
        found: list[str] = load_experiment(written(tmp_path, load)).resolved()["load"]["sites"]
        return found

    assert sites("{sites: [site-3, site-1]}") == ["site-3", "site-1"]
    assert sites("{sites: 5}") == [f"site-{number}" for number in (0, 2, 4, 6, 8)]
    assert len(sites("{sites: all}")) == 10
    assert sites("{}") == []


def test_a_trace_stands_in_the_plan_so_that_it_replays_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "arrivals.txt").write_text("0.5  # the first\n\n1\n1.25\n999\n")
    plan = make_plan(load_experiment(written(tmp_path, "{arrivals: {trace: arrivals.txt}}")))
    load = json.loads(plan_bytes(plan))["experiment"]["load"]
    assert load["trace_us"] == [500_000, 1_000_000, 1_250_000]
    assert worker_options(load)["trace_s"] == [0.5, 1.0, 1.25]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("{users: 5, rate: 10/s}", "`users` (closed model) and `rate`"),
        ("{users: 5, arrivals: constant}", "`arrivals` belongs to `rate`"),
        ("{users: 5, shape: {ramp: {to: 1/s, over: 1s}}}", "`shape` belongs to `rate`"),
        ("{shape: {rampe: {}}}", "did you mean `ramp`?"),
        ("{shape: ramp}", "one of ramp, step, spike, wave"),
        ("{shape: {ramp: {to: 5/s}}}", "`ramp` takes `to` (rate), `over` (time), all of them"),
        ("{shape: {ramp: {to: fast, over: 3s}}}", "`ramp`: `to`: a rate above zero"),
        ("{shape: {step: {by: 1/s, every: 0s}}}", "`step`: `every`: a time above zero"),
        ("{shape: {spike: {to: 9/s, at: 20s, lasts: 1s}}}", "`at` is after the end"),
        ("{arrivals: {trace: nothing.txt}}", "nothing.txt cannot be read"),
        ("{arrivals: {trace: x.yaml}}", "x.yaml:1: a moment in seconds"),
        ("{arrivals: regular}", "poisson, constant or {trace: FILE} is expected"),
        ("{arrivals: {trace: good.txt}, rate: 5/s}", "`rate` and `arrivals: {trace: …}` exclude each other"),
        ("{popularity: {zipf: 0}}", "`zipf`: an exponent above 0"),
        ("{popularity: zipff}", "did you mean `zipf`?"),
        ("{value_size: {uniform: [4KiB, 64B]}}", "from the smaller to the larger"),
        ("{value_size: {histogram: {64B: 50%}}}", "make up 100%"),
        ("{value_size: 0B}", "`value_size`: a value has at least 8 bytes"),
        ("{value_size: 7B}", "at least 8 bytes, so that none is right by chance; not 7B"),
        ("{value_size: {uniform: [1B, 64B]}}", "at least 8 bytes"),
        ("{value_size: {histogram: {64B: 90%, 4B: 10%}}}", "at least 8 bytes"),
        ("{shape: {step: {by: 1/s, every: 1us}}}", "`step`: `every` makes 40,000,000 points of 20 s"),
        ("{shape: {wave: {lowest: 1/s, day: 1us}}}", "`wave`: `day` makes 1,920,000,000 points of 20 s"),
        ("{value_size: 2MiB}", "at most 1 MiB"),
        ("{retry: {attempts: 0}}", "at least 1"),
        ("{retry: {attempts: 3, wait: fibonacci}}", "no 'fibonacci'"),
        ("{retry: {attempts: 3, wait: fixed, longest: 3s}}", "`longest` belongs to `wait: exponential`"),
        ("{retry: {attempts: 3, first: 3s, longest: 1s}}", "`longest` is shorter than `first`"),
        ("{retry: {attemps: 3}}", "did you mean `attempts`?"),
        ("{retry: 3}", "a mapping is expected"),
        ("{sites: [site-10]}", "no site `site-10`; there are site-0 to site-9"),
        ("{sites: 11}", "11 sites of 10"),
        ("{processes: 65}", "at most 64"),
        ("{containers: true}", "load workers in containers need `backend: docker`"),
        ("{missing: 101%}", "above 100%"),
    ],
)
def test_a_mistake_is_told_once_by_name_at_its_line(tmp_path: Path, load: str, words: str) -> None:
    (tmp_path / "good.txt").write_text("1\n2\n")
    with pytest.raises(ExperimentError) as caught:
        load_experiment(written(tmp_path, load))
    told = [line for line in caught.value.mistakes if words in line]
    assert len(told) == 1, caught.value.mistakes
    assert told[0].startswith(f"{tmp_path}/x.yaml:4:")
    assert len({line.split(": ", 1)[0] for line in caught.value.mistakes}) <= 2
