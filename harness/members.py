"""Members and the claims on them: who is to be running, paused or dead, and the steps that make it so.

The counterpart of `reconciler.py` for processes. Faults place claims and take them back; the strongest claim on a member
wins (dead over paused over running), so faults that overlap undo in any order. A member that ended though nobody claimed
that is *lost*: it is reported, stays down, and later actions on it are skipped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from harness.backends import Backend, Exit, MemberSpec, ProcessState
from harness.effects import MemberClaim, MemberState
from harness.targets import NodeAddress

LEAVE_GRACE = 5.0  # s between SIGTERM and SIGKILL for a member that is asked to leave
RESTART_DEADLINE = 20.0  # s for a member to serve again
WORKERS = 16  # members that are stopped or started side by side
STRENGTH: dict[MemberState, int] = {"running": 0, "paused": 1, "dead": 2}


@dataclass
class Member:
    """One node of the cluster, through all its lives."""

    address: NodeAddress
    spec: MemberSpec
    state: MemberState = "dead"  # as the harness made it
    joins: bool = False  # it is not there from the start: only a claim that it is running brings it in
    lost: bool = False
    exits: list[str] = field(default_factory=list)  # how each of its lives ended
    claims: dict[Hashable, MemberClaim] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.address.name

    def wanted(self) -> MemberState:
        """The strongest state that is claimed; without a claim, running, and dead for one that has not joined."""
        claims = list(self.claims.values())
        otherwise: MemberState = "dead" if self.joins else "running"
        return max((claim.state for claim in claims), key=STRENGTH.__getitem__, default=otherwise)


def leaves_politely(claims: Iterable[MemberClaim]) -> bool:
    """Whether a member goes by SIGTERM: only if every claim that wants it dead asks for that."""
    return all(claim.graceful for claim in claims if claim.state == "dead")


def keeps_data(claims: Iterable[MemberClaim]) -> bool:
    """Whether its data outlives its death: only if every claim that wants it dead allows that."""
    return all(claim.keep_data for claim in claims if claim.state == "dead")


class Members:
    """All members of a cluster, in the plan's order. Thread-safe: each member has a lock, steps on one are in sequence."""

    def __init__(
        self,
        backend: Backend,
        members: Sequence[Member],
        *,
        on_lost: Callable[[Exit], None],
        on_up: Callable[[str, float], None],
    ) -> None:
        self._backend = backend
        self._members = {member.name: member for member in members}
        self._on_lost = on_lost
        self._on_up = on_up
        self._unfinished: dict[Hashable, list[str]] = {}  # key -> members of a release that failed
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="kadstorm-member")
        backend.on_exit(self._note_exit)

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def names(self) -> list[str]:
        """All members, in the plan's order."""
        return list(self._members)

    def start(self, names: Sequence[str] | None = None, *, deadline: float) -> None:
        """Start these members; without names, all but those that join later. Raises MemberFailed."""
        first = [self._members[name] for name in (self.initial() if names is None else names)]
        self._backend.start([member.spec for member in first], deadline=deadline)
        for member in first:
            member.state = "running"

    def initial(self) -> list[str]:
        """The members that are there from the start, in the plan's order."""
        return [name for name, member in self._members.items() if not member.joins]

    def here(self, name: str) -> bool:
        """Whether a member is meant to be in the network: there from the start or joined, and not ended for good."""
        member = self._members[name]
        return not member.lost and member.wanted() != "dead"

    def joined(self, name: str) -> bool:
        """Whether a member has ever been in the network."""
        member = self._members[name]
        return not member.joins or member.state != "dead" or bool(member.exits)

    def exits(self, name: str) -> list[str]:
        """How each past life of a member ended, as the backend told it."""
        return list(self._members[name].exits)

    def lost(self) -> list[str]:
        """Members that ended though nobody wanted that."""
        return [name for name, member in self._members.items() if member.lost]

    def vanished(self) -> bool:
        """Whether all that were ever in the network ended though nobody wanted that."""
        joined = [name for name in self._members if self.joined(name)]
        return bool(joined) and all(self._members[name].lost for name in joined)

    def unresponsive(self) -> set[str]:
        """Members that cannot answer now: frozen, dead, lost, or about to be."""
        return {
            name
            for name, member in self._members.items()
            if member.lost or member.state != "running" or member.wanted() != "running"
        }

    def process_state(self, name: str) -> ProcessState:
        """What the machine says about a member, whatever was asked of it."""
        return self._backend.state(name)

    def claim(self, key: Hashable, claims: Sequence[MemberClaim]) -> None:
        """Place ``claims`` under ``key`` and make them true. Raises MemberFailed."""
        for claim in claims:
            member = self._members[claim.member]
            with member.lock:
                member.claims[key] = claim
        self._converge([claim.member for claim in claims])

    def release(self, key: Hashable) -> None:
        """Take back what was placed under ``key``; members that nothing holds any more run again. Raises MemberFailed."""
        held = [member for member in self._members.values() if key in member.claims]
        for member in held:
            with member.lock:
                member.claims.pop(key, None)
        names = list(dict.fromkeys([*self._unfinished.pop(key, []), *(member.name for member in held)]))
        self._unfinished[key] = names  # until it has succeeded: a second try must know whom it is about
        self._converge(names)
        del self._unfinished[key]

    def renew(self, key: Hashable) -> list[str]:
        """Kill the members of a release that failed, and remove their data: the next release starts them afresh."""
        names = self._unfinished.get(key, [])
        stuck = [name for name in names if self._members[name].state != self._members[name].wanted()]
        for name in stuck:
            member = self._members[name]
            with member.lock:
                self._backend.kill(name)
                if member.spec.keeps_data:
                    self._backend.erase(name)
                member.state = "dead"
        return stuck

    def close(self) -> None:
        """End the threads. The backend ends the members: at a teardown nobody needs them to hand anything over."""
        self._pool.shutdown(wait=True)

    def _converge(self, names: Sequence[str]) -> None:
        list(self._pool.map(self._converge_one, names))

    def _converge_one(self, name: str) -> None:
        member = self._members[name]
        with member.lock:
            wanted = member.wanted()
            if member.lost or wanted == member.state:
                return
            steps: Mapping[MemberState, Callable[[Member], None]] = {
                "dead": self._end,
                "paused": self._freeze,
                "running": self._run,
            }
            steps[wanted](member)
            member.state = wanted

    def _end(self, member: Member) -> None:
        claims = list(member.claims.values())
        if leaves_politely(claims):
            self._backend.stop(member.name, grace=LEAVE_GRACE)
        else:
            self._backend.kill(member.name)
        if member.spec.keeps_data and not keeps_data(claims):
            self._backend.erase(member.name)

    def _freeze(self, member: Member) -> None:
        if member.state == "dead":
            self._start_again(member)
        self._backend.pause(member.name)

    def _run(self, member: Member) -> None:
        if member.state == "paused":
            self._backend.resume(member.name)
        else:
            self._start_again(member)

    def _start_again(self, member: Member) -> None:
        began = time.monotonic()
        self._backend.start([member.spec], deadline=began + RESTART_DEADLINE)
        self._on_up(member.name, time.monotonic() - began)

    def _note_exit(self, exit_: Exit) -> None:
        self._members[exit_.name].exits.append(exit_.how)
        if not exit_.asked:
            self._members[exit_.name].lost = True
            self._on_lost(exit_)
