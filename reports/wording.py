"""How figures are worded for people, the same in the report, in summary.md, in JUnit and in reasons. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reports.summary import ExpectationResult

NOTHING = "\N{EN DASH}"


def duration(seconds: float | None) -> str:
    """`0.84 ms`, `12.3 ms`, `412 ms`, `1.84 s`, `62.5 s`; a dash for None."""
    if seconds is None:
        return NOTHING
    size = abs(seconds)
    if size >= 0.9995:
        return f"{seconds:.2f} s" if size < 10 else f"{seconds:.1f} s"
    if size == 0:
        return "0 s"
    return f"{_significant(seconds * 1000)} ms"


def milliseconds(value: float | None) -> str:
    """The same from milliseconds."""
    return NOTHING if value is None else duration(value / 1000)


def share(value: float | None) -> str:
    """`99.62%`. Only a whole is ever worded as 100%, and only nothing as 0%."""
    if value is None:
        return NOTHING
    percent = value * 100
    for digits in range(2, 7):
        text = f"{percent:.{digits}f}"
        if value in (0.0, 1.0) or float(text) not in (0.0, 100.0):
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"
    return "over 99.999999%" if value > 0.5 else "under 0.000001%"


def rate(value: float | None) -> str:
    """`98.4/s`."""
    return NOTHING if value is None else f"{_significant(value)}/s"


def number(value: float | None) -> str:
    """`1,204` or `2.13`."""
    if value is None:
        return NOTHING
    return f"{int(value):,}" if float(value).is_integer() else _significant(value)


def quantity(value: float | None, unit: str) -> str:
    """A value in one of the units of `ExpectationResult`."""
    wordings = {"s": duration, "share": share, "1/s": rate}
    return wordings.get(unit, number)(value)


def measured_text(result: ExpectationResult) -> str:
    """What was measured for an expectation; what was seen instead, if there is no value."""
    return quantity(result.measured, result.unit) if result.measured is not None else result.note or NOTHING


def limit_text(result: ExpectationResult) -> str:
    """The limit of an expectation."""
    return f"the limit is {quantity(result.limit, result.unit)}"


def plain(value: Any) -> str:
    """Any JSON value in a few words, for tables: `latency 150 ms` rather than braces and quotes."""
    if isinstance(value, Mapping):
        if {"median", "min", "max"} == set(value):
            return f"{plain(value['median'])} ({plain(value['min'])} to {plain(value['max'])})"
        return ", ".join(f"{_label(str(name))} {plain(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return NOTHING if value is None else str(value)


def labelled(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and worded values; a unit at the end of a name (`_s`, `_ms`) moves behind the value."""
    return [(_label(name), _with_unit(name, value)) for name, value in values.items()]


def _label(name: str) -> str:
    for ending in ("_ms", "_s"):
        if name.endswith(ending):
            name = name.removesuffix(ending)
    return name.replace("_", " ")


def _with_unit(name: str, value: Any) -> str:
    unit = {"ms": "ms", "s": "s"}.get(name.rpartition("_")[2], "") if "_" in name else ""
    text = plain(value)
    return f"{text} {unit}" if unit and value is not None else text


def _significant(value: float) -> str:
    """Three significant digits, without an exponent, and all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"
