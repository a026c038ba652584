"""Which keys a worker stores and looks up, and what it stores under them. Pure; reproducible by the seed, per worker.

A value is a function of (key, version, size, seed): whoever knows these can tell whether an answer is right, without a
copy of what was stored, and a value of another key or version cannot pass for it.

Only keys whose store was acknowledged by enough holders are looked up and read back. A store that failed may still have
reached some nodes: its fate is unknown, so its key is never asked for.
"""

from __future__ import annotations

import hashlib
from random import Random

FIRST_VERSION = 1


def key_of(seed: int, worker: str, number: int) -> bytes:
    """A worker's ``number``-th key: 20 bytes, spread evenly over the identifier space."""
    return hashlib.sha1(f"{seed}/{worker}/{number}".encode(), usedforsecurity=False).digest()


def value_of(key: bytes, version: int, size: int, seed: int) -> bytes:
    """The only right value of ``size`` bytes for this key and version."""
    return hashlib.shake_128(b"%d/%d/" % (seed, version) + key).digest(size)


class Keys:
    """One worker's keys: those to come, and those that are acknowledged."""

    def __init__(self, seed: int, worker: str, value_size: int) -> None:
        self._seed = seed
        self._worker = worker
        self._value_size = value_size
        self._next = 0
        self._rng = Random(f"keys/{seed}/{worker}")
        self.acknowledged: list[bytes] = []
        self.unknown = 0  # stores whose fate is unknown

    def fresh(self) -> bytes:
        """A key that was never used before."""
        self._next += 1
        return key_of(self._seed, self._worker, self._next - 1)

    def pick(self) -> bytes:
        """An acknowledged key, uniformly. There must be one."""
        return self.acknowledged[int(self._rng.random() * len(self.acknowledged))]

    def value(self, key: bytes, version: int = FIRST_VERSION) -> bytes:
        """What belongs under ``key``."""
        return value_of(key, version, self._value_size, self._seed)

    def settle(self, key: bytes, *, acknowledged: bool) -> None:
        """Note how a store of ``key`` ended."""
        if acknowledged:
            self.acknowledged.append(key)
        else:
            self.unknown += 1
