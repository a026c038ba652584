"""Keeps a Toxiproxy alive: one that ends by itself, or whose API hangs, is started again with the state that is wanted.

Every link of the cluster hangs on that one process, so while it is away the network is not what the plan says. Each gap is
measured, from the moment it was noticed (or, of a hang, from the request that was not answered) until all links are as they
should be again; it is journalled, and makes the run inconclusive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.errors import HarnessError, ToxiproxyFailed, ToxiproxySilent
from harness.events import Events
from harness.reconciler import LinkReconciler

TRIES = 3


class Server(Protocol):
    """What is kept: a server that can be watched and started again where it was."""

    def alive(self) -> bool: ...
    def exit(self) -> str: ...
    def wait(self) -> None:
        """Return when it has ended."""
        ...

    def restart(self) -> str:
        """Kill what is left of it and start it again at the same place; its version."""
        ...


@dataclass(frozen=True)
class Gap:
    """One time that it was away. ``seconds`` is None if it could not be brought back."""

    why: str
    seconds: float | None

    def __str__(self) -> str:
        """As reports tell it."""
        how_long = "" if self.seconds is None else f" for {self.seconds:.2f} s"
        return f"Toxiproxy was away{how_long}, and every link with it ({self.why})"


class ToxiproxyKeeper:
    """See the module. Thread-safe; ``gaps`` are those so far."""

    def __init__(self, server: Server, links: LinkReconciler, events: Events) -> None:
        self._server, self._links, self._events = server, links, events
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._given_up = ""
        self._lives = 0  # how often it was brought back
        self.gaps: list[Gap] = []
        self._thread = threading.Thread(target=self._watch, name="kadstorm-toxiproxy", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Let it end from now on; a restart that is under way is waited for. The thread ends with the server."""
        self._closing.set()
        with self._lock:
            pass

    def call(self, work: Callable[[], object]) -> None:
        """Do ``work`` on the links; if that fails since the server is away or silent, bring it back and do it again.

        Raises ToxiproxyFailed if it cannot be brought back, or fails for another reason.
        """
        lives, began = self._lives, time.monotonic()
        try:
            work()
        except ToxiproxyFailed as error:
            if not self._mended(error, lives, began):
                raise
            work()

    def bring_back(self, why: str, since: float) -> None:
        """Start it again with the state that is wanted; the last resort of a heal. Raises HarnessError."""
        with self._lock:
            if self._given_up:
                raise ToxiproxyFailed(f"Toxiproxy could not be brought back before: {self._given_up}")
            self._events.emit("toxiproxy-lost", detail={"why": why})
            try:
                self._retried()
            except HarnessError as error:
                self._given_up = str(error)  # whoever comes next shall not wait as long again
                self.gaps.append(Gap(f"{why}; it could not be brought back: {error}", None))
                raise
            gap = Gap(why, round(time.monotonic() - since, 3))
            self.gaps.append(gap)
            self._lives += 1
            self._events.emit("toxiproxy-restarted", detail={"why": why, "gap_s": gap.seconds})

    def _retried(self) -> None:
        for left in reversed(range(TRIES)):
            try:
                self._server.restart()
                self._links.restore()
            except HarnessError:
                if not left or self._closing.is_set():
                    raise
            else:
                return

    def _mended(self, error: ToxiproxyFailed, lives: int, began: float) -> bool:
        """Whether it has been brought back since ``work`` began, by us or by the watch."""
        with self._lock:  # waits for a restart that is under way
            if self._lives != lives:
                return True
            if self._closing.is_set() or (self._server.alive() and not isinstance(error, ToxiproxySilent)):
                return False
            self.bring_back(f"its API does not answer: {error}" if self._server.alive() else self._ended(), began)
            return True

    def _ended(self) -> str:
        return f"it ended: {self._server.exit()}"

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._server.wait()
            noticed = time.monotonic()
            with self._lock:
                if self._closing.is_set() or self._server.alive():  # brought back by a call meanwhile
                    continue
                try:
                    self.bring_back(self._ended(), noticed)
                except HarnessError as error:
                    self._events.emit("error", detail={"message": f"Toxiproxy could not be brought back: {error}"})
                    return
