"""What a load worker needs whose container shares nothing with this machine: a configuration, a clock, a way back for rows.

- The configuration goes into the container's own layer before it starts; where its rows go is replaced by a path in there.
- Its clock is another machine's. It is asked for the time several times before the load starts, and the answer that took the
  shortest gives the difference, to half of what that took (Cristian 1989). `Translator` puts the start on its clock; in rows all
  times are relative to that.
- Rows are followed while they are written, and the rest is fetched when the worker has ended: a run that is killed has all but
  the last moment of them, as with a worker here.
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from harness.containers.engine import Engine, translated
from harness.containers.streams import STDOUT, close_source, connection_of, heard

USER = 65532
FOLDER = "kadstorm-load"
CONFIG, ROWS = f"/{FOLDER}/config.json", f"/{FOLDER}/rows.arrow"
ASKED = 8  # times
BEFORE_PASSING_ON = ("up", "preloaded")  # events on which it is asked: the load starts a moment after one of them
CHUNK = 262_144  # bytes
FOLLOW = f"""
import sys, time
with open({ROWS!r}, "rb", buffering=0) as rows:
    while True:
        data = rows.read({CHUNK})
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            time.sleep(0.1)
"""


class Translator:
    """Between a driver and a worker whose clocks differ: whole lines in, whole lines out. Pure but for the ``clock``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held = b""  # the event that is passed on once the time is known
        self._asked_at = 0.0
        self._answers: list[tuple[float, float]] = []  # (s that it took, s that its clock is ahead)

    @property
    def known(self) -> tuple[float, float]:
        """How far its clock is ahead, and by how much that may be wrong, in s."""
        took, ahead = min(self._answers, default=(0.0, 0.0))
        return ahead, took / 2

    def __str__(self) -> str:
        ahead, wrong = self.known
        return f"its clock was {ahead:.6f} s ahead of the harness's, to {wrong * 1e3:.3f} ms"

    def to_worker(self, line: bytes) -> bytes:
        """A command as the worker is to have it."""
        command = json.loads(line)
        if command.get("command") == "start":
            command["clock"] += self.known[0]
        return json.dumps(command).encode() + b"\n"

    def from_worker(self, line: bytes) -> tuple[bytes, bytes]:
        """What the driver and what the worker are to hear now that the worker has said ``line``."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            return line, b""  # the driver knows what to say of it
        if kind in BEFORE_PASSING_ON:
            self._held = line
            self._answers.clear()
            return b"", self._ask()
        if kind != "time":
            return line, b""
        now = self._clock()
        self._answers.append((now - self._asked_at, event["clock"] - (now + self._asked_at) / 2))
        if len(self._answers) < ASKED:
            return b"", self._ask()
        held, self._held = self._held, b""
        return held, b""

    def _ask(self) -> bytes:
        self._asked_at = self._clock()
        return b'{"command":"time"}\n'


def put_config(engine: Engine, container: str, config: Path) -> None:
    """Give a container that has not been started its folder and its configuration. Raises EngineFailed."""
    told = json.loads(config.read_bytes()) | {"operations": ROWS}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(FOLDER)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, USER, USER
        tar.addfile(folder)
        content = json.dumps(told).encode()
        file = tarfile.TarInfo(CONFIG.lstrip("/"))
        file.size, file.mode, file.uid, file.gid = len(content), 0o600, USER, USER
        tar.addfile(file, io.BytesIO(content))
    with translated("giving a load worker its configuration"):
        engine.api.put_archive(container, "/", buffer.getvalue())


class Rows:
    """A worker's rows on their way into the run folder."""

    def __init__(self, engine: Engine, container: str, path: Path) -> None:
        self._engine, self._container, self._path = engine, container, path
        self._follower: threading.Thread | None = None
        self._source: Any = None

    def follow(self) -> None:
        """Begin to fetch them as they are written; again is harmless. Raises EngineFailed, OSError if the file is there."""
        if self._follower is not None:
            return
        with self._path.open("xb"):
            pass
        with translated("following a load worker's rows"):
            follow = self._engine.api.exec_create(self._container, ["python3", "-I", "-S", "-c", FOLLOW])
            self._source = self._engine.api.exec_start(follow["Id"], socket=True)
        self._follower = threading.Thread(target=self._pass_on, name="kadstorm-rows", daemon=True)
        self._follower.start()

    def _pass_on(self) -> None:
        with suppress(OSError), self._path.open("ab", buffering=0) as file:  # what is missing is fetched in the end
            for which, body in heard(connection_of(self._source)):
                if which == STDOUT:
                    file.write(body)

    def fetch(self) -> None:
        """Have all of them, after the worker's end. Raises EngineFailed, OSError."""
        if self._follower is None:
            return  # it never came up
        self._follower.join()
        close_source(self._source)
        have = self._path.stat().st_size
        with (
            translated("fetching a load worker's rows"),
            suppress(NotFound),
        ):  # removed with its session: all is here that can be
            stream, _ = self._engine.api.get_archive(self._container, ROWS, chunk_size=CHUNK)
            with tarfile.open(fileobj=_Readable(stream), mode="r|") as tar, self._path.open("ab") as file:
                inside = tar.next()
                rows = None if inside is None else tar.extractfile(inside)
                if rows is not None:
                    _skip(rows, have)
                    while data := rows.read(CHUNK):
                        file.write(data)


class _Readable(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Any) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _skip(rows: Any, count: int) -> None:
    while count > 0 and (data := rows.read(min(CHUNK, count))):
        count -= len(data)
