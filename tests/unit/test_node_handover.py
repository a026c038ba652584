"""Records handed over to newcomers: nobody who is silent or restless keeps others from getting theirs."""

from __future__ import annotations

from node.ids import key_of
from node.maintenance import SETTLED, WINDOW, Maintenance
from node.peer import Peer
from node.routing import Heard
from node.virtual import HOST, Line, Network
from node.wire import Contact, Record, Sender

RECORDS = 500


def giver(network: Network) -> tuple[Peer, Maintenance]:
    """A node alone, with records."""
    peer = network.place(Contact(key_of(b"giver"), HOST, 1))
    maintenance = Maintenance(peer, [])
    maintenance.start()
    for n in range(RECORDS):
        assert peer.keep(Record(key_of(b"key %d" % n), b"v", 1, bytes([n % 2]) * 20, network.clock.wall() + 1e6)) == ""
    return peer, maintenance


def newcomer(network: Network, port: int) -> Peer:
    return network.place(Contact(key_of(b"node %d" % port), HOST, port))


def restart(network: Network, peer: Peer) -> None:
    """From now on it answers in another incarnation."""
    line = peer.transport
    assert isinstance(line, Line)
    line.sender = Sender(peer.contact, line.sender.incarnation + 1000)


def test_a_newcomer_that_freezes_does_not_keep_others_from_getting_their_records() -> None:
    network = Network()
    peer, maintenance = giver(network)
    frozen, other = newcomer(network, 2), newcomer(network, 3)
    peer.ping(frozen.contact)
    network.clock.run(1.0, until=lambda: len(frozen.storage) > 20)
    network.cut = lambda source, destination: 2 in (source, destination)
    peer.ping(other.contact)
    network.clock.run(3.0)
    assert len(other.storage) == RECORDS
    assert len(frozen.storage) <= 20 + 2 * WINDOW
    assert not maintenance._outbox
    entry = peer.table.entry(frozen.contact.id)
    assert entry is not None
    assert entry.failures <= 4, "of pings, ever farther apart"
    network.cut = lambda source, destination: False
    network.clock.run(10.0)
    assert len(frozen.storage) == RECORDS, "it is owed them, and gets them when it answers again"


def test_a_contact_in_ever_another_incarnation_gets_everything_once_in_a_while_only() -> None:
    network = Network()
    peer, maintenance = giver(network)
    restless, most = newcomer(network, 2), 0
    peer.ping(restless.contact)
    began = network.clock.now
    for _ in range(100):
        network.clock.run(0.1)
        most = max(most, len(maintenance._outbox))
        restart(network, restless)
        peer.ping(restless.contact)
    stores = sum(what == "Store" for _, _, _, what in network.trace)
    assert most <= RECORDS
    assert stores <= RECORDS * (1 + (network.clock.now - began) / SETTLED)


def test_a_record_waits_once_for_a_contact() -> None:
    network = Network(latency=lambda source, destination, rng: 10.0)
    peer, maintenance = giver(network)
    contact = newcomer(network, 2).contact
    peer.table.answered(contact, network.clock.now, rtt=0.01)
    for _ in range(3):
        maintenance._on_contact(contact, Heard(missed_since=1.0))
    assert len(maintenance._outbox) == RECORDS, "those in the window are sent again"


def test_who_was_restarted_twice_within_a_moment_gets_everything_all_the_same() -> None:
    network = Network()
    peer, _ = giver(network)
    for _ in range(2):
        empty = newcomer(network, 2)
        peer.ping(empty.contact)
        network.clock.run(1.0)
    assert len(empty.storage) == 0
    network.clock.run(SETTLED)
    assert len(empty.storage) == RECORDS
