"""Ctrl-C and its kin: one signal ends a run in order, a second one ends it at once.

Inside `interruptible()` a signal raises `Interrupted` in the main thread, whatever it is waiting for. Outside it (while
healing, tearing down, writing) it is only noted: a run that is already ending is not torn in two.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import KadstormError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KadstormError):
    """A signal asked the run to end."""

    exit_code = 130


class Interrupt:
    """The signals of one command. Install it in the main thread, as a context."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._raising = False

    @contextmanager
    def installed(self) -> Iterator[Interrupt]:
        """Handle signals until the context is left, then restore what was there."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` in here; one that came before raises at once."""
        if self.received:
            raise Interrupted(f"interrupted by {self.received}")
        self._raising = True
        try:
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received:
            sys.stderr.write(f"\n{name} again: ending at once; children end with this process\n")
            os._exit(130)
        self.received = name
        if self._raising:
            self._raising = False
            raise Interrupted(f"interrupted by {name}")
