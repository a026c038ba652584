"""Ctrl-C and its kin: one signal ends a run in order, a second one ends it at once.

A signal only sets a flag. Whoever waits looks at it several times a second by `check`, at a place where an exception does
no harm. Raising from the handler itself was tried and rejected: it struck in the middle of a thread's start, and left a
broken one behind.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import KadstormError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_EVERY = 0.1  # s


class Interrupted(KadstormError):
    """A signal asked the run to end."""

    exit_code = 130


class Interrupt:
    """The signals of one command. Install it in the main thread, as a context."""

    def __init__(self) -> None:
        self.received: str | None = None

    @contextmanager
    def installed(self) -> Iterator[Interrupt]:
        """Handle signals until the context is left, then restore what was there."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.received:
            raise Interrupted(f"interrupted by {self.received}")

    def sleep(self, seconds: float) -> None:
        """Let time pass. Raises Interrupted as soon as a signal comes."""
        until = time.monotonic() + seconds
        self.check()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_EVERY))
            self.check()

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received:
            os.write(sys.stderr.fileno(), f"\n{name} again: ending at once; children end with this process\n".encode())
            os._exit(130)
        self.received = name
