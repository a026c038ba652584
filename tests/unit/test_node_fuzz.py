"""A million frames that are wrong in some way, through the reader and the decoder: a WireError or an envelope, never else.

Seeded, so that a failure can be looked at again: each mutation is a function of its number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from node.errors import WireError
from node.wire import (
    FRAME_LIMIT,
    HEADER,
    Answer,
    Contact,
    Envelope,
    FindNode,
    FindValue,
    Found,
    FrameReader,
    Get,
    GetResult,
    Held,
    Inspect,
    Inspection,
    Ping,
    PingReport,
    PingVia,
    Pong,
    Put,
    PutResult,
    Record,
    Refusal,
    Request,
    Sender,
    Store,
    Stored,
    decode,
    encode,
)

FRAMES = 1_000_000
BATCH = 20  # frames that one draw of random bytes spoils

HERE = Contact(b"i" * 20, "127.0.0.1", 4000)
RECORD = Record(b"k" * 20, b"value" * 4, 3, b"p" * 20, 1.0e9)
MESSAGES = (
    Ping(b"nonce"),
    Pong(b"nonce", 123456789),
    FindNode(b"t" * 20),
    Found((HERE, HERE), None),
    Found((), RECORD),
    Store(RECORD, search=True),
    Stored(kept=False, why="full"),
    Put(b"k" * 20, b"value", 1, 60.0),
    Get(b"k" * 20),
    GetResult(found=True, value=b"v", version=1, hops=1, rpcs=3, timeouts=0),
    FindValue(b"k" * 20),
    PutResult(acks=20, holds=True, hops=1, rpcs=27, timeouts=0),
    Inspect(table=True, records=True),
    Inspection(HERE, (HERE,), 1, (Held(b"k" * 20, 3, 1.0e9),), 1, {"rpcs_in": 7}, (b"nonce",), (123456789,), 2**25),
    PingVia(HERE, b"nonce", 1.0, 100),
    PingReport("ok", b"nonce", 1, 2, 3),
    Refusal("this node is joining"),
)
BODIES = [encode(Envelope("c", rid, Sender(HERE, 7), message))[HEADER:] for rid, message in enumerate(MESSAGES)]


def changed(body: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + bytes((rng.getrandbits(8),)) + body[at + 1 :]


def truncated(body: bytes, rng: Random) -> bytes:
    return body[: rng.randrange(len(body))]


def grown(body: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + rng.randbytes(3) + body[at:]


def spliced(body: bytes, rng: Random) -> bytes:
    other = rng.choice(BODIES)
    return body[: rng.randrange(len(body))] + other[rng.randrange(len(other)) :]


def noise(_: bytes, rng: Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 40))


WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (changed, truncated, grown, spliced, noise)


def test_every_kind_of_message_is_spoilt() -> None:
    assert {type(message) for message in MESSAGES} == {*Request.__args__, *Answer.__args__}


@pytest.mark.timeout(300)
def test_a_million_spoilt_frames_are_refused_or_understood_and_nothing_else() -> None:
    rng, outcomes, reader = Random(20), Counter[str](), FrameReader()
    for n in range(FRAMES // BATCH):
        body = BODIES[n % len(BODIES)]
        way = WAYS[n // len(BODIES) % len(WAYS)]
        spoilt = [way(body, rng) for _ in range(BATCH)]
        stream = b"".join([len(each).to_bytes(HEADER, "big") + each for each in spoilt])
        whole = reader.feed(stream)
        assert whole == spoilt
        for each in whole:
            try:
                envelope = decode(each, "c")
            except WireError:
                outcomes["refused"] += 1
            else:
                outcomes["understood"] += 1
                assert type(envelope) is Envelope
    assert outcomes.total() == FRAMES
    assert outcomes["refused"] > FRAMES / 2
    assert outcomes["understood"] > FRAMES / 100, (
        "changes within a value still decode, so the decoder was really reached"
    )


def test_spoilt_lengths_never_make_the_reader_wait_for_more_than_the_limit() -> None:
    rng = Random(21)
    for _ in range(20_000):
        reader, announced = FrameReader(), rng.getrandbits(rng.choice((8, 16, 24, 32)))
        try:
            bodies = reader.feed(announced.to_bytes(HEADER, "big") + b"x" * 300)
        except WireError:
            continue
        assert announced <= FRAME_LIMIT
        assert bodies or reader.waiting


def test_one_byte_at_a_time_gives_the_same_frames_and_copies_none_twice() -> None:
    reader, stream = FrameReader(), b"".join(len(b).to_bytes(HEADER, "big") + b for b in BODIES)
    cut = [body for byte in stream for body in reader.feed(bytes((byte,)))]
    assert cut == BODIES
    assert not reader.waiting
