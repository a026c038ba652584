"""What there is: faults with their options, experiments that come with Kadstorm, load shapes, checkers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files

import yaml
from pydantic.fields import FieldInfo

from harness import faults, shapes
from harness.quantities import parse_share, parse_time, time_text
from harness.selectors import ALL

CHECKERS = "kadstorm.checkers"


def lines(what: str) -> Iterator[str]:
    """A line for each of the ``faults``, ``experiments``, ``shapes`` or ``checkers``, and more below where there are options."""
    yield from {"faults": _faults, "experiments": _experiments, "shapes": _shapes, "checkers": _checkers}[what]()


def _faults() -> Iterator[str]:
    for key in faults.names():
        fault = faults.get(key)
        yield f"{key:12} {fault.summary}  (`for` {fault.lasts})"
        for name, info in fault.Options.model_fields.items():
            yield f"{'':14}{info.alias or name}: {_default(info)}"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return "optional" if info.default is None else f"default {_written(info)}"


def _written(info: FieldInfo) -> str:
    """A default as one would write it in a file."""
    parsers = {getattr(each, "func", None) for each in info.metadata}
    if parse_share in parsers:
        return f"{info.default / 10_000:g}%"
    if parse_time in parsers:
        return time_text(info.default)
    return "all" if info.default == ALL else str(info.default).lower()


def _experiments() -> Iterator[str]:
    for path in sorted(files("chaos").joinpath("experiments").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".yaml"):
            told = yaml.safe_load(path.read_text())
            yield f"{path}\n    {told.get('description', '')}"


def _shapes() -> Iterator[str]:
    for name in shapes.names():
        shape = shapes.get(name)
        yield f"{name:12} {shape.summary}"
        for option, (unit, what) in shape.options.items():
            yield f"{'':14}{option}: {what} ({unit}, required)"


def _checkers() -> Iterator[str]:
    for entry in sorted(entry_points(group=CHECKERS), key=lambda entry: entry.name):
        yield f"{entry.name:14} {(entry.load().__doc__ or '').splitlines()[0]}"
