"""How Locust's master learns what became of each of its workers' tests, beside Locust's own protocol.

Locust's master sends `stop` or `quit`, waits for half a second or for users to be gone, and goes on. Here it asks first, and
waits for each worker's answer: its operations are recorded by then, and its figures known. A worker that does not answer any
more, or that quits in the middle of a test, is lost, and told by name.

    master -> worker   kadstorm-end        end your test: drain, write                    -> kadstorm-ended   Ended
    master -> worker   kadstorm-finish     read your keys back, close your files          -> kadstorm-finished
    worker -> master   kadstorm-failed     this worker cannot begin, or cannot go on      Failed
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import msgspec
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner

END, ENDED = "kadstorm-end", "kadstorm-ended"
FINISH, FINISHED = "kadstorm-finish", "kadstorm-finished"
FAILED = "kadstorm-failed"
REPORT = "kadstorm"  # in what workers report to the master every few seconds: operations recorded so far

LOOK_EVERY = 0.25  # s
LOOKS = 4  # in a row that a worker must be gone: Ctrl-C on a terminal reaches all processes, in any order
END_WITHIN = 20.0  # s on top of the time in which users end
FINISH_WITHIN = 10.0  # s on top of
FINISH_PER_KEY = 0.02  # s

log = logging.getLogger("loadtests")


class Ended(msgspec.Struct):
    """One worker's test. ``shed``: operations that were never sent; ``exit_code`` 0: nothing went wrong in it."""

    rows: int = 0
    lag_ms: float = 0.0
    shed: int = 0
    keys: int = 0
    exit_code: int = 0


class Failed(msgspec.Struct):
    """Why a worker cannot go on; ``for_good``: with no other test either."""

    message: str
    exit_code: int
    for_good: bool = False


class Crew:
    """The master's workers during one test. ``lost`` is told a worker's name and what is known of its end."""

    def __init__(self, environment: Environment, lost: Callable[[str, str], None], failed: Callable[..., None]) -> None:
        assert isinstance(environment.runner, MasterRunner)
        self._runner: MasterRunner = environment.runner
        self._environment = environment
        self._lost_one, self._failed_one = lost, failed
        self._there: set[str] = set()  # client ids of those that are meant to work
        self._gone: set[str] = set()
        self._ended: dict[str, Ended] = {}
        self._finished: set[str] = set()
        self._rows: dict[str, int] = {}
        self._watch: gevent.Greenlet | None = None
        for kind, listener in ((ENDED, self._on_ended), (FINISHED, self._on_finished), (FAILED, self._on_failed)):
            self._runner.register_message(kind, listener)
        reported: Any = environment.events.worker_report  # Locust's events have no types
        reported.add_listener(self._on_report)

    def begin(self) -> None:
        """A test begins: watch those that are there."""
        self._there = {each.id for each in self._runner.clients.all if each.state != STATE_MISSING}
        self._gone, self._ended, self._finished, self._rows = set(), {}, set(), {}
        self._watch = gevent.spawn(self._look_forever)

    def end(self, busy: float) -> list[Ended]:
        """Have every worker end its test, wait until its rows are written; what became of each.

        ``busy`` (s) is how long what a worker is in the middle of may take.
        """
        if self._watch is None:
            return []
        gevent.killall([self._watch])
        self._watch = None
        self._ask(END)
        patience = END_WITHIN + busy + (self._environment.stop_timeout or 0.0)
        self._await(self._ended, patience, "ended the test")
        return list(self._ended.values())

    def finish(self, timeout: float) -> None:
        """Have every worker read its keys back; ``timeout`` (s) is that of an operation."""
        keys = max([0, *(ended.keys for ended in self._ended.values())])
        self._ask(FINISH)
        self._await(self._finished, FINISH_WITHIN + 3 * timeout + FINISH_PER_KEY * keys, "read its keys back")

    # --- waiting ----------------------------------------------------------------------------------

    def _ask(self, what: str) -> None:
        for client_id in self._left():
            self._runner.send_message(what, client_id=client_id)

    def _await(self, done: Any, patience: float, what: str) -> None:
        """Wait for those that live; whoever is gone or late is lost."""
        until = time.monotonic() + patience
        while waited := [client_id for client_id in self._left() if client_id not in done]:
            for client_id in waited:
                if self._is_away(client_id):
                    self._lose(client_id, "it does not answer any more")
                elif time.monotonic() > until:
                    self._lose(client_id, f"it had not {what} after {patience:.0f} s")
            gevent.sleep(LOOK_EVERY / 5)

    def _look_forever(self) -> None:
        away: dict[str, int] = {}
        while True:
            gevent.sleep(LOOK_EVERY)
            away = {client_id: away.get(client_id, 0) + 1 for client_id in self._left() if self._is_away(client_id)}
            for client_id, looks in away.items():
                if looks >= LOOKS:
                    missing = client_id in self._runner.clients
                    self._lose(
                        client_id, "it does not answer any more" if missing else "it quit in the middle of the test"
                    )

    def _left(self) -> Iterator[str]:
        yield from sorted(self._there - self._gone, key=self._index)

    def _index(self, client_id: str) -> int:
        runner: Any = self._runner
        return int(runner.get_worker_index(client_id))

    def _is_away(self, client_id: str) -> bool:
        node = self._runner.clients.get(client_id)
        return node is None or node.state == STATE_MISSING

    def _lose(self, client_id: str, why: str) -> None:
        self._gone.add(client_id)
        index = self._index(client_id)
        last = self._rows.get(client_id, 0)
        self._lost_one(
            f"load-{index}", f"worker {client_id} (index {index}) is lost: {why}; it last told of {last} operations"
        )

    # --- what workers say -------------------------------------------------------------------------

    def _on_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._rows[client_id] = data.get(REPORT, 0)

    def _on_ended(self, msg: Any, **_: Any) -> None:
        self._ended[msg.node_id] = msgspec.convert(msg.data, Ended)

    def _on_finished(self, msg: Any, **_: Any) -> None:
        self._finished.add(msg.node_id)

    def _on_failed(self, msg: Any, **_: Any) -> None:
        name = f"load-{self._index(msg.node_id)}"
        gevent.spawn(
            self._failed_one, name, msgspec.convert(msg.data, Failed)
        )  # it ends the test, which waits for messages
