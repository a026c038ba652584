"""What a fault is, and which there are.

A fault is one small file: its options, its plan (options + members + seed -> timed actions) and its effects (what an
action asks of links and members). Both are pure. Faults are found by the entry-point group ``kadstorm.faults``, so
other packages can bring theirs; they are wrapped, not trusted: one that cannot be loaded is named, and hurts nobody
who does not use it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final, Literal, Protocol

from harness.document import PathTo, meant
from harness.effects import Effect
from harness.errors import HarnessError, UsageError
from harness.fields import Block
from harness.records import Action
from harness.selectors import Level, Selector, Shape, mistakes
from harness.world import Entry, PlanWorld, SiteMap

GROUP: Final = "kadstorm.faults"
# Every fault that the product describes. What is not registered is told apart from what is misspelt.
DESCRIBED: Final = (
    *(
        "latency",
        "bandwidth",
        "slicer",
        "slow_close",
        "limit_data",
        "reset",
        "blackhole",
        "refuse",
        "partition",
    ),
    *("kill", "stop", "pause", "restart", "replace", "join", "churn"),
)


class FaultOptions(Block):
    """Base of all faults' options."""

    @classmethod
    def misfits(cls, given: Mapping[str, Any], shape: Shape, level: Level) -> Iterator[tuple[PathTo, str]]:
        """What cannot be in such a cluster: (keys, what is wrong). ``given``: options that are right, by field."""
        for key, name in cls.known_keys().items():
            yield from _misfits_in(given.get(name), (key,), shape, level)

    @classmethod
    def lasts_us(cls, given: Mapping[str, Any]) -> int:  # noqa: ARG003 - for those that do
        """How long an injection lasts by its options alone, where the entry has no `for`; µs."""
        return 0


class Fault(Protocol):
    """One kind of fault. Instances hold no state."""

    key: ClassVar[str]
    summary: ClassVar[str]
    level: ClassVar[Level]
    Options: ClassVar[type[FaultOptions]]
    duration: ClassVar[Literal["required", "optional", "refused"]]  # the entry's `for`

    def plan(self, options: Any, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """Timed actions with named targets. Pure. Raises UnplannableError."""
        ...

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:
        """What one action asks of links or members. Pure; needs nothing but the action and the map."""
        ...


def _misfits_in(value: object, path: PathTo, shape: Shape, level: Level) -> Iterator[tuple[PathTo, str]]:
    if isinstance(value, Selector):
        yield from (((*path, *where), text) for where, text in mistakes(value, shape, level))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _misfits_in(part, (*path, index), shape, level)


_registered: dict[str, Fault] = {}


def register(key: str, fault: type[Fault]) -> None:
    """Add a fault for this process, or take the place of one; for tests and programs."""
    _registered[key] = fault()


def names() -> list[str]:
    """Keys of all faults that there are, in the order in which the product describes them, others after those."""
    known = {**dict.fromkeys(_found()), **dict.fromkeys(_registered)}
    first = [key for key in DESCRIBED if key in known]
    return first + sorted(key for key in known if key not in DESCRIBED)


def get(key: str) -> Fault:
    """A fault by its key.

    Raises:
        UsageError: there is none; says what was meant.
        HarnessError: the package that brings it cannot be loaded.
    """
    if key in _registered:
        return _registered[key]
    entry_point = _found().get(key)
    if entry_point is None:
        raise UsageError(absent(key))
    try:
        fault: Fault = entry_point.load()()
    except Exception as error:  # an extension's defect: it can be anything
        raise HarnessError(f"the fault `{key}` ({entry_point.value}) cannot be loaded: {error!r}") from error
    _registered[key] = fault
    return fault


def absent(key: str) -> str:
    """What to say of a fault that there is not."""
    there = names()
    if key in DESCRIBED:
        return f"the fault `{key}` is not in this version of Kadstorm (there are: {', '.join(there)})"
    listed = ", ".join(there)
    return f"no fault `{key}`{meant(key, there) or f' (there are: {listed})'}"


@functools.cache
def _found() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}
