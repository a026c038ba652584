"""One load worker: the phases of its life, in the order in which it is told to live them.

    up -> preloaded -> loading -> drained -> read back, and from anywhere to the end

The main greenlet waits for the end. A second one reads commands, a third does what was commanded (so that `stop` and
`quit` are always heard), a fourth flushes rows. Whatever goes wrong in any of them ends the worker, with one `error`
event and exit code 1, after the rows have been written.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import gevent
from gevent.event import AsyncResult, Event

from loadtests.config import WorkerConfig, client_class, read_config
from loadtests.control import Command, Control, Preload, Quit, ReadBackKeys, Start, Stop, Time
from loadtests.errors import ConfigError, ControlError, LoadError
from loadtests.locust_session import LocustSession
from loadtests.phases import preload, read_back
from loadtests.priority import run_first
from loadtests.recorder import Recorder
from loadtests.workload import Workload

STATS_EVERY = 0.5  # s
YOUNG = 20_000  # objects between two looks of the garbage collector: more than rows wait for the recorder at a time
USAGE = "usage: python -P -m loadtests CONFIG.json"

State = Literal["up", "preloading", "preloaded", "loading", "drained", "reading", "read"]
# command -> states in which it may come
IN_TURN: dict[type[Command], frozenset[State]] = {
    Preload: frozenset({"up"}),
    Start: frozenset({"up", "preloaded"}),
    Stop: frozenset({"loading", "drained"}),
    ReadBackKeys: frozenset({"drained"}),
}

log = logging.getLogger("loadtests")


class Worker:
    """Everything one worker process owns.

    Raises:
        LoadError: the client cannot be imported, or the operations file cannot be made.
    """

    def __init__(self, config: WorkerConfig, control: Control) -> None:
        self._control = control
        self._workload = Workload(config, client_class(config.client))
        self._recorder = Recorder(Path(config.operations))
        self._workload.sinks.append(self._recorder.record)
        self._session = LocustSession(self._workload)
        self._state: State = "up"
        self._end: AsyncResult = AsyncResult()
        self._stop = Event()
        self._born = time.monotonic()
        self._greenlets: list[gevent.Greenlet] = []

    def run(self) -> int:
        """Live until told to end, or until something breaks; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._end.set)
        self._begin(self._obey)
        self._begin(self._recorder.flush_forever)
        try:
            self._control.tell("up")
            self._end.get()
            self._shut_down()
            self._control.tell("bye", rows=self._recorder.rows)
        except BrokenPipeError:  # nobody is left to tell; the rows are written all the same
            return 0
        except Exception as error:
            return self._failed(error)
        return 0

    # --- greenlets ---------------------------------------------------------------------------------

    def _begin(self, act: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                act()
            except BrokenPipeError:
                self._end.set()
            except Exception as error:
                self._end.set_exception(error)

        self._greenlets.append(gevent.spawn(guarded))

    def _obey(self) -> None:
        for command in self._control.commands():
            if isinstance(command, Quit):
                break
            self._take(command)
        self._end.set()

    def _take(self, command: Command) -> None:
        if isinstance(command, Time):
            self._control.tell("time", clock=time.monotonic())
            return
        name = type(command).__name__
        if self._state not in IN_TURN[type(command)]:
            raise ControlError(f"{name} cannot be obeyed now: this worker is in state '{self._state}'")
        if isinstance(command, Preload):
            self._state = "preloading"
            self._begin(self._preload)
        elif isinstance(command, Start):
            self._state = "loading"
            self._begin(lambda: self._load(command.clock))
        elif isinstance(command, ReadBackKeys):
            self._state = "reading"
            self._begin(lambda: self._read_back(command.gateways))
        else:
            self._stop.set()

    # --- what is commanded -------------------------------------------------------------------------

    def _preload(self) -> None:
        result = preload(self._workload)
        self._state = "preloaded"
        self._control.tell("preloaded", **asdict(result))

    def _load(self, clock: float) -> None:
        self._recorder.start_clock(clock)
        self._workload.begin(clock)
        gc.freeze()  # what Locust's import made lives for ever: looking through it again and again stalls the load
        gc.set_threshold(YOUNG)  # looking through rows that wait to be written costs a sixth of an operation
        first = run_first(self._workload.config.workers)
        log.info(
            "this worker runs %s", "before the nodes" if first else "beside the nodes, as it may not run before them"
        )
        self._session.start()
        self._control.tell("started")
        while not self._stop.is_set() and (left := self._workload.end - time.monotonic()) > 0:
            self._stop.wait(min(left, STATS_EVERY))
            self._tell_stats()
        self._workload.finish()
        self._workload.drain()  # before Locust is stopped, which costs it 30 ms that would be in latencies
        self._session.stop()
        self._tell_stats()
        self._recorder.flush()
        self._state = "drained"
        self._control.tell("drained", **self._drained())

    def _drained(self) -> dict[str, Any]:
        window = self._workload.window
        return {"rows": window.count, "requests": self._session.requests} | window.lag.told()

    def _tell_stats(self) -> None:
        t = round(time.monotonic() - self._workload.clock, 3)
        self._control.tell("stats", t=t, in_flight=self._workload.in_flight, **self._workload.window.take())

    def _read_back(self, gateways: list[str]) -> None:
        result = read_back(self._workload, gateways)
        self._recorder.flush()
        self._state = "read"
        self._control.tell("readback", **asdict(result))

    # --- the end -----------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Stop everything, and only then write what is left: operations that are cut off leave rows too."""
        gevent.killall(self._greenlets, timeout=2.0)
        self._session.quit()
        self._workload.close()
        self._recorder.close(self._born)

    def _failed(self, error: Exception) -> int:
        if not isinstance(error, LoadError):
            log.error("internal error", exc_info=error)
        tell_error(self._control, error)
        try:
            self._shut_down()
        except LoadError as other:
            log.error("%s", other)
        return error.exit_code if isinstance(error, LoadError) else 1


def tell_error(control: Control, error: Exception) -> None:
    """Send the `error` event."""
    text = str(error) if isinstance(error, LoadError) else f"internal error, please report it: {error!r}"
    try:
        control.tell("error", message=text)
    except BrokenPipeError:
        log.error("%s", text)


def main(argv: list[str]) -> int:
    """Run the worker that the configuration file describes; the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    control = Control()
    try:
        if len(argv) != 1:
            raise ConfigError(USAGE)
        worker = Worker(read_config(Path(argv[0])), control)
    except LoadError as error:
        tell_error(control, error)
        return error.exit_code
    return worker.run()
