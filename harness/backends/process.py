"""Members as processes of this machine: forked from a warm process where their target allows that, or else spawned.

One thread reads the standard output of all members: a member's first line says that it serves, end-of-file says that it
has ended. So readiness and exits are events that are awaited, on every platform, and nothing polls.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, Self

import psutil

from harness import descriptors, nursery
from harness.backends import (
    Ground,
    Layout,
    MemberSpec,
    Power,
    ProcessState,
    Tell,
    Toxiproxy,
    WarmStart,
)
from harness.backends.lives import Life, Lives
from harness.errors import MemberFailed
from harness.nursery import Fork, Nursery
from harness.records import DATA_DIR
from harness.session import API_PORT
from harness.spawner import Spawn, describe_exit
from harness.targets import ImageRecipe, Preload
from harness.toxiproxy.server import ToxiproxyServer

STARTERS = 8  # threads that start members; more do not help, the spawner is one thread
STOP_DEADLINE = 5.0  # s
NURSERY_LOG = "nursery.log"  # beside the members' logs
EXIT_GRACE = 10.0  # s; from end-of-file on its output to a member's exit status


class Child(Protocol):
    """What a spawned and a forked process have in common; see `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...

    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


@dataclass
class _Process(Life):
    """One life of one member."""

    child: Child = field(kw_only=True)

    def describe(self) -> str:
        """How its process ended, for people."""
        cause = self.child.cause if isinstance(self.child, Fork) else ""
        return describe_exit(self.child.returncode) + (f", since {cause}" if cause else "")


class ProcessBackend(Lives[_Process]):
    """See `Backend`. A member that was started again has a new process under its old name."""

    powers: frozenset[Power] = frozenset(("kill", "stop", "pause", "restart"))
    starters, exit_grace = STARTERS, EXIT_GRACE

    def __init__(self, spawn: Spawn) -> None:
        super().__init__()
        self._ground: Ground | None = None
        self._spawn = spawn
        self._lock = threading.Lock()
        self._nurseries: dict[Preload, Nursery] = {}
        self._nursery_lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closing = False  # no member may be started any more
        self._reading_ended = False  # nor be heard
        self._reader = threading.Thread(target=self._read_outputs, name="kadstorm-members", daemon=True)
        self._reader.start()

    @classmethod
    def prepare(cls, toxiproxy: Path, recipe: Callable[[], ImageRecipe], needs: Collection[Power], tell: Tell) -> None:
        """See `Backend.prepare`: processes need nothing."""

    @classmethod
    def on(cls, ground: Ground) -> Self:
        """See `Backend.on`."""
        made = cls(ground.spawn)
        made._ground = ground
        return made

    def lay_out(self, names: Sequence[str]) -> Layout:
        """See `Backend.lay_out`: everybody is on the session's loopback address."""
        host = self._on_ground().host
        return Layout(place="process", proxy_host=host, hosts=dict.fromkeys(names, host))

    def allow_descriptors(self, needed: int) -> int:
        """See `Backend.allow_descriptors`: it inherits what this process may open."""
        return descriptors.allow(needed)

    def toxiproxy(self, log: Path) -> Toxiproxy:
        """See `Backend.toxiproxy`."""
        ground = self._on_ground()
        return ToxiproxyServer(ground.toxiproxy, ground.host, API_PORT, log=log, spawn=ground.spawn)

    def data_dir(self, name: str) -> str:
        """See `Backend.data_dir`: in the run folder."""
        return str((self._on_ground().run_dir / DATA_DIR / name).resolve())

    def erase(self, name: str) -> None:
        """See `Backend.erase`."""
        folder = Path(self.data_dir(name))
        if folder.exists():
            shutil.rmtree(folder)

    def _on_ground(self) -> Ground:
        assert self._ground is not None, "made without `on`: it can start members, and nothing more"
        return self._ground

    def ahead(self, specs: Sequence[MemberSpec]) -> None:
        """See `Backend.ahead`: the process that they are forked from loads what it needs. Raises HarnessError."""
        for spec in specs:
            if warm := _warm_start(spec):
                self._nursery(warm.preload, spec)

    def pause(self, name: str) -> None:
        """See `Backend.pause`."""
        self._switch(name, signal.SIGSTOP, "running", "stop")

    def resume(self, name: str) -> None:
        """See `Backend.resume`."""
        self._switch(name, signal.SIGCONT, "paused", "go on")

    def _switch(self, name: str, number: signal.Signals, before: ProcessState, wanted: str) -> None:
        """Send a signal and wait until it has taken hold: that is when the process is next scheduled, and a fork's goes by
        way of its warm process."""
        process = self.living(name)
        if process is None:
            return
        self._signal(process, number)
        deadline = time.monotonic() + STOP_DEADLINE
        while self.state(name) == before:
            if time.monotonic() > deadline:
                raise MemberFailed(f"{name}: process {process.child.pid} does not {wanted} after {number.name}")
            time.sleep(0.001)

    def state(self, name: str) -> ProcessState:
        """See `Backend.state`; asks the process table."""
        process = self.lives.get(name)
        if process is None or process.child.returncode is not None:
            return "dead"
        try:
            status = psutil.Process(process.child.pid).status()
        except psutil.NoSuchProcess:
            return "dead"
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "dead"
        return "paused" if status == psutil.STATUS_STOPPED else "running"

    def pid(self, name: str) -> int | None:
        """The member's process id, None if it does not live."""
        process = self.living(name)
        return None if process is None else process.child.pid

    def close(self) -> None:
        """See `Backend.close`: SIGKILL to all, since whoever wanted them to leave politely has stopped them before."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        living = [process for process in self.lives.values() if not process.ended.is_set()]
        for process in living:
            process.asked_to_end = True
            self._signal(process, signal.SIGKILL)
        self._await_ends(living)
        with self._nursery_lock:  # whoever was making one has made it
            for warm in self._nurseries.values():
                warm.close()
        self._await_ends(living)  # of forks whose warm process did not pass the signal on
        self._reading_ended = True
        os.write(self._wake_write, b"x")
        self._reader.join()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self.listeners.trouble:
            raise MemberFailed("; ".join(self.listeners.trouble))

    @staticmethod
    def _await_ends(processes: Sequence[_Process]) -> None:
        deadline = time.monotonic() + EXIT_GRACE
        for process in processes:
            process.ended.wait(max(0.0, deadline - time.monotonic()))

    def ask_to_leave(self, life: _Process) -> None:
        """See `Lives`."""
        self._signal(life, signal.SIGTERM)
        self._signal(life, signal.SIGCONT)  # a frozen process keeps its SIGTERM for later

    def end_at_once(self, life: _Process) -> None:
        """See `Lives`."""
        self._signal(life, signal.SIGKILL)

    def label(self, life: _Process) -> str:
        """See `Lives`."""
        return f"process {life.child.pid}"

    @staticmethod
    def _signal(process: _Process, number: signal.Signals) -> None:
        # It never reaches a reused pid: whoever sends it, Popen or the nursery, knows whether the child was reaped.
        process.child.send_signal(number)

    def launch(self, spec: MemberSpec) -> _Process:
        """See `Lives`."""
        child = self._make(spec)
        process = _Process(spec, child=child)
        assert child.stdout is not None
        with self._lock:
            if not self._closing:
                self.lives[spec.name] = process
                self._selector.register(child.stdout, selectors.EVENT_READ, process)
                os.write(self._wake_write, b"x")
                return process
        child.kill()
        child.wait()
        close_pipes(child)
        raise MemberFailed(f"{spec.name}: not started, since the run is ending")

    def _make(self, spec: MemberSpec) -> Child:
        if warm := _warm_start(spec):
            return self._nursery(warm.preload, spec).fork(spec.name, warm.arguments, spec.log)
        return self._spawn(
            spec.command,
            name=spec.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=spec.log,
            leashed=not spec.watches_parent,
        )

    def _nursery(self, preload: Preload, spec: MemberSpec) -> Nursery:
        """The living warm process for ``preload``; one that has died is replaced."""
        with self._nursery_lock:
            if self._closing:
                raise MemberFailed(f"{spec.name}: not started, since the run is ending")
            found = self._nurseries.get(preload)
            if found is None or not found.alive:
                if found is not None:
                    found.close()
                found = Nursery(preload, spawn=self._spawn, log=spec.log.with_name(NURSERY_LOG))
                self._nurseries[preload] = found
            return found

    def _read_outputs(self) -> None:
        while not self._reading_ended:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._read_output(key.data)

    def _read_output(self, process: _Process) -> None:
        assert process.child.stdout is not None
        chunk = os.read(process.child.stdout.fileno(), 65536)
        if not chunk:
            self._note_end(process)
            return
        process.heard(chunk)

    def _note_end(self, process: _Process) -> None:
        with self._lock:
            self._selector.unregister(process.child.stdout)  # type: ignore[arg-type]
        try:
            process.child.wait(EXIT_GRACE)
        except subprocess.TimeoutExpired:  # it closed its output and lives on: no member of ours does that
            process.child.kill()
            process.child.wait()
        close_pipes(process.child)
        process.end(process.describe())
        self.listeners.tell(process)


def _warm_start(spec: MemberSpec) -> WarmStart | None:
    """How a member is forked from a warm process; None if it is started by its command."""
    return spec.warm if nursery.SUPPORTED else None


def close_pipes(child: Child) -> None:
    """Close our ends of its pipes."""
    for pipe in (child.stdout, child.stdin):
        if pipe is not None:
            pipe.close()
