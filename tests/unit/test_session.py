"""Sessions: names, addresses and locks that never collide, and that the kernel gives back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import cast

import pytest

from harness.backends import Backend
from harness.boot import end_backend
from harness.cleanup import sweep, tidy_session
from harness.containers import engine
from harness.errors import MemberFailed, PortsTaken, RunFolderExists
from harness.runfolder import make_run_dir, new_run_dir
from harness.session import Lock, Session, recorded_sessions


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container engine of this machine has of other sessions is none of these tests' business."""
    monkeypatch.setattr(engine, "candidates", lambda: iter(()))


def test_two_sessions_have_different_addresses(tmp_path: Path) -> None:
    with Session(tmp_path / "a", state=tmp_path) as one, Session(tmp_path / "b", state=tmp_path) as other:
        assert one.id != other.id
        assert one.host != other.host


def test_sessions_of_different_state_folders_have_different_addresses(tmp_path: Path) -> None:
    with (
        Session(tmp_path / "a", state=tmp_path / "mine") as one,
        Session(tmp_path / "b", state=tmp_path / "yours") as other,
    ):
        assert one.host != other.host


def test_an_address_is_free_again_after_its_session(tmp_path: Path) -> None:
    with Session(tmp_path, state=tmp_path) as first:
        host = first.host
    with Session(tmp_path, state=tmp_path) as second:
        assert second.host == host
    assert list(recorded_sessions(tmp_path)) == []


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()


def test_a_port_that_somebody_has_is_named(tmp_path: Path) -> None:
    with Session(tmp_path, state=tmp_path) as session, socket.create_server((session.host, 10_005)):
        with pytest.raises(PortsTaken, match=f"port 10005 on {session.host} is taken"):
            session.reserve_ports(10_000, 20)
        session.reserve_ports(10_006, 20)


def test_a_living_session_is_not_swept(tmp_path: Path) -> None:
    told: list[str] = []
    with Session(tmp_path, state=tmp_path) as session:
        assert list(sweep(tmp_path, tell=told.append)) == []
        assert told == [f"{session.id}: alive, left alone"]


def test_a_dead_session_is_swept_once(tmp_path: Path) -> None:
    folder = tmp_path / "sessions" / "20260101-000000-dead00"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    assert [swept.session for swept in sweep(tmp_path, dry_run=True)] == [folder.name]
    assert [swept.session for swept in sweep(tmp_path)] == [folder.name]
    assert not folder.exists()
    assert list(sweep(tmp_path)) == []


class Unclosable:
    """A backend that could not remove everything."""

    def close(self) -> None:
        raise MemberFailed("network x could not be removed")


def test_a_session_whose_backend_left_something_stays_noted_for_cleanup(tmp_path: Path) -> None:
    with tidy_session(tmp_path, state=tmp_path) as session, pytest.raises(MemberFailed, match="network x"):
        end_backend(cast("Backend", Unclosable()), session)
    (folder,) = (tmp_path / "sessions").iterdir()
    assert folder.name == session.id
    assert not Lock(folder / "lock").is_held()
    with Session(tmp_path, state=tmp_path) as other:
        assert other.host == session.host  # its address is free all the same
    assert [swept.session for swept in sweep(tmp_path)] == [session.id]
    assert not folder.exists()


def test_run_folders_never_collide_and_are_never_reused(tmp_path: Path) -> None:
    made = {new_run_dir("a b/c", tmp_path) for _ in range(3)}
    assert len(made) == 3
    assert all(path.name.endswith(("-a-b-c", "-a-b-c-2", "-a-b-c-3")) for path in made)
    used = made.pop()
    with pytest.raises(RunFolderExists, match="exists already"):
        make_run_dir(used)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert make_run_dir(empty) == empty


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    path, tries = tmp_path / "lock", []
    take = fcntl.flock

    def take_after_a_sweep(file: object, how: int) -> None:
        if not tries:
            path.unlink()  # a sweep was faster
        tries.append(how)
        take(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", take_after_a_sweep)
    lock = Lock(path)
    assert lock.acquire()
    assert len(tries) == 2
    assert path.exists()
    lock.release()
