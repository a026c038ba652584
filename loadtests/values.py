"""Keys and values that follow from the seed, so that whoever reads a value can tell whether it is the right one. Pure."""

from __future__ import annotations

import hashlib

KEY_BYTES = 20


def key_of(seed: int, worker: str, number: int) -> bytes:
    """The key of a worker's ``number``-th new value."""
    return hashlib.sha1(f"{seed}/{worker}/{number}".encode(), usedforsecurity=False).digest()


def value_of(key: bytes, version: int, size: int) -> bytes:
    """The value of a key and version: ``size`` bytes that nobody else's value begins with."""
    return hashlib.shake_128(key + version.to_bytes(8, "big")).digest(size)
