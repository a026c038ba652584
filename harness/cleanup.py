"""Removing what dead sessions left, and of no other session anything.

A session is dead if its lock can be taken (see session.py). Its processes carry its name in their environment, so that
those are found that never made it into any list. The same sweep ends a session that closes in order.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.session import Lock, forget, recorded_sessions
from harness.spawner import SESSION_VARIABLE

END_GRACE = 5.0  # s for killed processes to disappear, and for a live supervisor to tear down (times 6)


@dataclass(frozen=True)
class Swept:
    """What was done about one session."""

    session: str
    processes: int
    note: str = ""


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


def sweep(
    state: Path,
    *,
    dry_run: bool = False,
    everything: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Swept]:
    """Remove what dead sessions left; with ``everything``, end the living ones first (SIGTERM: they tear down in order)."""
    swept = []
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
            swept.append(_sweep_dead(folder, dry_run=dry_run))
        finally:
            lock.release()
    return swept


def _sweep_dead(folder: Path, *, dry_run: bool) -> Swept:
    if dry_run:
        return Swept(folder.name, len(processes_of(folder.name)))
    ended = end_processes(folder.name)
    forget(folder)
    return Swept(folder.name, ended)


def _end_supervisor(pid: int | None) -> None:
    if pid is None:
        return
    try:
        supervisor = psutil.Process(pid)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(timeout=6 * END_GRACE)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return  # gone already, or it will not go: the lock tells
