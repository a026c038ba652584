"""Members forked from one warm process: the harness's side of `nursery_main.py`.

Starting an interpreter and importing a member's code takes most of its start, and fills each member's memory with the
same. A fork of a process that has done so once takes a few milliseconds and shares that memory.

Linux only: elsewhere nothing ends the forks of a process that was killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness.errors import HarnessError, MemberFailed
from harness.nursery_main import (
    LONGEST_MESSAGE,
    REPORTS,
    Ended,
    NotStarted,
    Order,
    Ready,
    Report,
    Signal,
    Start,
    Started,
    encode,
)
from harness.spawner import Spawn, describe_exit, tail
from harness.targets import Preload

SUPPORTED = sys.platform == "linux"
START_DEADLINE = 30.0  # s for the process to import, and for one fork
END_GRACE = 5.0  # s


class Fork:
    """One forked process; to be used like a `subprocess.Popen` with pipes to its standard input and output."""

    def __init__(self, nursery: Nursery, token: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._nursery = nursery
        self.token = token
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self.pid = 0
        self.returncode: int | None = None
        self.cause = ""  # why it ended, if it was not by itself
        self.refusal = ""  # why it could not be forked
        self.started, self.ended = threading.Event(), threading.Event()

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing if it has ended."""
        if self.returncode is None:
            self._nursery.order(Signal(self.token, number))

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def note_end(self, code: int, cause: str = "") -> None:
        """It has ended; whoever waits for anything of it goes on."""
        self.returncode, self.cause = code, cause
        self.ended.set()
        self.started.set()

    def close(self) -> None:
        """Close its pipes."""
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()


class Nursery:
    """One warm process and its forks. Thread-safe. When it dies, its forks die too, and each is told as ended."""

    def __init__(self, preload: Preload, *, spawn: Spawn, log: Path) -> None:
        """Start it; returns before it has imported.

        Raises:
            HarnessError: no process can be started.
        """
        self._log = log
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", "harness.nursery_main", preload.main, *preload.modules]
            self._process = spawn(command, name="the warm process", stdin=theirs.fileno(), stderr=log)
        self._tokens = itertools.count(1)
        self._forks: dict[int, Fork] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # so that `close` does not take the socket from under a sender
        self._ready = threading.Event()
        self._died = ""  # how the process ended
        self._reader = threading.Thread(target=self._read, name="kadstorm-nursery", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._died

    def fork(self, name: str, arguments: Sequence[str], log: Path) -> Fork:
        """Fork one process, whose standard error is appended to ``log``.

        Raises:
            MemberFailed: the warm process has ended or could not import; or the system refuses another process.
        """
        if not self._ready.wait(START_DEADLINE):
            raise MemberFailed(f"{name}: the warm process did not import in {START_DEADLINE:g} s: {self._last_words()}")
        fork = self._send_start(name, tuple(arguments), log)
        in_time = fork.started.wait(START_DEADLINE)
        if fork.pid:
            return fork
        fork.close()
        self.order(Signal(fork.token, signal.SIGKILL))  # should it come to life yet
        why = fork.refusal or fork.cause or ("" if in_time else "the warm process does not answer")
        raise MemberFailed(f"{name} could not be forked: {why}. {self._last_words()}")

    def order(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Send an order. One that comes too late, since the process has ended, is nothing."""
        with suppress(OSError), self._sending:
            socket.send_fds(self._orders, [encode(order)], descriptors)

    def close(self) -> None:
        """End the process, and so every fork that still lives."""
        with suppress(OSError):
            self._orders.shutdown(socket.SHUT_WR)  # whoever is blocked in sending is let go, too
        try:
            self._process.wait(END_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        with self._sending:
            self._orders.close()

    def _send_start(self, name: str, arguments: tuple[str, ...], log: Path) -> Fork:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        fork = Fork(self, next(self._tokens), os.fdopen(ours_in, "wb", 0), os.fdopen(ours_out, "rb"))
        try:
            with log.open("ab") as errors, self._lock:
                if self._died:
                    fork.note_end(-signal.SIGKILL, self._died)
                else:
                    self._forks[fork.token] = fork
                    self.order(Start(fork.token, name, arguments), (theirs_in, theirs_out, errors.fileno()))
        except OSError as error:
            fork.close()
            raise HarnessError(f"{name}: cannot open its log {log}: {error.strerror}") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return fork

    def _read(self) -> None:
        while message := self._receive():
            self._note(REPORTS.decode(message))
        self._note_death()

    def _receive(self) -> bytes:
        try:
            return self._orders.recv(LONGEST_MESSAGE)
        except OSError:
            return b""  # it died with orders unread: an end like any other

    def _note(self, report: Report) -> None:
        if isinstance(report, Ready):
            self._ready.set()
            return
        fork = self._forks[report.token]
        if isinstance(report, Started):
            fork.pid = report.pid
            fork.started.set()
            return
        del self._forks[report.token]
        if isinstance(report, NotStarted):
            fork.refusal = report.why
            fork.started.set()
        elif isinstance(report, Ended):
            fork.note_end(report.code)

    def _note_death(self) -> None:
        """The socket is at its end, so the process is; and the kernel has killed what it had forked."""
        code = self._process.wait()
        with self._lock:
            self._died = f"the warm process {self.pid} that it was forked from has ended ({describe_exit(code)})"
            orphans, self._forks = list(self._forks.values()), {}
        self._ready.set()
        for fork in orphans:
            fork.note_end(-signal.SIGKILL, self._died)

    def _last_words(self) -> str:
        return f"The end of {self._log}:\n{tail(self._log)}"
