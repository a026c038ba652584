"""One fault by hand, as a scope: it is in force inside a `with` block, and leaving the block heals it, whatever happens there.

It is held to what a run holds its faults to: the effect is measured, and a fault without one is an error; so is one that is
still there after its heal.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness import faults
from harness.cluster import Cluster
from harness.errors import HarnessError, UsageError
from harness.events import Events
from harness.faults import Entry, Fault
from harness.liveworld import LiveWorld
from harness.observation import Observation
from harness.probe import ActionProbe
from harness.records import Action

BUDGET = 5.0  # s in which an effect, or its end, must show


_numbers = itertools.count(1)  # so that two faults with the same options are told apart


class InertFault(HarnessError):
    """A fault that had no effect, or that did not end with its heal."""


@contextmanager
def inject(
    cluster: Cluster, key: str, *, seed: int = 0, events: Events | None = None, **options: object
) -> Iterator[list[Observation]]:
    """Have a fault in force inside the block; yields what was measured of it. ``events`` are told, if given.

    ``options`` are those of the experiment file, as text with units (``latency="100ms"``); `from` is written ``from_``.

    Raises:
        UsageError: no such fault, wrong options, or a fault that needs a timeline (churn).
        InertFault: it had no effect, or its effect did not end.
    """
    fault = faults.get(key)
    actions = planned(fault, options, cluster, Entry(0, fault.key, 0, None), seed)
    before = [fault.measure_before(action, probe(cluster, seed)) for action in actions]
    labels = [f"{key}{_in_words(options)} #{next(_numbers)}" for _ in actions]
    tell = _Teller(events, key, actions)
    tell("inject")
    try:
        for label, action in zip(labels, actions, strict=True):
            cluster.enforce(label, fault.effects(action, cluster.topology))
        seen = [fault.observe(action, probe(cluster, seed), was) for action, was in zip(actions, before, strict=True)]
        tell("observe", seen)
        require(seen, f"{key} had no effect")
        try:
            yield seen
        except BaseException as error:  # by the time that it is told, the fault has been healed: so it is noted here
            for label, action, one in zip(labels, actions, seen, strict=True):
                error.add_note(
                    f"Kadstorm: {label} was in force on {', '.join(action.targets)}; measured: {one.observed}"
                )
            raise
    finally:
        tell("heal")
        for label in labels:
            cluster.release(label)
    after = [
        fault.observe_healed(action, probe(cluster, seed), was) for action, was in zip(actions, before, strict=True)
    ]
    tell("heal-observed", after)
    require(after, f"{key} is still felt after its heal")


def planned(fault: Fault, options: dict[str, object], cluster: Cluster, entry: Entry, seed: int) -> list[Action]:
    """A fault's actions on a cluster as it is now, its options resolved. Raises UsageError."""
    checked = checked_options(fault, options)
    world = LiveWorld(cluster)
    try:
        actions = fault.plan(checked, entry, world, random.Random(seed))
    except AssertionError as error:
        raise UsageError(f"{fault.key} needs a timeline: write it into an experiment") from error
    return actions


@dataclass(frozen=True)
class _Teller:
    """Journals what is done, action by action, as a player does; nothing without events."""

    events: Events | None
    key: str
    actions: list[Action]

    def __call__(self, event: str, seen: Sequence[Observation] = ()) -> None:
        if self.events is None:
            return
        for number, action in enumerate(self.actions):
            fields: dict[str, Any] = {"asked": action.options} if event in ("inject", "observe") else {}
            if seen:
                fields |= {"observed": seen[number].observed, "effective": seen[number].effective}
            self.events.emit(event, name=self.key, fault=self.key, targets=action.targets, **fields)


def _in_words(options: dict[str, object]) -> str:
    """Options for a failure's text."""
    return f" ({', '.join(f'{name} {value}' for name, value in options.items())})" if options else ""


def checked_options(fault: Fault, options: dict[str, object]) -> Any:
    """A fault's options as it takes them; `from` may be written ``from_``. Raises UsageError."""
    written = {name.removesuffix("_") if name == "from_" else name: value for name, value in options.items()}
    try:
        return fault.Options.model_validate(written)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(s) for s in each['loc'])}: {each['msg']}" for each in error.errors())
        raise UsageError(f"{fault.key}: {problems}") from error


def probe(cluster: Cluster, seed: int) -> ActionProbe:
    """What a fault may ask of the cluster within BUDGET from now on."""
    rng = random.Random(seed)
    return ActionProbe(cluster, lambda: (set(), set()), rng, time.monotonic() + BUDGET)


def require(seen: Sequence[Observation], complaint: str) -> None:
    """Raise InertFault if an effect, or its end, was not there."""
    wrong = [observation for observation in seen if observation.effective is False]
    if wrong:
        missed = [name for name, effective in wrong[0].targets.items() if effective is False]
        raise InertFault(f"{complaint} on {', '.join(missed)}: {wrong[0].observed}")
