"""Starting many members: a window over those that are between their start and having joined.

Nodes that join at once answer each other late, and take one another for dead if there are too many of them: then they join
without end. So at most `PER_CORE` for each core are on their way in at any time: 150 nodes on two cores were ready in 17 s with
8 of them, in 23 s with 32, of whose requests nearly half timed out; 300 were never ready with 32. The next one starts as soon as
one of them has joined: waves, each of which waits for the last, would leave a container engine idle, the slowest part of all.

A member has joined once it knows its closest among those that served before it: a question whose answer newcomers do not
change. One that takes longer than `PATIENCE` keeps nobody waiting any more.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

PER_CORE = 4  # members on their way in; they share the cores with Toxiproxy and with all that have joined
PATIENCE = 5.0  # s that one of them may take until it counts no more
LOOK = 0.1  # s between two looks at those that join
STEPS = 10  # times that progress is told, about

Start = Callable[[str], object]
Joined = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[bool]]
Tell = Callable[[int, int], object]


def window_of_machine() -> int:
    """How many members may be on their way in at once here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return PER_CORE * cores


class Admission:
    """Starts members in order. ``start`` returns when one serves; ``joined`` is asked of pairs (member, those before it)."""

    def __init__(self, start: Start, joined: Joined, *, tell: Tell, window: int, patience: float = PATIENCE):
        self._start, self._joined, self._tell = start, joined, tell
        self._window, self._patience = window, patience
        self._serving: list[str] = []
        self._joining: dict[str, tuple[float, Sequence[str]]] = {}  # since when it serves, and who did before it
        self._told, self._look_at = 0, 0.0

    def admit(self, names: Sequence[str], stop: Event, lost: Callable[[], object] = lambda: False) -> None:
        """Return when all serve, at ``stop``, or when some are ``lost``. What ``start`` raises is raised at once."""
        waiting, starting = deque(names), dict[Future[object], str]()
        pool = ThreadPoolExecutor(self._window, thread_name_prefix="kadstorm-start")
        try:
            while (waiting or starting) and not stop.is_set() and not lost():
                while waiting and len(starting) + len(self._joining) < self._window:
                    name = waiting.popleft()
                    starting[pool.submit(self._start, name)] = name
                self._note_served(starting, len(names))
                if len(self._joining) * 2 >= self._window:  # else enough are being started to be busy with
                    self._look(stop, starting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a failure the others may take their whole time

    def _note_served(self, starting: dict[Future[object], str], of: int) -> None:
        done, _ = wait(starting, timeout=LOOK, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=starting.__getitem__):
            future.result()
            name = starting.pop(future)
            self._joining[name] = time.monotonic(), tuple(self._serving)
            self._serving.append(name)
        served = len(self._serving)
        if done and (served == of or (served - self._told) * STEPS >= of):
            self._told = served
            self._tell(served, of)

    def _look(self, stop: Event, starting: Collection[object]) -> None:
        """Let go of those that have joined, or take too long. Asking keeps them from joining, so it is not done all the time."""
        began = time.monotonic()
        if began >= self._look_at:
            there = self._joined([(name, before) for name, (_, before) in self._joining.items()])
            for (name, (since, _)), joined in zip(list(self._joining.items()), there, strict=True):
                if joined or began - since > self._patience:
                    del self._joining[name]
            self._look_at = max(began + LOOK, 2 * time.monotonic() - began)
        if not starting:
            stop.wait(self._look_at - time.monotonic())
