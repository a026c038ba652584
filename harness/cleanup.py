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
from typing import TYPE_CHECKING, TypedDict

import psutil

from harness.errors import EngineFailed, EngineUnavailable
from harness.session import ENGINE_NOTE, Lock, Session, forget, recorded_sessions
from harness.spawner import SESSION_VARIABLE

if TYPE_CHECKING:
    from harness.containers.engine import Engine
    from harness.containers.leftovers import Remains

END_GRACE = 5.0  # s for killed processes to disappear, and for a live supervisor to tear down (times 6)


@dataclass(frozen=True)
class Swept:
    """What was done about one session (or with an engine), or would be: what is gone, and what could not be removed."""

    session: str
    processes: int
    note: str = ""
    remains: str = ""  # what it had in a container engine, counted
    trouble: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """All that it left, for people."""
        return f"{self.processes} processes" + (f", {self.remains}" if self.remains else "")

    def line(self, *, dry_run: bool) -> str:
        """What is said about it, before its trouble."""
        if self.trouble and not self.processes and not self.remains:
            return f"{self.session}: nothing {'would be' if dry_run else 'was'} removed"
        verb = "would be removed" if dry_run else "removed"
        note = f" ({self.note})" if self.note else ""
        return f"{self.session}: {verb}{' in part' if self.trouble else ''}, with {self.what}{note}"


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
def tidy_session(run_dir: Path, *, state: Path | None = None) -> Iterator[Session]:
    """A session of which no process is left when the block has been left, whatever happened in it."""
    with Session(run_dir, state=state) as session:
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
) -> Iterator[Swept]:
    """Remove what dead sessions left, each as it is asked for; with ``everything``, end the living ones first (SIGTERM: they
    tear down in order). Nothing that an engine does keeps the account of what was done before from being given.
    """
    with _Engines() as engines:
        for folder, record in recorded_sessions(state):
            lock = Lock(folder / "lock")
            if lock.acquire():
                try:
                    yield _sweep_dead(folder, engines, dry_run=dry_run)
                finally:
                    lock.release()
            elif not everything:
                tell(f"{folder.name}: alive, left alone")
            elif dry_run:
                yield Swept(folder.name, len(processes_of(folder.name)), "alive")
            else:
                yield _sweep_living(folder, record.pid if record else None, engines)
        yield from _sweep_unnoted(state, engines, dry_run=dry_run)


def _sweep_living(folder: Path, pid: int | None, engines: _Engines) -> Swept:
    _end_supervisor(pid)
    lock = Lock(folder / "lock")
    if not lock.acquire():
        return Swept(folder.name, 0, trouble=(f"its supervisor (process {pid or 'unknown'}) does not end",))
    try:  # one that tears down in order has left nothing but what was made for the lock just now
        return _sweep_dead(folder, engines, dry_run=False)
    finally:
        lock.release()


def _sweep_dead(folder: Path, engines: _Engines, *, dry_run: bool) -> Swept:
    name, noted = folder.name, _noted_engine(folder)
    if dry_run:
        return Swept(name, len(processes_of(name)), **engines.describe(name, noted))
    found = end_processes(name)
    alive = processes_of(name)
    swept = engines.remove(name, noted)
    trouble = (*(f"process {one.pid} does not end after SIGKILL" for one in alive), *swept["trouble"])
    if not trouble:  # else the next cleanup is to try again
        forget(folder)
    return Swept(name, max(0, found - len(alive)), remains=swept["remains"], trouble=trouble)


def _noted_engine(folder: Path) -> str | None:
    """Where a session has containers; empty if it was killed while it noted that, None if it has none."""
    try:
        return (folder / ENGINE_NOTE).read_text().strip()
    except OSError:
        return None


def _sweep_unnoted(state: Path, engines: _Engines, *, dry_run: bool) -> Iterator[Swept]:
    """What is in the engine of sessions that are noted nowhere (any more), or whose time is over."""
    try:
        abandoned = engines.abandoned(state)
    except EngineFailed as error:
        yield Swept("the container engine", 0, trouble=(str(error),))
        return
    for name in abandoned:
        yield Swept(name, 0, **(engines.describe(name, "") if dry_run else engines.remove(name, "")))


class _Told(TypedDict):
    """What an engine has of a session, or had, counted; and what could not be done about it."""

    remains: str
    trouble: tuple[str, ...]


class _Engines:
    """The container engines that sessions are noted in, and the one that answers here: a machine without has nothing to clean up
    there.

    Engines are named by their address, `''` is the one that answers.
    """

    def __enter__(self) -> _Engines:
        self._found: dict[str, Engine | EngineUnavailable] = {}
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._found.values():
            if not isinstance(found, EngineUnavailable):
                found.close()

    def describe(self, session_id: str, noted: str | None) -> _Told:
        """What its engine has of a session."""
        from harness.containers import leftovers

        return self._told(noted, lambda engine: (leftovers.find(engine, session_id).get(session_id), []))

    def remove(self, session_id: str, noted: str | None) -> _Told:
        """Remove what its engine has of a session."""
        from harness.containers import leftovers

        def remove(engine: Engine) -> tuple[Remains, list[str]]:
            done = leftovers.remove_session(engine, session_id, empty_looks=2 if noted else 1)
            return done.gone, done.trouble

        return self._told(noted, remove)

    def abandoned(self, state: Path) -> list[str]:
        """Sessions of which the engine here has something though nobody looks after them. Raises EngineFailed."""
        from harness.containers import leftovers

        try:
            engine = self._at("")
        except EngineUnavailable:
            return []
        return list(leftovers.dead_sessions(engine, state, lambda name: (state / "sessions" / name).exists()))

    def _told(self, noted: str | None, ask: Callable[[Engine], tuple[Remains | None, list[str]]]) -> _Told:
        """What comes of asking; that it cannot be asked matters only of a session that is noted there."""
        try:
            remains, trouble = ask(self._at(noted or ""))
        except EngineUnavailable as error:
            remains, trouble = None, [_unreachable(noted, error)]
        except EngineFailed as error:
            remains, trouble = None, [str(error)]
        return {"remains": str(remains) if remains else "", "trouble": () if noted is None else tuple(trouble)}

    def _at(self, url: str) -> Engine:
        """Raises EngineUnavailable."""
        from harness.containers import engine  # a quarter of a second of import

        if url not in self._found:
            try:
                self._found[url] = engine.connect(url or None)
            except EngineUnavailable as error:
                self._found[url] = error
        found = self._found[url]
        if isinstance(found, EngineUnavailable):
            raise found
        return found


def _unreachable(noted: str | None, why: EngineUnavailable) -> str:
    if not noted:
        return f"its containers could not be looked for: {why}"
    return (
        f"its containers could not be looked for, they are in the engine at {noted}: start that, or set DOCKER_HOST (and its TLS "
        f"variables) to it, and run `kadstorm cleanup` again; if it is gone for good, remove the session's folder ({why})"
    )


def _end_supervisor(pid: int | None) -> None:
    if pid is None:
        return
    try:
        supervisor = psutil.Process(pid)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(timeout=6 * END_GRACE)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return  # gone already, or it will not go: the lock tells
