"""What is left of a session in an engine: whose it is, whether it is over, and how all of it is found and removed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.containers import labels, leftovers
from harness.containers.engine import Engine
from harness.session import Lock, Session, state_dir


class Api:
    """An engine's client that has what it is told to have: (id, labels), by kind."""

    def __init__(self) -> None:
        self.things: dict[str, list[tuple[str, dict[str, str]]]] = {"containers": [], "volumes": [], "networks": []}
        self.looks = 0

    def add(self, kind: str, name: str, its: dict[str, str]) -> None:
        self.things[kind].append((name, its))

    def containers(self, *, all: bool, filters: dict[str, list[str]]) -> list[dict[str, Any]]:  # noqa: A002
        self.looks += 1
        return self._listed("containers", "Id", filters)

    def volumes(self, *, filters: dict[str, list[str]]) -> dict[str, Any]:
        return {"Volumes": self._listed("volumes", "Name", filters)}

    def networks(self, *, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        return self._listed("networks", "Id", filters)

    def _listed(self, kind: str, key: str, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        name, _, value = filters["label"][0].partition("=")
        return [
            {key: thing, "Labels": its} for thing, its in self.things[kind] if its.get(name) == (value or its.get(name))
        ]

    def remove_container(self, name: str, **_: object) -> None:
        self._remove("containers", name)

    def remove_volume(self, name: str, **_: object) -> None:
        self._remove("volumes", name)

    def remove_network(self, name: str) -> None:
        self._remove("networks", name)

    def _remove(self, kind: str, name: str) -> None:
        self.things[kind] = [(thing, its) for thing, its in self.things[kind] if thing != name]


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def engine(api: Api) -> Engine:
    return Engine(api, "unix:///an/engine", "20.10", "1.41")


# --- whose it is ----------------------------------------------------------------------------------------------------


def test_a_relative_state_folder_is_another_one_in_another_working_directory(
    api: Api, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("KADSTORM_STATE", "state")
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    with Session(here) as living:
        assert living.state == here / "state"
        api.add("networks", "n", labels.of_session(living.id, living.state, 3600))
        assert list(leftovers.dead_sessions(engine, state_dir(), lambda _: False)) == [living.id]
        monkeypatch.chdir(there)
        assert not leftovers.dead_sessions(engine, state_dir(), lambda _: False)


def test_a_state_folder_is_the_same_one_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    made = labels.of_session("s", tmp_path / "link", 60)
    assert made[labels.STATE] == str(tmp_path / "state")
    assert labels.is_ours(made, tmp_path / "link")
    assert labels.is_ours(made | {labels.STATE: str(tmp_path / "link")}, tmp_path / "state")


def test_a_label_that_names_a_relative_folder_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = labels.of_session("s", tmp_path / "state", 60) | {labels.STATE: "state"}
    assert not labels.is_ours(made, tmp_path / "state")


# --- whether it is over ---------------------------------------------------------------------------------------------


def test_a_session_whose_time_is_over_is_left_alone_while_its_lock_is_held(
    api: Api, engine: Engine, tmp_path: Path
) -> None:
    other_state = tmp_path / "other"
    with Session(tmp_path, state=tmp_path / "state") as living:
        api.add("containers", "c", labels.of_session(living.id, living.state, -60))
        leftovers.sweep_abandoned(engine, lambda _: None)
        assert not leftovers.dead_sessions(engine, other_state, lambda _: False)
        assert api.things["containers"]
    leftovers.sweep_abandoned(engine, lambda _: None)
    assert not api.things["containers"]


def test_a_session_is_over_when_the_last_of_its_things_is(api: Api, engine: Engine, tmp_path: Path) -> None:
    short, long = (labels.of_session("s", tmp_path, lasts) for lasts in (-60, 60))
    for name, its in (("a", short), ("b", long), ("c", short)):
        api.add("containers", name, its)
    (remains,) = leftovers.find(engine).values()
    assert remains.labels == long
    leftovers.sweep_abandoned(engine, lambda _: None)
    assert len(api.things["containers"]) == 3
    assert leftovers.is_over(remains, time.time() + 120)


def test_a_lock_is_looked_at_without_making_or_taking_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "folder" / "lock")
    assert not lock.is_held()
    assert not (tmp_path / "folder").exists()
    assert lock.acquire()
    assert Lock(tmp_path / "folder" / "lock").is_held()
    lock.release()
    assert not lock.is_held()
    assert lock.acquire()
    lock.release()
