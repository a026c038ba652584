"""Backends and targets by name, found by entry points so that other packages can add theirs. (Faults: `faults.py`.)"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import cast

from harness.backends import Backend
from harness.errors import UsageError
from harness.targets import Target

BACKENDS, TARGETS = "kadstorm.backends", "kadstorm.targets"


def backend(name: str) -> type[Backend]:
    """The backend of that name. Raises UsageError if there is none."""
    return cast(type[Backend], _load(BACKENDS, name, "backend"))


def target(name: str) -> Target:
    """The target of that name. Raises UsageError if there is none."""
    return cast(Callable[[], Target], _load(TARGETS, name, "target"))()


def _load(group: str, name: str, what: str) -> object:
    there = {entry.name: entry for entry in entry_points(group=group)}
    if name not in there:
        raise UsageError(
            f"the {what} `{name}` is not in this version of Kadstorm; there is: {', '.join(sorted(there))}"
        )
    return there[name].load()
