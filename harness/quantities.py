"""Quantities with their units written out: `250ms`, `20%`, `100/s`, `4KiB`, `16KB/s`.

Pure, and imports nothing but the standard library's arithmetic. Everything is read as a decimal and kept exact:
durations are whole microseconds, shares are fractions, rates are decimals, sizes are whole bytes. A number without its
unit is a mistake, never a guess; so is one that is finer than what it is kept in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final

DURATION_UNITS: Final = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}  # in µs
SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}  # in bytes
RATE_UNITS: Final = {"/s": 1}
SHARE_UNITS: Final = {"%": Fraction(1, 100)}
BANDWIDTH_UNITS: Final = {"KB/s": 1, "MB/s": 1_000}  # in KB/s, as Toxiproxy counts
MEANT: Final = {
    "sec": "s",
    "secs": "s",
    "min": "m",
    "hr": "h",
    "KB": "KiB",
    "K": "KiB",
    "MB": "MiB",
    "kb/s": "KB/s",
}

DIGITS: Final = 18  # more than any quantity here can use; keeps a hostile number from costing time
LARGEST: Final = 2**53  # exact in every program that reads our JSON
_QUANTITY = re.compile(r"([-+]?)(\d+(?:\.\d+)?|\.\d+)(\s*)([^\d\s.].*)?", re.ASCII)


class QuantityError(ValueError):
    """A quantity that cannot be read; the text says what was expected and gives an example."""


def duration(value: object) -> int:
    """Whole microseconds of `250ms`, `1.5s`, `2m` or `1h`. Raises QuantityError."""
    return _whole(value, _exact(value, "duration", DURATION_UNITS, "5s"), "a microsecond")


def milliseconds(value: object) -> int:
    """Whole milliseconds of a duration, rounded up (Toxiproxy takes no fractions). Raises QuantityError."""
    return -(-duration(value) // 1_000)


def share(value: object) -> Fraction:
    """A share between 0 and 1 from `20%`. Raises QuantityError."""
    result = _exact(value, "share", SHARE_UNITS, "20%")
    if result > 1:
        raise QuantityError(f"`{value}` is more than the whole: a share is at most 100%")
    return result


def rate(value: object) -> Decimal:
    """So many a second, from `100/s`. Raises QuantityError."""
    amount = _exact(value, "rate", RATE_UNITS, "100/s")
    return Decimal(amount.numerator) / Decimal(amount.denominator)


def size(value: object) -> int:
    """Whole bytes of `256B`, `4KiB` or `1MiB`. Raises QuantityError."""
    return _whole(value, _exact(value, "size", SIZE_UNITS, "256B"), "a byte")


def bandwidth(value: object) -> int:
    """Whole KB/s, from `16KB/s`; at least 1, since Toxiproxy stalls for ever at 0. Raises QuantityError."""
    result = _whole(value, _exact(value, "bandwidth", BANDWIDTH_UNITS, "16KB/s"), "1KB/s")
    if result < 1:
        raise QuantityError(f"`{value}` lets nothing through: at least 1KB/s, or use the fault blackhole")
    return result


def duration_text(microseconds: int) -> str:
    """The shortest exact text of a duration, as `duration` reads it: 90_000_000 -> `90s`, 7_200_000_000 -> `2h`."""
    for unit in ("h", "m", "s", "ms"):
        factor = DURATION_UNITS[unit]
        if microseconds % factor == 0 and (microseconds >= 2 * factor or unit in ("s", "ms")):
            return f"{microseconds // factor}{unit}"
    return f"{Decimal(microseconds).scaleb(-3).normalize():f}ms"


def seconds(microseconds: int) -> float:
    """Microseconds as seconds, for files that people and other tools read."""
    return microseconds / 1_000_000


def _exact(value: object, what: str, units: Mapping[str, int | Fraction], example: str) -> Fraction:
    text = _text(value)
    match = _QUANTITY.fullmatch(text)
    known = ", ".join(units)
    if match is None or len(text) > DIGITS + 8:
        raise QuantityError(f"`{shown(value)}` is no {what}: write a number and its unit ({known}), as in {example}")
    sign, number, gap, unit = match.groups()
    if unit is None:
        listed = known if len(units) == 1 else f"one of {known}"
        raise QuantityError(f"`{text}` has no unit: a {what} ends in {listed}, as in {number}{_usual(units, example)}")
    if unit not in units:
        meant = f", did you mean {number}{MEANT[unit]}?" if MEANT.get(unit) in units else f" (known: {known})"
        raise QuantityError(f"`{text}`: no unit `{unit}` for a {what}{meant}")
    if gap:
        raise QuantityError(f"`{text}`: write {sign}{number}{unit}, without a space")
    if sign == "-" and Decimal(number):
        raise QuantityError(f"`{text}` is negative: a {what} is 0 or more")
    return Fraction(Decimal(number)) * units[unit]


def _usual(units: Mapping[str, int | Fraction], example: str) -> str:
    return next((unit for unit in sorted(units, key=len, reverse=True) if example.endswith(unit)), "")


def _text(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def shown(value: object) -> str:
    """A value as the user wrote it, shortened if it is long; for messages."""
    if isinstance(value, bool):
        return str(value).lower()
    text = "a map" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _whole(value: object, amount: Fraction, unit: str) -> int:
    if amount.denominator != 1:
        raise QuantityError(f"`{value}` is finer than {unit}")
    if amount > LARGEST:
        raise QuantityError(f"`{value}` is larger than anything that can be run")
    return amount.numerator
