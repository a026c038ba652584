"""Who is whom in a network of nodes: an identity is nobody's to take from one that still answers at its address."""

from __future__ import annotations

import pytest

from node.maintenance import Maintenance
from node.peer import Peer
from node.virtual import HOST, Line, Network
from node.wire import Contact, Sender


def one_that_knows(network: Network, who: Contact) -> Peer:
    """A node whose table holds ``who``."""
    return next(peer for peer in network.peers.values() if peer.contact != who and peer.table.entry(who.id))


def claim(network: Network, victim: Contact, port: int) -> Contact:
    """Have somebody at ``port`` who answers as ``victim``; the contact that it passes for."""
    claimed = Contact(victim.id, HOST, port)
    line = network.place(claimed).transport
    assert isinstance(line, Line)
    line.sender = Sender(claimed, 99)
    return claimed


def test_who_answers_as_another_at_an_own_address_does_not_take_its_identity() -> None:
    network = Network.of(12)
    victim = network.peers[5].contact
    knows = one_that_knows(network, victim)
    claimed = claim(network, victim, 50)
    for _ in range(3):
        knows.ping(claimed)
        network.clock.run(1.0)
    assert knows.table.closest(victim.id, 1) == [victim]


def test_nor_by_giving_out_an_address_of_it_at_which_nobody_answers() -> None:
    network = Network.of(12)
    victim = network.peers[5].contact
    knows = one_that_knows(network, victim)
    knows.ping(Contact(victim.id, HOST, 60))
    network.clock.run(1.0)
    assert not knows.table.is_suspect(victim.id)
    knows.ping(claim(network, victim, 50))
    network.clock.run(1.0)
    assert knows.table.closest(victim.id, 1) == [victim]


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "black-hole"])
def test_a_node_that_moved_before_anybody_noticed_is_found_with_the_answer_that_tells_of_it(silent: bool) -> None:
    network = Network.of(12)
    known = network.peers[5].contact
    knows = one_that_knows(network, known)
    network.kill(5)
    if silent:
        network.cut = lambda source, destination: 5 in (source, destination)
    moved = network.place(Contact(known.id, HOST, 50))
    knows.ping(moved.contact)
    network.clock.run(3.0)
    assert knows.table.closest(known.id, 1) == [moved.contact]


def test_all_find_a_node_that_moved_before_they_noticed() -> None:
    network = Network.of(12)
    known = network.peers[5].contact
    network.kill(5)
    moved = network.place(Contact(known.id, HOST, 50))
    Maintenance(moved, [(HOST, 1), (HOST, 2)]).start()
    network.clock.run(90.0)
    assert network.lacks() == 0
