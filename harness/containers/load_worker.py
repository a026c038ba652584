"""A load worker in a container, for a driver that knows processes only.

    driver ── stdin, stdout ──▶ this process ── the engine's attach ──▶ python -m loadtests, in a container

The driver starts this module in the worker's place. It makes the container, passes standard input and output on, and ends with
the container's exit code. There are two places for the container:

- Beside us: it shares the host's network, so it dials nodes as a worker outside would, and has the run folder at its own path, so
  rows are written where they belong, without a copy. It needs no lease: when this process ends, for whatever reason, the
  container's standard input does, at which a worker quits.
- Abroad, where the session's network is none of this machine: it is on that network, and shares nothing (`load_abroad.py`). A
  machine that has vanished ends no connection, so it follows the session's lease as well.

It carries the session's labels, so that what is left of it goes with the session, or with `kadstorm cleanup`.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from docker.errors import APIError

from harness.backends import Quarters
from harness.containers import engine as engines
from harness.containers import labels, load_image
from harness.containers.engine import Engine, translated
from harness.containers.load_abroad import CONFIG, USER, Rows, Translator, put_config
from harness.containers.streams import STDOUT, connection_of, heard
from harness.errors import KadstormError
from harness.session import Session, note_engine
from harness.spawner import Spawn

CHUNK = 65536
ENDED_WITHIN = 20  # s for the engine to tell a container's exit code after its output has ended
LASTS = 24 * 3600.0  # s after which a foreign `cleanup` may take it for abandoned
LEASE = "30"  # s
FAILED = 3


class Order(msgspec.Struct, frozen=True):
    """What this process is to do. Without a ``network`` the container is beside us."""

    image: str
    session: str
    state: str
    name: str
    run_dir: str
    config: str
    network: str = ""
    keeper: str = ""
    address: str = ""


def in_containers(session: Session, run_dir: Path, quarters: Quarters | None = None) -> Spawn:
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
    addresses = iter(quarters.addresses if quarters else ())

    def spawn(argv: Sequence[str], *, name: str, **streams: Any) -> Any:
        order = Order(
            image, session.id, str(session.state), name, str(run_dir.resolve()), str(Path(argv[-1]).resolve())
        )
        if quarters is not None:
            order = msgspec.structs.replace(
                order, network=quarters.network, keeper=quarters.keeper, address=next(addresses)
            )
        command = [sys.executable, "-P", "-m", __name__, msgspec.json.encode(order).decode()]
        return session.spawn(command, name=name, **streams)

    return spawn


def run(engine: Engine, order: Order) -> int:
    """Make the container, pass everything on until it ends, and return its exit code. Raises EngineFailed, OSError."""
    with translated(f"starting the load worker {order.name}"):
        container = engine.api.create_container(
            order.image, stdin_open=True,
            name=f"kadstorm-{order.session}-{order.name}-{secrets.token_hex(3)}",  # a session that stays may have several loads
            labels=labels.of_session(order.session, Path(order.state), LASTS) | {labels.MEMBER: order.name},
            **(_abroad(engine, order) if order.network else _beside(engine, order)),
        )["Id"]  # fmt: skip
        try:
            return _run_abroad(engine, container, order) if order.network else _run_beside(engine, container)
        finally:
            with suppress(APIError):  # it has been removed with its session; what stays goes with that
                engine.api.remove_container(container, force=True)


def _beside(engine: Engine, order: Order) -> dict[str, Any]:
    host = engine.api.create_host_config(
        network_mode="host", cap_drop=["ALL"], security_opt=["no-new-privileges"], read_only=True,
        tmpfs={"/tmp": "size=64m"},  # noqa: S108  the container's own
        binds={order.run_dir: {"bind": order.run_dir, "mode": "rw"}},
    )  # fmt: skip
    command = ["-P", "-m", "loadtests", order.config]
    return {
        "entrypoint": ["python3"], "command": command, "user": f"{os.getuid()}:{os.getgid()}", "host_config": host,
    }  # fmt: skip


def _abroad(engine: Engine, order: Order) -> dict[str, Any]:
    api = engine.api
    init = ["python3", "-I", "-S", f"{load_image.HOME}/node/init.py", "--lease", LEASE, "--follow", order.keeper]
    return {
        "entrypoint": init,
        "command": ["python3", "-P", "-m", "loadtests", CONFIG],
        "user": f"{USER}:{USER}",
        "host_config": api.create_host_config(
            network_mode=order.network, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        ),
        "networking_config": api.create_networking_config(
            {order.network: api.create_endpoint_config(ipv4_address=order.address)}
        ),
    }


def _run_beside(engine: Engine, container: str) -> int:
    """Pass everything on as it is."""
    worker = _Attached(engine, container)
    worker.hear_commands(lambda line: line)
    for which, body in worker.said():
        _write(sys.stdout.buffer if which == STDOUT else sys.stderr.buffer, body)
    return _exit_code(engine, container)


def _run_abroad(engine: Engine, container: str, order: Order) -> int:
    """Pass everything on as it is meant here, and bring the rows home."""
    config = Path(order.config)
    put_config(engine, container, config)
    rows = Rows(engine, container, Path(msgspec.json.decode(config.read_bytes())["operations"]))
    worker = _Attached(engine, container)
    try:
        _pass_translated(worker, rows)
        return _exit_code(engine, container)
    finally:
        rows.fetch()


def _pass_translated(worker: _Attached, rows: Rows) -> None:
    translator, pending = Translator(), b""
    worker.hear_commands(translator.to_worker)
    for which, body in worker.said():
        if which != STDOUT:
            _write(sys.stderr.buffer, body)
            continue
        *lines, pending = (pending + body).split(b"\n")
        for line in lines:
            to_driver, to_worker = translator.from_worker(line + b"\n")
            if to_worker:
                rows.follow()  # it is up: its file is there
                worker.send(to_worker)
            if to_driver:
                _write(sys.stdout.buffer, to_driver)
    _write(sys.stderr.buffer, f"{translator}\n".encode())


class _Attached:
    """A container that has been started, and its streams. Raises EngineFailed."""

    def __init__(self, engine: Engine, container: str) -> None:
        api = engine.api
        with translated("starting a load worker's container"):
            self._source = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            self._connection = connection_of(self._source)
            api.start(container)
        self._sending = threading.Lock()

    def send(self, line: bytes) -> None:
        """Write to its standard input. That it has ended is no matter: its output says so."""
        with self._sending, suppress(OSError):
            self._connection.sendall(line)

    def hear_commands(self, translate: Callable[[bytes], bytes]) -> None:
        """From now on, pass on each line of our standard input, and its end."""

        def pass_on() -> None:
            pending = b""
            while chunk := os.read(0, CHUNK):  # `sys.stdin` would be locked by this thread when the process ends
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self.send(translate(line + b"\n"))
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=pass_on, daemon=True).start()

    def said(self) -> Iterator[tuple[int, bytes]]:
        """Whole frames of its output until that ends."""
        return heard(self._connection)


def _exit_code(engine: Engine, container: str) -> int:
    with translated("asking how a load worker ended"):
        return int(engine.api.wait(container, timeout=ENDED_WITHIN)["StatusCode"])


def _write(stream: IO[bytes], body: bytes) -> None:
    stream.write(body)
    stream.flush()


def main(argv: Sequence[str]) -> int:
    """See the module."""
    order = msgspec.json.decode(argv[0], type=Order)
    try:
        engine = engines.connect()
        try:
            return run(engine, order)
        finally:
            engine.close()
    except BrokenPipeError:  # the driver has gone
        return 0
    except KadstormError as error:
        return _told(str(error))
    except OSError as error:
        return _told(f"{order.name}: its container's streams were lost: {error}")


def _told(message: str) -> int:
    """Say why there is no worker, as a worker says it (loadtests/control.py)."""
    with suppress(BrokenPipeError):
        _write(sys.stdout.buffer, msgspec.json.encode({"event": "error", "message": message}) + b"\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
