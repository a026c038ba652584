"""The cluster under test: its members, the links between them, and the effects in force on both.

What tests and faults talk to. It holds the effects of all faults in force, by a key for each, and hands them to the two
reconcilers: link effects to `reconciler.py`, claims to `members.py`.

The order matters, since Toxiproxy must never disable a proxy whose destination cannot answer (docs/faults.md): links learn
that a member will be gone before it goes, and that it is back after it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.admission import Admission, window_of_machine
from harness.backends import HERE, Layout, ProcessState
from harness.effects import Effect, LinkEffect, MemberClaim
from harness.errors import MemberFailed, TargetError
from harness.links import Link, Topology
from harness.members import Members
from harness.reconciler import Applied, LinkReconciler, touched
from harness.targets import HasTable, NodeAddress, NodeHandle, Ping, Target
from harness.toxiproxy.keeper import ToxiproxyKeeper
from harness.transfers import Transfer, transfer

T = TypeVar("T")

PINGERS = 32  # node-to-node pings under way at once
READY_POLL = 0.05  # s between two looks at the tables
SAMPLE_TIMEOUT = 1.0  # s
CLIENT_TIMEOUT = 5.0  # s
CONVERGED = 15.0  # s


@dataclass(frozen=True)
class Pace:
    """Over how many seconds to spread what concerns all members; ``wait`` waits so many seconds, or less if all is to end."""

    seconds: float
    wait: Callable[[float], object]


@dataclass(frozen=True)
class Enforced:
    """When an action began and ended to take hold, as monotonic times (s)."""

    first: float
    last: float


class Cluster:
    """All nodes of a run and the network between them. Made by `boot.boot_cluster`; thread-safe."""

    def __init__(
        self,
        *,
        topology: Topology,
        addresses: Sequence[NodeAddress],
        members: Members,
        links: LinkReconciler,
        target: Target,
        cluster_id: str,
        options: Mapping[str, Any],
        network: Sequence[LinkEffect] = (),
        bootstrap: int = 1,
        keeper: ToxiproxyKeeper | None = None,
        layout: Layout = HERE,
    ) -> None:
        self.topology = topology
        self.layout = layout
        self.members = members
        self.links = links
        self.addresses = {address.name: address for address in addresses}
        self.cluster_id = cluster_id
        self.bootstrap = [address.name for address in addresses[:bootstrap]]
        self._keeper = keeper
        self._target = target
        self._options = options
        self._in_force: dict[Hashable, list[LinkEffect]] = {"network": list(network)}
        self._half_healed: dict[Hashable, list[LinkEffect]] = {}
        self._links_lock = threading.Lock()
        self._closing = threading.Event()
        self._handles: dict[str, NodeHandle] = {
            name: target.connect(address, cluster_id) for name, address in self.addresses.items()
        }
        self._pingers = ThreadPoolExecutor(PINGERS, thread_name_prefix="kadstorm-ping")

    @property
    def k(self) -> int:
        """How many nodes hold a record."""
        return int(self._options.get("k") or 20)

    # --- effects ---------------------------------------------------------------------------------

    def enforce(self, key: Hashable, effects: Sequence[Effect]) -> Enforced:
        """Add ``effects`` under ``key`` and make them true. Raises ToxiproxyFailed or MemberFailed; `release` undoes halves."""
        began = time.monotonic()
        links, claims = split(effects)
        self._in_force[key] = links
        doomed = {claim.member for claim in claims if claim.state != "running"}
        applied = self._reconcile_links(doomed) if links or self._refusing() else None
        self.members.claim(key, claims)
        return enforced(began, applied if links else None)

    def release(self, key: Hashable) -> Enforced:
        """Take back what is under ``key``: members first, links second. Raises ToxiproxyFailed or MemberFailed."""
        began = time.monotonic()
        self.members.release(key)
        links = self._in_force.pop(key, []) or self._half_healed.get(key, [])
        self._half_healed[key] = links  # until it has succeeded: a second try must send what the first did not
        applied = self._reconcile_links() if links or self._refusing() else None
        del self._half_healed[key]
        return enforced(began, applied if links else None)

    def escalate(self, key: Hashable, error: Exception, *, since: float) -> str:
        """Take ``key`` back by the last resort, after `release` has failed with ``error``; what was done, for people.

        A Toxiproxy that does not obey is started again with the state that is wanted; members that do not come back are
        killed and started again without their data. Raises ToxiproxyFailed or MemberFailed if even that fails.
        """
        if isinstance(error, MemberFailed):
            renewed = self.members.renew(key)
            self.release(key)
            return f"started {', '.join(renewed)} again without their data"
        if self._keeper is None:
            raise error
        self._keeper.bring_back(str(error), since)
        self.release(key)
        return "started Toxiproxy again with the state that is wanted"

    def in_force(self) -> list[Hashable]:
        """Keys of all effects in force but the run-long network conditions."""
        return [key for key in self._in_force if key != "network"]

    def effects_by_link(self) -> dict[str, list[str]]:
        """What faults (not the run-long conditions) do to each proxy now: its name -> kinds of effects. For people."""
        kinds: dict[str, dict[str, None]] = {}
        for key, effects in list(self._in_force.items()):
            for effect in effects if key != "network" else ():
                for link, stream in touched(self.topology, effect):
                    kinds.setdefault(link.proxy, {})[f"{effect.kind} {stream}"] = None
        return {proxy: list(its) for proxy, its in kinds.items()}

    def disordered_links(self) -> list[str]:
        """Read all proxies back; the names of those that are not as they should be. Raises ToxiproxyFailed."""
        return self.links.verify()

    def _refusing(self) -> bool:
        return any(effect.kind == "refuse" for effects in list(self._in_force.values()) for effect in effects)

    def _reconcile_links(self, doomed: Collection[str] = ()) -> Applied:
        with self._links_lock:  # what is in force is looked up under the lock, so the last one to apply knows all
            effects = [effect for effects in list(self._in_force.values()) for effect in effects]
            done: list[Applied] = []

            def apply() -> None:
                done.append(self.links.apply(effects, self.members.unresponsive() | set(doomed)))

            apply() if self._keeper is None else self._keeper.call(apply)
            return done[-1]

    # --- questions -------------------------------------------------------------------------------

    def ping(self, pairs: Sequence[tuple[str, str]], *, timeout: float, padding: int = 0) -> list[Ping]:
        """Have nodes ping each other, pair by pair (source, destination), side by side; in the order of ``pairs``."""
        return list(self._pingers.map(lambda pair: self._ping(*pair, timeout=timeout, padding=padding), pairs))

    def transfers(self, links: Sequence[tuple[str, str]], *, size: int, timeout: float) -> list[Transfer]:
        """Open a connection through each link (source site, destination node) and echo ``size`` bytes; see `transfers.py`."""
        request, expected = self._target.echo(self.cluster_id, size)

        def through(link: tuple[str, str]) -> Transfer:
            return transfer(self.link_address(*link), request, expected, timeout=timeout, dial=self.layout.dial)

        return list(self._pingers.map(through, links))

    def link_address(self, site: str, node: str) -> tuple[str, int]:
        """Where the proxy between a site and a node listens; the layout's `dial` leads there."""
        return self.topology.proxy_host or self.topology.host, self.topology.proxy_port(Link(site, node))

    def store(self, key: str, value: bytes, *, via: str, timeout: float = CLIENT_TIMEOUT) -> int:
        """Store a value through the member ``via``; how many holders acknowledged. Raises TargetError."""
        return self._handles[via].store(key, value, timeout=timeout)

    def lookup(self, key: str, *, via: str, timeout: float = CLIENT_TIMEOUT) -> bytes | None:
        """Look a key up through the member ``via``; None if nothing is there. Raises TargetError."""
        return self._handles[via].lookup(key, timeout=timeout)

    def present(self) -> list[str]:
        """Members that are meant to be in the network now, in the plan's order: no joiners yet to come, no dead."""
        return [name for name in self.members.names() if self.members.here(name)]

    def leave(self, name: str) -> None:
        """Have a member leave for good: it hands its records over and exits. Raises MemberFailed."""
        self.enforce(("left", name), [MemberClaim(name, "dead", graceful=True)])

    def process_state(self, name: str) -> ProcessState:
        """What the machine says about a member."""
        return self.members.process_state(name)

    def samples(self, pace: Pace) -> dict[str, dict[str, int] | None]:
        """Counters of every member that has joined; None for one that does not answer within SAMPLE_TIMEOUT.

        Members are asked one after another, at ``pace``.
        """
        return self._asked(self._sample, [name for name in self.members.names() if self.members.joined(name)], pace)

    def tables(self, pace: Pace) -> dict[str, set[str] | None]:
        """Ids in every member's routing table; None for one that does not answer, or has no such thing.

        Members are asked one after another, at ``pace``.
        """
        return self._asked(self._table, self.members.names(), pace)

    def _asked(self, ask: Callable[[str], T], names: Sequence[str], pace: Pace) -> dict[str, T]:
        asked: dict[str, Future[T]] = {}
        for name in paced(names, pace):
            asked[name] = self._pingers.submit(ask, name)
        return {name: answer.result() for name, answer in asked.items()}

    def unready(self, among: Collection[str] | None = None) -> dict[str, str]:
        """Members (of those ``among``) that are meant to be there and do not know their true closest nodes yet, and what
        they lack."""
        there = [address for name, address in self.addresses.items() if self.members.here(name)]
        return self._target.unready(there, self._handles, self._options, among)

    def start(self, *, deadline: float, tell: Callable[[int, int], None] = lambda _started, _of: None) -> None:
        """Start all members but those that join later, so many at a time that each finds its place (`admission.py`).

        ``tell`` hears how many serve. Returns early when some are lost, or when the cluster is closed.

        Raises:
            MemberFailed: one does not serve by ``deadline`` (monotonic).
        """
        admission = Admission(
            lambda name: self.members.start([name], deadline=deadline),
            self._have_joined,
            tell=tell,
            window=window_of_machine(),
        )
        admission.admit(self.members.initial(), self._closing, self.members.lost)

    def _have_joined(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
        """Which of these members know their closest among those that served before each."""

        def has_joined(one: tuple[str, Sequence[str]]) -> bool:
            name, before = one
            there = [self.addresses[other] for other in (*before, name)]
            return not self._target.unready(there, self._handles, self._options, {name})

        return list(self._pingers.map(has_joined, asked))

    def wait_ready(self, *, deadline: float, check: Callable[[], None] = lambda: None) -> None:
        """Wait until every member knows its closest nodes.

        Raises:
            MemberFailed: some do not by ``deadline`` (monotonic), or a member has died; the text says which and why.
        """
        began = time.monotonic()
        lacking = self.unready()
        while lacking:
            check()  # it may raise, and so end the wait
            if self.members.lost():
                raise MemberFailed(f"{', '.join(self.members.lost())} died before the cluster was ready")
            if time.monotonic() > deadline:
                raise MemberFailed(f"the cluster did not become ready in time: {lacks_text(lacking)}")
            # The nodes converge by themselves: all there is to do is to look again, and not to keep them from it by that.
            time.sleep(max(READY_POLL, time.monotonic() - began))
            began = time.monotonic()
            lacking = self.unready(lacking) or self.unready()  # once nobody seems to lack anything, all are asked

    def wait_converged(self, *, within: float = CONVERGED) -> None:
        """Wait until every member knows its closest nodes again, as after a heal. Raises MemberFailed after ``within`` s."""
        self.wait_ready(deadline=time.monotonic() + within)

    def close(self) -> None:
        """Start nobody any more, and close every connection of ours."""
        self._closing.set()
        self._pingers.shutdown(wait=True)
        for handle in self._handles.values():
            handle.close()

    def _ping(self, source: str, destination: str, *, timeout: float, padding: int) -> Ping:
        pair = (self.addresses[source], self.addresses[destination])
        handles = self._handles[source], self._handles[destination]
        return self._target.ping(*handles, pair, timeout=timeout, padding=padding)

    def _table(self, name: str) -> set[str] | None:
        handle = self._handles[name]
        if name in self.members.unresponsive() or not isinstance(handle, HasTable):
            return None
        try:
            return handle.table(timeout=SAMPLE_TIMEOUT)
        except TargetError:
            return None

    def _sample(self, name: str) -> dict[str, int] | None:
        if name in self.members.unresponsive():
            return None
        try:
            return self._handles[name].sample(timeout=SAMPLE_TIMEOUT)
        except TargetError:
            return None  # the row says that it did not answer


def paced(names: Sequence[str], pace: Pace) -> Iterator[str]:
    """These names, each when it is due: were all members asked at once, the measuring itself would slow what it measures."""
    began = time.monotonic()
    for number, name in enumerate(names):
        if (early := began + pace.seconds * number / len(names) - time.monotonic()) > 0:
            pace.wait(early)
        yield name


def split(effects: Sequence[Effect]) -> tuple[list[LinkEffect], list[MemberClaim]]:
    """Link effects and claims apart, each in order."""
    links = [effect for effect in effects if isinstance(effect, LinkEffect)]
    return links, [effect for effect in effects if isinstance(effect, MemberClaim)]


def enforced(began: float, applied: Applied | None) -> Enforced:
    """From the first to the last touched link, or the time that the members took."""
    if applied is None:
        return Enforced(began, time.monotonic())
    return Enforced(applied.first_at, applied.last_at)


def lacks_text(lacking: Mapping[str, str], limit: int = 5) -> str:
    """What some nodes lack, the first few by name."""
    shown = [f"{name}: {lack}" for name, lack in list(lacking.items())[:limit]]
    more = len(lacking) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
