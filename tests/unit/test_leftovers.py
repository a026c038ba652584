"""What is left of a session in an engine: whose it is, whether it is over, and how all of it is found and removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from harness import cleanup
from harness.cleanup import sweep
from harness.containers import engine as engines
from harness.containers import labels, leftovers
from harness.containers.engine import Engine
from harness.errors import EngineUnavailable
from harness.session import ENGINE_NOTE, Lock, Session, state_dir


class Api:
    """An engine's client that has what it is told to have: (id, labels), by kind."""

    def __init__(self) -> None:
        self.things: dict[str, list[tuple[str, dict[str, str]]]] = {"containers": [], "volumes": [], "networks": []}
        self.looks = 0
        self.calls: list[str] = []

    def close(self) -> None:
        """Nothing is open."""

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

    def disconnect_container_from_network(self, container: str, network: str, *, force: bool) -> None:
        self.calls.append(f"{container} begins to leave")
        time.sleep(0.001)  # others would come in between
        self.calls.append(f"{container} has left {network}")

    def remove_container(self, name: str, **_: object) -> None:
        self.calls.append(f"{name} goes")
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


# --- removing it ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LOOK_AGAIN", 0.001)
    monkeypatch.setattr(leftovers, "PAUSE", 0.001)


class Late(Api):
    """One that shows a container, and what came of another request, only from the ``at``-th look on."""

    def __init__(self, its: dict[str, str], at: int) -> None:
        super().__init__()
        self._its, self._at = its, at

    def containers(self, **asked: Any) -> list[dict[str, Any]]:
        if self.looks + 1 == self._at:
            self.add("containers", f"late-{self._at}", self._its)
        return super().containers(**asked)


def test_what_the_engine_was_still_making_is_found_by_the_second_look(tmp_path: Path) -> None:
    late = Late(labels.of_session("s", tmp_path, 60), at=2)
    done = leftovers.remove_session(Engine(late, "", "", ""), "s", empty_looks=2)
    assert (done.gone.containers, done.trouble) == (["late-2"], [])
    assert not late.things["containers"]
    assert late.looks == 4  # nothing, the late one, nothing, nothing


def test_what_appears_while_the_rest_is_removed_is_removed_as_well(tmp_path: Path) -> None:
    its = labels.of_session("s", tmp_path, 60)
    late = Late(its, at=3)
    late.add("networks", "n", its)
    done = leftovers.remove_session(Engine(late, "", "", ""), "s", empty_looks=2)
    assert str(done.gone) == "1 containers, 0 volumes, 1 networks"
    assert not any(late.things.values())


class Stubborn(Api):
    """One that removes no network."""

    def remove_network(self, name: str) -> None:
        raise requests.ReadTimeout(f"no answer about {name}")


def test_what_stays_is_told_and_not_counted_as_gone(tmp_path: Path) -> None:
    stubborn = Stubborn()
    for kind in ("containers", "networks"):
        stubborn.add(kind, kind, labels.of_session("s", tmp_path, 60))
    done = leftovers.remove_session(Engine(stubborn, "", "", ""), "s", empty_looks=2)
    assert str(done.gone) == "1 containers, 0 volumes, 0 networks"
    assert done.trouble == ["network networks could not be removed: no answer about networks"]


class Occupied(Api):
    """A Podman with another container on its networks."""

    def inspect_network(self, name: str) -> dict[str, Any]:
        return {"Id": name, "Containers": {"0": {"Name": "foreign"}}}


def test_containers_leave_their_network_one_at_a_time_before_they_are_removed(
    api: Api, engine: Engine, tmp_path: Path
) -> None:
    names = [f"c{n}" for n in range(30)]
    for name in names:
        api.add("containers", name, labels.of_session("s", tmp_path, 60))
    api.add("networks", "n", labels.of_session("s", tmp_path, 60))
    assert leftovers.remove_session(engine, "s").trouble == []
    leaving = [call for call in api.calls if "leave" in call or "left" in call]
    pairs = list(zip(leaving[::2], leaving[1::2], strict=True))
    assert sorted(pairs) == sorted((f"{name} begins to leave", f"{name} has left n") for name in names)
    assert all(api.calls.index(f"{name} has left n") < api.calls.index(f"{name} goes") for name in names)


class Hanging(Api):
    """One that answers no request to leave a network."""

    def disconnect_container_from_network(self, container: str, network: str, *, force: bool) -> None:
        self.calls.append("asked to leave")
        raise requests.ReadTimeout("no answer")


def test_an_engine_that_takes_nobody_off_its_networks_is_asked_once_and_removes_all_the_same(tmp_path: Path) -> None:
    hanging = Hanging()
    for n in range(5):
        hanging.add("containers", f"c{n}", labels.of_session("s", tmp_path, 60))
    hanging.add("networks", "n", labels.of_session("s", tmp_path, 60))
    assert leftovers.remove_session(Engine(hanging, "", "", ""), "s").trouble == []
    assert hanging.calls.count("asked to leave") == 1
    assert hanging.things["containers"] == []


def test_toxiproxys_container_is_the_first_to_go(api: Api, engine: Engine, tmp_path: Path) -> None:
    for name in ("node-1", "toxiproxy", "node-0"):
        api.add("containers", name, labels.of_session("s", tmp_path, 60) | {labels.MEMBER: name})
    assert leftovers.find(engine)["s"].containers == ["toxiproxy", "node-1", "node-0"]


def test_podman_is_not_asked_for_a_network_that_somebody_else_is_on(tmp_path: Path) -> None:
    occupied = Occupied()
    occupied.add("networks", "network", labels.of_session("s", tmp_path, 60))
    done = leftovers.remove_session(Engine(occupied, "", "", "", is_podman=True), "s")
    assert done.trouble == ["network network could not be removed: other containers are on it: foreign"]
    assert occupied.things["networks"], "it would have been taken from under that container"


# --- what cleanup says of it ----------------------------------------------------------------------------------------


class Failing(Api):
    """One that answers so many looks and no more."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._answers = looks

    def containers(self, **asked: Any) -> list[dict[str, Any]]:
        if self.looks >= self._answers:
            raise requests.ReadTimeout("no answer")
        return super().containers(**asked)


Connect = Callable[[Api], None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Makes an engine the one that answers, and the only one."""

    def to(api: Api) -> None:
        def find(url: str | None = None) -> Engine:
            if url not in (None, "unix:///an/engine"):
                raise EngineUnavailable(f"{url} does not answer")
            return Engine(api, "unix:///an/engine", "", "")

        monkeypatch.setattr(engines, "connect", find)

    return to


def dead_session(state: Path, name: str, engine: str | None = None) -> Path:
    folder = state / "sessions" / name
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    if engine is not None:
        (folder / ENGINE_NOTE).write_text(engine)
    return folder


def test_a_session_is_looked_for_in_its_own_engine_and_kept_while_that_does_not_answer(
    api: Api, connect: Connect, tmp_path: Path
) -> None:
    connect(api)
    folder = dead_session(tmp_path, "s", "unix:///nowhere")
    (swept,) = sweep(tmp_path)
    assert "they are in the engine at unix:///nowhere" in swept.trouble[0]
    assert "set DOCKER_HOST" in swept.trouble[0]
    assert swept.line(dry_run=False) == "s: nothing was removed"
    assert folder.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_engine_that_stops_answering_spoils_no_account_of_what_was_done(
    connect: Connect, tmp_path: Path, *, dry_run: bool
) -> None:
    connect(Failing(1 if dry_run else 2))  # what the first session takes
    for name in ("a", "b"):
        dead_session(tmp_path, name, "unix:///an/engine")
    a, b, rest = sweep(tmp_path, dry_run=dry_run)
    assert (a.session, a.trouble) == ("a", ())
    assert [one.session for one in (b, rest)] == ["b", "the container engine"]
    assert all("no answer" in one.trouble[0] for one in (b, rest))


def test_each_session_is_told_before_the_next_is_swept(api: Api, connect: Connect, tmp_path: Path) -> None:
    connect(api)
    folders = [dead_session(tmp_path, name) for name in ("a", "b")]
    told = sweep(tmp_path)
    assert next(told).session == "a"
    assert [folder.exists() for folder in folders] == [False, True]
    assert [one.session for one in told] == ["b"]


def test_a_supervisor_that_does_not_end_is_trouble(
    api: Api, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(api)
    monkeypatch.setattr(cleanup, "_end_supervisor", lambda _: None)
    with Session(tmp_path, state=tmp_path) as living:
        (swept,) = sweep(tmp_path, everything=True)
        assert swept.line(dry_run=False) == f"{living.id}: nothing was removed"
        assert swept.trouble == (f"its supervisor (process {os.getpid()}) does not end",)


def test_only_what_is_gone_is_counted(connect: Connect, tmp_path: Path) -> None:
    stubborn = Stubborn()
    connect(stubborn)
    for kind in ("containers", "networks"):
        stubborn.add(kind, kind, labels.of_session("s", tmp_path, 60))
    folder = dead_session(tmp_path, "s", "unix:///an/engine")
    (swept,) = sweep(tmp_path)
    assert swept.line(dry_run=False) == "s: removed in part, with 0 processes, 1 containers, 0 volumes, 0 networks"
    assert folder.exists()
