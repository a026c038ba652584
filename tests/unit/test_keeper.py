"""The keeper against a server that is made up: what is away is brought back once, what cannot be is given up, gaps are told."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from harness.errors import ToxiproxyFailed, ToxiproxySilent
from harness.events import Events
from harness.records import Event
from harness.toxiproxy.keeper import Gap, ToxiproxyKeeper

PATIENCE = 10.0  # s


class Server:
    """It lives until `die`; ``stillborn`` of the next restarts fail."""

    def __init__(self, stillborn: int = 0) -> None:
        self.ended = threading.Event()
        self.restarts, self.stillborn = 0, stillborn

    def alive(self) -> bool:
        return not self.ended.is_set()

    def exit(self) -> str:
        return "killed by SIGKILL"

    def wait(self) -> None:
        self.ended.wait()

    def die(self) -> None:
        self.ended.set()

    def restart(self) -> str:
        self.restarts += 1
        if self.stillborn:
            self.stillborn -= 1
            raise ToxiproxyFailed("no room")
        self.ended.clear()
        return "2.12.0"


class Links:
    restored = 0

    def restore(self) -> None:
        self.restored += 1


class Bed:
    """A keeper and what it keeps."""

    def __init__(self, stillborn: int = 0) -> None:
        self.server, self.links, self.journal = Server(stillborn), Links(), list[Event]()
        self.keeper = ToxiproxyKeeper(self.server, self.links, Events(self.journal.append))  # type: ignore[arg-type]

    def kinds(self) -> list[str]:
        return [event.event for event in self.journal]


def failing_once(error: Exception) -> tuple[list[str], Any]:
    calls: list[str] = []

    def work() -> None:
        calls.append("called")
        if len(calls) == 1:
            raise error

    return calls, work


def test_a_server_that_ends_by_itself_is_brought_back_and_the_gap_is_measured() -> None:
    bed = Bed()
    bed.keeper.start()
    bed.server.die()
    deadline = time.monotonic() + PATIENCE
    while not bed.keeper.gaps:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert (bed.server.restarts, bed.links.restored) == (1, 1)
    assert bed.kinds() == ["toxiproxy-lost", "toxiproxy-restarted"]
    (gap,) = bed.keeper.gaps
    assert gap.why == "it ended: killed by SIGKILL"
    assert bed.journal[-1].detail["gap_s"] == gap.seconds
    bed.keeper.close()
    bed.server.die()


def test_a_call_that_finds_it_dead_brings_it_back_and_is_made_again() -> None:
    bed = Bed()
    bed.server.die()
    calls, work = failing_once(ToxiproxyFailed("connection refused"))
    bed.keeper.call(work)
    assert (len(calls), bed.server.restarts) == (2, 1)


def test_a_server_that_lives_and_is_silent_is_started_again() -> None:
    bed = Bed()
    calls, work = failing_once(ToxiproxySilent("no answer"))
    bed.keeper.call(work)
    assert (len(calls), bed.server.restarts) == (2, 1)


def test_a_server_that_lives_and_refuses_is_left_alone() -> None:
    bed = Bed()
    calls, work = failing_once(ToxiproxyFailed("HTTP 400"))
    with pytest.raises(ToxiproxyFailed, match="HTTP 400"):
        bed.keeper.call(work)
    assert (len(calls), bed.server.restarts) == (1, 0)


def test_a_restart_that_fails_is_tried_again_and_then_given_up_for_good() -> None:
    bed = Bed(stillborn=1)
    bed.keeper.bring_back("a try", time.monotonic())
    assert bed.server.restarts == 2
    hopeless = Bed(stillborn=99)
    with pytest.raises(ToxiproxyFailed, match="no room"):
        hopeless.keeper.bring_back("a try", time.monotonic())
    assert hopeless.keeper.gaps[0].seconds is None
    tries = hopeless.server.restarts
    with pytest.raises(ToxiproxyFailed, match="could not be brought back before: no room"):
        hopeless.keeper.bring_back("again", time.monotonic())
    assert hopeless.server.restarts == tries


def test_nothing_is_brought_back_once_it_is_closed() -> None:
    bed = Bed()
    bed.keeper.close()
    bed.server.die()
    _, work = failing_once(ToxiproxyFailed("connection refused"))
    with pytest.raises(ToxiproxyFailed):
        bed.keeper.call(work)
    assert bed.server.restarts == 0


def test_a_gap_is_told_with_its_length_where_it_has_one() -> None:
    assert str(Gap("it ended", 1.234)) == "Toxiproxy was away for 1.23 s, and every link with it (it ended)"
    assert str(Gap("it ended", None)) == "Toxiproxy was away, and every link with it (it ended)"
