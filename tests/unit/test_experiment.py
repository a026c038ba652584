"""Experiments that are right: their defaults, names and overrides."""

from pathlib import Path

import pytest
import yaml

from harness.experiment import Experiment, load_experiment
from harness.targets.kademlia_options import command_line_options


def load(folder: Path, cluster: str = "{nodes: 5}", extra: str = "", overrides: list[str] | None = None) -> Experiment:
    path = folder / "x.yaml"
    path.write_text(f"name: x\ncluster: {cluster}\nload: {{rate: 10/s}}\nduration: 30s\n{extra}")
    return load_experiment(path, overrides or [])


@pytest.mark.parametrize(
    ("cluster", "sites", "bootstrap", "acks"),
    [
        ("{nodes: 1}", 1, 1, 1),
        ("{nodes: 5}", 5, 2, 3),
        ("{nodes: 64}", 64, 2, 10),
        ("{nodes: 65}", 16, 2, 10),
        ("{nodes: 30, node: {k: 7}}", 30, 2, 4),
        ("{nodes: 30, sites: 3, bootstrap: 5}", 3, 5, 10),
    ],
)
def test_defaults_follow_the_cluster(tmp_path: Path, cluster: str, sites: int, bootstrap: int, acks: int) -> None:
    resolved = load(tmp_path, cluster).resolved()
    assert (resolved["cluster"]["sites"], resolved["cluster"]["bootstrap"]) == (sites, bootstrap)
    assert resolved["load"]["write_acks"] == acks


def test_node_options_become_arguments(tmp_path: Path) -> None:
    options = load(tmp_path, "{nodes: 5, node: {k: 8, republish: 60s}}").resolved()["cluster"]["node"]
    arguments = list(command_line_options(options))
    assert dict(zip(arguments[::2], arguments[1::2], strict=True)) == {
        "--k": "8",
        "--alpha": "3",
        "--beta": "3",
        "--republish": "60.000000s",
    }


def test_entries_without_a_name_are_numbered(tmp_path: Path) -> None:
    entries = "".join(f"- {{at: {at}s, for: 1s, partition: halves}}\n" for at in (1, 3, 5))
    named = "- {at: 7s, for: 1s, partition: halves, name: last blow}\n"
    experiment = load(tmp_path, extra=f"timeline:\n{entries}{named}expect:\n- recovery <= 5s after last blow\n")
    assert [entry.name for entry in experiment.timeline] == ["partition", "partition-2", "partition-3", "last blow"]


def test_an_override_replaces_the_model_of_load(tmp_path: Path) -> None:
    load_ = load(tmp_path, overrides=["load.rate=null", "load.users=5"]).resolved()["load"]
    assert (load_["rate_per_1000s"], load_["users"]) == (None, 5)


def test_the_text_is_the_experiment_as_it_is_run(tmp_path: Path) -> None:
    experiment = load(tmp_path, extra="settle: 1s\n", overrides=["cluster.nodes=7", "seed=9"])
    assert list(yaml.safe_load(experiment.text)) == ["name", "cluster", "load", "duration", "settle", "seed"]
    (tmp_path / "again.yaml").write_text(experiment.text)
    assert load_experiment(tmp_path / "again.yaml").resolved() == experiment.resolved()
