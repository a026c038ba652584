"""What all backends share: one life of a member, awaiting that it serves, and telling its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.backends import Exit, MemberSpec
from harness.errors import MemberFailed
from harness.spawner import tail


@dataclass
class Life:
    """One life of one member: from its start to its end, after which a new one may follow under the same name."""

    spec: MemberSpec
    serving: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    asked_to_end: bool = False
    how: str = "still running"
    output: bytes = b""

    @property
    def served(self) -> bool:
        """Whether it ever said that it serves."""
        return b"\n" in self.output

    def heard(self, chunk: bytes) -> None:
        """Take what it said on standard output: its first line says that it serves."""
        self.output = (self.output + chunk)[-65536:]
        if self.served:
            self.serving.set()

    def end(self, how: str) -> None:
        """It has ended. Whoever waits for it to serve need not wait longer."""
        self.how = how
        self.ended.set()
        self.serving.set()


def await_serving(life: Life, deadline: float) -> None:
    """Wait until it serves. Raises MemberFailed if it ends first, or by ``deadline`` (monotonic); with its log's end."""
    name, log = life.spec.name, life.spec.log
    life.serving.wait(max(0.0, deadline - time.monotonic()))
    if life.served:  # if it has ended since, the listeners hear of that
        return
    if life.ended.is_set():
        raise MemberFailed(f"{name} did not start: {life.how}. The end of {log}:\n{tail(log)}")
    raise MemberFailed(f"{name} did not say in time that it serves. The end of {log}:\n{tail(log)}")


class Listeners:
    """Who hears of exits. A listener that fails keeps nobody else from hearing; what it said is kept in ``trouble``."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Exit], None]] = []
        self.trouble: list[str] = []

    def add(self, listener: Callable[[Exit], None]) -> None:
        """From now on, tell ``listener``."""
        self._listeners.append(listener)

    def tell(self, life: Life) -> None:
        """Tell all of them that a life has ended."""
        exit_ = Exit(life.spec.name, life.asked_to_end, life.how)
        for listener in self._listeners:
            try:
                listener(exit_)
            except Exception as error:  # the thread that tells hears all members: it must outlive a listener
                self.trouble.append(f"{exit_.name} ended ({exit_.how}), and that could not be told: {error}")
