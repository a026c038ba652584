"""One load worker under the runner: Locust as a library, driven by JSON lines on standard input.

| command | what happens | what it answers |
|---|---|---|
| (start) | Locust is ready, nothing is sent | ``up`` |
| ``preload`` | the first keys are stored | ``preloaded`` |
| ``start`` with ``clock`` | users begin at that monotonic time | ``started``, ``stats`` twice a second, ``drained`` |
| ``readback`` with ``gateways`` | every acknowledged key is asked for again | ``readback`` |
| ``stop`` | no further arrivals | ``drained`` |
| ``quit``, or end-of-file | rows are written, the process ends | ``bye`` |

Whatever goes wrong is told as ``error``, and the exit code is 1 (2 for a wrong configuration).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.fileobject import FileObject
from locust.env import Environment

from loadtests.session import LoadSession, WorkerConfig
from loadtests.users import SESSION, ClosedUser, OpenUser

STATS_EVERY = 0.5  # s
SPAWN_RATE = 100  # users a second


def say(event: str, **fields: Any) -> None:
    """One line on standard output, in one write."""
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def main(argv: list[str]) -> int:
    """Run one worker from its configuration file; the exit code."""
    try:
        config = msgspec.json.decode(Path(argv[0]).read_bytes(), type=WorkerConfig)
        module, _, name = config.client.partition(":")
        client_class = getattr(importlib.import_module(module), name)
    except (OSError, IndexError, msgspec.DecodeError, ImportError, AttributeError) as error:
        say("error", message=f"wrong configuration: {error}")
        return 2
    try:
        return Worker(config, client_class).run()
    except OSError as error:
        say("error", message=f"{config.operations}: cannot write rows: {error}")
        return 1


class Worker:
    """Carries commands out, one after the other."""

    def __init__(self, config: WorkerConfig, client_class: Any) -> None:
        closed = config.load.users is not None
        self.environment = Environment(user_classes=[ClosedUser if closed else OpenUser])
        self.runner = self.environment.create_local_runner()
        self.session = LoadSession(config, client_class, self.environment.events.request.fire)
        setattr(self.environment, SESSION, self.session)
        users = len(range(config.index, config.load.users or 0, config.workers))
        self._users = users if closed else 1
        self._loading: gevent.Greenlet | None = None
        self._watch = gevent.spawn(self._tell_stats)

    def run(self) -> int:
        """Serve commands until `quit` or end-of-file; the exit code."""
        say("up")
        code = 0
        try:
            for line in FileObject(sys.stdin.fileno(), "rb", close=False):
                command = json.loads(line)
                if command["command"] == "quit":
                    break
                self._obey(command)
        except Exception as error:  # whatever it is, the harness must hear of it rather than of silence
            say("error", message=repr(error))
            code = 1
        finally:
            self._end()
        say("bye", rows=self.session.recorder.written)
        return code

    def _obey(self, command: dict[str, Any]) -> None:
        match command["command"]:
            case "preload":
                stored, failed = self.session.preload()
                say("preloaded", stored=stored, failed=failed)
            case "start":
                self.session.start(command["clock"])
                self._loading = gevent.spawn(self._load)
            case "stop":
                self.session.stopping = True
            case "readback":
                outcomes = self.session.readback(frozenset(command["gateways"]))
                say("readback", keys=sum(outcomes.values()), outcomes=outcomes)

    def _load(self) -> None:
        if self._users:
            self.runner.start(self._users, spawn_rate=SPAWN_RATE)
        say("started")
        while not self.session.over() or self.runner.user_count:
            gevent.sleep(0.02)
        self.session.drain()
        self.session.recorder.flush()
        say("drained", rows=self.session.recorder.written)

    def _tell_stats(self) -> None:
        while True:
            gevent.sleep(STATS_EVERY)
            if self.session.failure:
                say("error", message=self.session.failure)
                os._exit(1)  # rows cannot be kept any more: nothing that this worker does would count
            if self.session.phase == "load" and self.session.zero is not None:
                say("stats", t=round(self.session.now(), 3), **self.session.take_window())

    def _end(self) -> None:
        self.session.stopping = True
        self._watch.kill()
        if self._loading is not None:
            self._loading.kill()
        self.runner.quit()
        self.session.close()
