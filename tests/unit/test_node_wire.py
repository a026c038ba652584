"""Frames survive any cutting; whatever is no frame of ours is a WireError and nothing else."""

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import WireError
from node.wire import (
    FRAME_LIMIT,
    HEADER,
    Answer,
    Contact,
    Envelope,
    FindNode,
    ForeignClusterError,
    Found,
    FrameReader,
    Ping,
    Record,
    Request,
    Sender,
    Store,
    decode,
    encode,
)

identifiers = st.binary(min_size=20, max_size=20)
contacts = st.builds(Contact, identifiers, st.text(min_size=1, max_size=40), st.integers(1, 65535))
records = st.builds(
    Record,
    identifiers,
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    identifiers,
    st.floats(allow_nan=False),
)
messages = st.one_of(
    st.builds(Ping, st.binary(max_size=80), st.booleans(), st.binary(max_size=300)),
    st.builds(FindNode, identifiers),
    st.builds(Store, records),
    st.builds(Found, st.lists(contacts, max_size=20).map(tuple), st.none() | records),
)
senders = st.none() | st.builds(Sender, contacts, st.integers(1, 2**63 - 1))
envelopes = st.builds(Envelope, st.just("c"), st.integers(0, 2**63 - 1), senders, messages)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of these sizes; the rest in one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@settings(deadline=None)
@given(st.lists(envelopes, max_size=5), st.lists(st.integers(0, 60), max_size=30))
def test_frames_survive_any_cutting_of_the_stream(sent: list[Envelope], sizes: list[int]) -> None:
    stream, reader = b"".join(encode(envelope) for envelope in sent), FrameReader()
    bodies = [body for piece in cut(stream, sizes) for body in reader.feed(piece)]
    assert [decode(body, "c") for body in bodies] == sent


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_a_wire_error_and_nothing_else(body: bytes) -> None:
    try:
        decode(body, "c")
    except WireError:
        pass
    else:
        pytest.fail("random bytes were taken for a frame of cluster c")


@settings(deadline=None)
@given(envelopes, st.data())
def test_one_changed_byte_never_raises_anything_but_a_wire_error(envelope: Envelope, data: st.DataObject) -> None:
    body = bytearray(encode(envelope)[HEADER:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        assert isinstance(decode(bytes(body), "c"), Envelope)


@pytest.mark.parametrize(
    "wrong",
    [
        ["c", 1, None, [3, b"short"]],
        ["c", 1, None, [99]],
        ["c", 1, [[bytes(20), "h", 70000], 1], [1]],
        ["c", 1, [[bytes(20), "", 1], 1], [1]],
        ["c", 1, None, [5, [[bytes(20), "h", 1]] * 2000]],
        ["c", "1", None, [1]],
        {"cluster": "c"},
    ],
    ids=["short-id", "unknown-kind", "port", "no-host", "too-many-contacts", "rid", "map"],
)
def test_wrong_types_and_lengths_are_refused(wrong: object) -> None:
    with pytest.raises(WireError, match="not a frame of this protocol"):
        decode(msgspec.msgpack.encode(wrong), "c")


HERE: list[object] = [bytes(20), "h", 1]
RECORD: list[object] = [bytes(20), b"v", 1, bytes(20), 9.0]
NEWS = "news"  # an element that no version of the protocol has


@pytest.mark.parametrize(
    "surplus",
    [
        ["c", 1, None, [1], NEWS],
        ["c", 1, None, [3, bytes(20), NEWS]],
        ["c", 1, [HERE, 1, NEWS], [1]],
        ["c", 1, [[*HERE, NEWS], 1], [1]],
        ["c", 1, None, [5, [HERE, [*HERE, NEWS]]]],
        ["c", 1, None, [6, [*RECORD, NEWS]]],
        ["c", 1, None, [21, HERE, [], 0, [[bytes(20), 1, 9.0, NEWS]], 1, {}, [], [], 0]],
    ],
    ids=["envelope", "message", "sender", "senders-contact", "contact", "record", "held"],
)
def test_an_array_with_more_elements_than_its_type_has_is_malformed(surplus: list[object]) -> None:
    def without(part: object) -> object:
        return [without(each) for each in part if each is not NEWS] if isinstance(part, list) else part

    assert decode(msgspec.msgpack.encode(without(surplus)), "c")
    with pytest.raises(WireError, match="not a frame of this protocol"):
        decode(msgspec.msgpack.encode(surplus), "c")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        decode(b"\x91" * 100_000, "c")


def test_a_frame_of_another_cluster_is_told_apart() -> None:
    with pytest.raises(ForeignClusterError, match="'theirs', here is 'ours'"):
        decode(encode(Envelope("theirs", 1, None, Ping()))[HEADER:], "ours")


def test_an_announced_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(WireError, match="over the limit"):
        FrameReader().feed((FRAME_LIMIT + 1).to_bytes(HEADER, "big"))


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(WireError, match="over the limit"):
        encode(Envelope("c", 1, None, Ping(padding=bytes(FRAME_LIMIT))))


def test_every_message_is_either_a_request_or_an_answer() -> None:
    assert not set(Request.__args__) & set(Answer.__args__)
