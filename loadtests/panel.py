"""Kadstorm's panel in Locust's own page: nodes, faults in force, buttons to inject and heal, and what clients feel now.

It adds a script to the page that Locust serves, and three addresses that the script asks. They speak to whoever holds the
cluster over a Unix socket (harness/panel.py says how), and are refused to other sites' pages: a browser sends the header
that they require to no origin but its own, and a name that is not this server's is no host of it.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from flask import Flask, Response, jsonify, request
from locust.env import Environment

from loadtests.figures import Look, recent

HEADER = "X-Kadstorm-Panel"
SPAN = 5.0  # s that the figures look back
SCRIPT = "panel.js"
ANSWER_WITHIN = 60.0  # s; an injection is answered when its effect was measured

log = logging.getLogger("loadtests")


class SessionSilent(Exception):
    """The session that holds the cluster does not answer; the text says why."""


def ask(path: str, question: dict[str, str]) -> dict[str, Any]:
    """What the cluster's holder, at the socket ``path``, says to a question. Raises SessionSilent."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_WITHIN)
            connection.connect(path)
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as lines:
                said: dict[str, Any] = json.loads(lines.readline() or b'{"error": "the session has ended"}')
                return said
    except OSError as error:
        raise SessionSilent(f"the session does not answer: {error}") from error


class PanelPage:
    """Our part of Locust's page. ``path`` is the socket of the session whose panel it shows; empty: none. ``refusal`` says why
    a test cannot start with what stands in the form, or nothing."""

    def __init__(self, environment: Environment, path: str, refusal: Callable[[Mapping[str, str]], str]) -> None:
        self._environment = environment
        self._path = path
        self._refusal = refusal
        self._seen: deque[tuple[float, dict[str, Look]]] = deque()

    def attach(self, app: Flask, host: str) -> None:
        """Add the panel to Locust's page, which listens at ``host``."""
        self._host = host
        app.before_request(self._checked)
        if not self._path:
            return
        app.after_request(self._with_script)
        for rule, view, methods in (
            ("/kadstorm/panel.js", self._script, ["GET"]),
            ("/kadstorm/state", self._state, ["GET"]),
            ("/kadstorm/inject", self._inject, ["POST"]),
            ("/kadstorm/heal", self._heal, ["POST"]),
        ):
            app.add_url_rule(rule, f"kadstorm{rule}", view, methods=methods)

    def _checked(self) -> Response | None:
        """Locust swallows what it cannot use of the form, and starts all the same; its page shows this message instead."""
        if request.path.rpartition("/")[2] != "swarm" or not (why := self._refusal(request.form)):
            return None
        log.error("the test cannot start: %s", why)
        return jsonify({"success": False, "message": why, "host": self._environment.host})

    def _with_script(self, response: Response) -> Response:
        if request.path == "/" and response.mimetype == "text/html":
            response.direct_passthrough = False
            page = response.get_data(as_text=True)
            response.set_data(page.replace("</body>", '<script src="/kadstorm/panel.js"></script></body>', 1))
        return response

    def _script(self) -> Response:
        return Response(files("loadtests").joinpath(SCRIPT).read_text(), mimetype="text/javascript")

    def _state(self) -> Any:
        return self._refused() or jsonify({**self._ask({"ask": "state"}), "figures": self._figures()})

    def _inject(self) -> Any:
        return self._refused() or jsonify(self._ask({"ask": "inject", "text": self._sent("text")}))

    def _heal(self) -> Any:
        return self._refused() or jsonify(self._ask({"ask": "heal", "name": self._sent("name")}))

    @staticmethod
    def _sent(name: str) -> str:
        body = request.get_json(silent=True)
        return str(body.get(name, "")) if isinstance(body, dict) else ""

    def _refused(self) -> tuple[Response, int] | None:
        named = request.host.rpartition(":")[0].strip("[]") or request.host
        local = named in ("localhost", "127.0.0.1", "::1", self._host) or self._host in ("0.0.0.0", "::")  # noqa: S104
        if request.headers.get(HEADER) == "1" and local:
            return None
        return jsonify({"error": "this is for Kadstorm's own panel only"}), 403

    def _ask(self, question: dict[str, str]) -> dict[str, Any]:
        """What the cluster's holder says; ``error`` if it cannot be asked."""
        try:
            return ask(self._path, question)
        except SessionSilent as error:
            return {"error": str(error)}

    def _figures(self) -> dict[str, Any]:
        """What became of the operations of the last SPAN seconds, from Locust's own statistics."""
        now = time.monotonic()
        looks = {kind: self._look(kind) for kind in ("lookup", "store")}
        if self._seen and any(looks[kind].count < self._seen[-1][1][kind].count for kind in looks):
            self._seen.clear()  # another test has begun
        self._seen.append((now, looks))
        while self._seen[0][0] < now - SPAN:
            self._seen.popleft()
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        return {kind: recent(before[kind], after[kind], now - then) for kind in looks}

    def _look(self, kind: str) -> Look:
        entry = self._environment.stats.get("load", kind)
        return Look(entry.num_requests, entry.num_failures, dict(entry.response_times))
