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
from locust.runners import MasterRunner, WorkerRunner

from loadtests.config import DEFAULT_CLIENT, DEFAULT_IN_FLIGHT, WorkerConfig, client_class
from loadtests.curves import OWN
from loadtests.errors import ConfigError, LoadError, RecordError
from loadtests.panel import PanelPage
from loadtests.phases import preload, read_back
from loadtests.recorder import FLUSH_EVERY, Recorder
from loadtests.shapes import SHAPES
from loadtests.users import TASKS_OF, ClosedUser, LoadUser, OpenUser, RequestEvents
from loadtests.workload import Workload

# option, type, default, help; those of SHOWN are in the page's form, too
OPTIONS: tuple[tuple[str, type, Any, str], ...] = (
    ("--cluster-id", str, "kademlia", "the cluster's name; nodes refuse other clusters' clients"),
    ("--rate", float, None, "operations a second, of all workers (open model); without it, -u users (closed model)"),
    ("--arrivals", str, "poisson", "open model: poisson or constant"),
    ("--shape", str, "", "how rate or users change, such as ramp:to=500,over=60 (`kadstorm list shapes`); needs -t"),
    ("--think", float, 0.1, "closed model: seconds between an answer and the user's next operation"),
    ("--stores", float, 0.2, "share of operations that are stores, 0 to 1"),
    ("--rewrites", float, 0.0, "share of stores that write a key again, 0 to 1"),
    ("--missing", float, 0.0, "share of lookups of keys that nobody stored, 0 to 1"),
    ("--keys", int, 300, "keys stored before the load starts"),
    ("--popularity", str, "uniform", "which keys are asked for: uniform, zipf or latest"),
    ("--value-size", int, 256, "bytes"),
    ("--write-acks", int, 1, "holders from which on a store is ok"),
    ("--gateway-choice", str, "random", "random or sticky"),
    ("--operation-timeout", float, 5.0, "seconds"),
    ("--attempts", int, 1, "attempts of an operation that fails, with growing waits in between"),
    ("--max-in-flight", int, DEFAULT_IN_FLIGHT, "operations in flight beyond which arrivals are shed"),
    ("--seed", int, 1, "of keys, values and arrivals"),
    ("--client", str, DEFAULT_CLIENT, "the target's client, module:Class"),
    ("--load-workers", int, None, "worker processes in all; --processes sets it by itself"),
    ("--load-config", str, "", "a JSON file with the load's options and sites, as `kadstorm load` writes it"),
    ("--clock", float, None, "what rows' times count from (CLOCK_MONOTONIC, s); default: each test's start"),
    ("--panel", str, "", "the socket of the session whose panel the page shows"),
)
SHOWN = ("--rate", "--think", "--stores", "--value-size", "--operation-timeout")
STOP_TIMEOUT = 10.0  # s
LAST_STARTS = 0.05  # s; an operation that was due just before the end may start just after it
TASKS = ("store", "lookup")  # what -T and -E choose among

log = logging.getLogger("loadtests")


class LocustPlugin:
    """Listens to Locust's events and keeps what belongs to the test that is running."""

    def __init__(self) -> None:
        self._tests = 0
        self._folder = Path()
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
        self._folder = Path(options.operations)  # a worker's own: its options become the master's when a test starts
        try:
            environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT  # a user ends after its answer
            _take_tags(options)
            base = _file_config(options).get("load", {})
            if options.rate is None:
                options.rate = base.get("rate_per_s")
            is_open = options.rate is not None or base.get("trace_s") is not None
            environment.user_classes[:] = [OpenUser if is_open else ClosedUser]
            if is_open:
                options.num_users = options.spawn_rate = _workers(environment)  # each sends its share of the arrivals
            elif base.get("users"):
                options.num_users = options.num_users or base["users"]
            if environment.host or options.headless:
                client_class(configuration(environment, "check").client)
            if options.shape and not is_open:
                _shape_users(environment)
        except ConfigError as error:
            log.error("%s", error)
            sys.exit(error.exit_code)
        if options.panel and environment.web_ui is not None and environment.web_ui.app is not None:
            PanelPage(environment, options.panel).attach(environment.web_ui.app, options.web_host or "127.0.0.1")

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
            gevent.sleep(LAST_STARTS)
            self._workload.drain()

    def on_test_stop(self, environment: Environment, **_: Any) -> None:
        """Write what is left."""
        workload, self._workload = self._workload, None
        recorder, self._recorder = self._recorder, None
        if workload is None or recorder is None:
            return
        gevent.killall([self._flusher])
        options = environment.parsed_options
        if options is not None and options.read_back:
            log.info("%s", read_back(workload, workload.gateways.names))
        workload.close()
        workload.window.take()
        try:
            recorder.close()
        except LoadError as error:
            self._give_up(environment, error)
        log.info("%d operations recorded, generator's lag %s", recorder.rows, workload.window.lag.told())

    def _start(self, environment: Environment) -> None:
        self._tests += 1
        name = self._worker_name(environment)
        config = configuration(environment, name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"--operations {self._folder}: cannot be made: {error.strerror}") from error
        self._recorder = Recorder(self._folder / f"{name}.arrow")
        self._workload = LoadUser.workload = Workload(config, client_class(config.client))
        self._workload.sinks += [self._recorder.record, RequestEvents(environment.events.request)]
        log.info("%s", preload(self._workload))
        began = time.monotonic()
        options = environment.parsed_options
        assert options is not None
        self._recorder.start_clock(began if options.clock is None else options.clock)
        self._workload.begin(began)
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
    group = parser.add_argument_group("Kadstorm", "-H takes the gateways: HOST:PORT or NAME=HOST:PORT, with commas")
    for option, kind, default, text in OPTIONS:
        variable = "KADSTORM_LOAD" + option.upper().replace("-", "_").removeprefix("_")
        action = group.add_argument(
            option, type=kind, default=default, env_var=variable, help=f"{text} (default: {default})"
        )
        action.include_in_web_ui = option in SHOWN
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    group.add_argument(
        "--read-back", action="store_true", help="after each test look up every key that was acknowledged"
    )
    group.add_argument(
        "--operations",
        default=f"locust-{stamp}/operations",
        metavar="DIR",
        help="where rows go (default: %(default)s)",
    )


def configuration(environment: Environment, worker: str) -> WorkerConfig:
    """The worker's configuration, from Locust's options.

    Raises:
        ConfigError: an option is missing or wrong.
    """
    options = environment.parsed_options
    assert options is not None
    given = _file_config(options)
    raw = {
        "worker": worker,
        "index": _index(environment),
        "workers": _workers(environment),
        "seed": options.seed,
        "cluster": options.cluster_id,
        "client": options.client,
        "gateways": [_gateway(address) for address in (environment.host or "").split(",") if address],
        "sites": given.get("sites", []),
        "load": {**given["load"], **_changed_load(options)} if given else _load(options),
        "duration_s": None,
        "operations": str(Path(options.operations) / f"{worker}.arrow"),
    }
    try:
        return msgspec.convert(raw, WorkerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error} (gateways come from -H, the rest from the options under 'Kadstorm')") from error


def _model(options: Any) -> dict[str, Any]:
    """What says when operations come: a rate, or users. The page sends an empty text for a rate that was deleted."""
    rate = None if options.rate in (None, "") else options.rate
    return {"rate_per_s": rate, "users": None if rate is not None else options.num_users or 1}


def _load(options: Any) -> dict[str, Any]:
    return {
        **_model(options),
        "curve": _curve(options),
        "think_s": options.think,
        "arrivals": options.arrivals,
        "stores": options.stores,
        "rewrites": options.rewrites,
        "missing": options.missing,
        "keys": options.keys,
        "popularity": options.popularity,
        "value_size": options.value_size,
        "write_acks": options.write_acks,
        "gateways": options.gateway_choice,
        "timeout_s": options.operation_timeout,
        "retry": {"attempts": options.attempts} if options.attempts != 1 else None,
        "max_in_flight": options.max_in_flight,
    }


def _changed_load(options: Any) -> dict[str, Any]:
    """What the page's form or the command line changes of a load that comes from a file."""
    given = _file_config(options)["load"]
    changed = {} if given.get("trace_s") is not None else _model(options)
    if changed.get("rate_per_s") is None or float(changed["rate_per_s"]) != given.get("rate_per_s"):
        changed["curve"] = None  # it belonged to the rate of the file
    defaults = {"think": 0.1, "stores": 0.2, "value_size": 256, "operation_timeout": 5.0}
    names = {"think": "think_s", "operation_timeout": "timeout_s"}
    for option, default in defaults.items():
        if getattr(options, option) != default:
            changed[names.get(option, option)] = getattr(options, option)
    return changed


def _file_config(options: Any) -> dict[str, Any]:
    """What --load-config holds; empty without it. Raises ConfigError."""
    if not options.load_config:
        return {}
    try:
        return msgspec.json.decode(Path(options.load_config).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--load-config {options.load_config}: cannot be read: {error}") from error


def _take_tags(options: Any) -> None:
    """-T and -E choose kinds of operations. Ours to apply: Locust would take the one task that draws both kinds away."""
    wanted, unwanted = set(options.tags or TASKS), set(options.exclude_tags or ())
    unknown = sorted((wanted | unwanted) - set(TASKS))
    if unknown:
        raise ConfigError(f"no tag {', '.join(unknown)}: there are store and lookup")
    left = wanted - unwanted
    if not left:
        raise ConfigError("-T and -E together leave no operation")
    if left != set(TASKS):
        options.stores = 1.0 if left == {"store"} else 0.0
    options.tags = options.exclude_tags = None
    for user_class, tasks in TASKS_OF.items():
        user_class.tasks = list(tasks)


def _parsed_shape(options: Any) -> tuple[str, dict[str, float]]:
    name, _, text = options.shape.partition(":")
    curve = OWN.get(name)
    if curve is None:
        raise ConfigError(f"--shape: no shape {name!r}: there are {', '.join(OWN)}")
    try:
        given = {key: float(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}
    except ValueError as error:
        raise ConfigError(f"--shape {options.shape}: numbers are expected: {error}") from error
    if set(given) != set(curve.options) or not options.run_time:
        raise ConfigError(
            f"--shape {name} takes {', '.join(f'{key}=…' for key in curve.options)}, all of them, and needs -t"
        )
    return name, given


def _curve(options: Any) -> list[Any] | None:
    if not options.shape or options.rate in (None, ""):
        return None
    name, given = _parsed_shape(options)
    return OWN[name].points(float(options.rate), float(options.run_time), given)


def _shape_users(environment: Environment) -> None:
    """Have Locust's own shape class set the number of users."""
    options = environment.parsed_options
    assert options is not None
    name, given = _parsed_shape(options)
    if isinstance(environment.runner, WorkerRunner):
        return
    shape = SHAPES[name](float(options.num_users or 1), float(options.run_time), given)
    shape.runner = environment.runner
    environment.shape_class = shape


def _gateway(address: str) -> dict[str, Any]:
    name, named, place = address.strip().removeprefix("http://").rpartition("=")
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"-H: {address!r} is no gateway: expected HOST:PORT")
    return {"name": name if named else f"{host}:{port}", "host": host, "port": int(port)}


def _index(environment: Environment) -> int:
    return max(0, getattr(environment.runner, "worker_index", 0))


def _workers(environment: Environment) -> int:
    options = environment.parsed_options
    assert options is not None
    return options.load_workers or options.processes or 1
