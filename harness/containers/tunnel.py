"""A way to a session's network where this machine has none: the engine is on another one, in a virtual machine, or rootless.

    clients here ─▶ listeners on the session's address ─▶ near end ══ the engine's own connection ══▶ far end ─▶ containers

The far end (`channels.py`) is one more container of the session, at an address of its own, attached by its standard input and
output; nothing is published anywhere. Nodes and Toxiproxy are at the session's address, at ports of their own, so whoever dials
them knows no tunnel. A connection that the far end cannot make is reset here; `dial` says so, as a direct dial would.

The near end has a thread for its event loop and one for each direction of the engine's connection, which may be TLS.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from harness.containers import channels
from harness.containers.channels import Connection, Garbled, TunnelEnd
from harness.containers.streams import STDOUT, close_source, connection_of, heard
from harness.errors import EngineFailed

FAR_END = ("python3", "-I", "-S", "-c", inspect.getsource(channels))
PUBLISH_WITHIN = 10.0  # s
BACKLOG = 1024

T = TypeVar("T")


class Tunnel:
    """The near end. ``attached`` is the engine's connection to the far end; ``lost`` hears, once, why that ended unasked."""

    def __init__(self, attached: Any, log: Path, lost: Callable[[str], None]) -> None:
        """Raises OSError if the log cannot be opened."""
        self._attached, self._lost = attached, lost
        self._engine = connection_of(attached)
        self._log = log.open("ab", buffering=0)
        self._closing = False
        self._published: dict[int, tuple[str, tuple[str, int]]] = {}
        self._doors: list[asyncio.Server] = []
        self._lock = threading.Lock()
        self._to_send: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._end = TunnelEnd(self._to_send.put, serves=False)
        targets = {"tunnel": self._run, "tunnel-out": self._send, "tunnel-in": self._receive}
        self._threads = {
            name: threading.Thread(target=target, name=f"kadstorm-{name}", daemon=True)
            for name, target in targets.items()
        }
        for thread in self._threads.values():
            thread.start()

    def publish(self, host: str, port: int, address: tuple[str, int]) -> None:
        """Have connections to ``host``:``port`` here come out at ``address`` there; again is harmless. Raises EngineFailed."""
        with self._lock:
            if port in self._published:
                return
            try:
                self._called(self._listen(host, port, address)).result(PUBLISH_WITHIN)
            except (OSError, RuntimeError) as error:  # RuntimeError: its loop has ended
                raise EngineFailed(
                    f"{host}:{port} cannot be listened at for the tunnel to {address[0]}: {error}"
                ) from error
            self._published[port] = (host, address)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._threads["tunnel"].is_alive()

    def published(self) -> list[tuple[str, int, tuple[str, int]]]:
        """What `publish` was called with."""
        with self._lock:
            return [(host, port, address) for port, (host, address) in self._published.items()]

    def dial(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """A connection to an address there, as `socket.create_connection` makes one here. Raises OSError."""
        here, there = _pair()
        try:
            self._called(self._join(there, address)).result(timeout)
        except (RuntimeError, CancelledError) as error:
            here.close()
            there.close()  # which no event loop has, or will have
            raise ConnectionResetError("the tunnel to the session's network has ended") from error
        except BaseException:
            here.close()
            raise
        return here

    def close(self) -> None:
        """End it, and with it the far end. Harmless if it has ended."""
        self._closing = True
        with suppress(OSError):  # it has gone already
            self._engine.shutdown(socket.SHUT_RDWR)
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join()

    # --- the event loop ----------------------------------------------------------------------------

    def _called(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        """Run it there; its future. Raises RuntimeError if the loop has ended."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        try:
            await self._stop.wait()
        finally:
            for door in self._doors:
                door.close()
            self._end.close()
            await asyncio.sleep(0)  # in which the loop closes them

    async def _listen(self, host: str, port: int, address: tuple[str, int]) -> None:
        self._doors.append(
            await self._loop.create_server(lambda: Connection(self._end, address=address), host, port, backlog=BACKLOG)
        )

    async def _join(self, there: socket.socket, address: tuple[str, int]) -> None:
        connection = Connection(self._end, address=address)
        connection.stands = self._loop.create_future()
        await self._loop.connect_accepted_socket(lambda: connection, there)
        await connection.stands

    # --- the engine's connection -------------------------------------------------------------------

    def _send(self) -> None:
        with suppress(OSError):  # the engine has gone: whoever reads hears of it
            while data := self._to_send.get():
                self._engine.sendall(data)

    def _receive(self) -> None:
        why = self._received()
        self._to_send.put(b"")
        self._loop.call_soon_threadsafe(self._stop.set)
        for name in ("tunnel", "tunnel-out"):
            self._threads[name].join()
        close_source(self._attached)
        self._log.close()
        if not self._closing:
            self._lost(why)

    def _received(self) -> str:
        """Pass on what the far end says until it says no more; why it does not."""
        try:
            for which, body in heard(self._engine):
                self._take(which, body)
        except (OSError, Garbled) as error:
            return str(error)
        return "the engine, or its container, ended it"

    def _take(self, which: int, body: bytes) -> None:
        if which == STDOUT:
            self._called(self._fed(body)).result()
        else:
            with suppress(OSError):  # a full disk, which the journal tells
                self._log.write(body)

    async def _fed(self, body: bytes) -> None:
        self._end.feed(body)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on this machine: a pair of Unix sockets knows no reset."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        here = socket.create_connection(door.getsockname())
        there, caller = door.accept()
        while caller != here.getsockname():  # somebody else was quicker
            there.close()
            there, caller = door.accept()
    return here, there
