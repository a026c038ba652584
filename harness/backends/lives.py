"""What all backends share: lives of members, awaiting that they serve, ending them, and telling their ends."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

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


Kind = TypeVar("Kind", bound=Life)


class Lives(ABC, Generic[Kind]):
    """The half of a backend that is the same wherever its members live; ``lives`` are the latest, by name.

    See `Backend` for the public methods.
    """

    starters: int  # members that are started side by side, whoever asks for it
    exit_grace: float  # s for a killed member to be noted as ended

    def __init__(self) -> None:
        self.lives: dict[str, Kind] = {}
        self.listeners = Listeners()
        self._starting = threading.BoundedSemaphore(self.starters)

    @abstractmethod
    def launch(self, spec: MemberSpec) -> Kind:
        """Start a member without waiting for it to serve. Raises MemberFailed."""

    @abstractmethod
    def ask_to_leave(self, life: Kind) -> None:
        """Send it SIGTERM, and let it go on if it is frozen."""

    @abstractmethod
    def end_at_once(self, life: Kind) -> None:
        """Send it SIGKILL."""

    @abstractmethod
    def label(self, life: Kind) -> str:
        """What it is, for an error message: `process 7`."""

    def on_exit(self, listener: Callable[[Exit], None]) -> None:
        """See `Backend.on_exit`."""
        self.listeners.add(listener)

    def start(self, specs: Sequence[MemberSpec], *, deadline: float) -> None:
        """See `Backend.start`. The first failure is raised; the others are then still being started."""
        if len(specs) > 1:
            with ThreadPoolExecutor(min(self.starters, len(specs))) as pool:
                started = list(pool.map(self._launch_in_turn, specs))
        else:  # as for each one that `admission.py` lets in: they have threads of their own
            started = [self._launch_in_turn(spec) for spec in specs]
        for life in started:
            await_serving(life, deadline)

    def _launch_in_turn(self, spec: MemberSpec) -> Kind:
        with self._starting:
            return self.launch(spec)

    def stop(self, name: str, *, grace: float) -> None:
        """See `Backend.stop`."""
        life = self.living(name)
        if life is None:
            return
        life.asked_to_end = True
        self.ask_to_leave(life)
        if not life.ended.wait(grace):
            self.kill(name)

    def kill(self, name: str) -> None:
        """See `Backend.kill`."""
        life = self.living(name)
        if life is None:
            return
        life.asked_to_end = True
        self.end_at_once(life)
        if not life.ended.wait(self.exit_grace):
            raise MemberFailed(f"{name}: {self.label(life)} does not end after SIGKILL")

    def living(self, name: str) -> Kind | None:
        """The member's life, if it has one and that has not ended."""
        life = self.lives.get(name)
        return None if life is None or life.ended.is_set() else life
