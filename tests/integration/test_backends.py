"""What every backend must do, on each backend that there is: one suite, so that faults mean the same on all of them.

A member that can be forked from loaded code must behave like one that is started by its command: on processes, each test runs
both ways.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.backends import Backend, Exit, Ground, MemberSpec, WarmStart
from harness.errors import MemberFailed
from harness.session import Session
from harness.targets import Preload
from harness.toxiproxy import binary

SERVES = "import sys, time; print('serving', flush=True); time.sleep(60)"
LEAVES = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {SERVES}"
STAYS = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVES}"
FAILS = "import sys; sys.exit('no room in the house')"
TICKS = """
import sys, time
print('serving', flush=True)
while True:
    sys.stderr.write('x'); sys.stderr.flush(); time.sleep(0.01)
"""
WARM = "process, warm"
MUTE = "import time; time.sleep(60)"


class Exits:
    """Ends of members, awaited."""

    def __init__(self) -> None:
        self.seen: list[Exit] = []
        self._changed = threading.Condition()

    def __call__(self, exit_: Exit) -> None:
        with self._changed:
            self.seen.append(exit_)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Exit]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, 10), self.seen
        return self.seen


def names() -> list[Any]:
    """All backends that are installed; those that need a container engine are marked so."""
    found = sorted({entry.name for entry in entry_points(group=registry.BACKENDS)} | {WARM})
    return [pytest.param(name, marks=pytest.mark.docker) if name == "docker" else name for name in found]


class Place:
    """A backend on a session of its own, and how its members are started."""

    def __init__(self, backend: Backend, folder: Path, *, warm: bool) -> None:
        self.backend = backend
        self._warm = warm
        self._folder = folder
        self._layout = backend.lay_out(["m", "good", "bad", "mute", "a", "b", "late", *(f"m{i}" for i in range(5))])

    def spec(self, name: str, program: str) -> MemberSpec:
        python = sys.executable if self._layout.place == "process" else "python3"
        log = self._folder / f"{name}.log"
        return MemberSpec(
            name,
            (python, "-c", program),
            log,
            watches_parent=False,
            address=self._layout.hosts[name],
            warm=WarmStart(Preload("warm_program:main"), (program,)) if self._warm else None,
        )


@pytest.fixture(params=names())
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    (tmp_path / "warm_program.py").write_text("def main(argv):\n    exec(argv[0], {})\n    return 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    session = Session(tmp_path, state=tmp_path / "state")
    ground = Ground(
        session_id=session.id, host=session.host, state=session.state, run_dir=tmp_path, toxiproxy=binary.find(),
        spawn=session.spawn, recipe=registry.target("kademlia").image,
    )  # fmt: skip
    warm = request.param == WARM
    made = registry.backend("process" if warm else request.param).on(ground)
    yield Place(made, tmp_path, warm=warm)
    made.close()
    session.close()


@pytest.fixture
def backend(place: Place) -> Backend:
    return place.backend


@pytest.fixture
def exits(backend: Backend) -> Exits:
    listener = Exits()
    backend.on_exit(listener)
    return listener


def soon() -> float:
    return time.monotonic() + 15


def test_members_serve_when_start_returns(backend: Backend, place: Place) -> None:
    backend.start([place.spec(f"m{i}", SERVES) for i in range(5)], deadline=soon())
    assert [backend.state(f"m{i}") for i in range(5)] == ["running"] * 5


def test_what_is_begun_ahead_takes_no_step_before_a_start(backend: Backend, place: Place, tmp_path: Path) -> None:
    toxiproxy = backend.toxiproxy(tmp_path / "toxiproxy.log")  # in containers, it keeps what they wait for
    runs = f"import sys; sys.stderr.write('ran'); sys.stderr.flush(); {SERVES}"
    specs = [place.spec(f"m{i}", runs) for i in range(3)]
    backend.ahead(specs)
    toxiproxy.start()
    time.sleep(2)  # in which nothing is to happen
    assert not [spec.name for spec in specs if spec.log.exists() and spec.log.read_text()]
    backend.start([*specs, place.spec("late", runs)], deadline=soon())  # one of which nobody was told before
    assert [backend.state(name) for name in ("m0", "m1", "m2", "late")] == ["running"] * 4
    until = soon()
    while {spec.log.read_text() for spec in specs} != {"ran"}:  # what it said to either output is heard in any order
        assert time.monotonic() < until
        time.sleep(0.02)
    toxiproxy.stop()


def test_what_was_begun_ahead_and_never_started_goes_when_the_backend_is_closed(backend: Backend, place: Place) -> None:
    backend.ahead([place.spec(f"m{i}", SERVES) for i in range(3)])
    backend.close()
    with pytest.raises(MemberFailed, match="the run is ending"):
        backend.start([place.spec("late", SERVES)], deadline=soon())


def test_a_member_that_fails_is_told_with_its_exit_and_the_end_of_its_log(backend: Backend, place: Place) -> None:
    with pytest.raises(MemberFailed, match=r"(?s)bad did not start: exit code 1.*no room in the house"):
        backend.start([place.spec("good", SERVES), place.spec("bad", FAILS)], deadline=soon())


def test_a_member_that_says_nothing_is_not_waited_for_for_ever(backend: Backend, place: Place) -> None:
    with pytest.raises(MemberFailed, match="mute did not say in time that it serves"):
        backend.start([place.spec("mute", MUTE)], deadline=time.monotonic() + 0.5)


def test_a_killed_member_is_gone_when_kill_returns(backend: Backend, place: Place, exits: Exits) -> None:
    backend.start([place.spec("m", SERVES)], deadline=soon())
    backend.kill("m")
    assert backend.state("m") == "dead"
    assert exits.wait_for(1) == [Exit("m", asked=True, how="killed by SIGKILL")]


def test_a_member_that_ends_by_itself_was_not_asked(backend: Backend, place: Place, exits: Exits) -> None:
    backend.start([place.spec("m", "print('serving', flush=True); raise SystemExit(7)")], deadline=soon())
    assert exits.wait_for(1) == [Exit("m", asked=False, how="exit code 7")]


def test_a_stopped_member_leaves_by_itself(backend: Backend, place: Place, exits: Exits) -> None:
    backend.start([place.spec("m", LEAVES)], deadline=soon())
    backend.stop("m", grace=10)
    assert exits.wait_for(1) == [Exit("m", asked=True, how="exit code 0")]


def test_a_member_that_ignores_the_request_to_leave_is_made_to(backend: Backend, place: Place, exits: Exits) -> None:
    backend.start([place.spec("m", STAYS)], deadline=soon())
    backend.stop("m", grace=0.2)
    assert exits.wait_for(1) == [Exit("m", asked=True, how="killed by SIGKILL")]


def test_a_paused_member_is_frozen_until_it_is_resumed(backend: Backend, place: Place) -> None:
    member = place.spec("m", TICKS)
    backend.start([member], deadline=soon())
    backend.pause("m")
    assert backend.state("m") == "paused"
    time.sleep(0.2)  # what it had said before may still be on its way
    before = member.log.stat().st_size
    time.sleep(0.3)  # nothing can be awaited that must not happen
    assert member.log.stat().st_size == before
    backend.resume("m")
    deadline = soon()
    while member.log.stat().st_size == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert backend.state("m") == "running"


def test_a_paused_member_can_be_killed_and_stopped(backend: Backend, place: Place) -> None:
    backend.start([place.spec("a", LEAVES), place.spec("b", LEAVES)], deadline=soon())
    backend.pause("a")
    backend.pause("b")
    backend.kill("a")
    backend.stop("b", grace=10)
    assert (backend.state("a"), backend.state("b")) == ("dead", "dead")


def test_a_member_can_be_started_again_under_its_name(backend: Backend, place: Place, exits: Exits) -> None:
    for _ in range(3):
        backend.start([place.spec("m", SERVES)], deadline=soon())
        assert backend.state("m") == "running"
        backend.kill("m")
    assert len(exits.wait_for(3)) == 3


def test_what_is_done_to_a_dead_or_unknown_member_is_nothing(backend: Backend, place: Place) -> None:
    backend.start([place.spec("m", SERVES)], deadline=soon())
    backend.kill("m")
    for name in ("m", "stranger"):
        backend.kill(name)
        backend.stop(name, grace=0.1)
        backend.pause(name)
        backend.resume(name)
        assert backend.state(name) == "dead"


def test_close_ends_all_members(backend: Backend, place: Place, exits: Exits) -> None:
    backend.start([place.spec(f"m{i}", STAYS) for i in range(3)], deadline=soon())
    backend.pause("m1")
    backend.close()
    assert all(exit_.asked for exit_ in exits.wait_for(3))
    with pytest.raises(MemberFailed, match="the run is ending"):
        backend.start([place.spec("late", SERVES)], deadline=soon())


def test_a_listener_that_fails_does_not_keep_the_others_from_hearing(backend: Backend, place: Place) -> None:
    def broken(_: Exit) -> None:
        raise OSError("no space left")

    backend.on_exit(broken)
    exits = Exits()
    backend.on_exit(exits)
    backend.start([place.spec("a", SERVES), place.spec("b", SERVES)], deadline=soon())
    backend.kill("a")
    backend.kill("b")
    assert len(exits.wait_for(2)) == 2
    with pytest.raises(MemberFailed, match="could not be told: no space left"):
        backend.close()
