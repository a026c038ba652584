"""Members that die, and come back with nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.cluster import Cluster


@pytest.mark.cluster(nodes=8, node={"k": 4})
def test_keys_survive_the_loss_of_two_nodes_that_come_back_empty(cluster: Cluster, inject: Callable[..., Any]) -> None:
    keys = [f"key-{number}" for number in range(30)]
    for key in keys:
        cluster.store(key, key.encode(), via="node-0")
    with inject("kill", nodes=["node-3", "node-5"]):
        assert [cluster.lookup(key, via="node-0") for key in keys] == [key.encode() for key in keys]
    assert [cluster.lookup(key, via="node-1") for key in keys] == [key.encode() for key in keys]
