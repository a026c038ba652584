"""A session: one supervisor that owns a loopback address, a name, and every process that it starts.

What a session leaves on the machine while it lives is one folder, ``<state>/sessions/<id>/``, with ``session.json`` (who
and where) and ``lock``, which the supervisor holds with flock(2) as long as it lives. The kernel releases the lock however
the supervisor ends, so "is this session dead?" needs no heartbeat and no guess about reused process ids.

The loopback address 127.20.x.1 is reserved the same way, by a lock on ``<state>/addresses/x.lock``, and by a port that is
bound on it: two runs on one machine never share an address, those of other users and of other state folders included.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import platformdirs

from harness.errors import HarnessError, PortsTaken
from harness.spawner import Spawner

API_PORT = 9_474  # of the session's Toxiproxy; below the block of nodes and links
LEASE_PORT = 9_473  # of the lease of a session of containers
ENGINE_NOTE = "engine"  # in a session's folder: the address of the container engine in which it has something
SOCKET = "control.sock"  # of a session that stays, in its folder
CLAIM_PORT = 9_472  # bound on its address by each session as long as it lives, and never listened at
FIRST_ADDRESS, LAST_ADDRESS = 1, 200  # x of 127.20.x.1; above that is free for tests and tools


class SessionRecord(msgspec.Struct):
    """``session.json``: what `cleanup` and `doctor` tell people about a session."""

    id: str
    pid: int
    started: float  # Unix time, s
    run_dir: str
    host: str


def state_dir() -> Path:
    """Where sessions of this user are noted, resolved; ``KADSTORM_STATE`` overrides it (tests do)."""
    named = os.environ.get("KADSTORM_STATE")
    return (Path(named) if named else platformdirs.user_state_path("kadstorm")).resolve()


class Lock:
    """An exclusive flock(2) on a file, held until `release` or until this process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; False if another process (or another `Lock`) has it."""
        while True:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            if self._is_still_there(file):
                self._file = file
                return True
            file.close()  # somebody removed it between our open and our lock: what we hold is nobody's

    def _is_still_there(self, file: IO[str]) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def is_held(self) -> bool:
        """Whether somebody has it. Makes nothing; a lock that may not even be looked at is taken for held."""
        try:
            with self._path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (BlockingIOError, PermissionError):
            return True
        return False


class Session:
    """One supervisor. Use it as a context: leaving it ends the spawner and removes the session's folder."""

    def __init__(self, run_dir: Path, *, state: Path | None = None) -> None:
        """Reserve a name and an address.

        Raises:
            HarnessError: the state folder cannot be written.
            PortsTaken: every loopback address of Kadstorm is in use.
        """
        self._state = (state or state_dir()).resolve()  # its name outlives this process and its working directory
        self._address_lock: Lock | None = None
        self._claim: socket.socket | None = None
        self._left_something = False
        try:
            self.id, self._folder, self._lock = self._reserve_name()
            self.cluster_id = self.id
            self.host = self._reserve_address()
            self._note(run_dir)
        except OSError as error:
            raise HarnessError(f"{self._state}: cannot note the session there: {error.strerror}") from error
        self.spawn = Spawner(self.id)

    @property
    def state(self) -> Path:
        """The folder where it is noted."""
        return self._state

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def leave_note(self) -> None:
        """Something of it could not be removed: its folder is to stay when it closes, so that `kadstorm cleanup` finds that."""
        self._left_something = True

    def close(self) -> None:
        """Forget the session, unless it `leave_note`s. Whatever it started must have ended before."""
        self.spawn.close()
        if not self._left_something:
            forget(self._folder)
        self._lock.release()
        if self._claim is not None:
            self._claim.close()
        if self._address_lock is not None:
            self._address_lock.release()

    def reserve_ports(self, base: int, count: int) -> None:
        """See that ports base … base + count − 1 of this session's address are free.

        Raises:
            PortsTaken: names the first port that is not.
        """
        check_free(self.host, base, count)

    def _reserve_name(self) -> tuple[str, Path, Lock]:
        while True:  # a sweep may hold the lock of a folder that has just been made: then another name is taken
            name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
            folder = self._state / "sessions" / name
            lock = Lock(folder / "lock")
            if lock.acquire():
                return name, folder, lock

    def _reserve_address(self) -> str:
        if sys.platform != "linux":  # only Linux answers on all of 127/8 without set-up
            return "127.0.0.1"
        for number in range(FIRST_ADDRESS, LAST_ADDRESS + 1):
            lock = Lock(self._state / "addresses" / f"{number}.lock")
            if lock.acquire():
                host = f"127.20.{number}.1"
                self._claim = _claimed(host)
                if self._claim is not None:
                    self._address_lock = lock
                    return host
                lock.release()
        raise PortsTaken(
            f"all loopback addresses 127.20.{FIRST_ADDRESS}.1 to 127.20.{LAST_ADDRESS}.1 are in use by other "
            "sessions: wait for one to end, or run `kadstorm cleanup`"
        )

    def _note(self, run_dir: Path) -> None:
        record = SessionRecord(self.id, os.getpid(), time.time(), str(run_dir), self.host)
        (self._folder / "session.json").write_bytes(msgspec.json.encode(record))


def check_free(host: str, base: int, count: int) -> None:
    """See that ports base … base + count − 1 of an address are free. Raises PortsTaken, which names the first that is not."""
    for port in range(base, base + count):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PortsTaken(
                    f"port {port} on {host} is taken ({error.strerror}), and this run needs all of "
                    f"{base} to {base + count - 1}: end the program that listens there "
                    f"(`ss -ltnp 'sport = :{port}'` shows it), or run `kadstorm cleanup`"
                ) from error


def _claimed(host: str) -> socket.socket | None:
    """A socket that holds an address against sessions of other users and of other state folders; None if one has it."""
    claim = socket.socket()
    try:
        claim.bind((host, CLAIM_PORT))
    except OSError:
        claim.close()
        return None
    return claim


def forget(folder: Path) -> None:
    """Remove a session's folder; what is not there any more is fine."""
    for name in ("session.json", ENGINE_NOTE, SOCKET, "lock"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    with suppress(FileNotFoundError):
        folder.rmdir()


def note_engine(state: Path, session_id: str, url: str) -> None:
    """Note that a session is about to have something in a container engine. Raises HarnessError."""
    try:
        (state / "sessions" / session_id / ENGINE_NOTE).write_text(url)
    except OSError as error:
        raise HarnessError(f"{state}: cannot note the session's engine there: {error.strerror}") from error


def recorded_sessions(state: Path) -> Iterator[tuple[Path, SessionRecord | None]]:
    """All session folders, oldest first, each with its record (None if it is missing or damaged)."""
    for folder in sorted((state / "sessions").glob("*")):
        try:
            yield folder, msgspec.json.decode((folder / "session.json").read_bytes(), type=SessionRecord)
        except (OSError, msgspec.DecodeError):
            yield folder, None
