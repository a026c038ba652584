"""Quantities as people write them, with their units: parsed exactly, kept as integers. Pure.

| written | means | kept as |
|---|---|---|
| ``250ms``, ``10s``, ``2m``, ``1h``, ``50us`` | a time | microseconds |
| ``20%`` | a share | millionths |
| ``100/s`` | a rate | thousandths per second |
| ``16KB/s``, ``1MB/s`` | a bandwidth | bytes per second |
| ``256B``, ``4KiB``, ``1MiB``, ``2KB`` | a size | bytes |
"""

from __future__ import annotations

import re
from decimal import Decimal

TIME_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
SIZE_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
NUMBER = r"(-?[0-9]+(?:\.[0-9]+)?)"
LARGEST = 2**53  # exact in every program that reads our JSON


def parse_time(value: object) -> int:
    """Microseconds. Raises ValueError, saying what was expected."""
    return _scaled(value, TIME_UNITS, "a time with its unit, such as 250ms, 10s or 2m")


def parse_size(value: object) -> int:
    """Bytes. Raises ValueError."""
    return _scaled(value, SIZE_UNITS, "a size with its unit, such as 256B or 4KiB")


def parse_share(value: object) -> int:
    """Millionths of the whole, 0 to 1,000,000. Raises ValueError."""
    expected = "a share from 0% to 100%, such as 20%"
    share = _scaled(value, {"%": 10_000}, expected)
    if share > 1_000_000:
        raise ValueError(f"{expected}, is expected; {value} is above 100%")
    return share


def parse_rate(value: object) -> int:
    """Thousandths of an event per second. Raises ValueError."""
    expected = "a rate above zero, such as 100/s"
    rate = _scaled(value, {"/s": 1000}, expected)
    if not rate:
        raise ValueError(f"{expected}, is expected; not {value!r}")
    return rate


def parse_bandwidth(value: object) -> int:
    """Bytes per second. Raises ValueError."""
    units = {f"{unit}/s": scale for unit, scale in SIZE_UNITS.items()}
    return _scaled(value, units, "a bandwidth with its unit, such as 16KB/s or 1MB/s")


def _scaled(value: object, units: dict[str, int], expected: str) -> int:
    names = "|".join(sorted((re.escape(unit) for unit in units), key=len, reverse=True))
    found = re.fullmatch(rf"{NUMBER}\s*({names})", value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{expected}, is expected; not {value!r}")
    scaled = Decimal(found[1]) * units[found[2]]
    if scaled < 0:
        raise ValueError(f"{expected}, is expected; {value} is negative")
    if scaled > LARGEST:
        raise ValueError(f"{expected}, is expected; {value} is too large")
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{expected}, is expected; {value} is finer than what can be kept")
    return int(scaled)


def time_text(microseconds: int) -> str:
    """A time as people write it: the largest unit that keeps it whole."""
    for unit, scale in (("h", TIME_UNITS["h"]), ("m", TIME_UNITS["m"]), ("s", TIME_UNITS["s"]), ("ms", 1000)):
        if microseconds and microseconds % scale == 0:
            return f"{microseconds // scale}{unit}"
    return f"{microseconds / 1e6:g}s" if microseconds else "0s"
