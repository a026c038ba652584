"""Removing what dead sessions left, and of no other session anything.

A session is dead if its lock can be taken (see session.py). Its processes carry its name in their environment, so that
those are found that never made it into any list. The same sweep ends a session that closes in order.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.errors import EngineFailed, EngineUnavailable
from harness.session import ENGINE_NOTE, Lock, Session, forget, recorded_sessions
from harness.spawner import SESSION_VARIABLE

if TYPE_CHECKING:
    from harness.containers.engine import Engine

END_GRACE = 5.0  # s for killed processes to disappear, and for a live supervisor to tear down (times 6)


@dataclass(frozen=True)
class Swept:
    """What was done about one session, and what could not be."""

    session: str
    processes: int
    note: str = ""
    remains: str = ""  # what it had in a container engine, counted
    trouble: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """All that it left, for people."""
        return f"{self.processes} processes" + (f", {self.remains}" if self.remains else "")


def processes_of(session_id: str) -> list[psutil.Process]:
    """Living processes that carry the session's name; those of other users cannot be read and are left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION_VARIABLE) == session_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it ended meanwhile, or it is somebody else's
    return found


def end_processes(session_id: str) -> int:
    """Kill what is left of a session's processes; how many there were."""
    left = processes_of(session_id)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=END_GRACE)
    return len(left)


@contextmanager
def tidy_session(run_dir: Path) -> Iterator[Session]:
    """A session of which no process is left when the block has been left, whatever happened in it."""
    with Session(run_dir) as session:
        try:
            yield session
        finally:
            end_processes(session.id)


def sweep(
    state: Path,
    *,
    dry_run: bool = False,
    everything: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Swept]:
    """Remove what dead sessions left; with ``everything``, end the living ones first (SIGTERM: they tear down in order)."""
    swept = []
    with _Engine() as engine:
        for folder, record in recorded_sessions(state):
            lock = Lock(folder / "lock")
            if not lock.acquire():
                if not everything:
                    tell(f"{folder.name}: alive, left alone")
                    continue
                if dry_run:
                    swept.append(Swept(folder.name, len(processes_of(folder.name)), "alive"))
                    continue
                _end_supervisor(record.pid if record else None)
                if not lock.acquire():
                    swept.append(Swept(folder.name, 0, "its supervisor does not end; nothing was removed"))
                    continue
            try:
                if folder.exists():  # a supervisor that tears down in order has removed it itself
                    swept.append(_sweep_dead(folder, engine, dry_run=dry_run))
            finally:
                lock.release()
        swept += _sweep_unnoted(state, engine, dry_run=dry_run)
    return swept


def _sweep_dead(folder: Path, engine: _Engine, *, dry_run: bool) -> Swept:
    noted = (folder / ENGINE_NOTE).exists()
    if dry_run:
        return Swept(folder.name, len(processes_of(folder.name)), remains=engine.describe(folder.name))
    ended = end_processes(folder.name)
    remains, trouble = engine.remove(folder.name, needed=noted)
    if not trouble:  # else the next cleanup is to try again
        forget(folder)
    return Swept(folder.name, ended, remains=remains, trouble=tuple(trouble))


def _sweep_unnoted(state: Path, engine: _Engine, *, dry_run: bool) -> list[Swept]:
    """What is in the engine of sessions that are noted nowhere (any more), or whose time is over."""
    swept = []
    for name in engine.abandoned(state):
        if dry_run:
            swept.append(Swept(name, 0, remains=engine.describe(name)))
        else:
            remains, trouble = engine.remove(name, needed=True)
            swept.append(Swept(name, 0, remains=remains, trouble=tuple(trouble)))
    return swept


class _Engine:
    """The container engine, if there is one: a machine without has nothing to clean up there."""

    def __enter__(self) -> _Engine:
        from harness.containers import engine  # a quarter of a second of import

        self._why = ""
        self._engine: Engine | None = None
        try:
            self._engine = engine.connect()
        except EngineUnavailable as error:
            self._why = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def describe(self, session_id: str) -> str:
        """What it has of a session, counted; empty if nothing."""
        if self._engine is None:
            return ""
        from harness.containers import leftovers

        remains = leftovers.find(self._engine, session_id).get(session_id)
        return str(remains) if remains else ""

    def remove(self, session_id: str, *, needed: bool) -> tuple[str, list[str]]:
        """Remove what it has of a session: what that was, and what could not be removed."""
        if self._engine is None:
            return "", [f"its containers could not be looked for: {self._why}"] if needed else []
        from harness.containers import leftovers

        try:
            there = self.describe(session_id)
            return there, leftovers.remove_session(self._engine, session_id)
        except EngineFailed as error:
            return "", [str(error)] if needed else []

    def abandoned(self, state: Path) -> list[str]:
        """Sessions of which it has something though nobody looks after them."""
        if self._engine is None:
            return []
        from harness.containers import leftovers

        return list(leftovers.dead_sessions(self._engine, state, lambda name: (state / "sessions" / name).exists()))


def _end_supervisor(pid: int | None) -> None:
    if pid is None:
        return
    try:
        supervisor = psutil.Process(pid)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(timeout=6 * END_GRACE)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return  # gone already, or it will not go: the lock tells
