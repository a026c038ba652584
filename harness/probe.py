"""The cluster as the observer of one action sees it. See `observation.Probe`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.backends import ProcessState
from harness.cluster import Cluster
from harness.targets import Ping
from harness.transfers import Transfer

Beside = tuple[set[tuple[str, str]], set[str]]  # site pairs and members on which something else acts now


@dataclass
class ActionProbe:
    """See `observation.Probe`: the cluster as one action's observer sees it."""

    cluster: Cluster
    beside: Callable[[], Beside]
    rng: random.Random
    deadline: float

    def __post_init__(self) -> None:
        self.topology = self.cluster.topology

    def ping(self, pairs: Sequence[tuple[str, str]], *, timeout: float, padding: int = 0) -> list[Ping]:
        return self.cluster.ping(pairs, timeout=timeout, padding=padding)

    def transfers(self, links: Sequence[tuple[str, str]], *, size: int, timeout: float) -> list[Transfer]:
        return self.cluster.transfers(links, size=size, timeout=timeout)

    def exits(self, name: str) -> list[str]:
        return self.cluster.members.exits(name)

    def process_state(self, name: str) -> ProcessState:
        return self.cluster.process_state(name)

    def undisturbed(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        sites, claimed = self.beside()
        down = self.cluster.members.unresponsive()
        site_of = self.topology.site_of

        def disturbed(here: str, there: str) -> bool:
            if here == there:  # a member by itself: only another claim on it matters
                return here in claimed
            crossing = (site_of(here), site_of(there))
            return crossing in sites or crossing[::-1] in sites or not (claimed | down).isdisjoint((here, there))

        return [pair for pair in pairs if not disturbed(*pair)]

    def remaining(self) -> float:
        return self.deadline - time.monotonic()
