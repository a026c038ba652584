"""What this machine can do, what it cannot, and how to mend that. Starts nothing and changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from harness import descriptors, nursery
from harness.boot import first_ephemeral_port
from harness.errors import EngineUnavailable, HarnessError, PortsTaken, ToxiproxyUnavailable
from harness.links import BASE_PORT, FEWEST_CONNECTIONS, connections_per_node, descriptors_needed
from harness.session import API_PORT, Lock, Session, recorded_sessions, state_dir
from harness.toxiproxy import binary

if TYPE_CHECKING:
    from harness.containers.engine import Engine

State = Literal["ok", "warn", "fail"]

OWN_SITES = 64  # up to so many nodes each is a site of its own (docs/experiments.md)
SHARED_SITES = 16
# Of memory, amply, for what a node has to keep as well. Measured once all were ready: 6.7 MiB a process, 21 a container.
NODE_BYTES = (10 if nursery.SUPPORTED else 30) * 2**20  # of a process; where it is forked, modules are shared
CONTAINER_BYTES = 28 * 2**20  # of a node in a container, its init, the engine's shim and its part of the engine
LINK_BYTES = 15 * 2**10  # of one proxy in Toxiproxy
CONNECTION_BYTES = 64 * 2**10  # of a connection that it passes on: 37 to 66 KiB each, with what waits to be collected
DIALLED = 110  # others that a node of hundreds has dialled when its cluster is ready, as many as fit in its table
LOAD_BYTES = 200 * 2**20  # of one load worker with Locust and Arrow
MANY = 64  # containers, from which on their tracked connections are felt
CONTROL_PORTS = 2  # the containers' lease and Toxiproxy's API, which is the last of them
LAST_PORT = 65_535
# Connections that a node has dialled, and been dialled by, when its cluster is ready, each once on either side of Toxiproxy: 300
# processes leave 90,000 of them (benchmarks/boot.py). The kernel keeps those that have ended for two minutes.
TRACKED = 300
CONNECTIONS, MOST_CONNECTIONS = (Path("/proc/sys/net/netfilter") / f"nf_conntrack_{name}" for name in ("count", "max"))
TRACKING = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
SECOND_CGROUPS = Path("/sys/fs/cgroup/cgroup.controllers")  # is there with version 2 alone


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty if there is nothing to mend."""

    what: str
    state: State
    said: str
    remedy: str = ""


def examine(nodes: int) -> Iterator[Finding]:
    """Look at everything that a run of ``nodes`` nodes needs, one finding at a time."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _platform,
        _toxiproxy,
        _loopback,
        lambda: _descriptors(nodes),
        lambda: _memory(nodes),
        lambda: _ports(nodes),
        _state,
        lambda: _free_ports(nodes),
        _dead_sessions,
    ]
    for check in checks:
        yield check()
    yield from _connection_table(nodes)
    yield from _containers(nodes)


def sites_of(nodes: int) -> int:
    """Sites that so many nodes have by default."""
    return nodes if nodes <= OWN_SITES else SHARED_SITES


def links_of(nodes: int) -> int:
    """Links of so many nodes in as many sites as they have by default: none from a node to itself that is alone in its site."""
    sites = sites_of(nodes)
    return sites * nodes - (nodes if sites == nodes else 0)


def memory_needed(nodes: int, of_each: int = NODE_BYTES) -> int:
    """Bytes for nodes, Toxiproxy and one load worker."""
    toxiproxy = links_of(nodes) * LINK_BYTES + nodes * min(nodes - 1, DIALLED) * CONNECTION_BYTES
    return nodes * of_each + toxiproxy + LOAD_BYTES


def _python() -> Finding:
    said = f"{platform.python_version()} at {sys.executable}"
    return Finding("Python", "ok", said)


def _platform() -> Finding:
    if platform.system() == "Linux":
        return Finding("platform", "ok", f"Linux {platform.release()}, {os.cpu_count()} CPUs")
    return Finding(
        "platform",
        "warn",
        platform.platform(),
        "Linux is the platform of Kadstorm; here, two runs at once share 127.0.0.1 and nothing dies with a killed harness",
    )


def _toxiproxy() -> Finding:
    try:
        found = binary.find_ready(os.environ.get("KADSTORM_TOXIPROXY"))
    except ToxiproxyUnavailable as error:
        return Finding("Toxiproxy", "fail", str(error), "correct KADSTORM_TOXIPROXY or --toxiproxy")
    if found is not None:
        version = ".".join(map(str, binary.version_of(found) or ("?",)))
        return Finding("Toxiproxy", "ok", f"{version} at {found}")
    if shutil.which("go"):
        return Finding("Toxiproxy", "ok", "not here yet; the first run builds it with Go (about a minute, once)")
    return Finding(
        "Toxiproxy",
        "warn",
        "not here; the first run will try to download a release",
        "if that is refused: install Go, or put toxiproxy-server 2.5 or newer on the PATH",
    )


def _loopback() -> Finding:
    host = "127.20.1.1" if sys.platform == "linux" else "127.0.0.1"
    try:
        with socket.create_server((host, 0)):
            return Finding("loopback", "ok", f"addresses such as {host} can be used")
    except OSError as error:
        return Finding(
            "loopback",
            "fail",
            f"{host}: {error.strerror}",
            "bring the loopback interface up: ip link set lo up",
        )


def _descriptors(nodes: int) -> Finding:
    """Judged by what can be had: a run raises the limit as far as this process just did."""
    links = links_of(nodes)
    wanted, allowed = descriptors_needed(nodes, links), descriptors.allow(descriptors_needed(nodes, links))
    said = f"{wanted} needed for {nodes} nodes, {allowed} can be had"
    if wanted <= allowed:
        return Finding("file descriptors", "ok", said)
    remedy = "raise the hard limit (ulimit -Hn as root, LimitNOFILE of systemd), or take fewer nodes or cluster.sites"
    if descriptors_needed(nodes, links, FEWEST_CONNECTIONS) > allowed:
        return Finding("file descriptors", "fail", said, remedy)
    kept = connections_per_node(nodes, links, allowed)
    slow = f"{kept} connections a node, and nodes that talk to more others will close and dial without end"
    return Finding("file descriptors", "warn", f"{said}: {slow}", remedy)


def _memory(nodes: int) -> Finding:
    needed, there = memory_needed(nodes), psutil.virtual_memory().available
    said = f"about {_gib(needed)} needed for {nodes} nodes, {_gib(there)} available"
    if needed <= there:
        return Finding("memory", "ok", said)
    return Finding("memory", "fail", said, "take fewer nodes")


def _state() -> Finding:
    folder = state_dir()
    probe = Lock(folder / "doctor.lock")
    try:
        free = probe.acquire()
    except OSError as error:
        return Finding(
            "state folder",
            "fail",
            f"{folder}: {error.strerror}",
            "set KADSTORM_STATE to a folder that can be written",
        )
    probe.release()
    return Finding("state folder", "ok", str(folder) + ("" if free else " (another doctor is looking)"))


def _dead_sessions() -> Finding:
    dead = [folder.name for folder, _ in recorded_sessions(state_dir()) if _is_dead(folder)]
    if dead:
        return Finding("dead sessions", "warn", ", ".join(dead), "kadstorm cleanup")
    return Finding("dead sessions", "ok", "none")


def _is_dead(folder: Path) -> bool:
    lock = Lock(folder / "lock")
    if not lock.acquire():
        return False
    lock.release()
    return True


def _ports(nodes: int) -> Finding:
    needed = BASE_PORT + nodes * (sites_of(nodes) + 1)
    first = first_ephemeral_port()
    said = f"ports {BASE_PORT} to {needed - 1} for {nodes} nodes in {sites_of(nodes)} sites"
    if needed <= first:
        return Finding("ports", "ok", said)
    return Finding(
        "ports",
        "fail",
        f"{said}, and those from {first} on are for outgoing connections",
        f"sysctl -w net.ipv4.ip_local_port_range='{min(needed + 1000, 60000)} 65535', or lower cluster.sites",
    )


def _free_ports(nodes: int) -> Finding:
    """Binds them all for a moment on the address that the next session would get, as that would do."""
    end = min(BASE_PORT + nodes * (sites_of(nodes) + 1), LAST_PORT + 1)
    try:
        with Session(Path("doctor")) as session:  # whose locks keep us off the addresses of living sessions
            session.reserve_ports(API_PORT + 1 - CONTROL_PORTS, CONTROL_PORTS)
            session.reserve_ports(BASE_PORT, end - BASE_PORT)
            said = f"{API_PORT + 1 - CONTROL_PORTS} to {API_PORT} and {BASE_PORT} to {end - 1} on {session.host}"
    except PortsTaken as error:
        said, _, remedy = str(error).partition(": ")
        return Finding("free ports", "fail", said, remedy)
    except HarnessError as error:
        return Finding("free ports", "warn", f"not tried, since {error}", "see the state folder")
    return Finding("free ports", "ok", said)


def _containers(nodes: int) -> Iterator[Finding]:
    """What the docker backend needs; without an engine only that there is none."""
    from harness.containers import engine as engines  # a quarter of a second of import, for these findings

    try:
        engine = engines.connect()
    except EngineUnavailable as error:
        said = str(error).removesuffix(f": {engines.HOW_TO_GET_ONE}")
        remedy = engines.HOW_TO_GET_ONE if said != str(error) else "none is needed for --backend process"
        yield Finding("containers", "warn", said, remedy)
        return
    try:
        name = f"engine Podman {engine.version}" if engine.is_podman else f"engine {engine.version}"
        yield Finding("containers", "ok", f"{name}, API {engine.api_version}, at {engine.url}")
        yield _ability(engine)
        yield _images(engine)
        yield _bridge(nodes)
        yield _container_memory(nodes, engine)
        yield from _inotify(nodes)
        yield from _tracking(nodes)
    finally:
        engine.close()


def _ability(engine: Engine) -> Finding:
    """What it cannot do to a container, which a run that needs it is refused for."""
    from harness.containers import ability

    try:
        if not (missing := sorted(ability.lacking(engine))):
            return Finding("containers' faults", "ok", "they can be frozen, and held to limits")
        said = f"nothing can be done for {', '.join(ability.ASKED_BY[one] for one in missing)}: {ability.why(engine)}"
    except HarnessError as error:
        return Finding("containers' faults", "warn", str(error), "see whether `docker info` answers")
    return Finding("containers' faults", "warn", said, ability.REMEDY)


def _images(engine: Engine) -> Finding:
    """Those that the next run would use; others of ours are of other code or of another base, and nobody uses them."""
    from harness.containers import images

    try:
        offline = images.fits(engine)
        wanted = _wanted_images(engine, offline=offline)
        there = [one for one in wanted if images.exists(engine, one)]
        kinds = tuple(f"{one.partition(':')[0]}:" for one in wanted)
        old = [tag for tag in images.tags(engine) if tag.startswith(kinds) and tag not in wanted]
    except HarnessError as error:
        return Finding("images", "warn", str(error), "kadstorm images build")
    told = [f"{', '.join(there) or 'none'} of what is here now"]
    if missing := [one for one in wanted if one not in there]:
        way = "of this machine's Python, in seconds" if offline else f"from {images.REGISTRY_BASE}, which is pulled"
        told.append(f"the first run makes {', '.join(missing)} {way}")
    if old:
        told.append(f"{len(old)} older ones, which `docker image prune --all --filter label={images.LABEL}` removes")
    return Finding("images", "ok", "; ".join(told))


def _wanted_images(engine: Engine, *, offline: bool) -> list[str]:
    """How the images of nodes and Toxiproxy are called now; that of Toxiproxy only where its binary is there."""
    from harness import registry
    from harness.containers import images

    recipe = registry.target("kademlia").image()
    toxiproxy = binary.find_ready(os.environ.get("KADSTORM_TOXIPROXY"))
    if toxiproxy is None:
        return [images.member_reference(engine, recipe, offline=offline)]
    made = images.references(engine, recipe, toxiproxy, offline=offline)
    return [made.member, made.toxiproxy]


def _bridge(nodes: int) -> Finding:
    from harness.containers.networks import LARGEST

    if nodes <= LARGEST:
        return Finding("containers' network", "ok", f"a bridge holds {LARGEST} members")
    return Finding(
        "containers' network",
        "fail",
        f"a bridge holds {LARGEST} members, not {nodes}",
        "take fewer nodes, or --backend process",
    )


def _container_memory(nodes: int, engine: Engine) -> Finding:
    from harness.containers.engine import translated

    needed = memory_needed(nodes, CONTAINER_BYTES)
    try:
        with translated("asking the engine for its memory"):
            info = engine.api.info()
    except HarnessError as error:
        return Finding("containers' memory", "warn", str(error), "see whether `docker info` answers")
    there, kind = int(info.get("MemTotal") or 0), "in all where the engine is"
    if info.get("KernelVersion") == platform.release():  # it is on this machine, of which more is known
        there, kind = min(there or sys.maxsize, psutil.virtual_memory().available), "available"
    said = f"about {_gib(needed)} needed for {nodes} containers, {_gib(there)} {kind}"
    if needed <= there:
        return Finding("containers' memory", "ok", said)
    return Finding("containers' memory", "fail", said, "take fewer nodes, or --backend process")


def _connection_table(nodes: int) -> Iterator[Finding]:
    """Where anything has rules for the firewall, an engine's among them, the kernel tracks connections, on loopback, too."""
    try:
        tracked, most = int(CONNECTIONS.read_text()), int(MOST_CONNECTIONS.read_text())
    except (OSError, ValueError):
        return  # it tracks none
    said, needed = f"{tracked:,} of {most:,} in the kernel's table", nodes * TRACKED
    if tracked + needed <= most:
        yield Finding("connection table", "ok", said)
        return
    yield Finding(
        "connection table",
        "warn",
        f"{said}, and {nodes} nodes add {needed:,}: once it is full, packets are dropped, and links seem to hang",
        "wait two minutes for what has ended, or "
        f"sysctl -w net.netfilter.nf_conntrack_max={2 ** (tracked + needed).bit_length()}",
    )


def _inotify(nodes: int) -> Iterator[Finding]:
    """With version 2 of control groups the engine watches each container's memory events by an inotify instance."""
    try:
        allowed = int(INOTIFY.read_text())
    except (OSError, ValueError):
        return
    said = f"{allowed} instances allowed, one is needed per container"
    if nodes < allowed or not SECOND_CGROUPS.exists():
        yield Finding("inotify", "ok", said)
    else:
        yield Finding("inotify", "fail", said, f"sysctl -w fs.inotify.max_user_instances={2 * nodes}")


def _tracking(nodes: int) -> Iterator[Finding]:
    """The engine reads the table of all tracked connections for each container that ends: their product is its work."""
    try:
        tracked = TRACKING.read_text().strip() == "1"
    except OSError:
        return
    if tracked and nodes > MANY:
        yield Finding(
            "tracked connections",
            "warn",
            f"the kernel tracks connections between containers, so that the removal of {nodes} takes longer",
            "sysctl -w net.bridge.bridge-nf-call-iptables=0 (for all bridges of this machine)",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
