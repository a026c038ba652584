"""One bridge network per session, with a subnet of its own, so that every member has a fixed address."""

from __future__ import annotations

import ipaddress
import itertools
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from harness.containers.engine import Engine, retried, translated
from harness.errors import EngineFailed

POOL = ipaddress.IPv4Network("10.192.0.0/10")  # where sessions' subnets lie
RESERVED = 16  # addresses at the start of a subnet: network, gateway, Toxiproxy, tunnel, and 12 for load workers
FIRST_WORKER = 4
SMALLEST_PREFIX, LARGEST = 24, 1000  # a Linux bridge has 1,024 ports
TRIES = 256
EXISTS = 409
TAKEN = ("overlaps", "pool overlaps", "is being used", "conflicts", "is already used")  # the last by Podman


@dataclass(frozen=True)
class Network:
    """A session's network."""

    id: str
    name: str
    subnet: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        return str(self.subnet[1])

    @property
    def toxiproxy(self) -> str:
        return str(self.subnet[2])

    @property
    def tunnel(self) -> str:
        """The address of the tunnel's far end, where there is one."""
        return str(self.subnet[3])

    @property
    def workers(self) -> tuple[str, ...]:
        """Addresses for load workers."""
        return tuple(str(self.subnet[number]) for number in range(FIRST_WORKER, RESERVED))

    def member(self, index: int) -> str:
        """The address of the ``index``-th member of the plan."""
        return str(self.subnet[RESERVED + index])


def is_here(network: Network) -> bool:
    """Whether the network is one of this machine: its bridge is an interface here, so that its addresses can be dialled.

    It is not with an engine on another machine, in a virtual machine (Docker Desktop), or in a network namespace of its own
    (rootless), however that is reached; nor with Podman, whose bridge comes with the first container, under any name.
    """
    return f"br-{network.id[:12]}" in {name for _, name in socket.if_nameindex()}


def create(engine: Engine, name: str, members: int, labels: Mapping[str, str], *, first: int = 0) -> Network:
    """Make a network for so many members, in the first free subnet from the ``first``-th on.

    Raises:
        EngineFailed: the engine refuses, too many members for one bridge, or no subnet is free.
    """
    if members > LARGEST:
        raise EngineFailed(
            f"{members} members: a Linux bridge holds at most {LARGEST}; take fewer, or the process backend"
        )
    for subnet in itertools.islice(subnets(members, first), TRIES):
        with translated(f"making the network {name}"):
            made = _make(engine, name, subnet, labels)
        if made is not None:
            return Network(made, name, subnet)
    raise EngineFailed(
        f"no subnet of {POOL} is free for the network {name}: run `kadstorm cleanup`, or `docker network prune`"
    )


@retried
def _make(engine: Engine, name: str, subnet: ipaddress.IPv4Network, labels: Mapping[str, str]) -> str | None:
    """The identifier of a new network; None if somebody has its subnet."""
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))])
    try:
        made = engine.api.create_network(name, driver="bridge", ipam=ipam, labels=dict(labels), check_duplicate=True)
    except APIError as error:
        if any(text in str(error.explanation or error).lower() for text in TAKEN):
            return None
        if error.status_code == EXISTS:  # an earlier try was carried out though its answer was lost
            there = engine.api.networks(names=[name])
            return next((str(one["Id"]) for one in there if one["Name"] == name), None)
        raise
    return str(made["Id"])


def subnets(members: int, first: int) -> Iterator[ipaddress.IPv4Network]:
    """Subnets that hold so many members, from the ``first``-th on and once around."""
    prefix = SMALLEST_PREFIX
    while 2 ** (32 - prefix) < members + RESERVED + 1:
        prefix -= 1
    count, size = 2 ** (prefix - POOL.prefixlen), 2 ** (32 - prefix)
    for index in range(count):
        start = int(POOL.network_address) + (first + index) % count * size
        yield ipaddress.IPv4Network((start, prefix))
