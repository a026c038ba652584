"""Comparing runs: what changed is found, what did not change is let alone, and too few runs say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.cli import main
from reports import ReportError
from reports.compare import METRICS, NAMED, Difference, differences_of, tolerances_of
from reports.intervals import intervals
from tests.unit.test_report_files import storm

Floats = NDArray[np.float64]
Values = dict[str, float]
NONE = tolerances_of(["0%", *(f"{m.name}=0%" for m in METRICS if m.scale == "points"), "recovery=0s"])
PAIRS = 400


def noise(rng: np.random.Generator, runs: int, kind: str) -> Floats:
    """Standardised noise, (runs, metrics): what is common to a run, and what each metric has for itself."""
    mixed = 0.6 * rng.normal(size=(runs, 1)) + 0.8 * rng.normal(size=(runs, len(METRICS)))
    if kind == "skewed":
        return np.asarray((np.exp(mixed) - np.exp(0.5)) / 2.16)
    if kind == "heavy-tailed":
        return np.asarray(mixed / np.sqrt(rng.chisquare(3, size=(runs, 1)) / 3))
    if kind == "with outliers":
        return np.asarray(mixed + (rng.random((runs, 1)) < 0.15) * 4)
    return mixed


def runs_of(rng: np.random.Generator, runs: int, kind: str, spread: float = 0.03, slower: float = 1.0) -> list[Values]:
    """Made-up runs: 10,000 lookups and stores each; every time by ``slower`` slower."""
    made = []
    for row in noise(rng, runs, kind):
        values = {"lookup.count": 10_000.0, "store.count": 10_000.0}
        for metric, z in zip(METRICS, row, strict=True):
            if metric.scale == "points":
                values[metric.name] = 1 - rng.binomial(10_000, min(0.5, max(0.0, 0.01 + 0.002 * z))) / 10_000
            elif metric.scale == "keys":
                values[metric.name] = float(rng.poisson(0.3))
            elif metric.scale == "seconds":
                values[metric.name] = max(0.0, round(1.0 + z, 1))
            else:
                values[metric.name] = 0.1 * np.exp(spread * z) * (slower if metric.dimension == "time" else 1)
        made.append(values)
    return made


def worse(differences: Sequence[Difference]) -> list[str]:
    return [one.metric for one in differences if one.verdict == "worse"]


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy-tailed", "with outliers"])
@pytest.mark.parametrize("runs", [3, 5])
def test_false_alarms_stay_within_one_in_a_hundred_over_all_metrics(runs: int, kind: str) -> None:
    """Without any tolerance, which is the hardest case; better counts as an alarm, too."""
    rng = np.random.default_rng([runs, len(kind)])
    alarms = 0
    for _ in range(PAIRS):
        told = differences_of(runs_of(rng, runs, kind), runs_of(rng, runs, kind), NONE)
        alarms += any(one.verdict in ("worse", "better") for one in told)
    assert alarms <= PAIRS / 100


def test_one_fifth_slower_is_found_in_five_runs_a_side() -> None:
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        told = differences_of(runs_of(rng, 5, "normal"), runs_of(rng, 5, "normal", slower=1.2), tolerances_of([]))
        found += bool(worse(told))
        assert all(NAMED[name].dimension == "time" for name in worse(told))
    assert found >= 90


def test_a_change_within_the_tolerance_is_no_regression_and_past_it_is_one() -> None:
    rng = np.random.default_rng(2)
    base, new = runs_of(rng, 5, "normal", 0.005), runs_of(rng, 5, "normal", 0.005, slower=1.1)
    assert "lookup.p50" in worse(differences_of(base, new, tolerances_of([])))
    assert worse(differences_of(base, new, tolerances_of(["20%"]))) == []
    assert "lookup.p50" not in worse(differences_of(base, new, tolerances_of(["lookup.p50=20%"])))


def test_faster_is_better_and_the_same_is_no_worse() -> None:
    rng = np.random.default_rng(3)
    base, new = runs_of(rng, 6, "normal", 0.005), runs_of(rng, 6, "normal", 0.005, slower=0.7)
    told = {one.metric: one.verdict for one in differences_of(base, new, tolerances_of([]))}
    assert (told["lookup.p50"], told["lookup.rate"]) == ("better", "no worse")


def test_runs_that_agree_to_the_digit_make_no_certainty_out_of_nothing() -> None:
    base = [{"lookup.success": 1.0, "lookup.count": 50.0, "lost": 0.0}] * 5
    new = [{"lookup.success": 0.98, "lookup.count": 50.0, "lost": 1.0}] * 5  # one failure of fifty, one key
    assert worse(differences_of(base, new, NONE)) == []


def test_two_runs_a_side_cannot_tell_whatever_they_say() -> None:
    base, new = [{"lookup.p50": 0.01}] * 2, [{"lookup.p50": 1.0}] * 2
    (only,) = differences_of(base, new, tolerances_of([]))
    assert (only.verdict, only.low, only.high) == ("cannot tell", None, None)


def test_a_metric_that_some_runs_do_not_know_is_compared_over_those_that_do() -> None:
    rng = np.random.default_rng(4)
    base, new = runs_of(rng, 5, "normal", 0.005), runs_of(rng, 5, "normal", 0.005, slower=2)
    del base[0]["lookup.p50"]
    (one,) = [d for d in differences_of(base, new, tolerances_of([])) if d.metric == "lookup.p50"]
    assert (one.verdict, one.note) == ("worse", "known of 4 and 5 runs")


@settings(deadline=None)
@given(st.integers(3, 6), st.integers(3, 6), st.floats(-5, 5), st.integers(0, 2**32))
def test_intervals_move_with_what_is_measured_and_not_with_its_origin(n: int, m: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, new, floors = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), np.full(3, 1e-3)
    one, other = intervals(base, new, floors), intervals(base + shift, new + shift, floors)
    moved = intervals(base, new + shift, floors)
    assert np.allclose(one.half_width, other.half_width)
    assert np.allclose(moved.difference, one.difference + shift)


def test_fewer_than_three_runs_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 3 a side"):
        intervals(np.zeros((2, 1)), np.zeros((5, 1)), np.ones(1))


@pytest.mark.parametrize(
    ("text", "told"),
    [("lookup.p51=5%", "no metric `lookup.p51`"), ("fast", "a share from 0% to 100%"), ("recovery=5%", "a time with")],
)
def test_a_tolerance_that_means_nothing_says_what_would(text: str, told: str) -> None:
    with pytest.raises(ReportError, match=told):
        tolerances_of([text])


# --- the command ------------------------------------------------------------------------------------------------------


def stretch(rows: pd.DataFrame, events: list[dict[str, Any]], by: float) -> None:
    rows["finished"] = rows["started"] + (rows["finished"] - rows["started"]) * by


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder of storms: their lookups and stores take ``slower`` times as long."""

    def make(name: str, count: int, slower: float = 1.0) -> Path:
        parent = tmp_path_factory.mktemp(name)
        for seed in range(count):
            folder = parent / f"run-{seed}"
            folder.mkdir()

            storm(folder, spoil=partial(stretch, by=slower * (1 + seed / 1000)))
        return parent

    return make


def test_a_planted_slow_down_is_told_with_exit_code_one_and_a_page(runs: Callable[..., Path], tmp_path: Path) -> None:
    base, slow = runs("base", 3), runs("slow", 3, 1.2)
    page, figures = tmp_path / "c.html", tmp_path / "c.json"
    options = ["compare", str(base), str(slow), "--html", str(page), "--json", str(figures)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Regression: lookup.p50 +1")
    assert "<script" not in page.read_text()
    assert page.read_text().count("<svg") > 1
    assert '"verdict": "regression"' in figures.read_text()


def test_the_same_again_is_no_regression(runs: Callable[..., Path], tmp_path: Path) -> None:
    base, same = runs("base", 3), runs("same", 3)
    result = CliRunner().invoke(main, ["compare", str(base), str(same), "--html", str(tmp_path / "c.html")])
    assert (result.exit_code, "No regression was found" in result.output) == (0, True)


def test_two_runs_a_side_exit_as_inconclusive(runs: Callable[..., Path], tmp_path: Path) -> None:
    base = runs("base", 2)
    result = CliRunner().invoke(main, ["compare", str(base), str(base / "run-0"), "--html", str(tmp_path / "c.html")])
    assert result.exit_code == 4
    assert result.output.startswith("Cannot tell: 2 runs against 1")


def test_what_is_no_run_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    page = tmp_path / "c.html"
    result = CliRunner().invoke(main, ["compare", str(tmp_path / "empty"), str(tmp_path / "none"), "--html", str(page)])
    assert result.exit_code == 2
    assert "empty: is no run folder and holds none" in result.output
    assert not page.exists()


def test_a_baseline_that_is_none_is_told_before_anything_starts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    experiment = "chaos/experiments/first-storm.yaml"
    result = CliRunner().invoke(main, ["run", experiment, "--baseline", str(tmp_path / "none"), "--out", str(out)])
    assert result.exit_code == 2
    assert "is no run folder" in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("slower", "code", "told"), [(1.2, 1, "Regression: lookup.p50"), (1.0, 0, "No regression was")]
)
def test_runs_are_held_against_a_baseline(
    runs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: float, code: int, told: str
) -> None:
    made: list[Path] = []

    def run_one(plan: Any, text: str, folder: Path, *_: Any, **__: Any) -> int:
        storm(folder, spoil=partial(stretch, by=slower * (1 + len(made) / 1000)))
        made.append(folder)
        return 0

    monkeypatch.setattr("harness.cli._run_one", run_one)
    monkeypatch.setattr("harness.toxiproxy.binary.find", lambda *_, **__: tmp_path)
    options = ["--repeat", "3", "--out", str(tmp_path / "new"), "--baseline", str(runs("base", 3))]
    result = CliRunner().invoke(main, ["run", "chaos/experiments/first-storm.yaml", *options])
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert len(made) == 3
