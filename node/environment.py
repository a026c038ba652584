"""What a node needs of the world, as arguments: a clock and a transport. A test gives others than `__main__` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from node.errors import RpcError
from node.wire import Answer, Contact, Request, Sender


class Timer(Protocol):
    """A call that has been put off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time, and calls at a later time."""

    def monotonic(self) -> float:
        """Seconds, never going back; on one kernel the same for all processes."""
        ...

    def wall(self) -> float:
        """Unix time in seconds."""
        ...

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in ``delay`` seconds."""
        ...


# An answer or what went wrong, the monotonic time at which the request was sent, and who says that it answered.
Done = Callable[[Answer | RpcError, float, Sender | None], None]


class Transport(Protocol):
    """Sends requests to contacts, over connections that this node dials itself."""

    def send(self, contact: Contact, message: Request, timeout: float, done: Done) -> None:
        """Ask ``contact``. ``done`` is called once, and after an RpcTimeout once more if the answer comes late."""
        ...

    def counters(self) -> dict[str, int]:
        """Bytes, connections and broken frames so far."""
        ...
