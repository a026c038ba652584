"""Ties a `Workload` to Locust's own command line: one workload and one operations file per test.

Locust starts and stops tests (from its page, also several times in one process) and says so with events. Its master
spawns no users and has no workload; each worker process has its share of the load, and `locust_crew.py` brings back what
became of it.

Keys are read back once, in the end, when whoever injected faults has healed them: of every test, through the gateways that
the session says are alive.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.lock import RLock
from locust.env import Environment
from locust.event import Events
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from loadtests.config import WorkerConfig, client_class
from loadtests.errors import ConfigError, LoadError, NothingStored, RecordError
from loadtests.locust_crew import END, ENDED, FAILED, FINISH, FINISHED, REPORT, Crew, Ended, Failed
from loadtests.locust_options import (
    add_options,
    check_pairs,
    configuration,
    curve_points,
    file_config,
    filled,
    given_options,
    is_open,
    of_the_shape,
    parsed_shape,
    shown_options,
)
from loadtests.panel import PanelPage, SessionSilent, ask
from loadtests.phases import preload, preload_limit, read_back
from loadtests.recorder import FLUSH_EVERY, Operation, Recorder
from loadtests.shapes import SHAPES
from loadtests.users import TASKS_OF, ClosedUser, LoadUser, OpenUser, RequestEvents
from loadtests.workload import Workload

STOP_TIMEOUT = 10.0  # s
LAST_STARTS = 0.05  # s; an operation that was due just before the end may start just after it
TASKS = ("store", "lookup")  # what -T and -E choose among
MOST_LAG = 50.0  # ms; p99 of how late operations may be sent: beyond it latencies are partly the generator's own
LOST, UNDELIVERED = 3, 4  # exit codes, as a run's: the harness failed; the load was not what was asked for
GRAVITY = (LOST, 2, 1, UNDELIVERED, 0)  # exit codes, the gravest first

log = logging.getLogger("loadtests")


class LocustPlugin:
    """Listens to Locust's events and keeps what belongs to the test that is running."""

    def __init__(self) -> None:
        self._tests = 0
        self._folder = Path()
        self._parser: Any = None
        self._open = False  # the model: chosen once, with the users' class
        self._crew: Crew | None = None  # the master's
        self._workload: Workload | None = None
        self._recorder: Recorder | None = None
        self._kept: list[tuple[Workload, Recorder]] = []  # tests whose keys are still to be read back
        self._flusher: gevent.Greenlet | None = None
        self._ending = RLock()
        self._last = Ended()

    def listen(self, events: Events) -> None:
        """Register for everything."""
        names = ("init_command_line_parser", "init", "test_start", "test_stopping", "test_stop")
        for name in names:
            hook: Any = getattr(events, name)
            hook.add_listener(getattr(self, f"on_{name}"))

    def on_init_command_line_parser(self, parser: Any, **_: Any) -> None:
        """Add our options. Locust makes more parsers later; the first one is that of the command line."""
        self._parser = self._parser or parser
        add_options(parser)

    def on_init(self, environment: Environment, **_: Any) -> None:
        """Choose the model's user class; end with exit code 2 if the options make no sense."""
        options = _options(environment)
        self._folder = Path(options.operations)  # a worker's own: its options become the master's when a test starts
        try:
            self._prepare(environment, options)
        except ConfigError as error:
            log.error("%s", error)
            sys.exit(error.exit_code)
        # Listeners to `quitting` are called from the last one on: ours before the runner's own, which says goodbye.
        quitting: Any = environment.events.quitting
        quitting.add_listener(self.on_quitting)
        if isinstance(environment.runner, MasterRunner):
            self._crew = Crew(
                environment, lambda *what: _lost(environment, *what), lambda *what: _failed(environment, *what)
            )
        elif isinstance(environment.runner, WorkerRunner):
            self._obey(environment, environment.runner)
        self._attach(environment, options)
        # -t, which Locust counts from here, is a timer of gevent's loop, whose time stands still while all this is imported.
        gevent.get_hub().loop.update_now()

    def _prepare(self, environment: Environment, options: Any) -> None:
        environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT  # a user ends after its answer
        if not options.panel:  # a session gives the form its values besides the file
            check_pairs(options, given_options(self._parser, options))
        base = file_config(options).get("load", {})
        if options.rate is None:
            options.rate = base.get("rate_per_s")
        options.form = shown_options(options)
        _take_tags(options)
        self._open = is_open(options)
        environment.user_classes[:] = [OpenUser if self._open else ClosedUser]
        if self._open:
            options.num_users = options.spawn_rate = _workers(environment)  # each sends its share of the arrivals
        elif base.get("users"):
            options.num_users = options.num_users or base["users"]
        if isinstance(environment.runner, WorkerRunner):
            return  # -t is the master's alone, and so is what follows from it
        options.points = curve_points(options)
        if environment.host or options.headless:
            client_class(self._configuration(environment, options, "check").client)
        if options.shape and not self._open:
            _shape_users(environment)

    def _attach(self, environment: Environment, options: Any) -> None:
        """Make the page ours: it refuses what cannot be, and shows the panel of a session."""
        if environment.web_ui is None or environment.web_ui.app is None:
            return
        page = PanelPage(environment, options.panel, lambda form: self._refusal(environment, form))
        page.attach(environment.web_ui.app, options.web_host or "127.0.0.1")

    def _refusal(self, environment: Environment, form: Any) -> str:
        """Why a test cannot start with what stands in the page's form; empty if it can."""
        wanted = filled(_options(environment), form)
        host = form.get("host") or environment.host
        try:
            self._check_model(wanted)
            self._configuration(environment, wanted, "check", host=host)
        except ConfigError as error:
            return str(error)
        workers, users = _workers(environment), str(form.get("user_count", "1"))
        if isinstance(environment.runner, MasterRunner) and (ready := environment.runner.worker_count) < workers:
            return f"{ready} of {workers} workers are ready: the others have ended, or still end the last test"
        if self._open and users.isdecimal() and int(users) < workers:
            return f"users: the open model has one for each worker process, {workers}, not {users}"
        return ""

    def _check_model(self, options: Any) -> None:
        if is_open(options) != self._open:
            raise ConfigError(
                "rate: this session is of the open model, which needs one"
                if self._open
                else "rate: this session is of the closed model, in which users wait for their answers, and which has none"
            )

    # --- a test ------------------------------------------------------------------------------------

    def on_test_start(self, environment: Environment, **_: Any) -> None:
        """Store the first keys, start the clock."""
        options = _options(environment)
        try:
            if not isinstance(environment.runner, WorkerRunner):
                options.points = curve_points(
                    options
                )  # the page may have changed the rate; workers are told with the rest
            self._check_model(options)
            if self._crew is not None:
                self._configuration(environment, options, "check")
                self._crew.begin()
                return
            self._last = Ended(keys=self._last.keys)
            self._start(environment, options)
        except LoadError as error:
            self._cannot_start(environment, error)

    def _cannot_start(self, environment: Environment, error: LoadError) -> None:
        """The test ends; in a worker the master does that, who has to know: a worker that raised would hear nobody again."""
        LoadUser.idle = True
        if self._recorder is not None:
            self._recorder.close()
        if self._workload is not None:
            self._workload.close()
        self._workload = self._recorder = None
        if isinstance(environment.runner, WorkerRunner):
            log.error("%s", error)
            _tell(environment.runner, FAILED, Failed(str(error), error.exit_code))
            return
        _exit_with(environment, error.exit_code)
        raise StopTest(str(error)) from error

    def on_test_stopping(self, environment: Environment, **_: Any) -> None:
        """Let what is in flight end by itself."""
        if self._crew is not None:
            self._end_crew(environment, self._crew)
        if self._workload is not None:
            self._workload.finish()
            self._workload.drain()
            gevent.sleep(LAST_STARTS)
            self._workload.drain()

    def on_test_stop(self, environment: Environment, **_: Any) -> None:
        """Write what is left, and judge whether the load was delivered."""
        workload, self._workload = self._workload, None
        recorder, self._recorder = self._recorder, None
        if workload is None or recorder is None:
            return
        gevent.killall([self._flusher])
        workload.close()
        workload.window.take()
        window, keys = workload.window, len(workload.keys.acknowledged)
        self._last = Ended(recorder.rows, window.lag.told()["lag_ms"], window.shed, self._last.keys + keys)
        with self._recorded(environment):
            if _options(environment).read_back:
                recorder.flush()
                self._kept.append((workload, recorder))
            else:
                recorder.close()
        log.info("%d operations recorded, generator's lag %s", recorder.rows, workload.window.lag.told())
        if not isinstance(environment.runner, WorkerRunner):
            _judge(environment, [self._last])

    def _start(self, environment: Environment, options: Any) -> None:
        self._tests += 1
        name = self._worker_name(environment)
        config = self._configuration(environment, options, name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"--operations {self._folder}: cannot be made: {error.strerror}") from error
        self._recorder = Recorder(self._folder / f"{name}.arrow")
        self._workload = LoadUser.workload = Workload(config, client_class(config.client))
        self._workload.sinks += [self._recorder.record, RequestEvents(environment.events.request)]
        _preload(self._workload)
        began = time.monotonic()
        self._recorder.start_clock(began if options.clock is None else options.clock)
        self._workload.begin(began)
        LoadUser.idle = False
        self._flusher = gevent.spawn(self._flush, environment, self._recorder, self._workload)

    def _flush(self, environment: Environment, recorder: Recorder, workload: Workload) -> None:
        with self._recorded(environment):
            while True:
                gevent.sleep(FLUSH_EVERY)
                recorder.flush()
                workload.window.take()

    def _worker_name(self, environment: Environment) -> str:
        name = f"load-{_index(environment)}"
        return name if self._tests == 1 else f"{name}-test-{self._tests}"

    @staticmethod
    def _configuration(environment: Environment, options: Any, name: str, *, host: str | None = None) -> WorkerConfig:
        index, workers = _index(environment), _workers(environment)
        return configuration(options, host or environment.host, name, index=index, workers=workers)

    @contextmanager
    def _recorded(self, environment: Environment) -> Iterator[None]:
        """What is done in it writes rows; if that fails, nothing that follows is worth its name, and all ends."""
        try:
            yield
        except LoadError as error:
            self._last.exit_code = error.exit_code
            log.error("%s", error)
            _exit_with(environment, error.exit_code)
            if isinstance(environment.runner, WorkerRunner):
                _tell(environment.runner, FAILED, Failed(str(error), error.exit_code, for_good=True))
            elif environment.runner is not None:
                gevent.spawn(environment.runner.quit)

    # --- the end ------------------------------------------------------------------------------------

    def on_quitting(self, environment: Environment, **_: Any) -> None:
        """End what still goes on, then read the keys back."""
        if self._crew is not None:
            self._end_crew(environment, self._crew)
            if _options(environment).read_back:
                self._crew.finish(_options(environment).operation_timeout)
            return
        runner = environment.runner
        self._end_test(environment)
        if isinstance(runner, WorkerRunner):  # before Locust's own farewell, after which nobody listens to this worker
            _tell(runner, ENDED, self._last)
        self._finish(environment)
        if isinstance(runner, WorkerRunner):
            runner.send_message(FINISHED)

    def _end_crew(self, environment: Environment, crew: Crew) -> None:
        load = self._configuration(environment, _options(environment), "check").load
        # Before it hears of the end, a worker may have to store its first keys, and after it to wait for an operation.
        if ended := crew.end(load.patience_s + preload_limit(load)):
            _judge(environment, ended)
            options = _options(environment)
            if options.headless and options.read_back:  # there is no other test, and soon nobody who listens
                crew.finish(options.operation_timeout)

    def _end_test(self, environment: Environment) -> None:
        with self._ending:
            if self._workload is not None and environment.runner is not None:
                environment.runner.stop()

    def _finish(self, environment: Environment) -> None:
        """Read the keys of all tests back, each test's into its own file, and close the files."""
        with self._ending:
            kept, self._kept = self._kept, []
            alive = _alive(environment) if kept else None
            for workload, recorder in kept:
                workload.sinks[:] = [recorder.record, RequestEvents(environment.events.request)]
                names = [name for name in workload.gateways.names if alive is None or name in alive]
                log.info("%s: %s", workload.config.worker, read_back(workload, names))
                workload.close()
                with self._recorded(environment):
                    recorder.close()

    def _obey(self, environment: Environment, runner: WorkerRunner) -> None:
        """A worker: do what its master asks for, in greenlets of their own, so that Locust's messages are heard meanwhile."""

        def end(**_: Any) -> None:
            self._end_test(environment)
            environment.stop_timeout = (
                0.0  # nobody is left to wait for: Locust would, before it is ready for another test
            )
            _tell(runner, ENDED, self._last)

        def finish(**_: Any) -> None:
            self._finish(environment)
            runner.send_message(FINISHED)

        def report(data: dict[str, Any], **_: Any) -> None:
            data[REPORT] = self._last.rows if self._recorder is None else self._recorder.rows

        runner.register_message(END, end, concurrent=True)
        runner.register_message(FINISH, finish, concurrent=True)
        reporting: Any = environment.events.report_to_master
        reporting.add_listener(report)


# --- what became of it ------------------------------------------------------------------------------------------------


def _judge(environment: Environment, ended: list[Ended]) -> None:
    """Warn of a load that was not delivered, and have the exit code say so."""
    lag, shed = max(each.lag_ms for each in ended), sum(each.shed for each in ended)
    for each in ended:
        _exit_with(environment, each.exit_code)
    if lag <= MOST_LAG and not shed:
        return
    said = [f"{shed} operations were shed, because too many were in flight"] if shed else []
    if lag > MOST_LAG:
        said.append(f"one in a hundred operations was sent {lag:.0f} ms late or more (limit {MOST_LAG:.0f} ms)")
    log.warning("the load was not delivered: %s: lower the rate, or raise --processes", "; ".join(said))
    _exit_with(environment, UNDELIVERED)


def _exit_with(environment: Environment, code: int) -> None:
    """Have Locust exit with this code, unless it has a graver one already."""
    if code:
        environment.process_exit_code = min(environment.process_exit_code or 0, code, key=GRAVITY.index)


def _lost(environment: Environment, worker: str, text: str) -> None:
    """A worker of the master's is gone: its share of the load is missing."""
    log.error("%s: %s", worker, text)
    _exit_with(environment, LOST)
    if path := _options(environment).panel:
        _say_lost(path, worker, text)


def _failed(environment: Environment, worker: str, failed: Failed) -> None:
    """A worker of the master's cannot begin, or cannot go on: so the test ends."""
    log.error("%s: %s", worker, failed.message)
    _exit_with(environment, failed.exit_code)
    if environment.runner is None:
        return
    if failed.for_good or _options(environment).headless:
        environment.runner.quit()
    else:
        environment.runner.stop()


def _say_lost(path: str, worker: str, text: str) -> None:
    try:
        ask(path, {"ask": "lost", "worker": worker, "text": text})
    except SessionSilent as error:
        log.error("%s", error)


def _alive(environment: Environment) -> set[str] | None:
    """The gateways that are up, by the session; None where nobody says."""
    path = _options(environment).panel
    if not path:
        return None
    try:
        return {node["name"] for node in ask(path, {"ask": "state"})["nodes"] if node["state"] == "up"}
    except (SessionSilent, KeyError) as error:
        log.warning("keys are read back through all gateways, as nobody says which ones are up: %s", error)
        return None


def _tell(runner: WorkerRunner, kind: str, what: Ended | Failed) -> None:
    runner.send_message(kind, msgspec.to_builtins(what))


def _preload(workload: Workload) -> None:
    """Store the first keys. Raises NothingStored if there were some, and not one was acknowledged."""
    failures: Counter[str] = Counter()

    def note(operation: Operation) -> None:
        if operation.outcome != "ok":
            failures[f"{operation.outcome}, {operation.error}, by {operation.gateway}"] += 1

    workload.sinks.append(note)
    done = preload(workload)
    workload.sinks.remove(note)
    log.info("%s", done)
    if done.failed and not done.stored:
        [(most, _)] = failures.most_common(1)
        raise NothingStored(
            f"none of {done.failed} first keys was acknowledged (mostly: {most}): is there a cluster of the name "
            f"{workload.config.cluster!r} (--cluster-id) at the gateways of -H?"
        )


# --- options ----------------------------------------------------------------------------------------------------------


def _options(environment: Environment) -> Any:
    assert environment.parsed_options is not None
    return environment.parsed_options


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


def _shape_users(environment: Environment) -> None:
    """Have Locust's own shape class set the number of users."""
    options = _options(environment)
    name, given = parsed_shape(options)
    with of_the_shape(options):
        shape = SHAPES[name](float(options.num_users or 1), float(options.run_time), given)
    shape.runner = environment.runner
    environment.shape_class = shape


def _index(environment: Environment) -> int:
    return max(0, getattr(environment.runner, "worker_index", 0))


def _workers(environment: Environment) -> int:
    options = _options(environment)
    return options.load_workers or options.processes or 1
