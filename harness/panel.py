"""What Locust's page may ask of a cluster, over a Unix socket: its nodes, the faults in force, to inject and to heal.

The load runs in processes of its own (importing Locust monkey-patches them), so the page's panel speaks to whoever holds
the cluster by JSON lines, one question and one answer each:

    {"ask": "state"}                                   -> {"nodes": […], "faults": […], "kinds": […]}
    {"ask": "inject", "text": "partition: halves"}     -> {"name": "partition"} or {"error": "…"}
    {"ask": "heal", "name": "partition"}               -> {"name": "partition"} or {"error": "…"}
    {"ask": "lost", "worker": "load-1", "text": "…"}   -> {}: a worker of the load has ended unasked

The socket's folder is the user's own (0700): whoever can open it may already end the cluster.
"""

from __future__ import annotations

import logging
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from harness import document, faults, injection
from harness.cluster import Cluster
from harness.errors import HarnessError, KadstormError, UsageError
from harness.events import Events
from harness.faults import Entry, Fault
from harness.observation import Observation
from harness.probe import ActionProbe
from harness.records import Action

BY_HAND = 10**6  # where an experiment's timeline has entries: none has so many

log = logging.getLogger("harness")


class Panel(Protocol):
    """What the page needs of a cluster, wherever that lives. Methods raise KadstormError."""

    def nodes(self) -> list[dict[str, Any]]:
        """Each node's ``name``, ``site`` and ``state`` (up or down)."""
        ...

    def faults(self) -> list[dict[str, Any]]:
        """Each fault in force: ``name``, ``fault``, ``text`` as it was asked for, ``since`` (s since the clock started)."""
        ...

    def inject(self, text: str) -> str:
        """Have a fault in force, written as in a timeline (``partition: halves``), until it is healed; its name."""
        ...

    def heal(self, name: str) -> None:
        """Take a fault back."""
        ...

    def lost(self, worker: str, text: str) -> None:
        """Hear that a worker of the load has ended unasked, and what is known of it."""
        ...


@dataclass
class _Fault:
    """One fault, from the moment that it is begun: its actions, which stand in the plan from ``first`` on."""

    name: str
    text: str
    fault: Fault
    actions: list[Action]
    before: list[Any]
    first: int

    def titles(self) -> Iterator[tuple[Action, dict[str, Any]]]:
        """Each action, with what its events carry."""
        for index, action in enumerate(self.actions, self.first):
            title = {"name": self.name, "fault": self.fault.key, "action": index, "targets": action.targets}
            yield action, title


class ClusterPanel:
    """`Panel` over a cluster of this process. Every fault is journalled, and its actions are told to ``planned``, resolved, as
    they are in a plan. What is refused has left no trace; what failed was in force for a moment, without effect."""

    def __init__(self, cluster: Cluster, events: Events, seed: int, planned: Callable[[int, Action], None]) -> None:
        self._cluster = cluster
        self._events = events
        self._seed = seed
        self._planned = planned
        self._lock = threading.Lock()  # one injection or heal at a time: each measures the network
        self._closing = False
        self._count = 0  # actions so far
        self._names: set[str] = set()  # of all faults that ever were: the report tells them apart by these
        self._in_force: dict[str, _Fault] = {}

    def nodes(self) -> list[dict[str, Any]]:
        """See `Panel.nodes`."""
        down = self._cluster.members.unresponsive()
        site_of = self._cluster.topology.site_of
        return [
            {"name": name, "site": site_of(name), "state": "down" if name in down else "up"}
            for name in self._cluster.members.names()
        ]

    def faults(self) -> list[dict[str, Any]]:
        """See `Panel.faults`."""
        return [
            {"name": one.name, "fault": one.fault.key, "text": one.text, "since": one.actions[0].at_us / 1e6}
            for one in list(self._in_force.values())
        ]

    def inject(self, text: str) -> str:
        """See `Panel.inject`."""
        with self._lock:
            if self._closing:
                raise UsageError("the session is ending: nothing is injected any more")
            one = self._prepared(text)
            self._begin(one)
            try:
                seen = self._put_in_force(one)
            except Exception as error:  # faults are extensions, too
                self._undo(one, error)
                raise
            self._tell(one, "observe", seen)
            if not all(each.effective is not False for each in seen):
                self._take_back(one)
                injection.require(seen, f"{one.fault.key} had no effect")
        return one.name

    def heal(self, name: str) -> None:
        """See `Panel.heal`."""
        with self._lock:
            one = self._in_force.get(name)
            if one is None:
                raise UsageError(f"no fault `{name}` is in force{_listed(list(self._in_force))}")
            after = self._take_back(one)
            injection.require(after, f"{one.fault.key} is still felt after its heal")

    def lost(self, worker: str, text: str) -> None:
        """See `Panel.lost`."""
        self._events.emit("worker-exit", name=worker, detail={"exit": text})

    def close(self) -> None:
        """Heal everything, and inject nothing more; the first failure is raised when all have been tried."""
        with self._lock:
            self._closing = True
        failures = []
        for name in list(self._in_force):
            try:
                self.heal(name)
            except Exception as error:  # the others are healed all the same
                failures.append(str(error))
        if failures:
            raise HarnessError("; ".join(failures))

    # --- one fault's life, under the lock ---------------------------------------------------------

    def _prepared(self, text: str) -> _Fault:
        """A fault that can be had; nothing is in force of it. Raises UsageError."""
        key, options = parse_fault(text)
        fault, name = faults.get(key), self._free_name(key)
        if fault.lasts == "required":
            raise UsageError(f"{key} needs a timeline: write it into an experiment")
        seed = self._seed + self._count
        actions = injection.planned(fault, options, self._cluster, Entry(BY_HAND, name, 0, None), seed)
        if not actions or not all(fault.effects(action, self._cluster.topology) for action in actions):
            raise UsageError(f"{key} would do nothing: nobody that it selects is there")
        before = [fault.measure_before(action, self._probe()) for action in actions]
        return _Fault(name, text, fault, actions, before, self._count)

    def _begin(self, one: _Fault) -> None:
        """It has a name and a place in the plan, and can be healed from now on."""
        now = self._now_us()
        self._count += len(one.actions)
        self._names.add(one.name)
        for action, title in one.titles():
            action.at_us, action.until_us = now, None  # in force at once, all of it, until it is healed
            self._planned(title["action"], action)
            self._events.emit("inject", **title, asked=action.options)
        self._in_force[one.name] = one

    def _put_in_force(self, one: _Fault) -> list[Observation]:
        for action, title in one.titles():
            self._cluster.enforce(_key(title), one.fault.effects(action, self._cluster.topology))
            self._events.emit("injected", **title)
        return [
            one.fault.observe(action, self._probe(), was) for action, was in zip(one.actions, one.before, strict=True)
        ]

    def _undo(self, one: _Fault, error: Exception) -> None:
        """Take back what could not be put in force. If that fails as well, it stays among the faults that can be healed."""
        said = str(error) if isinstance(error, KadstormError) else repr(error)
        self._tell(
            one, "observe", [Observation(dict.fromkeys(a.targets, False), {"message": said}) for a in one.actions]
        )
        try:
            self._take_back(one)
        except Exception:
            log.exception("taking back %s", one.name)

    def _take_back(self, one: _Fault) -> list[Observation]:
        """Release it, and measure that it has ended; it is forgotten only when it is not in force any more."""
        for _, title in one.titles():
            self._events.emit("heal", **title)
        for _, title in one.titles():
            self._cluster.release(_key(title))
        del self._in_force[one.name]
        for action, title in one.titles():
            action.until_us = max(action.at_us + 1, self._now_us())
            self._planned(title["action"], action)
            self._events.emit("healed", **title)
        after = [
            one.fault.observe_healed(action, self._probe(), was)
            for action, was in zip(one.actions, one.before, strict=True)
        ]
        self._tell(one, "heal-observed", after)
        return after

    def _tell(self, one: _Fault, event: str, seen: Sequence[Observation]) -> None:
        for (action, title), each in zip(one.titles(), seen, strict=True):
            missed = [name for name, effective in each.targets.items() if effective is False]
            self._events.emit(
                event, **title, asked=action.options, observed=each.observed, effective=each.effective,
                detail={"missed": missed} if missed else {},
            )  # fmt: skip

    def _probe(self) -> ActionProbe:
        return injection.probe(self._cluster, self._seed + self._count)

    def _free_name(self, key: str) -> str:
        number, name = 2, key
        while name in self._names:
            number, name = number + 1, f"{key}-{number}"
        return name

    def _now_us(self) -> int:
        return round((self._events.now() or 0.0) * 1e6)


def _key(title: Mapping[str, Any]) -> tuple[str, int]:
    """What the cluster has an action's effects under."""
    return "panel", title["action"]


def parse_fault(text: str) -> tuple[str, dict[str, Any]]:
    """A fault as in a timeline: ``partition``, ``partition: halves``, ``latency: {latency: 200ms, from: node-0}``.

    Raises:
        UsageError: it is none; the text says what is expected.
    """
    try:
        data = document.parse(text, "fault").data
    except KadstormError as error:
        raise UsageError(str(error)) from error
    written = {data: None} if isinstance(data, str) else data
    if not isinstance(written, dict) or len(written) != 1:
        raise UsageError(f"one fault is expected, such as `partition: halves`; not {text!r}")
    [(key, value)] = written.items()
    shorthand = faults.get(key).shorthand
    if shorthand and isinstance(value, str):
        value = {shorthand: value}
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"`{key}`: its options are expected, such as `latency: {{latency: 200ms}}`; not {value!r}")
    return key, dict(value or {})


def _listed(names: list[str]) -> str:
    return f"; there are: {', '.join(names)}" if names else "; there is none"


# --- the socket -------------------------------------------------------------------------------------------------------


class PanelServer:
    """Answers for a `Panel` on a Unix socket of its own, each connection in a thread of its own."""

    def __init__(self, panel: Panel) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kadstorm-panel-"))
        self.path = self._folder / "panel.sock"
        handler = type("Handler", (_Handler,), {"panel": panel})
        self._server = _Server(str(self.path), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="kadstorm-panel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and remove the socket."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Handler(socketserver.StreamRequestHandler):
    panel: Panel

    def handle(self) -> None:
        for line in self.rfile:
            try:
                self.wfile.write(msgspec.json.encode(answer(self.panel, line)) + b"\n")
            except BrokenPipeError:
                return


def answer(panel: Panel, line: bytes) -> Mapping[str, Any]:
    """One question's answer; whatever is wrong with it comes back as ``error``."""
    try:
        question = msgspec.json.decode(line, type=dict[str, Any])
        match question:
            case {"ask": "state"}:
                kinds = [{"key": key, "summary": faults.get(key).summary} for key in faults.names()]
                return {"nodes": panel.nodes(), "faults": panel.faults(), "kinds": kinds}
            case {"ask": "inject", "text": str(text)}:
                return {"name": panel.inject(text)}
            case {"ask": "heal", "name": str(name)}:
                panel.heal(name)
                return {"name": name}
            case {"ask": "lost", "worker": str(worker), "text": str(text)}:
                panel.lost(worker, text)
                return {}
        return {"error": f"not a question: {question!r}"}
    except (KadstormError, msgspec.DecodeError) as error:
        return {"error": str(error)}
    except Exception as error:  # faults are extensions: theirs must not end the panel
        log.exception("the panel")
        return {"error": f"internal error, please report it: {error!r}"}
