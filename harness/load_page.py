"""`kadstorm load --ui`: a cluster, Locust's own page in front of it, and Kadstorm's panel in that.

People start and stop the load, inject faults and heal them. All is recorded as in a run: rows of every test that was
started, on one clock; a journal; and a plan that grows with each fault, so that the session has a report in the end, and
what was done by hand can be played again.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import msgspec

from harness import registry
from harness.boot import boot
from harness.cleanup import tidy_session
from harness.environment import environment
from harness.errors import KadstormError, LoadFailed, UsageError
from harness.events import Events
from harness.interrupt import Interrupt, Interrupted
from harness.journal import Journal
from harness.links import Topology
from harness.load_options import worker_options
from harness.loading import client_site
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
END_WITHIN = 60.0  # s for it to drain, to read the keys back, to write, and to end
LOOK_EVERY = 0.1  # s


class Page:
    """One session with a page, from an empty run folder to its journal's end."""

    def __init__(
        self, plan: Plan, run_dir: Path, text: str, toxiproxy: Path, interrupt: Interrupt, host: str, port: int
    ) -> None:
        self._plan, self._run_dir, self._text = plan, run_dir, text
        self._toxiproxy, self._interrupt = toxiproxy, interrupt
        self._host, self._port = host, port or free_port(host)
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
            self._command(session, server.path, zero, booted.cluster.topology),
            name="locust", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._run_dir / LOAD_LOGS_DIR / LOG,
        )  # fmt: skip
        stack.callback(self._end_locust, locust)
        self._later(stack, panel.close)  # before Locust ends, which reads the keys back
        self._await_page(locust)
        tell(f"Locust's page, with Kadstorm's panel: http://{self._host}:{self._port}/ (Ctrl-C ends the session)")
        self._events.emit("phase", name="load")
        while locust.poll() is None:
            self._interrupt.sleep(LOOK_EVERY * 3)
        self._interrupt.check()  # a Ctrl-C may have reached Locust before us
        raise LoadFailed(f"Locust ended: {describe_exit(locust.returncode)}\n{tail(self._log)}")

    def _command(self, session: Session, panel: Path, zero: float, topology: Topology) -> list[str]:
        load = self._plan.experiment["load"]
        config = self._run_dir / LOAD_LOGS_DIR / "page.json"
        sites = [client_site(topology, name) for name in load.get("sites", [])]
        config.write_bytes(msgspec.json.encode({"load": worker_options(load), "sites": sites}))
        gateways = ",".join(f"{name}={session.host}:{topology.port_of(name)}" for name in topology.names)
        found = find_spec("loadtests")
        assert found is not None
        assert found.submodule_search_locations
        locustfile = Path(found.submodule_search_locations[0]) / "locustfile.py"
        client = registry.target(self._plan.experiment["cluster"]["target"]).load_client
        command = [sys.executable, "-P", "-m", "locust", "-f", str(locustfile), "-H", gateways]
        command += ["--web-host", self._host, "--web-port", str(self._port), "--load-config", str(config)]
        command += ["--cluster-id", session.cluster_id, "--client", client, "--seed", str(self._plan.seed)]
        command += ["--operations", str((self._run_dir / OPERATIONS_DIR).resolve()), "--clock", repr(zero)]
        command += ["--panel", str(panel), "--read-back"]
        if load["rate_per_1000s"] is not None:  # the page's form shows what the command line has
            command += ["--rate", f"{load['rate_per_1000s'] / 1000:g}"]
        return command + (["--processes", str(load["processes"])] if load["processes"] > 1 else [])

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

    def _end_locust(self, locust: subprocess.Popen[bytes]) -> None:
        self._events.emit("load", name="stopped", detail={"why": "the session ended"})
        locust.terminate()
        try:
            locust.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            locust.kill()
            locust.wait()
            self._failed(f"Locust did not end within {END_WITHIN:g} s, and was killed: rows may be missing")

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


def free_port(host: str) -> int:
    """A port of this machine that nobody listens on. Raises UsageError if there is no such address."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise UsageError(f"--ui-host {host}: cannot listen there: {error.strerror}") from error
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    """Whether somebody listens."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
