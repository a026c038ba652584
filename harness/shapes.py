"""Load shapes by name: how a rate changes over a load. Found by the entry points of the group `kadstorm.shapes`.

The harness imports nothing of loadtests/ but what its registration names, as with targets' clients: a shape is a class
with a `summary`, its `options` with their units, and `points` (loadtests/curves.py says what they have to be).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

from harness.expectations import did_you_mean
from harness.quantities import parse_rate, parse_time

GROUP = "kadstorm.shapes"
OWN = {  # used beside what the entry points say, so that a source tree that is not installed has them too
    "ramp": "loadtests.curves:Ramp",
    "step": "loadtests.curves:Step",
    "spike": "loadtests.curves:Spike",
    "wave": "loadtests.curves:Wave",
}
UNITS: dict[str, tuple[Callable[[object], int], float]] = {"rate": (parse_rate, 1e3), "time": (parse_time, 1e6)}


class Shape(Protocol):
    """What a shape has to be; rates per second, times in seconds."""

    summary: str
    options: Mapping[str, tuple[str, str]]  # name -> unit (rate, time), what it says; all are required

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> Sequence[tuple[float, float]]:
        """(time, rate), ascending: linear in between, constant after the last; two with one time are a jump."""
        ...


def names() -> list[str]:
    """All shapes; our own first, then others' by their names."""
    return list(_places())


def get(name: str) -> Shape:
    """The shape of that name. Raises KeyError."""
    module, _, attribute = _places()[name].partition(":")
    shape: Shape = getattr(import_module(module), attribute)()
    return shape


def _places() -> dict[str, str]:
    found = {entry.name: entry.value for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}
    return {**OWN, **{name: place for name, place in found.items() if name not in OWN}}


def parse(value: Any) -> tuple[str, dict[str, float]]:
    """A shape as files have it, ``{ramp: {to: 500/s, over: 60s}}``: its name and options in plain units.

    Raises:
        ValueError: the text says what is wrong, and what there is.
    """
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(
            f"one of {', '.join(names())} with its options is expected, such as ramp: {{to: 500/s, over: 60s}}"
        )
    [(name, written)] = value.items()
    if name not in names():
        raise ValueError(f"no shape `{name}`{did_you_mean(str(name), names()) or ': one of ' + ', '.join(names())}")
    known = get(name).options
    if not isinstance(written, dict) or set(written) != set(known):
        raise ValueError(
            f"`{name}` takes {', '.join(f'`{key}` ({unit})' for key, (unit, _) in known.items())}, all of them"
        )
    return name, {key: _option(name, key, written[key], unit) for key, (unit, _) in known.items()}


def _option(name: str, key: str, written: Any, unit: str) -> float:
    parse_, scale = UNITS[unit]
    try:
        parsed = parse_(written)
    except ValueError as error:
        raise ValueError(f"`{name}`: `{key}`: {error}") from error
    if not parsed and unit == "time" and key != "at":
        raise ValueError(f"`{name}`: `{key}`: a time above zero is expected")
    return parsed / scale
