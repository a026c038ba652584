"""What travels between nodes, and between clients and nodes: message types and framing. Pure, no sockets.

A frame is four bytes of length (big-endian, the body alone) and a msgpack body: ``[cluster, rid, sender, message]``.
``rid`` pairs an answer with its request on one connection. ``sender`` is who speaks, null for clients: the advertised
contact, since behind a proxy there is no other identity, and the incarnation. ``message`` is a tagged array: its first
element is the kind.

The *incarnation* is a number that a process draws when it starts. A contact that has another one than before was
restarted, and may have lost its records. Rejected: a flag in the first messages after a start, which only those learn
of who happen to get one of them.

A body that is too long, is of another cluster, or does not decode to exactly these types is a `WireError`: whoever
reads it closes that connection.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from node.errors import RpcError, RpcLeaving, WireError
from node.ids import BYTES

FRAME_LIMIT: Final = 4 * 2**20  # bytes of a body
# Bytes of a value: what is around it in a STORE, with a long host name, fits too.
VALUE_LIMIT: Final = FRAME_LIMIT - 2048
HEADER: Final = 4
NONCE_LIMIT: Final = 64  # bytes of a nonce that are remembered
MOST_CONTACTS: Final = 1024  # in one answer; far above any k

Identifier: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=BYTES, max_length=BYTES)]
Host: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Contact(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """How a node is known: its identifier and the address that it advertises."""

    id: Identifier
    host: Host
    port: Port


class Sender(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Who speaks, and in which life."""

    contact: Contact
    incarnation: int


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A stored value. The newest (version, publisher) wins. ``expires_at`` is Unix time in seconds, absolute."""

    key: Identifier
    value: bytes
    version: int
    publisher: Identifier
    expires_at: float


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Base of all messages."""


# --- between nodes: the four RPCs of the paper, section 2.3 -------------------------------------


class Ping(Message, frozen=True, tag=1):
    """Are you there? An observer's ping is not the protocol's: it is counted apart and teaches nobody."""

    nonce: bytes = b""
    observer: bool = False
    padding: bytes = b""


class Pong(Message, frozen=True, tag=2):
    """Yes. ``received_at`` is the receiver's CLOCK_MONOTONIC in ns; ``padding`` comes back as it was sent."""

    nonce: bytes
    received_at: int
    padding: bytes = b""


class FindNode(Message, frozen=True, tag=3):
    """Which contacts do you know that are closest to the target?"""

    target: Identifier


class FindValue(Message, frozen=True, tag=4):
    """The value for this key, or else the closest contacts."""

    key: Identifier


class Found(Message, frozen=True, tag=5):
    """Contacts, nearest first; and the record if it was asked for and is here."""

    contacts: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MOST_CONTACTS)]
    record: Record | None = None


class Store(Message, frozen=True, tag=6):
    """Keep this record until it expires.

    ``search``: answer as to a FIND_NODE of its key as well, so that a store need not ask the same nodes twice.
    ``cached``: it is a copy on a lookup's path; do not republish it, nor hand it over.
    """

    record: Record
    search: bool = False
    cached: bool = False


class Stored(Message, frozen=True, tag=7):
    """Whether it is kept; if not, why. ``contacts``, nearest first, if they were asked for."""

    kept: bool
    why: str = ""
    contacts: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MOST_CONTACTS)] = ()


# --- between clients and their gateway ----------------------------------------------------------


class Put(Message, frozen=True, tag=16):
    """Store a value at the k nodes closest to the key. ``ttl`` in seconds, 0 for the gateway's default."""

    key: Identifier
    value: bytes
    version: int = 0
    ttl: float = 0.0


class PutResult(Message, frozen=True, tag=17):
    """How a store went. ``acks`` counts each holder once, the gateway too if it ``holds`` the record.

    ``newer`` counts the holders that keep a newer record of this key instead. ``error`` is not empty if there are any, if
    nobody keeps the record, or if the search for the holders was cut short.
    """

    acks: int
    holds: bool
    hops: int
    rpcs: int
    timeouts: int
    error: str = ""
    newer: int = 0


class Get(Message, frozen=True, tag=18):
    """Look a key up."""

    key: Identifier


class GetResult(Message, frozen=True, tag=19):
    """What a lookup found. ``hops`` counts how often a contact had to be learnt from another node.

    ``error`` is not empty if the search was cut short, so that "not found" proves nothing.
    """

    found: bool
    value: bytes
    version: int
    hops: int
    rpcs: int
    timeouts: int
    error: str = ""


class Inspect(Message, frozen=True, tag=20):
    """What do you look like inside? For observers."""

    table: bool = False
    records: bool = False


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One stored record without its value."""

    key: bytes
    version: int
    expires_at: float


class Inspection(Message, frozen=True, tag=21):
    """A node from inside. ``table`` lists the contacts that are alive, ``table_size`` is their number.

    ``nonces`` are those of the last pings that arrived, ``nonce_times`` when (CLOCK_MONOTONIC in ns); ``memory`` is
    resident bytes.
    """

    contact: Contact
    table: tuple[Contact, ...]
    table_size: int
    records: tuple[Held, ...]
    records_count: int
    counters: dict[str, int]
    nonces: tuple[bytes, ...]
    nonce_times: tuple[int, ...]
    memory: int

    @property
    def id(self) -> bytes:
        """The node's identifier."""
        return self.contact.id


class PingVia(Message, frozen=True, tag=22):
    """Ping that contact, over your own connections, and tell me how it went. ``timeout`` in seconds."""

    contact: Contact
    nonce: bytes
    timeout: float
    padding: int = 0


class PingReport(Message, frozen=True, tag=23):
    """``outcome``: ok, timeout, refused or disconnected. Times are CLOCK_MONOTONIC in ns, 0 where unknown."""

    outcome: str
    nonce: bytes
    sent_at: int
    received_at: int
    returned_at: int


LEAVING = "this node is leaving"  # why a node that will soon be gone refuses to be relied on, or to keep a record


class Refusal(Message, frozen=True, tag=31):
    """The request was understood and will not be served."""

    why: str

    def as_error(self) -> RpcError:
        """What it is for whoever asked."""
        return RpcLeaving(self.why) if self.why == LEAVING else RpcError(self.why)


Request: TypeAlias = Ping | FindNode | FindValue | Store | Put | Get | Inspect | PingVia
Answer: TypeAlias = Pong | Found | Stored | PutResult | GetResult | Inspection | PingReport | Refusal
Body: TypeAlias = Request | Answer


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What every frame carries around its message."""

    cluster: str
    rid: int
    sender: Sender | None
    message: Body


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """The envelope as a frame.

    Raises:
        WireError: its body is longer than FRAME_LIMIT.
    """
    body = _encoder.encode(envelope)
    if len(body) > FRAME_LIMIT:
        raise WireError(f"a frame of {len(body)} bytes is over the limit of {FRAME_LIMIT}")
    return len(body).to_bytes(HEADER, "big") + body


def decode(body: bytes | memoryview, cluster: str) -> Envelope:
    """A frame's body as an envelope.

    Raises:
        WireError: it is no envelope, or of another cluster than ``cluster``.
    """
    try:
        envelope = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a frame of this protocol: {error}") from error
    if envelope.cluster != cluster:
        raise ForeignClusterError(f"a frame of cluster {envelope.cluster[:40]!r}, here is {cluster!r}")
    return envelope


class ForeignClusterError(WireError):
    """A well-formed frame of another cluster."""


class FrameReader:
    """Cuts a stream of bytes into bodies. Feed it what arrives, take the bodies that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0  # bytes without which nothing more is whole

    @property
    def waiting(self) -> bool:
        """Whether part of a frame has come."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes of it."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """All bodies that are whole now, in order.

        Raises:
            WireError: a frame announces more than FRAME_LIMIT bytes; the reader must not be used again.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []  # no copy for every byte of a slow sender
            data = bytes(self._buffer)
            self._buffer.clear()
        bodies, at, whole = [], 0, len(data)
        self._needed = HEADER
        while whole - at >= HEADER:
            length = int.from_bytes(data[at : at + HEADER], "big")
            if length > FRAME_LIMIT:
                raise WireError(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
            end = at + HEADER + length
            if whole < end:
                self._needed = end - at
                break
            bodies.append(data[at + HEADER : end])
            at = end
        if at < whole:
            self._buffer += data[at:]
        return bodies
