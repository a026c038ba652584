"""Members as processes of this machine.

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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from harness.backends import (
    Exit,
    Ground,
    Layout,
    MemberSpec,
    Power,
    ProcessState,
    Tell,
    Toxiproxy,
)
from harness.errors import MemberFailed
from harness.records import DATA_DIR
from harness.session import API_PORT
from harness.spawner import Spawn, describe_exit, tail
from harness.targets import ImageRecipe
from harness.toxiproxy.server import ToxiproxyServer

STARTERS = 8  # threads that start members; more do not help, the spawner is one thread
STOP_DEADLINE = 5.0  # s
EXIT_GRACE = 10.0  # s; from end-of-file on its output to a member's exit status


@dataclass
class _Process:
    """One life of one member."""

    spec: MemberSpec
    popen: subprocess.Popen[bytes]
    serving: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    asked_to_end: bool = False
    output: bytes = b""

    @property
    def how(self) -> str:
        return describe_exit(self.popen.returncode)


class ProcessBackend:
    """See `Backend`. A member that was started again has a new process under its old name."""

    powers: frozenset[Power] = frozenset(("kill", "stop", "pause", "restart"))

    @classmethod
    def prepare(cls, toxiproxy: Path, recipe: Callable[[], ImageRecipe], tell: Tell) -> None:
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

    def __init__(self, spawn: Spawn) -> None:
        self._ground: Ground | None = None
        self._spawn = spawn
        self._processes: dict[str, _Process] = {}
        self._listeners: list[Callable[[Exit], None]] = []
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closing = False  # no member may be started any more
        self._reading_ended = False  # nor be heard
        self._trouble: list[str] = []
        self._reader = threading.Thread(target=self._read_outputs, name="kadstorm-members", daemon=True)
        self._reader.start()

    def on_exit(self, listener: Callable[[Exit], None]) -> None:
        """See `Backend.on_exit`."""
        self._listeners.append(listener)

    def start(self, specs: Sequence[MemberSpec], *, deadline: float) -> None:
        """See `Backend.start`. The first failure is raised; the others are then still being started."""
        if not specs:
            return
        with ThreadPoolExecutor(min(STARTERS, len(specs))) as pool:
            processes = list(pool.map(self._launch, specs))
        for process in processes:
            self._await_serving(process, deadline)

    def stop(self, name: str, *, grace: float) -> None:
        """See `Backend.stop`."""
        process = self._living(name)
        if process is None:
            return
        process.asked_to_end = True
        self._signal(process, signal.SIGTERM)
        self._signal(process, signal.SIGCONT)  # a frozen process keeps its SIGTERM for later
        if not process.ended.wait(grace):
            self.kill(name)

    def kill(self, name: str) -> None:
        """See `Backend.kill`."""
        process = self._living(name)
        if process is None:
            return
        process.asked_to_end = True
        self._signal(process, signal.SIGKILL)
        if not process.ended.wait(EXIT_GRACE):
            raise MemberFailed(f"{name}: process {process.popen.pid} does not end after SIGKILL")

    def pause(self, name: str) -> None:
        """See `Backend.pause`."""
        process = self._living(name)
        if process is None:
            return
        self._signal(process, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_DEADLINE
        while self.state(name) == "running":  # the signal takes hold when the process is next scheduled
            if time.monotonic() > deadline:
                raise MemberFailed(f"{name}: process {process.popen.pid} does not stop after SIGSTOP")
            time.sleep(0.001)

    def resume(self, name: str) -> None:
        """See `Backend.resume`."""
        process = self._living(name)
        if process is not None:
            self._signal(process, signal.SIGCONT)

    def state(self, name: str) -> ProcessState:
        """See `Backend.state`; asks the process table."""
        process = self._processes.get(name)
        if process is None or process.popen.returncode is not None:
            return "dead"
        try:
            status = psutil.Process(process.popen.pid).status()
        except psutil.NoSuchProcess:
            return "dead"
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "dead"
        return "paused" if status == psutil.STATUS_STOPPED else "running"

    def pid(self, name: str) -> int | None:
        """The member's process id, None if it does not live."""
        process = self._living(name)
        return None if process is None else process.popen.pid

    def close(self) -> None:
        """See `Backend.close`: SIGKILL to all, since whoever wanted them to leave politely has stopped them before."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        living = [process for process in self._processes.values() if not process.ended.is_set()]
        for process in living:
            process.asked_to_end = True
            self._signal(process, signal.SIGKILL)
        for process in living:
            process.ended.wait(EXIT_GRACE)
        self._reading_ended = True
        os.write(self._wake_write, b"x")
        self._reader.join()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._trouble:
            raise MemberFailed("; ".join(self._trouble))

    def _living(self, name: str) -> _Process | None:
        process = self._processes.get(name)
        return None if process is None or process.ended.is_set() else process

    @staticmethod
    def _signal(process: _Process, number: signal.Signals) -> None:
        # Popen.send_signal never signals a reused pid: it looks first whether the child was reaped.
        process.popen.send_signal(number)

    def _launch(self, spec: MemberSpec) -> _Process:
        popen = self._spawn(
            spec.command,
            name=spec.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=spec.log,
            leashed=not spec.watches_parent,
        )
        process = _Process(spec, popen)
        assert popen.stdout is not None
        with self._lock:
            if self._closing:
                with popen:  # close its pipes, too
                    popen.kill()
                raise MemberFailed(f"{spec.name}: not started, since the run is ending")
            self._processes[spec.name] = process
            self._selector.register(popen.stdout, selectors.EVENT_READ, process)
            os.write(self._wake_write, b"x")
        return process

    def _await_serving(self, process: _Process, deadline: float) -> None:
        name = process.spec.name
        process.serving.wait(max(0.0, deadline - time.monotonic()))
        if process.ended.is_set():
            raise MemberFailed(
                f"{name} did not start: {process.how}. The end of {process.spec.log}:\n{tail(process.spec.log)}"
            )
        if not process.serving.is_set():
            raise MemberFailed(
                f"{name} did not say in time that it serves. The end of {process.spec.log}:\n{tail(process.spec.log)}"
            )

    def _read_outputs(self) -> None:
        while not self._reading_ended:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._read_output(key.data)

    def _read_output(self, process: _Process) -> None:
        assert process.popen.stdout is not None
        chunk = os.read(process.popen.stdout.fileno(), 65536)
        if not chunk:
            self._note_end(process)
            return
        process.output = (process.output + chunk)[-65536:]
        if b"\n" in process.output:
            process.serving.set()

    def _note_end(self, process: _Process) -> None:
        with self._lock:
            self._selector.unregister(process.popen.stdout)  # type: ignore[arg-type]
        try:
            process.popen.wait(EXIT_GRACE)
        except subprocess.TimeoutExpired:  # it closed its output and lives on: no member of ours does that
            process.popen.kill()
            process.popen.wait()
        for pipe in (process.popen.stdout, process.popen.stdin):
            if pipe is not None:
                pipe.close()
        process.ended.set()
        process.serving.set()  # whoever waits for it need not wait longer
        for listener in self._listeners:
            try:
                listener(Exit(process.spec.name, process.asked_to_end, process.how))
            except Exception as error:  # this thread hears all members: it must outlive a listener, say on a full disk
                self._trouble.append(f"{process.spec.name} ended ({process.how}), and that could not be told: {error}")
