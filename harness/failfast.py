"""Stopping a run at the first failed expectation, instead of playing a lost game to its end.

A thread has the run's folder analysed every few seconds, as if the run had just been killed. It costs the machine
something, so it is only there when it was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.errors import KadstormError

EVERY = 5.0  # s

Ask = Callable[[], list[str]]  # the expectations that fail on what there is so far


class FailedFast(KadstormError):
    """An expectation has failed, and the run was to end with it."""

    exit_code = 1


class Enough(KadstormError):
    """What was to be found out is known, and the load was to end with it, in order."""

    exit_code = 0


class FailFast:
    """Asks until it is closed. A failure to analyse says nothing about the run: it is noted and the next try waits."""

    def __init__(
        self,
        ask: Ask,
        raises: type[KadstormError] = FailedFast,
        words: str = "stopped at the first failed expectation: ",
    ) -> None:
        self._ask = ask
        self._raises = raises
        self._words = words
        self._failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="kadstorm-fail-fast", daemon=True)
        self.trouble = ""

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise if an expectation has failed."""
        if self._failed:
            raise self._raises(self._words + "; ".join(self._failed))

    def _watch(self) -> None:
        while not self._stop.wait(EVERY) and not self._failed:
            try:
                self._failed = self._ask()
            except Exception as error:  # a folder that is being written may be unreadable for a moment
                self.trouble = repr(error)
