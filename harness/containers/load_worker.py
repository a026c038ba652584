"""A load worker in a container, for a driver that knows processes only.

    driver ── stdin, stdout ──▶ this process ── the engine's attach ──▶ python -m loadtests, in a container

The driver starts this module in the worker's place. It makes the container, passes standard input and output on, and ends with
the container's exit code. The container shares the host's network, so it dials nodes as a worker outside would, and has the
run folder at its own path, so rows are written where they belong, without a copy. It needs no lease: when this process ends, for
whatever reason, the container's standard input does, at which a worker quits. It carries the session's labels, so that what is
left of it goes with the session, or with `kadstorm cleanup`.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from docker.errors import APIError

from harness.containers import engine as engines
from harness.containers import labels, load_image
from harness.containers.engine import Engine, translated
from harness.containers.streams import STDOUT, frames
from harness.errors import KadstormError
from harness.session import Session, note_engine
from harness.spawner import Spawn

CHUNK = 65536
ENDED_WITHIN = 20  # s for the engine to tell a container's exit code after its output has ended
LASTS = 24 * 3600.0  # s after which a foreign `cleanup` may take it for abandoned
FAILED = 3


def in_containers(session: Session, run_dir: Path) -> Spawn:
    """A `Spawn` for load workers, each in a container. Builds their image if it is missing.

    Raises:
        EngineUnavailable: no engine answers.
        EngineFailed: the image cannot be made.
    """
    engine = engines.connect()
    try:
        note_engine(session.state, session.id, engine.url)
        image = load_image.ensure(engine, lambda _: None)
    finally:
        engine.close()

    def spawn(argv: Sequence[str], *, name: str, **streams: Any) -> Any:
        about = [image, session.id, str(session.state), name, str(run_dir.resolve())]
        config = str(Path(argv[-1]).resolve())
        return session.spawn([sys.executable, "-P", "-m", __name__, *about, config], name=name, **streams)

    return spawn


def run(engine: Engine, image: str, session_id: str, state: Path, name: str, run_dir: Path, config: str) -> int:
    """Make the container, pass everything on until it ends, and return its exit code. Raises EngineFailed."""
    with translated(f"starting the load worker {name}"):
        host = engine.api.create_host_config(
            network_mode="host", cap_drop=["ALL"], security_opt=["no-new-privileges"], read_only=True,
            tmpfs={"/tmp": "size=64m"},  # noqa: S108  the container's own
            binds={str(run_dir): {"bind": str(run_dir), "mode": "rw"}},
        )  # fmt: skip
        container = engine.api.create_container(
            image, ["-P", "-m", "loadtests", config], entrypoint=["python3"],
            name=f"kadstorm-{session_id}-{name}-{secrets.token_hex(3)}",  # a session that stays may have several loads
            stdin_open=True, user=f"{os.getuid()}:{os.getgid()}", host_config=host,
            labels=labels.of_session(session_id, state, LASTS) | {labels.MEMBER: name},
        )["Id"]  # fmt: skip
        try:
            attached = engine.api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            engine.api.start(container)
            threading.Thread(target=_pass_in, args=(attached,), daemon=True).start()
            _pass_out(attached)
            return int(engine.api.wait(container, timeout=ENDED_WITHIN)["StatusCode"])
        finally:
            with suppress(APIError):  # it has been removed with its session; what stays goes with that
                engine.api.remove_container(container, force=True)


def _connection(attached: Any) -> Any:
    return getattr(attached, "_sock", attached)


def _pass_in(attached: Any) -> None:
    with suppress(OSError):  # the container has ended: its output says so
        while chunk := os.read(0, CHUNK):
            _connection(attached).sendall(chunk)
        _connection(attached).shutdown(1)


def _pass_out(attached: Any) -> None:
    """Hand on whole frames until the container's output ends."""
    pending = b""
    while chunk := _connection(attached).recv(CHUNK):
        whole, pending = frames(pending + chunk)
        for which, body in whole:
            _write(sys.stdout.buffer if which == STDOUT else sys.stderr.buffer, body)


def _write(stream: IO[bytes], body: bytes) -> None:
    stream.write(body)
    stream.flush()


def main(argv: Sequence[str]) -> int:
    """See the module."""
    image, session_id, state, name, run_dir, config = argv
    try:
        engine = engines.connect()
        try:
            return run(engine, image, session_id, Path(state), name, Path(run_dir), config)
        finally:
            engine.close()
    except BrokenPipeError:  # the driver has gone
        return 0
    except KadstormError as error:
        return _told(str(error))
    except OSError as error:
        return _told(f"{name}: its container's streams were lost: {error}")


def _told(message: str) -> int:
    """Say why there is no worker, as a worker says it (loadtests/control.py)."""
    with suppress(BrokenPipeError):
        _write(sys.stdout.buffer, msgspec.json.encode({"event": "error", "message": message}) + b"\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
