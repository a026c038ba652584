"""Kadstorm's panel in Locust's own page: nodes, faults in force, buttons to inject and heal, and what clients feel now.

It adds a script to the page that Locust serves, and three addresses that the script asks. They speak to whoever holds the
cluster over a Unix socket (harness/panel.py says how), and are refused to other sites' pages: a browser sends the header
that they require to no origin but its own, and a name that is not this server's is no host of it.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from importlib.resources import files
from typing import Any

from flask import Flask, Response, jsonify, request
from locust.env import Environment

HEADER = "X-Kadstorm-Panel"
SPAN = 5.0  # s that the figures look back
SCRIPT = "panel.js"
ANSWER_WITHIN = 60.0  # s; an injection is answered when its effect was measured


class PanelPage:
    """The panel of one Locust page."""

    def __init__(self, environment: Environment, path: str) -> None:
        self._environment = environment
        self._path = path
        self._seen: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    def attach(self, app: Flask, host: str) -> None:
        """Add the panel to Locust's page, which listens at ``host``."""
        self._host = host
        app.after_request(self._with_script)
        for rule, view, methods in (
            ("/kadstorm/panel.js", self._script, ["GET"]),
            ("/kadstorm/state", self._state, ["GET"]),
            ("/kadstorm/inject", self._inject, ["POST"]),
            ("/kadstorm/heal", self._heal, ["POST"]),
        ):
            app.add_url_rule(rule, f"kadstorm{rule}", view, methods=methods)

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
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_WITHIN)
                connection.connect(self._path)
                connection.sendall(json.dumps(question).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    said: dict[str, Any] = json.loads(lines.readline() or b'{"error": "the session has ended"}')
                    return said
        except OSError as error:
            return {"error": f"the session does not answer: {error}"}

    def _figures(self) -> dict[str, Any]:
        """What became of the operations of the last SPAN seconds, from Locust's own statistics."""
        now = time.monotonic()
        stats = self._environment.stats
        counts = {
            kind: (stats.get("load", kind).num_requests, stats.get("load", kind).num_failures)
            for kind in ("lookup", "store")
        }
        if self._seen and any(counts[kind][0] < self._seen[-1][1][kind][0] for kind in counts):
            self._seen.clear()  # another test has begun
        self._seen.append((now, counts))
        while self._seen[0][0] < now - SPAN:
            self._seen.popleft()
        return {kind: self._recent(kind) for kind in counts}

    def _recent(self, kind: str) -> dict[str, Any]:
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        count, failed = (after[kind][part] - before[kind][part] for part in (0, 1))
        entry = self._environment.stats.get("load", kind)
        return {
            "count": count,
            "rate": count / (now - then) if now > then else 0.0,
            "success": 1 - failed / count if count else None,
            "p50_ms": entry.get_current_response_time_percentile(0.5),
            "p99_ms": entry.get_current_response_time_percentile(0.99),
        }
