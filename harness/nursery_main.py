"""The warm process: ``python -m harness.nursery_main MAIN [MODULE…]`` imports MAIN (`module:function`), and forks on demand.

Its standard input is a socket on which orders come, one a message, and reports go back. Every fork becomes one member:
it returns from the loop below with its own arguments, and the interpreter runs MAIN and ends as it would for any program.

Rules:
- One thread only, for two reasons: a fork copies no other thread, and the parent-death signal comes when the *thread*
  that forked has ended.
- This process is the parent of its forks, and reaps them. A signal for one goes through it, since only the parent knows
  whether a process id still means its child.
- A fork begins like a program: its own process group, the default signal handlers, descriptors 0, 1 and 2 and no others,
  random state drawn anew (the `random` module sees to that by itself).
- At the end of the orders (the harness closed its end, or is dead) this process ends, and with it every fork.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # <linux/prctl.h>
LONGEST_MESSAGE = 1 << 20  # bytes
DESCRIPTORS = 3  # standard input, output and error of a fork
FIRST_OTHER, LAST_OTHER = 3, 1 << 30  # descriptors that a fork does not keep

Main = Callable[[list[str]], int]


class Start(msgspec.Struct, frozen=True, tag=True):
    """Fork, and call MAIN with ``arguments``. The message carries three descriptors."""

    token: int  # one per fork, never used again
    name: str
    arguments: tuple[str, ...]


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a fork; nothing if it has ended."""

    token: int
    number: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """MAIN is imported."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """The fork lives."""

    token: int
    pid: int


class NotStarted(msgspec.Struct, frozen=True, tag=True):
    """The system does not fork."""

    token: int
    why: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The fork is gone. ``code`` as `subprocess.Popen.returncode` has it: below zero, a signal."""

    token: int
    code: int


Order = Start | Signal
Report = Ready | Started | NotStarted | Ended
ORDERS = msgspec.msgpack.Decoder(Order)
REPORTS = msgspec.msgpack.Decoder(Report)
encode = msgspec.msgpack.Encoder().encode


class Nursery:
    """Forks, and what became of them. `serve` returns None at the end of the orders, and in a fork its `Start`."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._pid = os.getpid()
        self._tokens: dict[int, int] = {}  # by process id
        self._pids: dict[int, int] = {}  # by token
        self._prctl = ctypes.CDLL(None).prctl
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only what has a handler wakes

    def serve(self) -> Start | None:
        """Follow orders until there are no more."""
        self._report(Ready())
        while True:
            readable, _, _ = select.select([self._orders.fileno(), self._woken], [], [])
            if self._woken in readable:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._orders.fileno() in readable:
                message, descriptors, _, _ = socket.recv_fds(self._orders, LONGEST_MESSAGE, DESCRIPTORS)
                if not message:
                    return None
                start = self._follow(ORDERS.decode(message), descriptors)
                if start is not None:
                    return start

    def _follow(self, order: Order, descriptors: list[int]) -> Start | None:
        if isinstance(order, Signal):
            pid = self._pids.get(order.token)
            if pid is not None:  # not reaped, so the id is still our child's
                os.kill(pid, order.number)
            return None
        try:
            return order if self._fork(order, descriptors) else None
        finally:
            for descriptor in descriptors:
                with suppress(OSError):  # a fork has closed them already
                    os.close(descriptor)

    def _fork(self, order: Start, descriptors: list[int]) -> bool:
        """True in the fork."""
        try:
            pid = os.fork()
        except OSError as error:
            self._report(NotStarted(order.token, error.strerror or str(error)))
            return False
        if pid == 0:
            self._begin(order, descriptors)
            return True
        self._tokens[pid], self._pids[order.token] = order.token, pid
        self._report(Started(order.token, pid))
        return False

    def _begin(self, order: Start, descriptors: list[int]) -> None:
        """Make of a copy of this process one that has just begun."""
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:  # it died before the signal was set
            os._exit(1)
        self._prctl(PR_SET_NAME, order.name.encode()[:15], 0, 0, 0)  # what `ps` and `top` show
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._orders.detach()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(FIRST_OTHER, LAST_OTHER)

    def _reap(self) -> None:
        while self._tokens:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            token = self._tokens.pop(pid)
            del self._pids[token]
            self._report(Ended(token, os.waitstatus_to_exitcode(status)))

    def _report(self, report: Report) -> None:
        with suppress(BrokenPipeError):  # the harness is gone: the next look at the orders finds their end
            self._orders.send(encode(report))


def main(argv: list[str]) -> int:
    """Import, serve, and in a fork run the member. Returns the exit code of whichever this process is."""
    path, *modules = argv
    member = load(path)
    for module in modules:
        with suppress(ImportError):  # what is optional for the member is so here
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # no collection of a fork looks at, and so copies, what all of them share
    start = Nursery(socket.socket(fileno=0)).serve()
    if start is None:
        return 0
    sys.argv = [path, *start.arguments]
    return member(list(start.arguments))


def load(path: str) -> Main:
    """The function at ``path``, as `module:function`."""
    module, _, function = path.partition(":")
    loaded: Main = getattr(importlib.import_module(module), function)
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
