"""`kadstorm load --ui`: a cluster, Locust's own page in front of it, and Kadstorm's panel in that.

People start and stop the load, inject faults and heal them. All is recorded as in a run: rows of every test that was
started, on one clock; a journal; and a plan that grows with each fault, so that the session has a report in the end, and
what was done by hand can be played again.
"""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import psutil

from harness import registry
from harness.boot import boot
from harness.cleanup import tidy_session
from harness.cluster import Cluster
from harness.environment import environment
from harness.errors import KadstormError, LoadFailed, UsageError
from harness.events import Events
from harness.interrupt import Interrupt, Interrupted
from harness.journal import Journal
from harness.load_options import patience as longest
from harness.load_options import worker_options
from harness.loading import READBACK_PER_KEY, check_cluster, client_site, preload_limit
from harness.panel import ClusterPanel, PanelServer
from harness.plan import save_plan
from harness.records import (
    EVENTS_FILE,
    LOAD_LOGS_DIR,
    NODES_STREAM,
    OPERATIONS_DIR,
    PLAN_FILE,
    Action,
    Plan,
)
from harness.runfolder import write_inputs
from harness.sampler import Sampler
from harness.session import Session
from harness.spawner import describe_exit, tail

LOG = "locust.log"
UP_WITHIN = 60.0  # s for Locust to serve its page
END_WITHIN = 60.0  # s for it to drain, to write, and to end, and on top of that what reading the keys back takes
LOOK_EVERY = 0.1  # s


class Page:
    """One session with a page, from an empty run folder to its journal's end."""

    def __init__(
        self, plan: Plan, run_dir: Path, text: str, toxiproxy: Path, interrupt: Interrupt, host: str, port: int
    ) -> None:
        self._plan, self._run_dir, self._text = plan, run_dir, text
        self._toxiproxy, self._interrupt = toxiproxy, interrupt
        self._host, self._port = host, free_port(host, port)
        self._reasons: list[dict[str, str]] = []

    def run(self, tell: Callable[[str], None]) -> None:
        """Serve the page until a signal comes, or Locust ends. ``tell`` gets what people have to know.

        Raises:
            KadstormError: it did not come up; what had been started has been ended.
        """
        self._plan.experiment["interactive"] = True
        write_inputs(self._run_dir, self._text, self._plan)
        with ExitStack() as stack:
            journal = Journal(self._run_dir / EVENTS_FILE)
            stack.callback(journal.close)
            self._events = Events(journal.write)
            stack.callback(self._tell_end)
            try:
                self._serve(stack, tell)
            except Interrupted:
                tell("ending the session")
            except KadstormError as error:
                self._failed(str(error))
                raise

    def _serve(self, stack: ExitStack, tell: Callable[[str], None]) -> None:
        session = stack.enter_context(tidy_session(self._run_dir))
        about = {"id": session.id, "environment": environment(), "seed": self._plan.seed}
        replay = f"kadstorm run {self._run_dir / PLAN_FILE}"
        self._events.emit("session", name=self._plan.experiment["name"], detail={**about, "replay": replay})
        tell(f"starting {len(self._plan.nodes)} nodes")
        booted = boot(
            self._plan, session, self._run_dir, self._toxiproxy, self._events,
            lambda _, close: self._later(stack, close), self._interrupt.check,
        )  # fmt: skip
        self._events.emit("ready", detail={"nodes": len(self._plan.nodes), "links": len(booted.cluster.topology.links)})
        if booted.cluster.layout.quarters is not None:
            self._allow_tunnel(tell)
        sampler = Sampler(booted.cluster, self._events, self._run_dir / NODES_STREAM)
        self._later(stack, sampler.close)
        panel = ClusterPanel(booted.cluster, self._events, self._plan.seed, self._note)
        server = PanelServer(panel)
        stack.callback(server.close)
        self._later(stack, panel.close)
        zero = time.monotonic()
        self._events.start_clock(zero)
        self._events.emit("clock")
        sampler.start()
        locust = session.spawn(
            self._command(session, server.path, zero, booted.cluster),
            name="locust", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._run_dir / LOAD_LOGS_DIR / LOG,
        )  # fmt: skip
        self._later(stack, lambda: self._end(locust, panel))
        self._await_page(locust)
        tell(f"Locust's page, with Kadstorm's panel: http://{self._host}:{self._port}/ (Ctrl-C ends the session)")
        self._events.emit("phase", name="load")
        while locust.poll() is None:
            check_cluster(booted.cluster.members)
            self._interrupt.sleep(LOOK_EVERY * 3)
        self._interrupt.check()  # a Ctrl-C may have reached Locust before us
        raise LoadFailed(f"Locust ended: {describe_exit(locust.returncode)}\n{tail(self._log)}")

    def _allow_tunnel(self, tell: Callable[[str], None]) -> None:
        """The page's clients are here, and the nodes are not. Raises LoadFailed if that cannot be."""
        if self._plan.experiment["load"].get("sites"):
            raise LoadFailed(
                "`load.sites`: the engine is elsewhere, and from the page's clients, which are here, no site's proxies can be "
                "reached: leave `sites` out, or run the experiment without --ui, whose load is where the nodes are"
            )
        tell(
            "the engine is elsewhere: latencies on the page have the way there and the tunnel in them (docs/containers.md)"
        )

    def _command(self, session: Session, panel: Path, zero: float, cluster: Cluster) -> list[str]:
        load = self._plan.experiment["load"]
        config = self._run_dir / LOAD_LOGS_DIR / "page.json"
        sites = [client_site(cluster.topology, name) for name in load.get("sites", [])]
        config.write_bytes(msgspec.json.encode({"load": worker_options(load), "sites": sites}))
        dialled = ((name, *address.dial) for name, address in cluster.addresses.items())
        gateways = ",".join(f"{name}={host}:{port}" for name, host, port in dialled)
        found = find_spec("loadtests")
        assert found is not None
        assert found.submodule_search_locations
        locustfile = Path(found.submodule_search_locations[0]) / "locustfile.py"
        client = registry.target(self._plan.experiment["cluster"]["target"]).load_client
        command = [sys.executable, "-P", "-m", "locust", "-f", str(locustfile), "-H", gateways]
        command += ["--web-host", self._host, "--web-port", str(self._port), "--load-config", str(config)]
        command += ["--cluster-id", session.cluster_id, "--client", client, "--seed", str(self._plan.seed)]
        command += ["--operations", str((self._run_dir / OPERATIONS_DIR).resolve()), "--clock", repr(zero)]
        command += ["--panel", str(panel), "--read-back", *shown_in_the_form(worker_options(load))]
        return command + (_processes(load["processes"]) if load["processes"] > 1 else [])

    def _await_page(self, locust: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + UP_WITHIN
        while not answers(self._host, self._port):
            self._interrupt.sleep(LOOK_EVERY)
            if locust.poll() is not None:
                raise LoadFailed(f"Locust did not start: {describe_exit(locust.returncode)}\n{tail(self._log)}")
            if time.monotonic() > until:
                raise LoadFailed(f"Locust's page did not come up within {UP_WITHIN:g} s\n{tail(self._log)}")

    @property
    def _log(self) -> Path:
        return self._run_dir / LOAD_LOGS_DIR / LOG

    def _end(self, locust: subprocess.Popen[bytes], panel: ClusterPanel) -> None:
        """Heal, let the network settle, and only then have Locust read the keys back, and end."""
        self._events.emit("phase", name="settle")
        try:
            panel.close()
        except KadstormError as error:
            self._failed(str(error))
        time.sleep(self._plan.experiment["settle_us"] / 1e6)
        self._events.emit("load", name="stopped", detail={"why": "the session ended"})
        if locust.poll() is None:
            self._events.emit("phase", name="readback")
        self._end_locust(locust)

    def _end_locust(self, locust: subprocess.Popen[bytes]) -> None:
        """End the master, and wait for its workers as well: rows are theirs."""
        load = self._plan.experiment["load"]
        patience = (
            END_WITHIN
            + longest(load)
            + preload_limit(load)
            + 3 * load["timeout_us"] / 1e6
            + READBACK_PER_KEY * stores(self._run_dir)
        )
        everyone, until = family(locust.pid), time.monotonic() + patience
        locust.terminate()
        while (left := living(everyone)) and time.monotonic() < until:
            locust.poll()  # it is our child: until somebody asks, it counts as there
            time.sleep(LOOK_EVERY)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        locust.wait()
        if left:
            self._failed(
                f"{len(left)} of Locust's {len(everyone)} processes did not end within {patience:.0f} s, and were killed: "
                "rows may be missing"
            )

    # --- what is written ------------------------------------------------------------------------------------------

    def _note(self, index: int, action: Action) -> None:
        """Keep a fault that was injected by hand, or changed, in the plan, which lasts at least up to now."""
        self._plan.actions[index : index + 1] = [action]
        ends = max(self._plan.experiment["duration_us"], self._now_us() + 1)
        self._plan.experiment["duration_us"] = ends
        save_plan(self._plan, self._run_dir / PLAN_FILE)

    def _tell_end(self) -> None:
        """The session's length is known only now; then the journal ends."""
        self._plan.experiment["duration_us"] = max(1, self._now_us())
        save_plan(self._plan, self._run_dir / PLAN_FILE)
        self._events.emit("end", detail={"reasons": self._reasons, "timings": {}})

    def _now_us(self) -> int:
        return round((self._events.now() or 0.0) * 1e6)

    def _failed(self, text: str) -> None:
        self._reasons.append({"kind": "error", "text": text})
        self._events.emit("error", detail={"message": text})

    def _later(self, stack: ExitStack, close: Callable[[], object]) -> None:
        def attempt() -> None:
            try:
                close()
            except Exception as error:  # the teardown goes on, whatever it is
                self._failed(str(error))

        stack.callback(attempt)


def shown_in_the_form(load: Mapping[str, Any]) -> list[str]:
    """The options whose values the page's form begins with: it shows what the command line has."""
    shown = {"rate_per_s": "--rate", "think_s": "--think", "stores": "--stores", "timeout_s": "--operation-timeout"}
    values = {option: load[name] for name, option in shown.items() if load[name] is not None}
    if isinstance(load["value_size"], int):  # else a mix, which the form has no word for
        values["--value-size"] = load["value_size"]
    return [word for option, value in values.items() for word in (option, repr(value))]


def _processes(count: int) -> list[str]:
    """A master with so many workers, which speak to each other on this machine alone."""
    host, port = "127.0.0.1", str(free_port("127.0.0.1"))
    master = ["--master-bind-host", host, "--master-bind-port", port, "--master-host", host, "--master-port", port]
    return ["--processes", str(count), *master]


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, as far as they live."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; one whose parent has not asked for its exit code has."""
    left = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def stores(run_dir: Path) -> int:
    """Stores that are recorded so far, in all tests: no more keys than these are to be read back."""
    import pyarrow as pa

    count = 0
    for path in (run_dir / OPERATIONS_DIR).glob("*.arrow"):
        ending = suppress(pa.ArrowException, OSError, StopIteration)  # its last batch may be on its way
        with ending, pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as rows:
            while True:
                count += rows.read_next_batch().column("kind").to_pylist().count("store")
    return count


def free_port(host: str, wanted: int = 0) -> int:
    """A port of this machine that nobody listens on: the one that is wanted, or any. Raises UsageError."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections of the last session's page are no matter
        try:
            probe.bind((host, wanted))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"--ui-port {wanted}: somebody listens on {host}:{wanted} already, such as another `kadstorm load --ui`; "
                    "take another port, or 0 for any"
                ) from error
            raise UsageError(f"--ui-host {host}, --ui-port {wanted}: cannot listen there: {error.strerror}") from error
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    """Whether somebody listens."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
