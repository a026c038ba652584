"""From a plan and a session to a cluster whose every node knows its neighbours, with a proxy on every link.

The links come first: with the traffic of nodes that join, Toxiproxy takes many times as long to set them up. It also
means that the network's conditions hold from the first connection on. What comes before a node's first step is done
meanwhile: an engine takes longer for its first containers than Toxiproxy for the links.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Any

from harness import registry
from harness.backends import Backend, Exit, Ground, Layout, MemberSpec, Toxiproxy, WarmStart
from harness.cluster import Cluster
from harness.effects import LinkEffect
from harness.errors import HarnessError
from harness.events import Events
from harness.links import Topology, connections_per_node, descriptors_needed
from harness.members import Member, Members
from harness.options import whole_ms
from harness.reconciler import LinkReconciler
from harness.records import NODE_LOGS_DIR, TOXIPROXY_LOG, Plan
from harness.session import API_PORT, Session
from harness.spawner import tail
from harness.targets import NodeAddress, NodeSettings, Target
from harness.toxiproxy.bulk import BulkWriter
from harness.toxiproxy.keeper import ToxiproxyKeeper
from harness.transfers import Dial

BOOT_BASE, BOOT_PER_NODE = 20.0, 0.5  # s that nodes may take to serve, and again to be ready
LOOK_EVERY = 0.1  # s
REACHED_WITHIN = 5.0  # s in which a proxy in a container takes a connection from here
EXPIRY_BASE, EXPIRY_FACTOR = 3600.0, 2.0  # s, and of the experiment's length: after that a session is surely over
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_DEFAULT = 32768

OnTeardown = Callable[[str, Callable[[], None]], object]
LaidOut = Callable[[Topology, Layout], object]


@dataclass(frozen=True)
class Booted:
    """A running cluster and its Toxiproxy."""

    cluster: Cluster
    toxiproxy: Toxiproxy
    toxiproxy_version: str
    keeper: ToxiproxyKeeper


def boot(
    plan: Plan,
    session: Session,
    run_dir: Path,
    binary: Path,
    events: Events,
    on_teardown: OnTeardown,
    check: Callable[[], None] = lambda: None,
    laid_out: LaidOut = lambda _topology, _layout: None,
) -> Booted:
    """Start everything and wait until the cluster is ready. What was started is given to ``on_teardown`` at once.

    ``check`` is called several times a second meanwhile; what it raises ends the boot. ``laid_out`` is told when
    it is known where everything is, and all links stand; members are started next.

    Raises:
        HarnessError: something did not start; the text says what, and has the end of its log.
    """
    settings = plan.experiment["cluster"]
    topology = Topology.build(plan.nodes, host=session.host)
    topology.check_ports(ephemeral_from=first_ephemeral_port())
    session.reserve_ports(API_PORT, 1)
    session.reserve_ports(topology.base_port, topology.port_count)
    target = registry.target(settings["target"])
    ground = Ground(
        session_id=session.id,
        host=session.host,
        state=session.state,
        run_dir=run_dir,
        toxiproxy=binary,
        spawn=session.spawn,
        recipe=target.image,
        limits=settings.get("limits") or {},
        lasts=EXPIRY_BASE + EXPIRY_FACTOR * plan.experiment["duration_us"] / 1e6,
    )
    backend = registry.backend(settings["backend"]).on(ground)
    starter = ThreadPoolExecutor(1, thread_name_prefix="kadstorm-boot")
    on_teardown("the start of members", starter.shutdown)  # after the backend, which ends those that still start
    on_teardown("the backend", lambda: end_backend(backend, session))
    layout = backend.lay_out(topology.names)
    topology = topology.placed(proxy_host=layout.proxy_host, node_hosts=layout.hosts)
    members = Members(
        backend,
        make_members(plan, session, topology, target, run_dir, backend, layout),
        on_lost=lambda exit_: tell_exit(events, run_dir, exit_),
        on_up=lambda name, seconds: events.emit("member-up", name=name, detail={"seconds": round(seconds, 3)}),
    )
    on_teardown("the members", members.close)
    server = backend.toxiproxy(run_dir / TOXIPROXY_LOG)
    on_teardown("Toxiproxy", server.stop)
    links = LinkReconciler(topology, server.control, BulkWriter(session.host, API_PORT))
    keeper = ToxiproxyKeeper(server, links, events)
    on_teardown("the watch over Toxiproxy", keeper.close)
    network = network_effects(topology, plan.experiment["network"])
    backend.ahead([members[name].spec for name in members.initial()])
    version = server.start()
    links.create()
    links.apply(network)
    see_that_toxiproxy_is_in_reach(topology, layout.dial)
    keeper.start()
    laid_out(topology, layout)
    deadline = time.monotonic() + BOOT_BASE + BOOT_PER_NODE * len(plan.nodes)
    cluster = Cluster(
        topology=topology,
        addresses=[members[name].address for name in members.names()],
        members=members,
        links=links,
        target=target,
        cluster_id=session.cluster_id,
        options=settings["node"],
        network=network,
        bootstrap=settings["bootstrap"],
        keeper=keeper,
        layout=layout,
    )
    on_teardown("the cluster", cluster.close)

    def tell(started: int, of: int) -> None:
        events.emit("started", detail={"nodes": started, "of": of})

    starting = starter.submit(cluster.start, deadline=deadline, tell=tell)  # not before: who joins keeps Toxiproxy busy
    while not starting.done():
        check()
        wait([starting], timeout=LOOK_EVERY)
    starting.result()
    cluster.wait_ready(deadline=deadline + BOOT_PER_NODE * len(plan.nodes), check=check)
    return Booted(cluster, server, version, keeper)


def see_that_toxiproxy_is_in_reach(topology: Topology, dial: Dial = create_connection) -> None:
    """Dial its API where it has an address of its own: from here links are observed, and nodes asked, beside it.

    Not one of its links, whose node is not there yet: Toxiproxy would wait for that, and hold its locks meanwhile.

    Raises:
        HarnessError: it cannot be reached, and so no node could be, and no fault be told from one without effect.
    """
    if topology.proxy_host in ("", topology.host):
        return
    host = topology.proxy_host
    try:
        dial((host, API_PORT), REACHED_WITHIN).close()
    except ConnectionRefusedError:
        return  # somebody is there to say so
    except OSError as error:
        raise HarnessError(
            f"nodes and links are dialled at addresses of their own, and Toxiproxy's container, {host}:{API_PORT}, "
            f"cannot be reached from here ({error}): see whether a firewall drops what this machine sends to its own bridges, "
            "or use `--backend process`"
        ) from error


def end_backend(backend: Backend, session: Session) -> None:
    """Close it; if it could not remove everything, the session stays noted for `kadstorm cleanup`. Raises what `close` does."""
    try:
        backend.close()
    except BaseException:
        session.leave_note()
        raise


def make_members(
    plan: Plan,
    session: Session,
    topology: Topology,
    target: Target,
    run_dir: Path,
    backend: Backend,
    layout: Layout,
) -> list[Member]:
    """How every node of the plan is started."""
    addresses = [
        NodeAddress(
            node.name, node.id, topology.host_of(node.name), topology.port_of(node.name),
            layout.client_host(node.name, session.host),
        )
        for node in plan.nodes
    ]  # fmt: skip
    nodes, links = len(topology.names), len(topology.links)
    descriptors = backend.allow_descriptors(descriptors_needed(nodes, links))
    connections = connections_per_node(nodes, links, descriptors)
    bootstrap = tuple(addresses[: plan.experiment["cluster"]["bootstrap"]])
    keeps = bool(plan.experiment.get("durable")) or any(action.options.get("keep_data") for action in plan.actions)
    members: list[Member] = []
    for address in addresses:
        settings = NodeSettings(
            address=address,
            cluster=session.cluster_id,
            egress_offset=topology.offset_of(topology.site_of(address.name)),
            bootstrap=bootstrap,
            options=plan.experiment["cluster"]["node"],
            data_dir=backend.data_dir(address.name) if keeps else None,
            connections=connections,
            place=layout.place,
            egress_host=layout.proxy_host,
            callers=layout.callers,
        )
        log = run_dir / NODE_LOGS_DIR / f"{address.name}.log"
        warm = WarmStart(target.preload, target.warm_arguments(settings)) if target.preload else None
        spec = MemberSpec(
            address.name,
            target.command(settings),
            log,
            target.watches_parent,
            address=address.host,
            port=address.port,
            keeps_data=keeps,
            warm=warm,
        )
        joins = len(members) >= plan.experiment["cluster"]["nodes"]
        members.append(Member(address, spec, joins=joins))
    return members


def network_effects(topology: Topology, network: dict[str, Any]) -> Sequence[LinkEffect]:
    """The run-long conditions on every link, also inside shared sites."""
    latency, jitter = whole_ms(network["latency_us"]), whole_ms(network["jitter_us"])
    if not latency:
        return []
    attributes = (("jitter", jitter), ("latency", latency))
    return [LinkEffect(here, there, "latency", attributes) for here in topology.sites for there in topology.sites]


def tell_exit(events: Events, run_dir: Path, exit_: Exit) -> None:
    """Journal a member that died unasked, with the end of its log."""
    log = run_dir / NODE_LOGS_DIR / f"{exit_.name}.log"
    events.emit("member-exit", name=exit_.name, detail={"exit": exit_.how, "log": tail(log)})


def first_ephemeral_port() -> int:
    """Where the kernel's range for outgoing connections begins."""
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return EPHEMERAL_DEFAULT
