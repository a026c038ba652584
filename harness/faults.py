"""What a fault is, and which there are.

One small file each, in `chaos/faults/` or in another package, found by the entry-point group ``kadstorm.faults``. A
fault plans (pure), says which effects it asks for (pure), and observes. It never touches a toxic or a process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from harness.effects import Effect
from harness.errors import UsageError
from harness.expectations import did_you_mean
from harness.links import Topology
from harness.observation import Observer
from harness.records import Action
from harness.selectors import Selector

GROUP = "kadstorm.faults"
Level = Literal["link", "member"]
ForRule = Literal["required", "optional", "refused"]


class CannotPlan(UsageError):
    """A fault cannot be planned as it is asked for, which shows only with the plan: the text says why."""


@dataclass(frozen=True)
class Entry:
    """When one occurrence of a timeline entry happens. Microseconds; ``until_us`` is None without `for`."""

    index: int
    name: str
    at_us: int
    until_us: int | None


class PlanWorld(Protocol):
    """What a fault may know while it plans: who is there at that time. See `plan.World`."""

    def select_members(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """The selected of those alive at that time."""
        ...

    def select_sites(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """The selected sites, in order."""
        ...

    def sites(self) -> list[str]:
        """All sites, in order."""
        ...

    def members_at(self, at_us: int) -> list[str]:
        """Those alive at that time, in order."""
        ...

    def recruit(self, count: int) -> list[str]:
        """Names of so many new members, none of which has been in the network; they join by a claim that they run.

        Raises CannotPlan if that many cannot be had.
        """
        ...

    @property
    def duration_us(self) -> int | None:
        """When the experiment ends; None where it has no end."""
        ...


class Fault(Observer, Protocol):
    """One kind of fault. ``shorthand`` is the option that a plain word stands for (`partition: halves`), if any."""

    key: ClassVar[str]
    summary: ClassVar[str]
    level: ClassVar[Level]
    lasts: ClassVar[ForRule]  # whether the entry takes a `for`
    shorthand: ClassVar[str | None]
    Options: ClassVar[type[BaseModel]]

    def plan(self, options: Any, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """The timed actions of one occurrence. Pure: the same arguments give the same actions."""
        ...

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """What an action asks for while it is in force. Pure."""
        ...


_added: dict[str, Fault] = {}
_loaded: dict[str, Fault] = {}


def names() -> list[str]:
    """The keys of all faults, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)} | set(_added))


def get(key: str) -> Fault:
    """A fault by its key. Raises UsageError for an unknown one, with a suggestion."""
    if key in _added:
        return _added[key]
    if key not in _loaded:
        found = [entry for entry in entry_points(group=GROUP) if entry.name == key]
        if not found:
            raise UsageError(f"no fault `{key}`{did_you_mean(key, names()) or '; there are: ' + ', '.join(names())}")
        _loaded[key] = found[0].load()()
    return _loaded[key]


@contextmanager
def added(fault: Fault) -> Iterator[None]:
    """Have one more fault for a while, as tests do."""
    _added[fault.key] = fault
    try:
        yield
    finally:
        del _added[fault.key]
