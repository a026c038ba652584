"""A plan's load: its driver, what each of its workers is told, its phases and their limits, and the load by hand, as a scope.

The scope's load runs beside whatever happens inside a `with` block: the same workers as in a run, with the same rows.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import registry
from harness.backends import HERE, Layout
from harness.errors import HarnessError, LoadFailed
from harness.events import Events
from harness.links import Topology
from harness.load import LoadDriver, WorkerExit
from harness.load_options import expected_operations, patience, worker_options
from harness.members import Members
from harness.records import LOAD_LOGS_DIR, OPERATIONS_DIR, Plan
from harness.session import Session
from harness.spawner import Spawn
from harness.transfers import Dial

HEAD_START = 0.5  # s between the order to start the clock and t = 0, so that all workers have it in time
GRACE = 10.0  # s on top of what a phase of the load may take by its own time limits
PRELOAD_PER_KEY = 0.05  # s
PRELOAD_ATTEMPTS, PRELOAD_LONGEST = 5, 2.0  # of a first key by its worker, and s of waiting between two of them
READBACK_PER_KEY = 0.02  # s
REACHED_WITHIN = 5.0  # s


@dataclass
class LoadSeen:
    """What became of the operations of the load; complete when the block has been left."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)  # kind -> outcome -> how many
    started: float = 0.0  # monotonic, s

    def count(self, kind: str) -> int:
        """Operations of a kind (`store`, `lookup`)."""
        return sum(self.outcomes.get(kind, Counter()).values())

    def success(self, kind: str) -> float:
        """The share of ok among all that were due, from 0 to 1. Raises ZeroDivisionError if there were none."""
        return self.outcomes[kind]["ok"] / self.count(kind)


@contextmanager
def load(plan: Plan, session: Session, run_dir: Path, topology: Topology, layout: Layout = HERE) -> Iterator[LoadSeen]:
    """Have the plan's load run while the block does, for the plan's duration; wait for its end. ``topology`` and ``layout``
    are the cluster's.

    Raises LoadFailed if a worker dies or first keys are not stored.
    """
    driver = driver_of(plan, session, run_dir, topology, layout)
    settings, seen = plan.experiment["load"], LoadSeen()
    try:
        driver.launch()
        driver.wait_up()
        driver.preload(preload_limit(settings))
        seen.started = time.monotonic() + HEAD_START
        driver.start_clock(seen.started)
        yield seen
        left = seen.started + plan.experiment["duration_us"] / 1e6 - time.monotonic()
        driver.wait_drained(max(0.0, left) + GRACE + patience(settings))
        check_workers(driver)
        driver.quit()
    finally:
        driver.close()
    seen.outcomes = outcomes(run_dir)


def outcomes(run_dir: Path) -> dict[str, Counter[str]]:
    """Outcomes by kind, of the rows of the phase `load`."""
    import pyarrow as pa

    found: dict[str, Counter[str]] = {}
    for path in sorted((run_dir / OPERATIONS_DIR).glob("*.arrow")):
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as rows:
            for row in rows.read_all().select(["kind", "outcome", "phase"]).to_pylist():
                if row["phase"] == "load":
                    found.setdefault(row["kind"], Counter())[row["outcome"]] += 1
    return found


def driver_of(
    plan: Plan,
    session: Session,
    run_dir: Path,
    topology: Topology,
    layout: Layout,
    events: Events | None = None,
    check: Callable[[], None] = lambda: None,
) -> LoadDriver:
    """The driver of a plan's load, with nothing started yet; workers that end unasked are journalled.

    ``topology`` and ``layout`` are those of the cluster, whose links stand.

    Raises:
        EngineFailed: the workers are to be in containers, and their image cannot be made.
        EngineUnavailable: they are, and no engine answers.
        LoadFailed: clients are to be in sites, and their proxies cannot be reached from here; or there are more workers than
            the cluster's network has room for.
    """
    see_that_sites_are_in_reach(topology, plan.experiment["load"].get("sites", []), layout.dial)

    def note(exit_: WorkerExit) -> None:
        if events is not None:
            events.emit("worker-exit", name=exit_.worker, detail={"exit": str(exit_)})

    return LoadDriver(
        load_configs(plan, session, run_dir, topology, layout),
        spawn=worker_spawn(plan, session, run_dir, layout),
        folder=run_dir / LOAD_LOGS_DIR,
        check=check,
        on_exit=note,
    )


def preload(driver: LoadDriver, plan: Plan, events: Events) -> str:
    """Store the first keys; empty, or why too few of them are there to tell. Raises LoadFailed."""
    done = driver.preload(preload_limit(plan.experiment["load"]))
    events.emit("load", name="preload", detail=asdict(done))
    return f"{done.failed} of {done.stored + done.failed} first keys were not acknowledged" if done.failed else ""


def read_back(driver: LoadDriver, plan: Plan, members: Members, events: Events) -> None:
    """Look every acknowledged key up through the members that answer, and end the workers. Raises HarnessError."""
    check_cluster(members)
    down = members.unresponsive()
    alive = [name for name in members.initial() if name not in down]
    found = driver.readback(alive, readback_limit(plan.experiment))
    events.emit("load", name="readback", detail=asdict(found))
    driver.quit()


def preload_limit(load: Mapping[str, Any]) -> float:
    """Seconds that storing a plan's first keys may take."""
    tries = PRELOAD_ATTEMPTS * float(load["timeout_us"]) / 1e6 + (PRELOAD_ATTEMPTS - 1) * PRELOAD_LONGEST
    return GRACE + tries + PRELOAD_PER_KEY * int(load["keys"])


def readback_limit(experiment: Mapping[str, Any]) -> float:
    """Seconds that reading all keys of a plan back may take."""
    load, seconds = experiment["load"], experiment["duration_us"] / 1e6
    stored = load["keys"] + (expected_operations(load, seconds) or 100 * seconds)
    return float(GRACE + 3 * load["timeout_us"] / 1e6 + READBACK_PER_KEY * stored)


def check_workers(load: LoadDriver) -> None:
    """A worker that ended unasked ends the run: what it did not do would be missing in silence. Raises LoadFailed."""
    if load.exits:
        raise LoadFailed("\n".join(str(exit_) for exit_ in load.exits))


def check_cluster(members: Members) -> None:
    """A cluster that is gone as a whole ends the run: there is nothing left to judge. Raises HarnessError."""
    if members.vanished():
        lost = members.lost()
        (how, many), *others = Counter(members.exits(name)[-1] for name in lost).most_common()
        said = f"{many} of them: {how}" if others else how
        raise HarnessError(
            f"the cluster vanished: all {len(lost)} nodes ended, and nobody had asked for that ({said}); the ends of "
            "their logs are in the journal (member-exit). Whatever ended them has to be mended first"
        )


def worker_spawn(plan: Plan, session: Session, run_dir: Path, layout: Layout) -> Spawn:
    """How the workers of a plan's load are started: as processes of the session's, or each in a container.

    Raises:
        EngineFailed: their image cannot be made.
        EngineUnavailable: no engine answers.
        LoadFailed: there are more workers than the cluster's network has room for.
    """
    load, quarters = plan.experiment["load"], layout.quarters
    if quarters is None and not load.get("containers"):
        return session.spawn
    if quarters is not None and load["processes"] > len(quarters.addresses):
        raise LoadFailed(
            f"load.processes: {load['processes']} workers, and an engine elsewhere has room for {len(quarters.addresses)} on a "
            "session's network: take fewer"
        )
    from harness.containers.load_worker import in_containers  # the engine's client takes a fifth of a second

    return in_containers(session, run_dir, quarters)


def load_configs(
    plan: Plan, session: Session, run_dir: Path, topology: Topology, layout: Layout
) -> list[dict[str, Any]]:
    """The configuration of each load worker of a plan; see `driver_of`. Workers in quarters dial members as these do."""
    load = plan.experiment["load"]
    workers = load["processes"]
    first = topology.names[: plan.experiment["cluster"]["nodes"]]  # joiners are no gateways
    gateways = [
        {
            "name": name,
            "host": topology.host_of(name) if layout.quarters is not None else layout.client_host(name, topology.host),
            "port": topology.port_of(name),
        }
        for name in first
    ]
    configs = []
    for index in range(workers):
        name = f"load-{index}"
        config = {
            "worker": name,
            "index": index,
            "workers": workers,
            "seed": plan.seed,
            "cluster": session.cluster_id,
            "client": registry.target(plan.experiment["cluster"]["target"]).load_client,
            "gateways": gateways,
            "sites": [client_site(topology, site) for site in load.get("sites", [])],
            "load": worker_options(load),
            "duration_s": plan.experiment["duration_us"] / 1e6,
            "operations": str((run_dir / OPERATIONS_DIR / f"{name}.arrow").resolve()),
        }
        configs.append(config)
    return configs


def see_that_sites_are_in_reach(
    topology: Topology, sites: Sequence[str], dial: Dial = socket.create_connection
) -> None:
    """Dial a proxy of theirs, where proxies have an address of their own. Raises LoadFailed."""
    links = [link for link in topology.links if link.site in sites]
    if not links or topology.proxy_host in ("", topology.host):
        return
    host, port = topology.proxy_host, topology.proxy_port(links[0])
    try:
        dial((host, port), REACHED_WITHIN).close()
    except OSError as error:
        raise LoadFailed(
            f"`load.sites`: clients in sites dial Toxiproxy's container, and {host}:{port} cannot be reached from here "
            f"({error}): see whether a firewall drops what this machine sends to its own bridges, leave `sites` out, or take "
            "`backend: process`"
        ) from error


def client_site(topology: Topology, site: str) -> dict[str, Any]:
    """Where clients of a site dial: at the site's proxies, but for a node that is alone in it, which has none to itself."""
    direct = [name for name in topology.nodes_of(site) if topology.nodes_of(site) == (name,)]
    return {"name": site, "offset": topology.offset_of(site), "direct": direct, "host": topology.proxy_host}
