"""Booting a cluster of containers against what the bare engine takes to start as many; and leaving nothing of a large one.

Run: ``python benchmarks/containers.py [--quick] [--json FILE]`` (needs a container engine).

The bare side starts 50 containers of the same image with the same command and the same options, which join nothing, by as many
threads, and waits for nothing. Ours is `boot`: network, Toxiproxy and 2,450 links, 50 nodes that serve and know their true
closest. Both in one run, in turn: each boot is held against the mean of the bare starts before and after it, and the middle
one of three such ratios counts, since a machine's speed may change by half within a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from figures import Figure, at_least, at_most, nothing, write

from harness import registry
from harness.backends import Ground
from harness.backends.docker import STARTERS, DockerBackend
from harness.boot import Booted, boot, make_members
from harness.cluster import Cluster
from harness.containers import engine as engines
from harness.containers import leftovers
from harness.errors import TargetError
from harness.events import Events
from harness.experiment import load_experiment
from harness.links import Topology
from harness.plan import make_plan
from harness.records import NODE_LOGS_DIR, Plan
from harness.session import Session
from harness.toxiproxy import binary

KEYS = 50
ROUNDS = 3
LIMIT_BOOT, LIMIT_TEARDOWN = 1.3, 30.0


def main() -> int:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 and 50 nodes instead of 50 and 200")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    small, large = (20, 50) if arguments.quick else (50, 200)
    found = binary.find(progress=print)
    registry.backend("docker").prepare(found, registry.target("kademlia").image, (), print)
    figures = [*boot_against_bare(small, found), *large_cluster(large, found)]
    for one in figures:
        print(
            f"{one.name:52} {one.ours:8.1f} {one.unit:3} against {one.theirs:8.1f}: "
            f"ratio {one.ratio:.2f}, limit {one.limit}: {'met' if one.met else 'MISSED'}"
        )
    write(arguments.json, figures)
    return 0


def boot_against_bare(nodes: int, toxiproxy: Path) -> Iterator[Figure]:
    """The time until ready, against the bare engine."""
    rounds: list[Figure] = []
    before = bare(nodes, toxiproxy)
    for _ in range(ROUNDS):
        with cluster(nodes, toxiproxy) as (_booted, seconds):
            ours = seconds
        after = bare(nodes, toxiproxy)
        one = at_most(f"{nodes} containers joined, against started", ours, (before + after) / 2, LIMIT_BOOT)
        print(f"bare engine: {before:.1f} s and {after:.1f} s; joined and ready: {ours:.1f} s; ratio {one.ratio:.2f}")
        rounds.append(one)
        before = after
    yield sorted(rounds, key=lambda one: one.ratio)[ROUNDS // 2]


def large_cluster(nodes: int, toxiproxy: Path) -> Iterator[Figure]:
    """A large cluster boots, stores, looks up, and goes."""
    with ExitStack() as stack:
        booted, seconds = stack.enter_context(cluster(nodes, toxiproxy))
        print(f"{nodes} nodes ready after {seconds:.1f} s")
        names = booted.cluster.members.names()
        for index in range(KEYS):
            booted.cluster.store(f"key-{index}", b"value", via=names[index % nodes])
        found = sum(is_found(booted.cluster, f"key-{index}", names[-1 - index % nodes]) for index in range(KEYS))
        yield at_least(f"keys found through others of {nodes} containers", found, KEYS, 1.0, "")
        began = time.monotonic()
    teardown = time.monotonic() - began
    yield at_most(f"{nodes} containers removed, against {LIMIT_TEARDOWN:.0f} s", teardown, LIMIT_TEARDOWN, 1.0)
    yield nothing("containers, networks and volumes left in the engine", left_of(booted.cluster.cluster_id), "")


def is_found(cluster: Cluster, key: str, via: str) -> bool:
    """Whether a lookup finds what was stored; one that fails has not found it."""
    try:
        return cluster.lookup(key, via=via) == b"value"
    except TargetError as error:
        print(f"looking up {key} through {via}: {error}")
        return False


def left_of(session: str) -> int:
    """How many things of a session the engine still has. Those of other sessions, which may run beside, are not ours."""
    with closing(engines.connect()) as engine:
        remains = leftovers.find(engine, session).values()
    for one in remains:
        print(f"left in the engine: {one}")
    return sum(len(one.containers) + len(one.networks) + len(one.volumes) for one in remains)


def plan_of(nodes: int, folder: Path) -> Plan:
    """The plan of a cluster without faults."""
    file = folder / "experiment.yaml"
    file.write_text(f"name: bench\nduration: 60s\ncluster: {{nodes: {nodes}, backend: docker}}\n")
    return make_plan(load_experiment(file, []))


@contextmanager
def cluster(nodes: int, toxiproxy: Path) -> Iterator[tuple[Booted, float]]:
    """A cluster that is ready, and how long that took."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / NODE_LOGS_DIR).mkdir()
        session = stack.enter_context(Session(folder))
        plan = plan_of(nodes, folder)
        began = time.monotonic()
        booted = boot(plan, session, folder, toxiproxy, Events(lambda _: None), lambda _, close: stack.callback(close))
        yield booted, time.monotonic() - began


def bare(nodes: int, toxiproxy: Path) -> float:
    """Seconds that the engine takes to start as many containers of the same kind."""
    with tempfile.TemporaryDirectory() as name, Session(Path(name)) as session:
        folder = Path(name)
        (folder / NODE_LOGS_DIR).mkdir()
        target, plan = registry.target("kademlia"), plan_of(nodes, folder)
        ground = Ground(
            session_id=session.id, host=session.host, state=session.state, run_dir=folder, toxiproxy=toxiproxy,
            spawn=session.spawn, recipe=target.image,
        )  # fmt: skip
        backend = DockerBackend.on(ground)
        try:
            topology = Topology.build(plan.nodes, host=session.host)
            layout = backend.lay_out(topology.names)
            plan.experiment["cluster"]["bootstrap"] = 0
            topology = topology.placed(proxy_host=layout.proxy_host, node_hosts=layout.hosts)
            members = make_members(plan, session, topology, target, folder, backend, layout)
            api, image = backend._engine.api, backend._images.member

            def start(index: int) -> None:
                spec = members[index].spec
                made = api.create_container(
                    image, name=backend.container_name(spec.name), **backend._member_options(spec)
                )
                api.start(made["Id"])

            began = time.monotonic()
            with ThreadPoolExecutor(STARTERS) as pool:
                list(pool.map(start, range(nodes)))
            return time.monotonic() - began
        finally:
            backend.close()


if __name__ == "__main__":
    sys.exit(main())
