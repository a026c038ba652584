"""Partitions of every shape, as users of the node meet them: what is on both sides is read there, and after the heal the two
sides are one network again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.cluster import Cluster

pytestmark = pytest.mark.alone  # its verdict is judged by what it measures

SHAPES: dict[str, dict[str, Any]] = {
    "halves": {"shape": "halves"},
    "halves refused": {"shape": "halves", "mode": "refuse"},
    "majority-minority": {"shape": "majority-minority"},
    "isolate": {"shape": "isolate", "nodes": ["node-0", "node-1", "node-2"]},
    "one way": {"shape": "isolate", "nodes": "node-3", "one_way": True},
    "ring": {"shape": "ring"},
    "bridge": {"shape": "bridge"},
    "random": {"shape": "random"},
    "groups": {"groups": [["node-0", "node-1"], ["node-2", "node-3"], ["node-4", "node-5"]]},
}


@pytest.mark.cluster(nodes=8, node={"k": 8})
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_stored_before_is_read_everywhere_and_the_network_is_one_after(
    cluster: Cluster, inject: Callable[..., Any], shape: str
) -> None:
    cluster.store("before", b"value", via="node-0")
    with inject("partition", **SHAPES[shape]):
        assert {cluster.lookup("before", via=name, timeout=20) for name in cluster.present()} == {b"value"}
        cluster.store("during", b"one side", via="node-0", timeout=20)
    cluster.wait_converged(within=30)
    assert {cluster.lookup("during", via=name, timeout=20) for name in cluster.present()} == {b"one side"}


@pytest.mark.cluster(nodes=8, node={"k": 8}, bootstrap=2)
def test_the_others_live_on_while_the_bootstrap_nodes_are_cut_off(cluster: Cluster, inject: Callable[..., Any]) -> None:
    with inject("partition", shape="isolate", nodes="bootstrap"):
        cluster.store("without them", b"value", via="node-5", timeout=20)
        assert cluster.lookup("without them", via="node-7", timeout=20) == b"value"
    cluster.wait_converged(within=30)
    assert cluster.lookup("without them", via="node-0", timeout=20) == b"value"
