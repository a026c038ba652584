"""The command line, as typed: exit codes, texts, and that help comes without the heavy parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from harness.cli import main, worst

HEAVY = ("pydantic", "pandas", "pyarrow", "locust", "gevent", "docker", "altair", "rich", "yaml", "requests", "msgspec")
SMALL = {"name": "small", "cluster": {"nodes": 4}, "duration": "10s"}


def typed(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def written(folder: Path, **changes: object) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(json.dumps({**SMALL, **changes}))
    return path


def test_help_names_every_command_and_the_exit_codes() -> None:
    code, out, _ = typed("--help")
    assert code == 0
    for word in ("run", "plan", "report", "list", "doctor", "cleanup", "130 interrupted"):
        assert word in out


@pytest.mark.parametrize("command", ["run", "plan", "report", "list", "doctor", "cleanup"])
def test_every_command_explains_itself(command: str) -> None:
    code, out, _ = typed(command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 5


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from harness.cli import main; "
        "CliRunner().invoke(main, ['--help']); print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_is_drawn_and_starts_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, timeline=[{"at": "2s", "for": "3s", "partition": "halves"}])
    code, out, _ = typed("plan", file)
    assert code == 0
    assert "partition" in out
    assert list(tmp_path.iterdir()) == [file]


def test_overrides_change_the_plan(tmp_path: Path) -> None:
    code, out, _ = typed("plan", written(tmp_path), "--nodes", 6, "--seed", 9, "--set", "load.rate=7/s", "--json")
    made = json.loads(out)
    assert code == 0
    assert (len(made["nodes"]), made["seed"], made["experiment"]["load"]["rate_per_1000s"]) == (6, 9, 7000)


def test_mistakes_of_all_files_are_told_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    code, _, err = typed("run", written(first, duration=3), written(second, seed="x"))
    assert code == 2
    assert "duration" in err
    assert "seed" in err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a plan"),
        ("{}", "not a plan"),
        ('{"schema": 9, "seed": 1, "experiment": {}, "nodes": [], "actions": []}', "schema 9"),
    ],
)
def test_a_foreign_plan_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    code, _, err = typed("run", path)
    assert code == 2
    assert word in err


def test_a_plan_takes_no_overrides(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    code, _, err = typed("run", path, "--seed", 3)
    assert code == 2
    assert "as it is" in err


def test_a_target_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    code, _, err = typed("run", written(tmp_path), "--set", "cluster.target=chord")
    assert code == 2
    assert "the target `chord`" in err
    assert "kademlia" in err


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    code, _, err = typed("report", tmp_path)
    assert code == 2
    assert str(tmp_path) in err


def test_faults_are_listed_with_their_options() -> None:
    code, out, _ = typed("list", "faults")
    assert code == 0
    for word in ("latency", "jitter", "partition", "shape", "churn", "downtime"):
        assert word in out


@pytest.fixture
def able(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that can do all that is asked of it, but for containers. The file is its Toxiproxy."""
    server = tmp_path / "toxiproxy-server"
    server.write_text("#!/bin/sh\necho toxiproxy-server version 2.12.0\n")
    server.chmod(0o755)
    monkeypatch.setenv("KADSTORM_TOXIPROXY", str(server))
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**40))
    monkeypatch.setattr("harness.descriptors.allow", lambda needed: needed)
    return server


def test_the_doctor_says_all_that_a_run_of_so_many_nodes_needs(able: Path) -> None:
    code, out, _ = typed("doctor", "--nodes", 200)
    assert code == 0, out
    marks = {line[5:].partition(": ")[0]: line[:4].strip() for line in out.splitlines() if line[:4].strip()}
    assert {mark for what, mark in marks.items() if what != "containers"} == {"ok"}
    assert marks["containers"] == "warn", "they are needed by some runs only"
    for text in ("2.12.0 at", "29056 needed for 200 nodes", "for 200 nodes in 16 sites", "10000 to 13399 on 127."):
        assert text in out
    assert "→ start one (Docker" in out


def test_the_doctor_says_what_fails_and_what_to_do_and_ends_with_3(able: Path) -> None:
    able.write_text("#!/bin/sh\necho toxiproxy-server version 2.1.4\n")
    code, out, _ = typed("doctor", "--nodes", 200)
    assert code == 3
    assert "FAIL Toxiproxy: " in out
    assert "2.1.4 is too old" in out
    assert "→ correct KADSTORM_TOXIPROXY" in out


def test_the_exit_code_of_several_runs_is_the_gravest() -> None:
    assert [worst(codes) for codes in ([0, 0], [0, 4], [4, 1], [1, 3, 4], [3, 130], [0])] == [0, 4, 1, 3, 130, 0]
