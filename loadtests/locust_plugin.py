"""Ties a `Workload` to Locust's own command line: options in, one workload and one operations file per test.

Locust starts and stops tests (from its page, also several times in one process) and says so with events. Its master
spawns no users and has no workload; each worker process has its share of the load.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust.env import Environment
from locust.event import Events
from locust.exception import StopTest
from locust.runners import MasterRunner

from loadtests.config import DEFAULT_CLIENT, DEFAULT_IN_FLIGHT, WorkerConfig, client_class
from loadtests.errors import ConfigError, LoadError
from loadtests.phases import preload
from loadtests.recorder import FLUSH_EVERY, Recorder
from loadtests.users import ClosedUser, LoadUser, OpenUser, RequestEvents
from loadtests.workload import Workload

# option, type, default, help
OPTIONS: tuple[tuple[str, type, Any, str], ...] = (
    ("--cluster-id", str, "kademlia", "the cluster's name; nodes refuse other clusters' clients"),
    ("--rate", float, None, "operations a second, of all workers (open model); without it, -u users (closed model)"),
    ("--arrivals", str, "poisson", "open model: poisson or constant"),
    ("--think", float, 0.1, "closed model: seconds between an answer and the user's next operation"),
    ("--stores", float, 0.2, "share of operations that are stores, 0 to 1"),
    ("--keys", int, 300, "keys stored before the load starts"),
    ("--value-size", int, 256, "bytes"),
    ("--write-acks", int, 1, "holders from which on a store is ok"),
    ("--gateway-choice", str, "random", "random or sticky"),
    ("--operation-timeout", float, 5.0, "seconds"),
    ("--max-in-flight", int, DEFAULT_IN_FLIGHT, "operations in flight beyond which arrivals are shed"),
    ("--seed", int, 1, "of keys, values and arrivals"),
    ("--client", str, DEFAULT_CLIENT, "the target's client, module:Class"),
    ("--load-workers", int, None, "worker processes in all; --processes sets it by itself"),
)

log = logging.getLogger("loadtests")


class LocustPlugin:
    """Listens to Locust's events and keeps what belongs to the test that is running."""

    def __init__(self) -> None:
        self._tests = 0
        self._workload: Workload | None = None
        self._recorder: Recorder | None = None
        self._flusher: gevent.Greenlet | None = None

    def listen(self, events: Events) -> None:
        """Register for everything."""
        names = ("init", "test_start", "test_stopping", "test_stop")
        listeners = [(name, getattr(self, f"on_{name}")) for name in names]
        for name, listener in [("init_command_line_parser", add_options), *listeners]:
            hook: Any = getattr(events, name)
            hook.add_listener(listener)

    def on_init(self, environment: Environment, **_: Any) -> None:
        """Choose the model's user class; end with exit code 2 if the options make no sense."""
        options = environment.parsed_options
        assert options is not None
        environment.user_classes[:] = [ClosedUser if options.rate is None else OpenUser]
        if options.rate is not None:
            options.num_users = options.spawn_rate = _workers(environment)  # each sends its share of the arrivals
        try:
            if environment.host or options.headless:
                client_class(configuration(environment, "check").client)
        except ConfigError as error:
            log.error("%s", error)
            sys.exit(error.exit_code)

    def on_test_start(self, environment: Environment, **_: Any) -> None:
        """Store the first keys, start the clock."""
        if isinstance(environment.runner, MasterRunner):
            return
        try:
            self._start(environment)
        except LoadError as error:
            environment.process_exit_code = error.exit_code
            raise StopTest(str(error)) from error

    def on_test_stopping(self, **_: Any) -> None:
        """Let what is in flight end by itself."""
        if self._workload is not None:
            self._workload.finish()
            self._workload.drain()

    def on_test_stop(self, environment: Environment, **_: Any) -> None:
        """Write what is left."""
        workload, self._workload = self._workload, None
        recorder, self._recorder = self._recorder, None
        if workload is None or recorder is None:
            return
        gevent.killall([self._flusher])
        workload.close()
        workload.window.take()
        try:
            recorder.close()
        except LoadError as error:
            self._give_up(environment, error)
        log.info("%d operations recorded, generator's lag %s", recorder.rows, workload.window.lag.told())

    def _start(self, environment: Environment) -> None:
        self._tests += 1
        config = configuration(environment, self._worker_name(environment))
        path = Path(config.operations)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._recorder = Recorder(path)
        self._workload = LoadUser.workload = Workload(config, client_class(config.client))
        self._workload.sinks += [self._recorder.record, RequestEvents(environment.events.request)]
        log.info("%s", preload(self._workload))
        clock = time.monotonic()
        self._recorder.start_clock(clock)
        self._workload.begin(clock)
        self._flusher = gevent.spawn(self._flush, environment, self._recorder, self._workload)

    def _flush(self, environment: Environment, recorder: Recorder, workload: Workload) -> None:
        try:
            while True:
                gevent.sleep(FLUSH_EVERY)
                recorder.flush()
                workload.window.take()
        except LoadError as error:
            self._give_up(environment, error)

    def _worker_name(self, environment: Environment) -> str:
        name = f"load-{_index(environment)}"
        return name if self._tests == 1 else f"{name}-test-{self._tests}"

    @staticmethod
    def _give_up(environment: Environment, error: LoadError) -> None:
        log.error("%s", error)
        environment.process_exit_code = error.exit_code
        if environment.runner is not None:
            gevent.spawn(environment.runner.quit)


def add_options(parser: Any) -> None:
    """Add Kadstorm's options to Locust's; each can come from the environment too."""
    group = parser.add_argument_group("Kadstorm", "-H takes the gateways: HOST:PORT, several with commas")
    for option, kind, default, text in OPTIONS:
        variable = "KADSTORM_LOAD" + option.upper().replace("-", "_").removeprefix("_")
        group.add_argument(option, type=kind, default=default, env_var=variable, help=f"{text} (default: {default})")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    group.add_argument(
        "--operations", default=f"locust-{stamp}/operations", metavar="DIR", help="where rows go (default: %(default)s)"
    )


def configuration(environment: Environment, worker: str) -> WorkerConfig:
    """The worker's configuration, from Locust's options.

    Raises:
        ConfigError: an option is missing or wrong.
    """
    options = environment.parsed_options
    assert options is not None
    load = {
        "rate_per_s": options.rate,
        "users": None if options.rate is not None else options.num_users or 1,
        "think_s": options.think,
        "arrivals": options.arrivals,
        "stores": options.stores,
        "keys": options.keys,
        "value_size": options.value_size,
        "write_acks": options.write_acks,
        "gateways": options.gateway_choice,
        "timeout_s": options.operation_timeout,
        "max_in_flight": options.max_in_flight,
    }
    raw = {
        "worker": worker,
        "index": _index(environment),
        "workers": _workers(environment),
        "seed": options.seed,
        "cluster": options.cluster_id,
        "client": options.client,
        "gateways": [_gateway(address) for address in (environment.host or "").split(",") if address],
        "load": load,
        "duration_s": None,
        "operations": str(Path(options.operations) / f"{worker}.arrow"),
    }
    try:
        return msgspec.convert(raw, WorkerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error} (gateways come from -H, the rest from the options under 'Kadstorm')") from error


def _gateway(address: str) -> dict[str, Any]:
    host, _, port = address.strip().removeprefix("http://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"-H: {address!r} is no gateway: expected HOST:PORT")
    return {"name": f"{host}:{port}", "host": host, "port": int(port)}


def _index(environment: Environment) -> int:
    return max(0, getattr(environment.runner, "worker_index", 0))


def _workers(environment: Environment) -> int:
    options = environment.parsed_options
    assert options is not None
    return options.load_workers or options.processes or 1
