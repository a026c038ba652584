"""What a benchmark finds: one line of its table, and one entry of its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """``ours`` and ``theirs`` in ``unit``; ``theirs`` is the other side of the same run, or the reference, or the limit."""

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    limit: float
    met: bool


def at_most(name: str, ours: float, theirs: float, limit: float, unit: str = "s") -> Figure:
    """A figure whose ratio is held to a limit."""
    return Figure(name, ours, theirs, unit, ours / theirs, limit, ours / theirs <= limit)


def at_least(name: str, ours: float, theirs: float, limit: float, unit: str = "s") -> Figure:
    """A figure whose ratio must reach a limit."""
    return Figure(name, ours, theirs, unit, ours / theirs, limit, ours / theirs >= limit)


def nothing(name: str, ours: int, unit: str) -> Figure:
    """A figure that must be nought."""
    return Figure(name, ours, 0, unit, ours, 0.0, ours == 0)


def write(path: Path | None, figures: Sequence[Figure]) -> None:
    """As JSON, if a path was given."""
    if path is not None:
        path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
