"""Claims on members, against a backend that only remembers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends import Exit, MemberSpec, Power, ProcessState
from harness.effects import MemberClaim, MemberState
from harness.errors import MemberFailed
from harness.members import STRENGTH, Member, Members
from harness.targets import NodeAddress


class Remembering:
    """A backend whose members are words."""

    powers: frozenset[Power] = frozenset()

    def __init__(self) -> None:
        self.states: dict[str, ProcessState] = {}
        self.done: list[tuple[str, str]] = []
        self.listener: Callable[[Exit], None] = lambda _: None

    def start(self, specs: Sequence[MemberSpec], *, deadline: float) -> None:
        for spec in specs:
            assert self.states.get(spec.name, "dead") == "dead", "started twice"
            self._note(spec.name, "start", "running")

    def stop(self, name: str, *, grace: float) -> None:
        self._note(name, "stop", "dead")

    def kill(self, name: str) -> None:
        self._note(name, "kill", "dead")

    def pause(self, name: str) -> None:
        assert self.states[name] == "running"
        self._note(name, "pause", "paused")

    def resume(self, name: str) -> None:
        assert self.states[name] == "paused"
        self._note(name, "resume", "running")

    def erase(self, name: str) -> None:
        assert self.states.get(name, "dead") == "dead"
        self.done.append((name, "erase"))

    def state(self, name: str) -> ProcessState:
        return self.states[name]

    def on_exit(self, listener: Callable[[Exit], None]) -> None:
        self.listener = listener

    def close(self) -> None:
        self.states.clear()

    def _note(self, name: str, what: str, state: ProcessState) -> None:
        self.done.append((name, what))
        self.states[name] = state


def cluster_of(*names: str) -> tuple[Members, Remembering, list[str]]:
    backend, lost = Remembering(), []
    members = [
        Member(
            NodeAddress(name, "00" * 20, "127.0.0.1", 1), MemberSpec(name, ("true",), Path("log"), watches_parent=True)
        )
        for name in names
    ]
    made = Members(backend, members, on_lost=lambda exit_: lost.append(exit_.name), on_up=lambda name, seconds: None)
    made.start(deadline=0.0)
    backend.done.clear()
    return made, backend, lost


@given(st.lists(st.sampled_from(["dead", "paused", "running"]), min_size=1, max_size=4), st.randoms())
def test_the_strongest_claim_wins_and_claims_leave_in_any_order(states: list[MemberState], rng: object) -> None:
    members, backend, _ = cluster_of("a")
    keys = list(range(len(states)))
    for key, state in zip(keys, states, strict=True):
        members.claim(key, [MemberClaim("a", state)])
    rng.shuffle(keys)  # type: ignore[attr-defined]
    held = dict(enumerate(states))
    for key in keys:
        strongest: MemberState = max(held.values(), key=STRENGTH.__getitem__)
        assert backend.states["a"] == strongest
        members.release(key)
        del held[key]
    assert backend.states["a"] == "running"
    members.close()


def test_a_member_is_asked_to_leave_only_if_every_claim_wants_it_that_way() -> None:
    for graceful in itertools.product([True, False], repeat=2):
        members, backend, _ = cluster_of("a")
        members["a"].claims["earlier"] = MemberClaim("a", "dead", graceful=graceful[0])
        members.claim("later", [MemberClaim("a", "dead", graceful=graceful[1])])
        assert backend.done == [("a", "stop" if all(graceful) else "kill")]
        members.close()


def test_a_cluster_has_vanished_when_all_its_members_ended_unasked_and_not_by_what_was_asked() -> None:
    members, backend, _ = cluster_of("a", "b", "c")
    members["c"].joins, members["c"].state = True, "dead"  # one that has not joined yet
    members.claim("kill", [MemberClaim("a", "dead"), MemberClaim("b", "dead")])
    assert not members.vanished()
    members.release("kill")
    for name, gone in (("a", False), ("b", True)):
        backend.listener(Exit(name, asked=False, how="signal 9"))
        assert members.vanished() is gone
    members.close()


def test_a_lost_member_is_told_once_and_stays_down() -> None:
    members, backend, lost = cluster_of("a", "b")
    backend.states["a"] = "dead"
    backend.listener(Exit("a", asked=False, how="exit code 1"))
    assert lost == members.lost() == ["a"]
    members.claim("kill", [MemberClaim("a", "dead"), MemberClaim("b", "dead")])
    members.release("kill")
    assert backend.states == {"a": "dead", "b": "running"}
    members.close()


def test_an_end_that_was_asked_for_is_no_loss() -> None:
    members, backend, lost = cluster_of("a")
    backend.listener(Exit("a", asked=True, how="killed by SIGKILL"))
    assert (lost, members.lost()) == ([], [])
    members.close()


def test_a_member_that_will_be_gone_counts_as_unresponsive_before_it_is() -> None:
    members, _, _ = cluster_of("a", "b")
    members["a"].claims["soon"] = MemberClaim("a", "paused")
    assert members.unresponsive() == {"a"}
    members.close()


class Stubborn(Remembering):
    """Its members do not start for ``failures`` times."""

    failures = 0

    def start(self, specs: Sequence[MemberSpec], *, deadline: float) -> None:
        if self.failures:
            self.failures -= 1
            raise MemberFailed("its disk is full")
        super().start(specs, deadline=deadline)


def stubborn_cluster() -> tuple[Members, Stubborn]:
    backend = Stubborn()
    spec = MemberSpec("a", ("true",), Path("log"), watches_parent=True, keeps_data=True)
    member = Member(NodeAddress("a", "00" * 20, "127.0.0.1", 1), spec)
    members = Members(backend, [member], on_lost=lambda _: None, on_up=lambda name, seconds: None)
    members.start(deadline=0.0)
    return members, backend


def test_a_release_that_failed_is_done_by_the_next_one() -> None:
    members, backend = stubborn_cluster()
    members.claim("x", [MemberClaim("a", "dead")])
    backend.failures = 1
    with pytest.raises(MemberFailed):
        members.release("x")
    assert backend.states["a"] == "dead"
    members.release("x")
    assert backend.states["a"] == "running"


def test_a_member_that_does_not_come_back_is_renewed_without_its_data() -> None:
    members, backend = stubborn_cluster()
    members.claim("x", [MemberClaim("a", "dead", keep_data=True)])
    backend.failures = 1
    with pytest.raises(MemberFailed):
        members.release("x")
    assert members.renew("x") == ["a"]
    assert backend.done[-1] == ("a", "erase")
    members.release("x")
    assert backend.states["a"] == "running"


def test_a_joiner_is_there_from_the_moment_that_it_is_claimed_on() -> None:
    backend = Remembering()
    specs = {name: MemberSpec(name, ("true",), Path("log"), watches_parent=True) for name in ("a", "b")}
    made = [
        Member(NodeAddress(name, "00" * 20, "127.0.0.1", 1), spec, joins=name == "b") for name, spec in specs.items()
    ]
    members = Members(backend, made, on_lost=lambda _: None, on_up=lambda name, seconds: None)
    members.start(deadline=0.0)
    assert (members.initial(), members.joined("b"), members.here("b")) == (["a"], False, False)
    assert backend.done == [("a", "start")]
    members.claim("crowd", [MemberClaim("b", "running")])
    assert (members.joined("b"), members.here("b"), backend.states["b"]) == (True, True, "running")
    members.claim("churn", [MemberClaim("b", "dead")])
    members.release("churn")
    assert backend.states["b"] == "running"
