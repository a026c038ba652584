"""Crowds that arrive at once, and links that are slow, flapping or grey, with Locust load beside them.

Shares of success are what a client feels; the bounds are far below what is seen on an idle machine, and far above what
a node does that gives up where it should try another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.cluster import Cluster

pytestmark = pytest.mark.alone  # its verdict is judged by what it measures

LOAD = {"rate": "30/s", "keys": 20, "timeout": "5s"}


@pytest.mark.cluster(nodes=8, node={"k": 5}, spare=8)
def test_a_flash_crowd_is_taken_in_under_load(
    cluster: Cluster, inject: Callable[..., Any], load: Callable[..., Any]
) -> None:
    with load(duration="12s", **LOAD) as seen, inject("join", nodes=8):
        cluster.wait_converged(within=40)
        cluster.store("after", b"value", via="node-15", timeout=20)
        assert cluster.lookup("after", via="node-1", timeout=20) == b"value"
    assert seen.success("lookup") >= 0.9


@pytest.mark.cluster(nodes=8, node={"k": 5})
def test_slow_links_make_lookups_late_and_not_wrong(
    cluster: Cluster, inject: Callable[..., Any], load: Callable[..., Any]
) -> None:
    with load(duration="8s", **LOAD) as seen, inject("latency", latency="150ms", jitter="50ms"):
        assert cluster.lookup("nothing", via="node-0", timeout=20) is None
        for number in range(4):
            cluster.store(f"late-{number}", b"value", via="node-1", timeout=20)
            assert cluster.lookup(f"late-{number}", via="node-6", timeout=20) == b"value"
    assert seen.success("lookup") >= 0.9
    assert not seen.outcomes["lookup"]["wrong_value"]


@pytest.mark.cluster(nodes=8, node={"k": 5})
def test_flapping_links_do_not_make_a_node_forget_the_others(
    cluster: Cluster, inject: Callable[..., Any], load: Callable[..., Any]
) -> None:
    with load(duration="12s", **LOAD) as seen:
        for number in range(4):
            with inject("refuse", to=["node-2", "node-3"]):
                cluster.store(f"meanwhile-{number}", b"value", via="node-1", timeout=20)
    cluster.wait_converged(within=30)
    assert seen.success("lookup") >= 0.8


@pytest.mark.cluster(nodes=8, node={"k": 5})
def test_one_grey_node_does_not_slow_everybody_down(
    cluster: Cluster, inject: Callable[..., Any], load: Callable[..., Any]
) -> None:
    patience = {**LOAD, "timeout": "1.2s"}  # less than an answer of the grey node takes
    with load(duration="10s", **patience) as seen, inject("latency", latency="1500ms", to="node-4"):
        for number in range(5):
            cluster.store(f"key-{number}", b"value", via="node-1", timeout=20)
            assert cluster.lookup(f"key-{number}", via="node-6", timeout=20) == b"value"
    assert seen.success("lookup") >= 0.8
    assert seen.success("store") >= 0.7


@pytest.mark.cluster(nodes=8, node={"k": 5})
def test_a_frozen_node_is_missed_and_taken_back(cluster: Cluster, inject: Callable[..., Any]) -> None:
    with inject("pause", nodes="node-4"):
        cluster.store("key", b"value", via="node-1", timeout=20)
        assert cluster.lookup("key", via="node-6", timeout=20) == b"value"
    cluster.wait_converged(within=30)
    assert cluster.lookup("key", via="node-4", timeout=20) == b"value"
