"""What a node makes of answers that do not answer, of holders that are silent, and of its own being late."""

from __future__ import annotations

import pytest

from node.ids import key_of
from node.peer import Reply, Search
from node.settings import Settings
from node.virtual import HOST, Network
from node.wire import Answer, Contact, FindNode, FindValue, Found, Record, Request, Sender, Store, Stored

# --- answers that do not answer -----------------------------------------------------------------


def answering(
    network: Network, port: int, answer: Answer, to: tuple[type[Request], ...] = (FindNode, FindValue, Store)
) -> list[str]:
    """Have a node answer every search and every store with that; what it was asked."""
    peer, asked = network.peers[port], list[str]()
    handle = peer.handle

    def lie(sender: Sender | None, message: Request, reply: Reply) -> None:
        if isinstance(message, to):
            asked.append(type(message).__name__)
            reply(answer)
        else:
            handle(sender, message, reply)

    peer.handle = lie  # type: ignore[method-assign]
    return asked


def record(name: str, expires_at: float = 1e9) -> Record:
    return Record(key_of(name.encode()), b"a lie", 9, bytes(20), expires_at)


@pytest.mark.parametrize("expires_at", [1e9, 1.0], ids=["of-another-key", "of-this-key-and-expired"])
def test_a_record_that_was_not_asked_for_is_no_answer(expires_at: float) -> None:
    network = Network.of(20, settings=Settings(k=8, cache=0.0))
    names = [f"key {n}" for n in range(10)]
    asked = answering(network, 7, Found((), record("another" if expires_at > 1e3 else "key 3", expires_at)))
    others = [port for port in network.peers if port != 7]
    for n, name in enumerate(names):
        result, _ = network.put(others[n], name)
        assert result.acks == 8, "in the place of the liar comes the next closest"
    for name in (*names, "missing"):
        for port in others:
            result_of_get, _ = network.get(port, name)
            assert (result_of_get.found, result_of_get.value) == (name in names, name.encode() * (name in names))
    assert {"FindNode", "FindValue", "Store"} >= set(asked) >= {"FindNode", "FindValue"}


def test_who_was_only_asked_for_contacts_has_kept_nothing() -> None:
    network = Network.of(20)
    others = [port for port in network.peers if port != 7]
    answering(network, 7, Stored(kept=True), (FindNode,))
    for n, port in enumerate(others):
        searched = list[Search]()
        network.peers[port].search(key_of(b"key %d" % n), searched.append)
        network.clock.run(2.0)
        assert searched[0].acked == set()
        assert network.peers[7].contact not in searched[0].lookup.closest()


def test_of_an_answer_no_more_contacts_are_taken_than_anybody_is_asked_for() -> None:
    network = Network.of(20)
    crowd = tuple(Contact(key_of(b"ghost %d" % n), HOST, 1000 + n) for n in range(1000))
    for port in range(2, 21):
        answering(network, port, Found(crowd))
    network.trace.clear()
    network.get(1, "x")
    ghosts = {destination for source, destination in ((s, d) for _, s, d, _ in network.trace) if destination >= 1000}
    assert 0 < len(ghosts) <= 8


def test_a_republisher_does_not_rest_on_the_record_of_another_key() -> None:
    network = Network.of(30, settings=Settings(k=8, republish=20.0))
    network.clock.run(10.0)
    key = key_of(b"left behind")
    ports = sorted(network.peers, key=lambda port: int.from_bytes(network.peers[port].contact.id) ^ int.from_bytes(key))
    for port in ports[:2]:
        answering(network, port, Found((), record("another")))
    farthest = network.peers[ports[-1]]
    assert farthest.keep(Record(key, b"v", 1, farthest.contact.id, network.clock.wall() + 1e6)) == ""
    network.clock.run(90.0)
    assert network.holders(key) >= network.closest(key) - set(ports[:2])
    assert farthest.storage.get(key_of(b"another"), wall=network.clock.wall()) is None
