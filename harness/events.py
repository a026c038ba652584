"""What happens in a run, told to whoever listens: the journal first, then the live view, later the panel.

The runner emits and knows no output. The journal comes first and is written before the action that an event announces is
dispatched; if it cannot be written the run must end, so its errors pass through. Any other consumer that fails is taken
off the list and its failure is journalled: a broken display never breaks a run.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from harness.records import EVENT_KINDS, Event

Consumer = Callable[[Event], None]


class Events:
    """The run's event bus and its clock: stamps each event with `t` and wall time. Thread-safe, in order."""

    def __init__(self, journal: Consumer) -> None:
        self._journal = journal
        self._consumers: list[Consumer] = []
        self._lock = threading.RLock()
        self._zero: float | None = None

    def subscribe(self, consumer: Consumer) -> None:
        """Tell ``consumer`` all events from now on, in order, from whichever thread emits them."""
        with self._lock:
            self._consumers.append(consumer)

    def start_clock(self, zero: float) -> None:
        """Set t = 0 to the monotonic time ``zero`` (s)."""
        self._zero = zero

    def now(self) -> float | None:
        """Seconds since the clock started; None before it is set."""
        return None if self._zero is None else time.monotonic() - self._zero

    def emit(
        self,
        event: str,
        *,
        effective: bool | msgspec.UnsetType | None = msgspec.UNSET,
        **fields: Any,
    ) -> None:
        """Journal an event, then tell the others. ``fields`` are those of `records.Event`.

        Raises:
            ValueError: the kind of event is not in EVENT_KINDS.
            HarnessError: the journal cannot be written.
        """
        if event not in EVENT_KINDS:
            raise ValueError(f"no event is called {event!r}; records.EVENT_KINDS lists them")
        with self._lock:
            now = self.now()
            stamped = Event(
                t=None if now is None else round(now, 6),
                wall=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                event=event,
                effective=effective,
                **fields,
            )
            self._journal(stamped)
            for consumer in list(self._consumers):
                self._tell(consumer, stamped)

    def _tell(self, consumer: Consumer, event: Event) -> None:
        try:
            consumer(event)
        except Exception as error:  # whatever a consumer does wrong must not end the run
            self._consumers.remove(consumer)
            self.emit("error", detail={"message": f"a consumer of events failed and was taken off: {error!r}"})
