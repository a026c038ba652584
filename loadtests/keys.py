"""Which keys a worker stores and looks up, and what it stores under them. Pure; reproducible by the seed, per worker.

A value is a function of (key, version, size, seed), and so is its size: whoever knows these can tell whether an answer is
right, without a copy of what was stored, and a value of another key or version cannot pass for it.

Only keys whose store was acknowledged by enough holders are looked up, written again, and read back. A store that failed
may still have reached some nodes: its fate is unknown, so its key is never asked for. A key that is written again takes the
next version, whether the last one was acknowledged or not: no version has two values.

Keys are kept as their numbers: millions of them must not make a worker grow.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import overload

from loadtests.config import LoadOptions, Sizes
from loadtests.popularity import Latest, Popularity, Uniform, Zipf

FIRST_VERSION = 1
REMEMBERED = 1024  # keys, and values of at most SMALL bytes: hashing them again takes as long as half of the rest
SMALL = 4096  # bytes
CHECKSUM = 64  # bytes of the hash that a value begins with, and repeats


@lru_cache(maxsize=REMEMBERED)
def key_of(seed: int, worker: str, number: int) -> bytes:
    """A worker's ``number``-th key: 20 bytes, spread evenly over the identifier space."""
    return hashlib.sha1(f"{seed}/{worker}/{number}".encode(), usedforsecurity=False).digest()


def missing_key(seed: int, worker: str, number: int) -> bytes:
    """A key that nobody ever stores."""
    return hashlib.sha1(f"{seed}/{worker}/missing/{number}".encode(), usedforsecurity=False).digest()


def value_of(key: bytes, version: int, size: int, seed: int) -> bytes:
    """The only right value of ``size`` bytes for this key and version: their hash, again and again."""
    checksum = hashlib.shake_128(b"%d/%d/" % (seed, version) + key).digest(min(size, CHECKSUM))
    return checksum if size <= CHECKSUM else (checksum * (-(-size // CHECKSUM)))[:size]


_remembered_value = lru_cache(maxsize=REMEMBERED)(value_of)


class ValueSizes:
    """How many bytes a value has; the same for one key and version, always."""

    def __init__(self, sizes: int | Sizes) -> None:
        self._fixed = sizes if isinstance(sizes, int) else -1
        self._range = (0, 0)
        self._bounds: list[float] = []
        if isinstance(sizes, Sizes) and sizes.uniform is not None:
            self._range = sizes.uniform
        elif isinstance(sizes, Sizes):
            assert sizes.histogram is not None
            self._sizes = [size for size, _ in sizes.histogram]
            self._bounds = list(accumulate(share for _, share in sizes.histogram))

    def of(self, key: bytes, version: int) -> int:
        """Bytes."""
        if self._fixed >= 0:
            return self._fixed
        drawn = (int.from_bytes(key[:8], "big") + version * 0x9E3779B97F4A7C15) % 2**64 / 2**64  # golden-ratio steps
        if self._bounds:
            return self._sizes[min(bisect_right(self._bounds, drawn * self._bounds[-1]), len(self._sizes) - 1)]
        low, high = self._range
        return low + int(drawn * (high - low + 1))


class _Acknowledged(Sequence[bytes]):
    """Keys from their numbers, in the order in which they were acknowledged."""

    def __init__(self, seed: int, worker: str, numbers: array[int]) -> None:
        self._seed, self._worker, self._numbers = seed, worker, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [key_of(self._seed, self._worker, number) for number in self._numbers[index]]
        return key_of(self._seed, self._worker, self._numbers[index])


class Keys:
    """One worker's keys: those to come, and those that are acknowledged."""

    def __init__(self, seed: int, worker: str, options: LoadOptions) -> None:
        self._seed = seed
        self._worker = worker
        self._sizes = ValueSizes(options.value_size)
        self._next = 0
        self._missing = 0
        self._pending: dict[bytes, int] = {}  # new keys on their way: their numbers
        self._numbers: array[int] = array("q")
        self._versions: array[int] = array("q")  # the newest version that was ever sent, by the same index
        self.acknowledged = _Acknowledged(seed, worker, self._numbers)
        self.some = False  # whether there are any: asked before each operation
        self._popularity = popularity(options, Random(f"keys/{seed}/{worker}"))
        self.unknown = 0  # stores whose fate is unknown

    def fresh(self) -> bytes:
        """A key that was never used before."""
        number, self._next = self._next, self._next + 1
        key = key_of(self._seed, self._worker, number)
        self._pending[key] = number
        return key

    def pick(self) -> bytes:
        """An acknowledged key, by its popularity. There must be one."""
        return self.acknowledged[self._popularity.index(len(self._numbers))]

    def rewritten(self) -> tuple[bytes, int]:
        """An acknowledged key, by its popularity, and the version that it takes now. There must be one."""
        index = self._popularity.index(len(self._numbers))
        self._versions[index] += 1
        return self.acknowledged[index], self._versions[index]

    def missing(self) -> bytes:
        """A key that was never stored, and never will be."""
        self._missing += 1
        return missing_key(self._seed, self._worker, self._missing - 1)

    def value(self, key: bytes, version: int = FIRST_VERSION) -> bytes:
        """What belongs under ``key``."""
        size = self._sizes.of(key, version)
        return (_remembered_value if size <= SMALL else value_of)(key, version, size, self._seed)

    def settle(self, key: bytes, *, acknowledged: bool) -> None:
        """Note how a store of ``key`` ended."""
        number = self._pending.pop(key, None)
        if not acknowledged:
            self.unknown += 1
        elif number is not None:
            self._numbers.append(number)
            self._versions.append(FIRST_VERSION)
            self.some = True


def popularity(options: LoadOptions, rng: Random) -> Popularity:
    """What draws the index of a key."""
    if options.popularity == "zipf":
        return Zipf(rng, options.skew)
    return Latest(rng, options.skew) if options.popularity == "latest" else Uniform(rng)
