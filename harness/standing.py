"""A cluster that stays: the supervisor behind `kadstorm up`, a process of its own in the background.

It is the parent of all nodes and holds the session's lease, like a run in the foreground; what is new is that its actions come
from outside, over a Unix socket in the session's folder (mode 0600: only its owner may connect). One line of JSON is a request,
one or more lines are its answer, and the last of them has `done`: an exit code. Requests are served side by side, so that
two terminals may talk at once; every fault goes through one player, which journals it as in a run.

It ends in order on `down`, on SIGTERM (as `kadstorm cleanup --all` sends it), and when its time (`--ttl`) is up. Started as
`python -m harness.standing`; its configuration is one line of JSON on standard input, its progress lines of JSON on standard
output until it is ready.
"""

from __future__ import annotations

import json
import os
import queue
import random
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from harness import faults
from harness.boot import Booted, boot
from harness.cleanup import tidy_session
from harness.errors import KadstormError, LoadFailed, UsageError
from harness.events import Consumer, Events
from harness.faults import Entry, Fault
from harness.injection import checked_options
from harness.interrupt import Interrupt, Interrupted
from harness.journal import Journal
from harness.live import told
from harness.liveworld import LiveWorld
from harness.plan import load_plan, save_plan
from harness.player import ActionRun, Player
from harness.records import EVENTS_FILE, PLAN_FILE, Event, Plan
from harness.session import SOCKET, Session, state_dir
from harness.visit import Visit

AHEAD = 1.0  # s between the request of a fault and its injection: the value before it is measured meanwhile
ANSWER = 60.0  # s that an effect, or its end, is waited for
LAST_WORDS = 30.0  # s for a load to end and to write what it has
LONGEST_PATH = 100  # bytes of a Unix socket's path

Tell = Callable[[dict[str, Any]], None]


class Down(KadstormError):
    """Somebody asked the session to end, or its time is up."""

    exit_code = 0


def address_of(path: Path) -> str:
    """Where to bind or connect: the path, or a short way to it for one that is longer than a socket's may be (Linux)."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return str(path)
    return f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)}/{path.name}"


class Standing:
    """One session that stays. `serve` returns when it has ended."""

    def __init__(self, plan: Plan, booted: Booted, session: Session, run_dir: Path, events: Events, ttl: float) -> None:
        self.plan, self.cluster, self.session, self.run_dir = plan, booted.cluster, session, run_dir
        self.booted, self._events, self._ttl = booted, events, ttl
        self._asked_down = threading.Event()
        self._ending = threading.Event()
        self._consumers: list[Consumer] = []
        self._last_seen: dict[int, Event] = {}
        self._visits: set[threading.Thread] = set()
        self._seeds: set[int] = set()  # of the loads so far: their keys are there
        self._offered: set[int] = set()  # to loads that are about to be asked for
        self._naming = threading.Lock()
        self._entries: dict[str, list[ActionRun]] = {}
        self.player = Player(self.cluster, events, [], faults.get, plan.seed, check=self._check)
        self._interrupt = Interrupt()
        events.subscribe(self._note)

    def serve(self, interrupt: Interrupt) -> str:
        """Play what is asked for until the end; why it ended."""
        self._interrupt = interrupt
        self.zero = time.monotonic()
        self._events.start_clock(self.zero)
        self._events.emit("clock")
        try:
            self.player.play(self.zero, self._ttl)
        except (Down, Interrupted) as error:
            return str(error)
        return "its time was up"

    def _check(self) -> None:
        self._interrupt.check()
        if self._asked_down.is_set():
            raise Down("it was asked to end")

    def subscribe(self, consumer: Consumer) -> None:
        """Tell ``consumer`` what happens from now on."""
        self._consumers.append(consumer)

    def unsubscribe(self, consumer: Consumer) -> None:
        """Tell it no more."""
        self._consumers.remove(consumer)

    def last_seen(self, action: int) -> Event | None:
        """The last time that the effect of an action was measured."""
        return self._last_seen.get(action)

    def end_visits(self) -> None:
        """End every load; returns when their records are complete."""
        self._ending.set()
        for thread in list(self._visits):
            thread.join(LAST_WORDS)

    @contextmanager
    def _listening(self) -> Iterator[queue.SimpleQueue[Event]]:
        """What happens from now on, in order."""
        heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.subscribe(heard.put)
        try:
            yield heard
        finally:
            self.unsubscribe(heard.put)

    def _note(self, event: Event) -> None:
        if event.event == "observe" and event.action is not None:
            self._last_seen[event.action] = event
        for consumer in list(self._consumers):
            consumer(event)

    # --- requests --------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any], tell: Tell, gone: Callable[[], bool] = lambda: False) -> int:
        """Do what a request asks; the exit code. ``gone``: whether nobody waits for it any more. Raises KadstormError."""
        handlers: dict[str, Callable[[dict[str, Any], Tell], int]] = {
            "status": self._status,
            "inject": self._inject,
            "heal": self._heal,
            "seed": self._offer_seed,
            "load": lambda request, tell: self._load(request, tell, gone),
            "down": self._down,
        }
        handler = handlers.get(str(request.get("do")))
        if handler is None:
            raise UsageError(f"no request `{request.get('do')}`; there are: {', '.join(handlers)}")
        return handler(request, tell)

    def _status(self, request: dict[str, Any], tell: Tell) -> int:
        members = self.cluster.members
        joined = [name for name in members.names() if members.joined(name)]
        tell(
            {
                "session": self.session.id,
                "pid": os.getpid(),
                "run_dir": str(self.run_dir),
                "backend": self.plan.experiment["cluster"]["backend"],
                "target": self.plan.experiment["cluster"]["target"],
                "cluster": self.session.cluster_id,
                "seed": self.plan.seed,
                "loads": len(self._visits),
                "ends_in_s": round(max(0.0, self._ttl - (time.monotonic() - self.zero)), 1),
                "members": {name: members.process_state(name) for name in joined},
                "spare": len(members.names()) - len(joined),
                "gateways": [
                    dict(zip(("name", "host", "port"), (name, *address.dial), strict=True))
                    for name, address in self.cluster.addresses.items()
                    if name in members.initial()
                ],
                "faults": list(self._in_force()),
                "toxiproxy_gaps_s": [gap.seconds for gap in self.booted.keeper.gaps],
            }
        )
        return 0

    def _in_force(self) -> Iterator[dict[str, Any]]:
        for name, runs in list(self._entries.items()):
            active = [run for run in runs if run.state in ("active", "failed")]
            planned = [run for run in runs if run.state == "planned"]
            if active or planned:
                ends = [run.action.until_us for run in runs]
                until = None if None in ends else max(end or 0 for end in ends) / 1e6
                targets = dict.fromkeys(target for run in active for target in run.action.targets)
                yield {
                    "name": name,
                    "fault": runs[0].action.fault,
                    "targets": list(targets),
                    "ends_in_s": None if until is None else round(self.zero + until - time.monotonic(), 1),
                }

    def _inject(self, request: dict[str, Any], tell: Tell) -> int:
        fault = faults.get(str(request.get("fault")))
        options = checked_options(fault, dict(request.get("options") or {}))
        lasts = request.get("for_us")
        if fault.lasts == "required" and lasts is None:
            raise UsageError(f"{fault.key} needs --for: how long it lasts")
        if fault.lasts == "refused" and lasts is not None:
            raise UsageError(f"{fault.key} takes no --for")
        with self._listening() as heard:
            with self._naming:  # two terminals plan one after the other, each on what the other has left
                name = self._free_name(request.get("name"), fault.key)
                runs = self._add(fault, name, options, lasts)
            tell(
                {"name": name, "targets": list(dict.fromkeys(target for run in runs for target in run.action.targets))}
            )
            return self._observed(heard, runs[:1], ("observe",), tell)

    def _add(self, fault: Fault, name: str, options: dict[str, Any], lasts: Any) -> list[ActionRun]:
        at = round((time.monotonic() - self.zero + AHEAD) * 1e6)
        entry = Entry(len(self._entries), name, at, None if lasts is None else at + int(lasts))
        rng = random.Random(f"{self.plan.seed}/by-hand/{entry.index}")
        actions = fault.plan(options, entry, LiveWorld(self.cluster), rng)
        if not actions or not all(fault.effects(action, self.cluster.topology) for action in actions):
            raise UsageError(f"{fault.key} would do nothing: nobody that it selects is there")
        self._entries[name] = runs = self.player.add(sorted(actions, key=lambda action: action.at_us))
        return runs

    def _free_name(self, asked: object, key: str) -> str:
        if asked is not None:
            if str(asked) in self._entries:
                raise UsageError(f"the name {asked!r} is taken by a fault of this session")
            return str(asked)
        number, name = 2, key
        while name in self._entries:
            number, name = number + 1, f"{key}-{number}"
        return name

    def _heal(self, request: dict[str, Any], tell: Tell) -> int:
        name = request.get("name")
        if name is not None and name not in self._entries:
            there = ", ".join(self._entries) or "none yet"
            raise UsageError(f"no fault `{name}` in this session; there are: {there}")
        chosen = [run for key, runs in list(self._entries.items()) for run in runs if name in (None, key)]
        due = [run for run in chosen if run.state in ("active", "failed") and (name or run.fault.lasts != "refused")]
        self.player.heal_now([run for run in chosen if run.state == "planned"])
        if not due:
            tell({"said": "nothing is in force that could be taken back"})
            return 0
        with self._listening() as heard:
            self.player.heal_now(due)
            return self._observed(heard, due, ("heal-observed",), tell)

    def _observed(
        self, heard: queue.SimpleQueue[Event], runs: Sequence[ActionRun], kinds: Sequence[str], tell: Tell
    ) -> int:
        """Tell what is measured of these actions as it comes; 4 if an effect was not there, 1 if it did not end."""
        waiting = {run.index for run in runs}
        code, deadline = 0, time.monotonic() + ANSWER
        while waiting and (left := deadline - time.monotonic()) > 0:
            try:
                event = heard.get(timeout=left)
            except queue.Empty:
                break
            if event.action in waiting and event.event in (*kinds, "error", "skipped"):
                waiting.discard(event.action)
                code = max(code, self._tell_observed(event, tell))
        if waiting:
            tell({"said": f"not observed within {ANSWER:g} s"})
        return 4 if waiting else code

    @staticmethod
    def _tell_observed(event: Event, tell: Tell) -> int:
        effective = event.effective if isinstance(event.effective, bool) else None
        told = {"event": event.event, "name": event.name, "effective": effective, "observed": event.observed}
        tell({**told, **event.detail})
        if event.event == "error":
            return 3
        return 0 if effective is not False else 1 if event.event == "heal-observed" else 4

    def _offer_seed(self, request: dict[str, Any], tell: Tell) -> int:
        """Tell a seed that no load of this session has, nor will have but the one that is asked for with it."""
        with self._naming:
            seed = next(seed for seed in count(self.plan.seed + 1) if seed not in self._seeds | self._offered)
            self._offered.add(seed)
        tell({"seed": seed})
        return 0

    def _take_seed(self, seed: int, *, offered: bool) -> None:
        with self._naming:
            if not (offered and seed in self._offered) and seed in self._seeds | self._offered:
                raise UsageError(f"--seed {seed}: a load with this seed has stored its keys in this session already")
            self._offered.discard(seed)
            self._seeds.add(seed)

    def _load(self, request: dict[str, Any], tell: Tell, gone: Callable[[], bool]) -> int:
        """Run the load of the plan in the folder that the asking command made."""
        run_dir = Path(str(request["run_dir"]))
        self._take_seed(int(request["seed"]), offered=bool(request.get("offered")))

        def check() -> None:
            if gone():
                raise Interrupted("interrupted by whoever asked for this load")
            if self._ending.is_set():
                raise LoadFailed(f"the session {self.session.id} ended")

        thread = threading.current_thread()
        self._visits.add(thread)
        try:
            Visit(self, run_dir, tell, check).run()
        finally:
            self._visits.discard(thread)
        return 0

    def _down(self, request: dict[str, Any], tell: Tell) -> int:
        tell({"said": "ending"})
        self._asked_down.set()
        return 0


class _Server(socketserver.ThreadingUnixStreamServer):
    """Serves requests to one standing session."""

    daemon_threads = True

    def __init__(self, path: Path, standing: Standing) -> None:
        self.standing = standing
        before = os.umask(0o177)  # the socket is made with mode 0600, not changed to it later
        try:
            super().__init__(address_of(path), _Request)
        finally:
            os.umask(before)


class _Request(socketserver.StreamRequestHandler):
    """One connection: one request."""

    def handle(self) -> None:
        assert isinstance(self.server, _Server)

        def tell(line: dict[str, Any]) -> None:
            self.wfile.write(json.dumps(line).encode() + b"\n")

        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone; what was asked goes on
            try:
                request = json.loads(self.rfile.readline())
                code = self.server.standing.answer(request, tell, self._has_gone)
            except KadstormError as error:
                tell({"error": str(error), "done": error.exit_code})
            except ValueError as error:
                tell({"error": f"not a request: {error}", "done": 2})
            else:
                tell({"done": code})

    def _has_gone(self) -> bool:
        """Whether the other side has left: it says nothing after its one request."""
        return bool(select.select([self.connection], [], [], 0)[0])


# --- the process ----------------------------------------------------------------------------------------------------


def supervise(config: dict[str, Any], tell: Tell, interrupt: Interrupt) -> None:
    """Boot, serve, tear down. Raises KadstormError if it could not boot."""
    run_dir, plan = Path(config["run_dir"]), load_plan(Path(config["run_dir"]) / PLAN_FILE)
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(run_dir / EVENTS_FILE)))
        session = stack.enter_context(tidy_session(run_dir))
        events = Events(journal.write)
        events.subscribe(lambda event: _tell_progress(event, tell))
        events.emit("session", name=plan.experiment["name"], detail={"id": session.id, "seed": plan.seed})
        tell({"session": session.id, "said": f"starting {plan.experiment['cluster']['nodes']} nodes"})
        booted = boot(
            plan, session, run_dir, Path(config["toxiproxy"]), events,
            lambda _, close: stack.callback(close), interrupt.check,
        )  # fmt: skip
        events.emit("ready", detail={"nodes": len(booted.cluster.members.initial())})
        standing = Standing(plan, booted, session, run_dir, events, config["ttl_s"])
        stack.callback(_write_plan, standing)
        stack.callback(standing.player.close)
        stack.callback(standing.player.heal_all)
        path = state_dir() / "sessions" / session.id / SOCKET
        server = _Server(path, standing)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        stack.callback(server.shutdown)
        stack.callback(standing.end_visits)
        standing.zero = time.monotonic()
        thread.start()
        tell({"ready": session.id, "links": len(booted.cluster.topology.links)})
        why = standing.serve(interrupt)
        events.emit("end", detail={"reasons": [{"kind": "interrupted", "text": why}]})


def _tell_progress(event: Event, tell: Tell) -> None:
    """To `up`, until the session is ready: what has happened, and a line for people where a run would print one."""
    line = told(event)
    tell({"event": event.event, "name": event.name} | ({} if line is None else {"said": line}))


def _write_plan(standing: Standing) -> None:
    """The plan with all that was done by hand, so that the folder says it."""
    standing.plan.actions = [run.action for run in standing.player.runs]
    save_plan(standing.plan, standing.run_dir / PLAN_FILE)


def send(path: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Ask a standing session; the lines of its answer as they come. Raises OSError if nobody listens there."""
    with Conversation(path, request) as conversation:
        yield from conversation


class Conversation:
    """One request to a standing session, and its answer: an iterator over lines, as they come."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        """Raises OSError if nobody listens there."""
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.connect(address_of(path))
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            self._connection.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def leave(self) -> None:
        """Let the other side know that the answer is not waited for any more; what it still says can be read."""
        with suppress(OSError):  # it has gone by itself
            self._connection.shutdown(socket.SHUT_WR)


def main() -> None:
    """See the module."""
    config = json.loads(sys.stdin.readline())
    listening = True

    def tell(line: dict[str, Any]) -> None:
        nonlocal listening
        if listening:
            try:
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
            except OSError:  # `up` has gone: nobody reads the progress any more
                listening = False
        listening = listening and "ready" not in line

    with Interrupt().installed() as interrupt:
        try:
            supervise(config, tell, interrupt)
        except KadstormError as error:
            listening = True
            tell({"error": str(error), "done": error.exit_code})
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
