"""What Locust's page may ask of a cluster, over a Unix socket: its nodes, the faults in force, to inject and to heal.

The load runs in processes of its own (importing Locust monkey-patches them), so the page's panel speaks to whoever holds
the cluster by JSON lines, one question and one answer each:

    {"ask": "state"}                                   -> {"nodes": […], "faults": […], "kinds": […]}
    {"ask": "inject", "text": "partition: halves"}     -> {"name": "partition"} or {"error": "…"}
    {"ask": "heal", "name": "partition"}               -> {"name": "partition"} or {"error": "…"}

The socket's folder is the user's own (0700): whoever can open it may already end the cluster.
"""

from __future__ import annotations

import logging
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from harness import document, faults, injection
from harness.cluster import Cluster
from harness.errors import HarnessError, KadstormError, UsageError
from harness.events import Events
from harness.observation import Observation
from harness.records import Action

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


class ClusterPanel:
    """`Panel` over a cluster of this process. Every fault is journalled, and told to ``planned`` as an action."""

    def __init__(self, cluster: Cluster, events: Events, seed: int, planned: Callable[[int, Action], None]) -> None:
        self._cluster = cluster
        self._events = events
        self._seed = seed
        self._planned = planned
        self._lock = threading.Lock()  # one injection or heal at a time: each measures the network
        self._count = 0
        self._names: set[str] = set()  # of all faults that ever were: the report tells them apart by these
        self._in_force: dict[str, tuple[dict[str, Any], Action, int, AbstractContextManager[list[Observation]]]] = {}

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
        return [shown for shown, _, _, _ in list(self._in_force.values())]

    def inject(self, text: str) -> str:
        """See `Panel.inject`."""
        key, options = parse_fault(text)
        with self._lock:
            index, self._count = self._count, self._count + 1
            name = key if key not in self._names else f"{key}-{index + 1}"
            self._names.add(name)
            since = self._events.now() or 0.0
            action = Action(
                at_us=round(since * 1e6), until_us=None, fault=key, name=name, entry=10**6, targets=[], options=options
            )
            title: dict[str, Any] = {"name": name, "fault": key, "action": index}
            scope = injection.inject(self._cluster, key, seed=self._seed + index, **options)
            self._events.emit("inject", **title, asked=options)
            try:
                seen = scope.__enter__()
            except KadstormError as error:
                self._events.emit("error", **title, detail={"message": str(error)})
                self._planned(index, action)
                raise
            action.targets = [target for observation in seen for target in observation.targets]
            self._planned(index, action)
            self._events.emit("injected", **title, targets=action.targets)
            for observation in seen:
                self._events.emit("observe", **title, observed=observation.observed, effective=observation.effective)
            shown = {"name": name, "fault": key, "text": text, "since": since, "effective": True}
            self._in_force[name] = (shown, action, index, scope)
        return name

    def heal(self, name: str) -> None:
        """See `Panel.heal`."""
        with self._lock:
            found = self._in_force.pop(name, None)
            if found is None:
                raise UsageError(f"no fault `{name}` is in force{_listed(list(self._in_force))}")
            _, action, index, scope = found
            title: dict[str, Any] = {"name": name, "fault": action.fault, "action": index, "targets": action.targets}
            self._events.emit("heal", **title)
            try:
                scope.__exit__(None, None, None)
            except injection.InertFault as error:
                self._healed(title, action, index, {"message": str(error)}, effective=False)
                raise
            self._healed(title, action, index, {}, effective=True)

    def close(self) -> None:
        """Heal everything; the first failure is raised when all have been tried."""
        failures = []
        for name in list(self._in_force):
            try:
                self.heal(name)
            except KadstormError as error:
                failures.append(str(error))
        if failures:
            raise HarnessError("; ".join(failures))

    def _healed(
        self, title: dict[str, Any], action: Action, index: int, observed: dict[str, Any], *, effective: bool
    ) -> None:
        action.until_us = max(action.at_us + 1, round((self._events.now() or 0.0) * 1e6))
        self._planned(index, action)
        self._events.emit("healed", **title)
        self._events.emit("heal-observed", **title, observed=observed, effective=effective)


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
        return {"error": f"not a question: {question!r}"}
    except (KadstormError, msgspec.DecodeError) as error:
        return {"error": str(error)}
    except Exception as error:  # faults are extensions: theirs must not end the panel
        log.exception("the panel")
        return {"error": f"internal error, please report it: {error!r}"}
