"""What a node makes of answers that do not answer, of holders that are silent, and of its own being late."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from node.ids import key_of
from node.maintenance import Maintenance
from node.peer import GREY_LEAST
from node.routing import SLOW_LEAST
from node.search import Reply, Search
from node.settings import Settings
from node.storage import Kept
from node.virtual import HOST, Network, Timer, VirtualClock
from node.wire import (
    Answer,
    Contact,
    FindNode,
    FindValue,
    Found,
    Put,
    PutResult,
    Record,
    Request,
    Sender,
    Store,
    Stored,
)

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
    ghosts = {destination for _, _, destination, _ in network.trace if destination >= 1000}
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


# --- acknowledgements ---------------------------------------------------------------------------


def gateways(network: Network) -> tuple[int, int]:
    """The node with the greatest identifier and the one with the smallest."""
    by_id = sorted(network.peers, key=lambda port: network.peers[port].contact.id)
    return by_id[-1], by_id[0]


def test_a_store_that_loses_to_what_another_gateway_stored_is_not_acknowledged() -> None:
    network = Network.of(20)
    great, small = gateways(network)
    key = key_of(b"x")
    first, _ = network.ask(great, Put(key, b"first"), PutResult)
    assert (first.acks, first.newer, first.error) == (8, 0, "")
    second, _ = network.ask(small, Put(key, b"second"), PutResult)
    assert (second.acks, second.newer, second.holds, second.error) == (0, 8, False, "a newer one is kept")
    later, _ = network.ask(small, Put(key, b"second", 1), PutResult)
    assert (later.acks, later.newer, later.error) == (8, 0, "")
    assert {network.get(port, "x")[0].value for port in network.peers} == {b"second"}


def test_a_store_that_is_tried_again_through_another_gateway_is_acknowledged() -> None:
    network = Network.of(20)
    great, small = gateways(network)
    network.put(great, "x", 3)
    network.clock.run(5.0)
    again, _ = network.put(small, "x", 3)
    assert (again.acks, again.newer, again.error) == (8, 0, "")


def test_a_holder_of_a_newer_record_lacks_nothing() -> None:
    network = Network.of(20)
    network.put(1, "x", 2)
    behind = network.place(Contact(key_of(b"behind"), HOST, 50))
    maintenance = Maintenance(behind, [(HOST, 1)])
    maintenance.start()
    network.clock.run(2.0)
    old = Record(key_of(b"x"), b"old", 1, bytes(20), network.clock.wall() + 1e6)
    kept = Kept(old, network.clock.now, network.clock.now)
    network.trace.clear()
    behind.spread(old, partial(maintenance._republished, kept))
    network.clock.run(2.0)
    stores = [destination for _, _, destination, what in network.trace if what == "Store"]
    assert stores
    assert len(stores) == len(set(stores)), "whoever said that it keeps a newer one is not sent the old one again"


def test_a_copy_lives_no_longer_than_who_takes_it_lets_copies_live() -> None:
    network = Network.of(3, settings=Settings(k=8, cache=10.0))
    wall, answers = network.clock.wall(), list[Answer]()
    network.peers[2].handle(None, Store(record("x", wall + 1e6), cached=True), answers.append)
    assert [kept.record.expires_at for kept in network.peers[2].storage.kept()] == [wall + 10.0]
    off = Network.of(3, settings=Settings(k=8, cache=0.0)).peers[2]
    off.handle(None, Store(record("x", wall + 1e6), cached=True), answers.append)
    assert len(off.storage) == 0
    assert [isinstance(answer, Stored) and answer.kept for answer in answers] == [True, False]


# --- the silent ---------------------------------------------------------------------------------


def closest_of_all(name: str, count: int, k: int) -> list[int]:
    """Of so many nodes the k closest to a key; they need not have been started."""
    key = int.from_bytes(key_of(name.encode()))
    return sorted(range(1, count + 1), key=lambda port: int.from_bytes(key_of(b"node %d" % port)) ^ key)[:k]


def test_a_value_is_found_although_all_its_holders_are_slow() -> None:
    holders = set(closest_of_all("x", 20, 4))
    network = Network.of(
        20, settings=Settings(k=4, cache=0.0), latency=lambda a, b, rng: 0.8 if {a, b} & holders else 0.002
    )
    network.clock.run(30.0)
    for port in holders:
        assert network.peers[port].keep(Record(key_of(b"x"), b"v", 1, bytes(20), network.clock.wall() + 1e6)) == ""
    for port in set(network.peers) - network.holders(key_of(b"x")):
        result, _ = network.get(port, "x")
        assert (result.found, result.error) == (True, "")


def test_nobodys_own_past_excuses_it_for_being_far_slower_than_the_others() -> None:
    network = Network.of(10)
    peer = network.peers[1]
    slow = next(peer.table.entries())
    for _ in range(20):
        slow.measure(1.5)
    assert slow.soft_timeout() >= 1.5
    assert peer.soft_timeout_of(slow.contact) == GREY_LEAST


def test_nothing_is_missing_for_certain_while_most_of_the_closest_are_silent() -> None:
    network = Network.of(20, settings=Settings(k=4, cache=0.0))
    network.put(1, "x")
    holders = network.holders(key_of(b"x"))
    network.cut = lambda a, b: bool({a, b} & holders)
    asking = next(port for port in network.peers if port not in holders)
    for _ in range(2):  # and the second time all know that they are silent, and ask them no more
        result, _ = network.get(asking, "x")
        assert (result.found, result.error) == (False, "the search was cut short: most of the closest were silent")
    stored, _ = network.put(asking, "x", 2)
    assert stored.error == "the search was cut short: most of the closest were silent"
    assert stored.acks > 0


def test_a_refusal_at_an_address_that_was_made_up_leaves_no_holder_for_dead() -> None:
    network = Network(settings=Settings(k=4, cache=0.0))
    asker, helper, *silent = (network.place(Contact(key_of(b"node %d" % port), HOST, port)) for port in range(1, 7))
    for peer in silent:
        helper.table.answered(peer.contact, network.clock.now, rtt=0.01)
    asker.ping(helper.contact)
    for peer in silent:
        asker.ping(Contact(peer.contact.id, HOST, 99))
    network.clock.run(1.0)
    assert len(asker.absences.refusing()) == len(silent)
    network.cut = lambda source, destination: source > 2 or destination > 2
    assert network.get(1, "x")[0].error == "the search was cut short: most of the closest were silent"


def test_a_missing_key_is_missing_for_certain_when_the_closest_are_dead() -> None:
    network = Network.of(20, settings=Settings(k=4))
    for port in closest_of_all("nothing", 20, 4):
        network.kill(port)
    for _ in range(2):
        result, _ = network.get(min(network.peers), "nothing")
        assert (result.found, result.error) == (False, "")


def test_one_silent_node_leaves_a_missing_key_missing_for_certain() -> None:
    network = Network.of(20, settings=Settings(k=4))
    silent = closest_of_all("nothing", 20, 4)[0]
    network.cut = lambda a, b: silent in (a, b)
    for port in set(network.peers) - {silent}:
        result, _ = network.get(port, "nothing")
        assert (result.found, result.error) == (False, "")


# --- being late oneself -------------------------------------------------------------------------


class BusyClock(VirtualClock):
    """Time on a loop that is always late with what comes soon."""

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        return super().call_later(delay + 0.1 if 0.0 < delay <= SLOW_LEAST else delay, call)


def test_a_node_that_is_always_late_still_overtakes_the_slow() -> None:
    network = Network.of(20, clock=BusyClock())
    silent = set(closest_of_all("nothing", 20, 3))
    network.cut = lambda a, b: bool({a, b} & silent)
    asking = next(port for port in network.peers if port not in silent)
    for peer in network.peers.values():
        peer.timeout_of = lambda contact: 2.0  # type: ignore[method-assign]
    searched = list[Search]()
    network.peers[asking].search(key_of(b"nothing"), searched.append)
    took = network.clock.run(5.0, until=lambda: searched)
    assert searched[0].lookup.done
    assert took < 2.0, "not until what was asked has timed out"
