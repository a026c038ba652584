"""Partitions, as users of the node meet them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.cluster import Cluster


@pytest.mark.cluster(nodes=8, node={"k": 8})
def test_what_was_stored_before_a_partition_is_read_on_both_sides_of_it(
    cluster: Cluster, inject: Callable[..., Any]
) -> None:
    cluster.store("before", b"value", via="node-0")
    with inject("partition", shape="halves"):
        assert {cluster.lookup("before", via=name) for name in cluster.addresses} == {b"value"}


@pytest.mark.cluster(nodes=8, node={"k": 8})
def test_both_sides_are_one_network_again_after_the_heal(cluster: Cluster, inject: Callable[..., Any]) -> None:
    with inject("partition", shape="isolate", nodes=["node-0", "node-1", "node-2"]):
        cluster.store("inside", b"one side", via="node-0")
        cluster.store("outside", b"other side", via="node-7")
    cluster.wait_converged()
    assert {cluster.lookup("inside", via=name) for name in cluster.addresses} == {b"one side"}
    assert {cluster.lookup("outside", via=name) for name in cluster.addresses} == {b"other side"}
