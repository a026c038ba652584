"""The Kademlia node of `node/` as a target: the only part of the harness that knows its command line and its wire."""

from __future__ import annotations

import heapq
import os
import secrets
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import node
from harness.errors import TargetError
from harness.targets import ImageRecipe, NodeAddress, NodeHandle, NodeSettings, Ping, PingOutcome, Preload
from harness.targets.kademlia_options import command_line_options
from node.client import Client
from node.errors import NodeError
from node.ids import key_of
from node.wire import HEADER, Contact, Envelope, encode
from node.wire import Ping as PingRequest

ASKERS = 16  # threads that question nodes side by side
INSPECT_TIMEOUT = 2.0  # s
NONCE_BYTES = 8
ECHO_BYTES = 2**18  # of padding in one request
DEFAULT_K = 20
PACKAGES = ("msgspec", "uvloop")  # that a node uses


class KademliaHandle:
    """See `NodeHandle`."""

    def __init__(self, address: NodeAddress, cluster: str) -> None:
        self.address = address
        self.client = Client(*address.dial, cluster)

    def sample(self, *, timeout: float) -> dict[str, int]:
        """See `NodeHandle.sample`."""
        try:
            seen = self.client.inspect(timeout=timeout)
        except NodeError as error:
            raise TargetError(f"{self.address.name} does not answer: {error}") from error
        counters = ("rpcs_in", "rpcs_out", "observer_rpcs", "timeouts", "bytes_in", "bytes_out")
        return {
            "table": seen.table_size,
            "records": seen.records_count,
            "memory": seen.memory,
            **{name: seen.counters.get(name, 0) for name in counters},
        }

    def table(self, *, timeout: float) -> set[str]:
        """The ids (40 hexadecimal digits) in the node's routing table."""
        try:
            return {contact.id.hex() for contact in self.client.inspect(table=True, timeout=timeout).table}
        except NodeError as error:
            raise TargetError(f"{self.address.name} does not answer: {error}") from error

    def store(self, key: str, value: bytes, *, timeout: float) -> int:
        """See `NodeHandle.store`. Keys are hashed as in the paper."""
        try:
            version = time.time_ns() // 1_000_000  # of two stores of one key the later one wins
            return self.client.put(key_of(key.encode()), value, version=version, timeout=timeout).acks
        except NodeError as error:
            raise TargetError(f"{self.address.name} did not store {key!r}: {error}") from error

    def lookup(self, key: str, *, timeout: float) -> bytes | None:
        """See `NodeHandle.lookup`."""
        try:
            found = self.client.get(key_of(key.encode()), timeout=timeout)
        except NodeError as error:
            raise TargetError(f"{self.address.name} did not look {key!r} up: {error}") from error
        return found.value if found.found else None

    def close(self) -> None:
        """See `NodeHandle.close`."""
        self.client.close()


class KademliaTarget:
    """See `Target`."""

    load_client = "loadtests.client:KademliaClient"
    watches_parent = True
    preload: Preload | None = Preload("node.__main__:main", ("asyncio", "uvloop", "node.durable"))

    def command(self, settings: NodeSettings) -> tuple[str, ...]:
        """See `Target.command`."""
        serve, *options = self.warm_arguments(settings)
        if settings.place == "container":
            return ("node", serve, *options)
        watch = ("--exit-with-parent", "--parent-pid", str(os.getpid()))
        return (sys.executable, "-P", "-m", "node", serve, *watch, *options)

    def warm_arguments(self, settings: NodeSettings) -> tuple[str, ...]:
        """See `Target.warm_arguments`."""
        here = settings.address
        command = ["serve"]
        command += [
            "--host",
            here.host,
            "--port",
            str(here.port),
            "--id",
            here.id,
            "--cluster",
            settings.cluster,
        ]
        if settings.egress_offset is not None:
            command += ["--egress", f"{settings.egress_host or here.host}:{settings.egress_offset}"]
        command += ["--connections", str(settings.connections)]
        for network in settings.callers:
            command += ["--accept-from", network]
        for other in settings.bootstrap:
            if other.name != here.name:
                command += ["--bootstrap", f"{other.host}:{other.port}"]
        if settings.data_dir is not None:
            command += ["--data-dir", settings.data_dir]
        return (*command, *command_line_options(settings.options))

    def image(self) -> ImageRecipe:
        """See `Target.image`."""
        folder = Path(node.__file__).parent
        files = {f"node/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
        files["Dockerfile"] = (folder / "Dockerfile").read_bytes()
        files["node/requirements.txt"] = _exact_versions(PACKAGES)
        return ImageRecipe("kadstorm-node", files, PACKAGES)

    def connect(self, address: NodeAddress, cluster: str) -> KademliaHandle:
        """See `Target.connect`."""
        return KademliaHandle(address, cluster)

    def unready(
        self,
        nodes: Sequence[NodeAddress],
        handles: Mapping[str, NodeHandle],
        options: Mapping[str, Any],
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        """A node is ready when its table holds its true min(k, N − 1) closest among ``nodes``. See `Target.unready`."""
        k = int(options.get("k") or DEFAULT_K)
        asked = [node for node in nodes if among is None or node.name in among]

        def lacks(node: NodeAddress) -> str:
            return self._lacks(node, nodes, handles[node.name], k)

        if len(asked) > 1:
            with ThreadPoolExecutor(ASKERS) as pool:
                told = list(pool.map(lacks, asked))
        else:
            told = [lacks(node) for node in asked]
        return {node.name: lack for node, lack in zip(asked, told, strict=True) if lack}

    def ping(
        self,
        source: NodeHandle,
        destination: NodeHandle,
        pair: tuple[NodeAddress, NodeAddress],
        *,
        timeout: float,
        padding: int = 0,
    ) -> Ping:
        """See `Target.ping`. If no answer came back, the destination is asked whether the nonce arrived."""
        assert isinstance(source, KademliaHandle)
        assert isinstance(destination, KademliaHandle)
        here, there = pair
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            report = source.client.ping_via(contact_of(there), nonce, timeout=timeout, padding=padding)
        except NodeError:
            return Ping(here.name, there.name, "unknown")
        if report.outcome == "ok":
            forward = (report.received_at - report.sent_at) / 1e9
            backward = (report.returned_at - report.received_at) / 1e9
            return Ping(here.name, there.name, "ok", forward, backward, arrived=True)
        outcome = cast(PingOutcome, report.outcome)
        return Ping(here.name, there.name, outcome, arrived=self._arrived(destination, nonce))

    def echo(self, cluster: str, size: int) -> tuple[bytes, int]:
        """See `Target.echo`: observers' pings, whose padding comes back as it was sent."""
        full, rest = divmod(size, ECHO_BYTES)
        paddings = [ECHO_BYTES] * full + ([rest] if rest or not full else [])
        requests = (PingRequest(bytes(NONCE_BYTES), observer=True, padding=bytes(padding)) for padding in paddings)
        frames = [encode(Envelope(cluster, rid, None, request)) for rid, request in enumerate(requests, 1)]
        return b"".join(frames), sum(paddings) + len(paddings) * (HEADER + len(cluster) + NONCE_BYTES)

    @staticmethod
    def _arrived(destination: KademliaHandle, nonce: bytes) -> bool | None:
        try:
            return nonce in destination.client.inspect(timeout=INSPECT_TIMEOUT).nonces
        except NodeError:
            return None

    @staticmethod
    def _lacks(node: NodeAddress, nodes: Sequence[NodeAddress], handle: NodeHandle, k: int) -> str:
        assert isinstance(handle, KademliaHandle)
        try:
            table = handle.table(timeout=INSPECT_TIMEOUT)
        except TargetError as error:
            return str(error)
        closest = closest_ids(node.id, [other.id for other in nodes if other.id != node.id], k)
        missing = sum(1 for other in closest if other not in table)
        return f"{missing} of its {len(closest)} closest nodes missing" if missing else ""


def _exact_versions(packages: Sequence[str]) -> bytes:
    """A requirements file of those that are installed here: an image that is built somewhere else has the same."""
    lines: list[str] = []
    for name in packages:
        with suppress(PackageNotFoundError):
            lines.append(f"{name}=={version(name)}\n")
    return "".join(lines).encode()


def contact_of(address: NodeAddress) -> Contact:
    """An address as the wire has it."""
    return Contact(bytes.fromhex(address.id), address.host, address.port)


def closest_ids(target: str, others: Sequence[str], k: int) -> list[str]:
    """The ``k`` of ``others`` nearest to ``target`` by XOR (Maymounkov and Mazières 2002, section 2.1)."""
    here = int(target, 16)
    return heapq.nsmallest(k, others, key=lambda other: int(other, 16) ^ here)
