"""When the Kademlia target takes its nodes for ready, from what their tables hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from harness.errors import TargetError
from harness.targets import NodeAddress
from harness.targets.kademlia import KademliaHandle, KademliaTarget

NODES = [NodeAddress(f"node-{number}", f"{number + 1:040x}", "127.0.0.1", 1000 + number, None) for number in range(4)]


@dataclass
class Handle(KademliaHandle):
    """A node that answers with a table, or not at all."""

    knows: set[str] | None = field(default_factory=set)

    def table(self, *, timeout: float) -> set[str]:
        if self.knows is None:
            raise TargetError("it does not answer")
        return self.knows


def unready(tables: dict[str, set[str] | None], among: set[str] | None = None, k: int = 2) -> dict[str, str]:
    return KademliaTarget().unready(NODES, {name: Handle(knows) for name, knows in tables.items()}, {"k": k}, among)


@pytest.mark.parametrize("among", [None, {"node-0"}], ids=["all", "one"])
def test_who_lacks_one_of_its_closest_or_does_not_answer_is_not_ready(among: set[str] | None) -> None:
    everybody = {node.id for node in NODES}
    tables: dict[str, set[str] | None] = {node.name: everybody for node in NODES}
    assert unready(tables, among) == {}
    tables["node-0"] = everybody - {NODES[2].id}  # 1 ^ 3 is 2: with node-1 (1 ^ 2 is 3) the two closest
    assert unready(tables, among) == {"node-0": "1 of its 2 closest nodes missing"}
    tables["node-0"] = everybody - {NODES[3].id}
    assert unready(tables, among) == {}
    tables["node-0"] = None
    assert unready(tables, among) == {"node-0": "it does not answer"}
