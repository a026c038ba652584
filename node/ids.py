"""160-bit identifiers and the XOR metric (Maymounkov and Mazières 2002, section 2.1). Pure.

An identifier is 20 bytes, big-endian. Comparisons are made on integers: Python compares and XORs those in one step.
"""

from __future__ import annotations

import hashlib
from random import Random

BITS = 160
BYTES = BITS // 8
Range = tuple[int, int]  # identifiers as integers: the first, and the first beyond


def key_of(text: bytes) -> bytes:
    """The key under which ``text`` is looked up: its SHA-1, as in the paper."""
    return hashlib.sha1(text, usedforsecurity=False).digest()


def random_id(rng: Random) -> bytes:
    """A uniformly drawn identifier."""
    return rng.getrandbits(BITS).to_bytes(BYTES, "big")


def as_int(identifier: bytes) -> int:
    """The identifier as an integer in [0, 2**160)."""
    return int.from_bytes(identifier, "big")


def distance(one: bytes, other: bytes) -> int:
    """XOR distance, in [0, 2**160)."""
    return as_int(one) ^ as_int(other)


def sibling(identifier: bytes, bit: int) -> Range:
    """The identifiers whose distance to this one is in [2**bit, 2**(bit + 1)): those in the subtree beside its own."""
    low = ((as_int(identifier) >> bit) ^ 1) << bit
    return low, low + (1 << bit)


def parse(text: str) -> bytes:
    """An identifier from 40 hexadecimal digits.

    Raises:
        ValueError: it is not that.
    """
    identifier = bytes.fromhex(text)
    if len(identifier) != BYTES:
        raise ValueError(f"an identifier has {2 * BYTES} hexadecimal digits, not {len(text)}")
    return identifier
