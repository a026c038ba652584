"""Whole networks of nodes in virtual time: a fake clock and an in-memory network, no sleeping, no sockets.

Black holes swallow messages, as Toxiproxy's do; dead nodes refuse.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from types import SimpleNamespace

import pytest

from node.errors import RpcError, RpcRefused
from node.ids import as_int, distance, key_of, sibling
from node.maintenance import (
    ENOUGH,
    EXPIRE_EVERY,
    FAR_PAUSE,
    JOIN_GROWTH,
    JOIN_GROWTH_LATER,
    LOOK_AGAIN_LATER,
    TICK_IDLE,
    TICK_LATER,
    Maintenance,
)
from node.routing import BACKOFF_FIRST, Heard
from node.search import FARTHEST, NEAREST, Search, Thrift
from node.settings import Settings
from node.virtual import HOST, Line, Network
from node.wire import (
    VALUE_LIMIT,
    Answer,
    Contact,
    Envelope,
    FindNode,
    Get,
    GetResult,
    Inspect,
    Inspection,
    Ping,
    PingReport,
    PingVia,
    Put,
    PutResult,
    Record,
    Refusal,
    Sender,
    Store,
    encode,
)


def halves(source: int, destination: int) -> bool:
    """Nodes 1 to 10 and 11 to 20 do not hear each other."""
    return (source <= 10) != (destination <= 10)


def names(count: int, prefix: str = "key") -> list[str]:
    return [f"{prefix} {n}" for n in range(count)]


# --- joining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_start_at_once_know_their_true_closest_within_two_seconds(seed: int) -> None:
    assert Network.of(20, seed=seed).lacks() == 0


def test_the_same_with_one_hundred_nodes_and_tables_that_cannot_hold_them_all() -> None:
    network = Network.of(100)
    network.clock.run(1.0)
    assert network.lacks() == 0


def test_a_newcomer_calls_at_once_on_those_that_have_it_among_their_closest() -> None:
    missed = 0
    for identity in range(1000, 1012):
        network = Network.of(60, settings=Settings())
        newcomer = network.start(61, identity=identity)
        network.clock.run(2.0, until=lambda peer=newcomer: peer.table.alive() >= peer.settings.k)
        network.clock.run(0.05)  # the next look around is not due
        called = {destination for _, source, destination, _ in network.trace if source == 61}
        missed += len({port for port in network.peers if newcomer.contact in network.near(port)} - called)
    assert missed <= 2, "of 248; 14 without a look where the others live that have it among theirs"


def test_all_know_their_closest_as_soon_as_the_last_of_many_has_joined() -> None:
    late = 0
    for seed in range(6):
        network, rng = Network(seed=seed, settings=Settings(), record=False), Random(seed)
        for port in range(1, 101):
            network.start(port, identity=port + 1000 * seed)
            network.clock.run(rng.expovariate(100 / 15))
        network.clock.run(1.0)
        late += bool(network.lacks())
    assert late <= 1, (
        "of 6; all of them when the newcomer looked in its nearest bucket only, which is often far away yet"
    )


def test_far_buckets_fill_by_themselves_first_and_only_those_that_lack_contacts_are_refreshed() -> None:
    network = Network(settings=Settings(k=8))
    refreshed: list[float] = []
    for port in range(1, 101):
        network.start(port)
    network.clock.run(2.0)
    newcomer = network.start(102)  # one whose far buckets do not all fill by themselves
    began, refresh = network.clock.now, newcomer.search

    def noted(target: bytes, ended: Callable[[Search], None], *, thrift: Thrift = Thrift.NONE) -> None:
        if target != newcomer.contact.id:
            when, number = network.clock.now - began, as_int(target)
            bucket = next(each for each in newcomer.table.buckets() if each.covers(number))
            low, high = bucket.low, bucket.high
            if when < FAR_PAUSE / 2:
                low, high = sibling(newcomer.contact.id, distance(target, newcomer.contact.id).bit_length() - 1)
            alive = sum(entry.alive and low <= entry.number < high for entry in newcomer.table.entries())
            assert alive < network.settings.k * (1.0 if when < FAR_PAUSE / 2 else ENOUGH)
            refreshed.append(when)
        refresh(target, ended, thrift=thrift)

    newcomer.search = noted  # type: ignore[method-assign,assignment]
    network.clock.run(20.0)
    soon = [when for when in refreshed if when < FAR_PAUSE / 2]
    later = [when for when in refreshed if when >= FAR_PAUSE / 2]
    assert 1 <= len(soon) <= 2, "where those live that may hold records with us"
    assert later
    assert len(later) < len(newcomer.table.buckets()) - 1


@pytest.mark.parametrize("seed", [1, 2])  # those that show it
def test_nodes_that_came_long_ago_know_newcomers_that_do_not_call_on_them(seed: int) -> None:
    network = Network.of(40, seed=seed, settings=Settings())
    for first in range(41, 161, 40):
        network.clock.run(20.0)  # nodes look for newcomers rarely by now
        for port in range(first, first + 40):
            network.start(port)
    network.clock.run(10.0)
    assert network.lacks() == 0


# Five that showed joins which ended too soon, and three that show looks around which ask only the closest.
@pytest.mark.parametrize("seed", [1, 16, 21, 29, 34, 5, 11, 25])
def test_nodes_that_come_one_after_another_find_each_other_without_the_hourly_refresh(seed: int) -> None:
    network = Network(seed=seed, settings=Settings(k=10), latency=lambda a, b, rng: rng.uniform(0.003, 0.03))
    rng = Random(seed)
    for port, moment in enumerate(sorted(rng.uniform(0.0, 20.0) for _ in range(40)), 1):
        network.clock.run(1000.0 + moment - network.clock.now)
        network.start(port, identity=1000 * seed + port)
    network.clock.run(32.0)
    assert network.lacks() == 0


def test_looking_for_newcomers_asks_few_of_those_that_are_known() -> None:
    network = Network.of(20, settings=Settings(k=10))
    peer, ended = network.peers[1], list[Search]()
    for thrift in Thrift:
        peer.search(peer.contact.id, ended.append, thrift=thrift)
        network.clock.run(2.0)
    whole, in_burst, throughout = ended
    most = Settings().beta + Settings().alpha - 1 + FARTHEST  # some are in flight when the closest have answered
    assert throughout.rpcs == NEAREST + FARTHEST < in_burst.rpcs <= most < whole.rpcs == 10
    for thrifty in (in_burst, throughout):
        assert thrifty.complete
        assert thrifty.lookup.closest() == whole.lookup.closest()


def test_a_node_looks_for_newcomers_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    join = Maintenance._join

    def noted(one: Maintenance) -> None:
        looked.append(one._peer.contact.port)
        join(one)

    monkeypatch.setattr(Maintenance, "_join", noted)
    network = Network.of(20)
    network.clock.run(98.0)
    assert {looked.count(port) for port in network.peers} <= {9, 10}, "0.1 s after the first, 0.25 s after that, …"


def test_a_node_that_finds_newcomers_looks_again_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: dict[bool, list[float]] = {False: [], True: []}
    for finds in pauses:
        network = Network.of(6, settings=Settings(k=20))
        peer = network.place(Contact(key_of(b"joiner"), HOST, 7))
        maintenance = Maintenance(peer, [])
        peer.ping(network.peers[1].contact)
        network.clock.run(0.05)
        if finds:  # each time one that is dead, so that nobody else tells of it
            told = itertools.count(100)
            monkeypatch.setattr(
                maintenance,
                "_look_around",
                lambda ended, _thrift, told=told: ended(
                    SimpleNamespace(lookup=SimpleNamespace(closest=lambda: [stranger(next(told)).contact]))
                ),
            )
        for _ in range(4):
            pauses[finds].append(maintenance._join_pause)
            maintenance._join()
            maintenance._rejoin.cancel()
            network.clock.run(0.05)
    assert [later / sooner for sooner, later in itertools.pairwise(pauses[True])] == pytest.approx([JOIN_GROWTH] * 3)
    # the first look of all finds everybody
    assert [later / sooner for sooner, later in itertools.pairwise(pauses[False])] == pytest.approx(
        [JOIN_GROWTH, *[JOIN_GROWTH_LATER] * 2]
    )


def test_a_node_joins_although_its_bootstrap_nodes_start_later() -> None:
    network = Network()
    for port in range(3, 9):
        network.start(port)
    network.clock.run(5.0)
    network.start(1)
    network.start(2)
    network.clock.run(5.0)
    assert network.lacks() == 0


def test_a_node_that_is_told_its_own_address_too_joins_as_soon_as_another_starts() -> None:
    network = Network()
    early, late = (network.place(Contact(key_of(b"node %d" % port), HOST, port)) for port in (1, 2))
    network.kill(2)
    Maintenance(early, [(HOST, 1), (HOST, 2)]).start()
    network.clock.run(2.5)
    network.peers[2] = late
    network.clock.run(2.5)
    assert early.table.alive() == 1


def test_a_node_that_is_told_nothing_but_its_own_address_is_alone_by_choice() -> None:
    network = Network()
    Maintenance(network.place(Contact(key_of(b"node 1"), HOST, 1)), [(HOST, 1)]).start()
    assert network.get(1, "x")[0].error == ""


def test_a_node_that_comes_back_at_another_address_is_found_there() -> None:
    network = Network.of(12)
    known = network.peers[5].contact
    network.kill(5)
    network.clock.run(20.0)
    moved = network.place(Contact(known.id, HOST, 50))
    Maintenance(moved, [(HOST, 1), (HOST, 2)]).start()
    network.clock.run(90.0)
    assert all(
        peer.table.entry(known.id).contact == moved.contact  # type: ignore[union-attr]
        for port, peer in network.peers.items()
        if port != 50 and peer.table.entry(known.id)
    )
    assert network.lacks() == 0


def test_a_node_that_claims_anothers_address_does_not_take_its_place() -> None:
    network = Network.of(12)
    victim = network.peers[5].contact
    knows = next(peer for port, peer in network.peers.items() if port != 5 and peer.table.entry(victim.id))
    liar = network.place(Contact(key_of(b"liar"), HOST, 50)).contact
    line = network.peers[50].transport
    assert isinstance(line, Line)
    line.sender = Sender(Contact(liar.id, victim.host, victim.port), 99)
    knows.ping(liar)
    network.clock.run(0.05)  # before the victim says anything itself
    assert knows.table.entry(liar.id) is None
    assert victim in knows.table.closest(victim.id, 1)


def test_a_node_joins_through_one_that_it_knows_by_another_name() -> None:
    network = Network.of(3)
    peer = network.place(Contact(key_of(b"newcomer"), HOST, 50))
    Maintenance(peer, [("another name", 1)]).start()
    network.clock.run(0.05)
    assert any(source == 50 and what == "FindNode" for _, source, _, what in network.trace)
    network.clock.run(2.0)
    assert network.lacks() == 0


def test_a_lonely_node_asks_its_bootstrap_nodes_now_and_then() -> None:
    network = Network.of(3)
    for port in (1, 2):
        network.kill(port)
    network.clock.run(20.0)
    network.trace.clear()
    network.clock.run(60.0)
    assert len([1 for _, source, _, what in network.trace if source == 3 and what == "Ping"]) <= 60 + 2 * 6 + 10


def test_a_value_that_fits_into_no_store_is_refused_and_harms_nobody() -> None:
    network = Network.of(5)
    answers: list[Answer] = []
    network.peers[2].handle(None, Put(key_of(b"x"), bytes(VALUE_LIMIT + 1)), answers.append)
    assert isinstance(answers[0], Refusal)
    assert "over the limit" in answers[0].why
    frame = encode(Envelope("c" * 64, 2**32, Sender(Contact(bytes(20), "h" * 255, 65535), 2**63), Store(
        Record(bytes(20), bytes(VALUE_LIMIT), 2**63, bytes(20), 1e12), search=True)))  # fmt: skip
    assert len(frame) > VALUE_LIMIT


def test_values_that_are_being_stored_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.peer.MOST_STORING", 1000)
    network = Network.of(5)
    answers: list[Answer] = []

    def put(size: int) -> None:
        network.peers[2].handle(None, Put(key_of(b"%d" % size), bytes(size)), answers.append)

    put(96)  # each counts once for each of the five holders
    put(105)
    assert isinstance(answers[0], Refusal)
    assert "try again" in answers[0].why
    network.clock.run(1.0)
    put(105)
    network.clock.run(1.0)
    put(500)
    network.clock.run(1.0)
    assert [type(answer) for answer in answers] == [Refusal, PutResult, PutResult, PutResult], "one goes on in any case"


@pytest.mark.parametrize("ttl", [-1.0, float("nan"), float("inf")])
def test_a_time_to_live_that_is_none_is_refused_and_nobody_is_asked(ttl: float) -> None:
    network = Network.of(5)
    network.trace.clear()
    answers: list[Answer] = []
    network.peers[2].handle(None, Put(key_of(b"x"), b"v", ttl=ttl), answers.append)
    assert isinstance(answers[0], Refusal)
    assert f"finite number of seconds from 0 on, not {ttl}" in answers[0].why
    assert not network.trace


def test_a_refusal_is_an_answer_of_one_who_is_alive() -> None:
    network = Network.of(5)
    network.peers[2].table.failed(network.peers[3].contact.id, network.clock.now)
    network.peers[3].handle = lambda sender, message, reply: reply(Refusal("no"))  # type: ignore[method-assign]
    results: list[object] = []
    network.peers[2].call(network.peers[3].contact, Ping(), lambda _, result: results.append(result))
    network.clock.run(1.0)
    assert isinstance(results[0], RpcError)
    assert not network.peers[2].table.is_suspect(network.peers[3].contact.id)


def test_requests_that_time_out_together_are_one_failure() -> None:
    network = Network.of(5)
    network.cut = lambda source, destination: {source, destination} == {2, 3}
    for _ in range(8):
        network.peers[2].ping(network.peers[3].contact)
    network.clock.run(0.6)
    entry = network.peers[2].table.entry(network.peers[3].contact.id)
    assert entry is not None
    assert entry.failures <= 2, "and one ping that followed"


def test_who_learns_of_a_newer_version_when_it_is_no_holder_any_more_hands_that_out() -> None:
    network = Network.of(10, settings=Settings(k=8, republish=20.0))
    network.put(1, "x", 1)
    for port in range(11, 41):
        network.start(port)
    network.clock.run(5.0)
    network.put(1, "x", 2)
    network.clock.run(90.0)
    key = key_of(b"x")
    versions = [
        record.version
        for peer in network.peers.values()
        if (record := peer.storage.get(key, wall=network.clock.wall()))
    ]
    assert set(versions) == {2}


def test_an_idle_network_is_quiet() -> None:
    network = Network.of(20)
    network.clock.run(600.0)  # looking for newcomers has become rare
    before = len(network.trace)
    network.clock.run(60.0)
    assert len(network.trace) - before <= 20 * 19, "one ping a minute for each contact, at most"


# --- storing and looking up ---------------------------------------------------------------------


def test_a_record_is_held_by_the_true_closest_and_found_through_every_node() -> None:
    network = Network.of(20)
    network.store_all(names(10))
    for name in names(10):
        holders, closest = network.holders(key_of(name.encode())), network.closest(key_of(name.encode()))
        assert holders >= closest
        assert len(holders - closest) <= 1, "who was one as far as was known on the way"
        for port in network.peers:
            result, _ = network.get(port, name)
            assert (result.found, result.value, result.error) == (True, name.encode(), "")


def test_a_key_that_nobody_stored_is_not_found_and_that_is_certain() -> None:
    result, _ = Network.of(20).get(7, "nothing")
    assert (result.found, result.error) == (False, "")


def test_a_node_that_knows_nobody_does_not_claim_that_a_key_is_missing() -> None:
    network = Network()
    network.start(3)
    result, _ = network.get(3, "anything")
    assert (result.found, result.error) == (False, "the search was cut short: nobody answered")


def test_a_node_alone_by_choice_stores_and_misses_for_certain() -> None:
    network = Network()
    peer = network.start(3)
    peer.expects_others = False
    stored, _ = network.put(3, "own")
    assert (stored.acks, stored.holds) == (1, True)
    assert network.get(3, "missing")[0].error == ""


def test_the_newest_version_is_what_all_find() -> None:
    network = Network.of(20)
    for version in (2, 1, 3):
        network.ask(version, Put(key_of(b"x"), b"%d" % version, version), PutResult)
    for port in network.peers:
        result, _ = network.get(port, "x")
        assert (result.value, result.version) == (b"3", 3)


def test_a_value_from_the_own_store_costs_no_rpc() -> None:
    network = Network.of(20)
    network.store_all(["x"])
    holder = min(network.holders(key_of(b"x")))
    result, took = network.get(holder, "x")
    assert (result.hops, result.rpcs, took) == (0, 0, 0.0)


# --- the dead -----------------------------------------------------------------------------------


def test_everything_is_found_while_a_third_of_the_nodes_is_dead() -> None:
    network = Network.of(20)
    network.store_all(names(20))
    for port in range(5, 11):
        network.kill(port)
    for name, port in itertools.product(names(20), (1, 2, 15, 20)):
        result, took = network.get(port, name)
        assert result.found
        assert took < 0.5


@pytest.mark.parametrize("away", [0.0, 5.0], ids=["before-anybody-notices", "after-others-noticed"])
def test_a_node_restarted_with_an_empty_store_gets_back_what_it_should_hold(away: float) -> None:
    network = Network.of(20)
    network.store_all(names(60))
    network.clock.run(10.0)
    network.kill(7)
    if away:
        for name, port in itertools.product(names(60), (1, 2, 3)):
            network.get(port, name)
        for peer in network.peers.values():
            peer.ping(Contact(key_of(b"node 7"), HOST, 7))
        network.clock.run(away)
        assert all(peer.table.is_suspect(key_of(b"node 7")) for peer in network.peers.values())
    network.start(7)
    network.clock.run(5.0)
    for name in names(60):
        key = key_of(name.encode())
        assert network.closest(key) <= network.holders(key)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_when_all_nodes_are_restarted_one_after_the_other(seed: int) -> None:
    network = Network.of(20, seed=seed)
    network.store_all(names(40))
    for port in range(1, 21):
        network.kill(port)
        network.start(port)
        network.clock.run(2.0)
    held = [len(network.holders(key_of(name.encode()))) for name in names(40)]
    assert all(count >= network.settings.k - 1 for count in held)
    assert sum(count < network.settings.k for count in held) <= 2, "2 s are short: of 9,600 such copies 8 came later"
    assert all(network.get(1, name)[0].found for name in names(40))


def test_a_third_of_the_nodes_coming_and_going_loses_nothing() -> None:
    network = Network.of(20)
    network.store_all(names(40))
    rng, away = Random(4), set[int]()
    for _ in range(24):
        port = rng.randrange(15, 21)
        if port in away:
            away.discard(port)
            network.start(port)
        else:
            away.add(port)
            network.kill(port)
        network.clock.run(rng.expovariate(2.0))
    for port in away:
        network.start(port)
    network.clock.run(5.0)
    assert network.lacks() == 0
    for name in names(40):
        assert network.get(17, name)[0].found


def test_a_gateway_that_has_just_restarted_lets_clients_wait_until_it_has_joined() -> None:
    network = Network.of(20)
    network.store_all(names(30))
    network.kill(7)
    network.start(7)
    answers: list[Answer] = []
    for name in names(30):
        network.peers[7].handle(None, Get(key_of(name.encode())), answers.append)
    assert answers == []
    network.clock.run(0.5)
    assert [isinstance(answer, GetResult) and answer.found for answer in answers] == [True] * 30


def test_no_more_clients_wait_for_a_node_to_join_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.peer.MOST_HELD", 3)
    peer = Network.of(3).peers[1]
    peer.storage.put(Record(key_of(b"x"), b"v", 1, bytes(20), 1e6), wall=0.0, now=0.0, republish_at=1e6)
    peer.hold_clients()
    answers: list[Answer] = []
    for _ in range(5):
        peer.handle(None, Get(key_of(b"x")), answers.append)
    assert [type(answer) for answer in answers] == [Refusal] * 2
    peer.release_clients()
    assert [type(answer) for answer in answers[2:]] == [GetResult] * 3


def test_a_gateway_that_cannot_join_answers_all_the_same() -> None:
    network = Network()
    network.start(3)
    _, took = network.get(3, "anything")
    assert took <= 1.0


def test_another_identity_at_an_address_replaces_the_old_one_everywhere() -> None:
    network = Network.of(20)
    old = network.peers[9].contact
    network.kill(9)
    network.start(9, identity=77)
    network.clock.run(5.0)
    assert network.lacks() == 0
    assert all(old not in [e.contact for e in peer.table.entries() if e.alive] for peer in network.peers.values())


def test_an_answer_of_another_identity_than_the_one_asked_is_a_failure() -> None:
    network, results = Network.of(4), list[object]()
    old = Contact(key_of(b"who lived here before"), HOST, 4)
    network.peers[3].call(old, Ping(), lambda _, result: results.append(result))
    network.clock.run(1.0)
    assert [str(result) for result in results] == ["another node lives at h:4 now"]
    assert isinstance(results[0], RpcRefused)


# --- cut off ------------------------------------------------------------------------------------


def test_halves_that_do_not_hear_each_other_go_on_working() -> None:
    network = Network.of(20)
    network.store_all(names(20))
    network.cut = halves
    slow = 0
    for n, port in enumerate(itertools.islice(itertools.cycle(network.peers), 200)):
        stored, took = network.put(port, f"during {n}")
        assert stored.acks >= 4, stored
        assert took < 4.0, "well before a client gives up"
        slow += took > 1.0
        network.clock.run(0.035)
    assert slow < 20, "suspects are waited for once, not by every store"
    missing = [(name, port) for name in names(20) for port in network.peers if not network.get(port, name)[0].found]
    assert missing == []


def test_after_a_partition_the_halves_are_one_network_with_everything_where_it_belongs() -> None:
    network = Network.of(20)
    network.store_all(names(20))
    network.cut = halves
    during = names(40, "during")
    for name, port in zip(during, itertools.cycle(network.peers), strict=False):
        network.put(port, name)
        network.clock.run(0.17)
    network.cut = lambda source, destination: False
    network.clock.run(4.0)
    assert network.lacks() == 0
    network.clock.run(2.0)
    keys = [key_of(name.encode()) for name in names(20) + during]
    missing = [len(network.closest(key) - network.holders(key)) for key in keys]
    assert max(missing) <= 1
    assert sum(missing) <= 0.01 * len(missing) * network.settings.k, "until tRepublish, what no sender knew of"
    for name in names(20) + during:
        assert network.get(3, name)[0].found
        assert network.get(13, name)[0].found


def test_a_total_outage_of_ten_minutes_heals_by_itself() -> None:
    network = Network.of(20)
    network.store_all(["x"])
    network.cut = lambda source, destination: True
    network.clock.run(600.0)
    assert all(peer.table.alive() == 0 for peer in network.peers.values())
    network.cut = lambda source, destination: False
    network.clock.run(5.0)
    assert network.lacks() == 0
    assert network.get(4, "x")[0].found


def test_operations_end_before_clients_give_up_even_if_nobody_answers_any_more() -> None:
    network = Network.of(20)
    network.store_all(["x"])
    network.cut = lambda source, destination: True
    for _ in range(5):
        _, put_took = network.put(5, "y")
        _, get_took = network.get(5, "z")
        assert put_took <= 4.0
        assert get_took <= 4.0


def test_they_do_so_too_when_slow_links_have_made_the_timeouts_long() -> None:
    network = Network.of(20, latency=lambda source, destination, rng: 0.45)
    network.clock.run(30.0)
    network.cut = lambda source, destination: True
    for _ in range(3):
        assert network.put(5, "y")[1] <= 4.0
        assert network.get(5, "z")[1] <= 4.0


def test_a_suspect_that_others_still_hand_out_is_not_waited_for_again() -> None:
    network = Network.of(20)
    network.cut = lambda source, destination: {source, destination} == {5, 9}
    network.peers[5].ping(network.peers[9].contact)
    network.clock.run(1.0)
    key = next(name for name in names(50) if 9 in network.closest(key_of(name.encode())))
    assert network.put(5, key)[1] < 0.1
    suspect = network.peers[9].contact
    others = [peer for port, peer in network.peers.items() if port not in (5, 9)]
    assert any(suspect in peer.table.closest(suspect.id, 1) for peer in others)


def test_a_link_that_loses_one_direction_only_heals_too() -> None:
    network = Network.of(20)
    network.cut = lambda source, destination: source == 3
    network.clock.run(10.0)
    network.cut = lambda source, destination: False
    network.clock.run(4.0)
    assert network.lacks() == 0


# --- slow links ---------------------------------------------------------------------------------


def test_an_abrupt_rise_of_the_latency_fails_no_operation_and_leaves_nothing_behind() -> None:
    network = Network.of(20)
    network.store_all(names(20))

    def slow(source: int, destination: int, rng: Random) -> float:
        return rng.uniform(0.12, 0.18) if source <= 5 else rng.uniform(0.001, 0.003)

    quick, network.latency = network.latency, slow
    for n, port in enumerate(itertools.islice(itertools.cycle(network.peers), 60)):
        assert network.put(port, f"slow {n}")[0].acks >= 6
        assert network.get(port, f"key {n % 20}")[0].found
    network.latency = quick
    network.clock.run(1.0)
    assert network.lacks() == 0
    assert max(network.put(port, f"after {port}")[1] for port in network.peers) < 0.1


# --- republish ----------------------------------------------------------------------------------


def test_one_holder_republishes_for_all_and_no_life_is_prolonged() -> None:
    network = Network.of(20, settings=Settings(k=8, republish=60.0, refresh=1e6, expire=600.0))
    network.store_all(["x"])
    key = key_of(b"x")
    born = network.clock.now
    network.clock.run(590.0)
    stores = [1 for when, _, _, kind in network.trace if kind == "Store" and when > born]
    assert len(stores) <= 2 * 10 * network.settings.k, "twice a period at most, not once for each of the 8 holders"
    assert len(stores) >= 5 * (network.settings.k - 1)
    assert network.holders(key) >= network.closest(key)
    network.clock.run(20.0)
    assert network.holders(key) == set()


def test_the_closest_holder_takes_the_first_turn_and_the_others_give_way_to_it() -> None:
    network = Network.of(20, settings=Settings(k=8, republish=60.0, refresh=1e6, expire=600.0))
    network.store_all(names(5))
    together = network.clock.now + 60.0  # for all holders, so that chance has no part in whose turn is first
    for peer in network.peers.values():
        for kept in peer.storage.kept():
            kept.republish_at = together
    network.trace.clear()
    network.clock.run(80.0)
    closest = {network.true_closest(key_of(name.encode()))[0].port for name in names(5)}
    assert {source for _, source, _, what in network.trace if what == "Store"} == closest


def test_what_has_expired_leaves_the_store_by_itself() -> None:
    network = Network.of(5, settings=Settings(k=8, expire=20.0))
    network.store_all(names(3))
    network.clock.run(20.0 + EXPIRE_EVERY)
    assert [len(peer.storage) for peer in network.peers.values()] == [0] * 5


def test_a_bucket_in_which_nothing_was_looked_up_for_long_is_refreshed() -> None:
    network = Network.of(40, settings=Settings(k=4, refresh=100.0))
    network.clock.run(300.0)
    for peer in network.peers.values():
        buckets = peer.table.buckets()
        assert max(network.clock.now - bucket.refreshed for bucket in buckets) <= 100.0 + 2 * len(buckets)


def test_republishing_brings_a_record_to_new_nodes_that_are_closer() -> None:
    network = Network.of(10, settings=Settings(k=3, republish=30.0))
    network.store_all(names(20))
    for port in range(11, 21):
        network.start(port)
    network.clock.run(60.0)
    for name in names(20):
        assert network.closest(key_of(name.encode())) <= network.holders(key_of(name.encode()))


# --- observers ----------------------------------------------------------------------------------


def test_an_observers_ping_measures_both_ways_and_teaches_nobody() -> None:
    network = Network.of(20)
    network.clock.run(8.0)
    destination = network.peers[4]
    before = [(e.contact, e.seen) for e in destination.table.entries()]
    network.latency = lambda a, b, rng: 0.1 if a == 3 else 0.03
    report, _ = network.ask(3, PingVia(destination.contact, b"nonce", 1.0), PingReport)
    assert (report.outcome, report.nonce) == ("ok", b"nonce")
    assert report.received_at - report.sent_at == pytest.approx(0.1e9, rel=1e-3)
    assert report.returned_at - report.received_at == pytest.approx(0.03e9, rel=1e-3)
    seen, _ = network.ask(4, Inspect(), Inspection)
    assert seen.nonces == (b"nonce",)
    assert seen.nonce_times == (report.received_at,)
    assert seen.counters["observer_rpcs"] == 2
    assert [(e.contact, e.seen) for e in destination.table.entries()] == before


@pytest.mark.parametrize(("padding", "timeout"), [(2**20 + 1, 1.0), (-1, 1.0), (0, 0.0), (0, 61.0), (0, float("nan"))])
def test_an_observer_can_have_no_ping_sent_that_is_too_large_or_lasts_too_long(padding: int, timeout: float) -> None:
    network = Network.of(2)
    network.trace.clear()
    answers: list[Answer] = []
    network.peers[1].handle(None, PingVia(network.peers[2].contact, b"n", timeout, padding), answers.append)
    assert [type(answer) for answer in answers] == [Refusal]
    assert not network.trace


def test_a_lost_answer_shows_as_a_timeout_although_the_nonce_arrived() -> None:
    network = Network.of(4)
    network.cut = lambda source, destination: (source, destination) == (4, 3)
    report, _ = network.ask(3, PingVia(network.peers[4].contact, b"one way", 0.5), PingReport)
    assert report.outcome == "timeout"
    seen, _ = network.ask(4, Inspect(), Inspection)
    assert b"one way" in seen.nonces


def test_counters_tell_the_kinds_apart() -> None:
    network = Network.of(20)
    before, _ = network.ask(5, Inspect(), Inspection)
    network.put(5, "x")
    after, _ = network.ask(5, Inspect(), Inspection)
    grown = {name: count - before.counters.get(name, 0) for name, count in after.counters.items()}
    assert grown["rpcs_in.Put"] == 1
    assert grown["rpcs_out.Store"] in (7, 8)
    assert grown["rpcs_out"] == grown["rpcs_out.Store"] + grown["rpcs_out.FindNode"] + grown.get("rpcs_out.Ping", 0)


def test_a_request_of_a_stranger_does_not_make_it_known_before_it_answers() -> None:
    network = Network.of(4)
    ghost = Sender(Contact(key_of(b"ghost"), HOST, 55), 1)
    network.peers[1].handle(ghost, FindNode(key_of(b"x")), lambda answer: None)
    network.peers[1].handle(ghost, Ping(), lambda answer: None)
    network.clock.run(3.0)
    assert ghost.contact not in network.peers[1].table.closest(ghost.contact.id, 8)


def pinged_by(network: Network, port: int, callers: list[Sender]) -> list[int]:
    """Ports that a node pings at once when these call on it, in order."""
    network.trace.clear()
    for caller in callers:
        network.peers[port].handle(caller, FindNode(key_of(b"x")), lambda answer: None)
    return [there for _, here, there, what in network.trace if (here, what) == (port, "Ping")]


def stranger(port: int) -> Sender:
    return Sender(Contact(key_of(b"stranger %d" % port), HOST, port), 1)


def test_a_stranger_who_calls_is_pinged_at_once_but_not_while_we_still_ask_around_ourselves() -> None:
    network = Network.of(4)
    network.start(5)
    assert pinged_by(network, 5, [stranger(55)]) == []
    network.clock.run(1.0)
    assert pinged_by(network, 5, [stranger(56), stranger(56)]) == [56], "once, however often it calls"
    network.trace.clear()
    network.clock.run(0.4)
    assert 56 not in [there for _, here, there, what in network.trace if (here, what) == (5, "Ping")], (
        "nor again so soon"
    )


def test_of_a_crowd_of_strangers_a_few_are_pinged_at_once_and_the_others_in_turn() -> None:
    network = Network.of(4, settings=Settings(k=20))  # there is a place for each
    crowd = [stranger(100 + number) for number in range(15)]
    assert pinged_by(network, 1, crowd) == [100, 101, 102]
    network.clock.run(1.0)
    pings = [there for _, here, there, what in network.trace if (here, what) == (1, "Ping") and there >= 100]
    assert len(pings) <= 3 + 12, "12 a second, those that wait among them"
    network.clock.run(5.0)  # none of them answers, so they are pinged again and again
    pings = [there for _, here, there, what in network.trace if (here, what) == (1, "Ping") and there >= 100]
    assert set(pings) == set(range(100, 115))
    assert len(pinged_by(network, 1, [stranger(200 + number) for number in range(15)])) == 3


def ticking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ports of nodes that look at what is due, as they do so."""
    ticks: list[int] = []
    tick = Maintenance._tick

    def noted(one: Maintenance) -> None:
        ticks.append(one._peer.contact.port)
        tick(one)

    monkeypatch.setattr(Maintenance, "_tick", noted)
    return ticks


def test_a_node_that_has_nobody_to_look_after_looks_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = ticking(monkeypatch)
    network = Network.of(20)
    network.clock.run(30.0)
    ticks.clear()
    network.clock.run(20.0)
    assert {ticks.count(port) for port in network.peers} <= {19, 20, 21}, "once a second"


@pytest.mark.parametrize("cause", ["it fails", "it calls", "it called after failures", "a partition ends"])
def test_who_is_to_be_pinged_is_not_kept_waiting_by_a_node_that_was_idle(
    monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    ticks = ticking(monkeypatch)
    network = Network(settings=Settings(k=20))
    peer = network.place(Contact(key_of(b"node 1"), HOST, 1))
    other, alive = (network.place(Contact(key_of(b"node %d" % port), HOST, port)).contact for port in (2, 3))
    maintenance = Maintenance(peer, [])
    maintenance.start()
    peer.ping(other)
    peer.ping(alive)
    network.clock.run(30.0)
    if cause in ("it called after failures", "a partition ends"):
        peer.table.failed(other.id, network.clock.now)  # behind the back of whoever looks
        entry = peer.table.entry(other.id)
        assert entry is not None
        entry.retry_at = network.clock.now + 100.0
    ticks.clear()
    network.clock.run(TICK_IDLE, until=lambda: ticks)
    assert ticks
    network.clock.run(0.05)
    network.trace.clear()
    began = network.clock.now
    match cause:
        case "it fails":
            peer._failed(other, began)
        case "it calls":
            peer._greetings, peer._greeted_at = 0.0, began  # too many have called for a ping at once
            peer.handle(stranger(55), FindNode(key_of(b"x")), lambda answer: None)
        case "it called after failures":
            peer.handle(Sender(other, 1), FindNode(key_of(b"x")), lambda answer: None)
        case _:
            maintenance._on_contact(stranger(55).contact, Heard(missed_since=began - 60.0))
    network.clock.run(5.0, until=lambda: network.trace)
    assert network.trace[0][3] == "Ping"
    assert network.clock.now - began == pytest.approx(max(BACKOFF_FIRST, TICK_LATER), abs=0.01)


@pytest.mark.parametrize(("cause", "due"), [("a neighbour came", 0.7), ("one was lost", 1.6)])
def test_an_idle_node_looks_around_when_it_is_time_for_that(
    monkeypatch: pytest.MonkeyPatch, cause: str, due: float
) -> None:
    ticks = ticking(monkeypatch)
    network = Network(settings=Settings(k=20))
    peer, *others = (network.place(Contact(key_of(b"node %d" % port), HOST, port)) for port in (1, 2, 3))
    maintenance = Maintenance(peer, [])
    maintenance.start()
    for other in others:
        peer.ping(other.contact)
    network.clock.run(30.0)
    ticks.clear()
    network.clock.run(TICK_IDLE, until=lambda: ticks)
    network.clock.run(0.05)
    began, looked = network.clock.now, list[float]()
    maintenance._looked_around = began + due - LOOK_AGAIN_LATER
    monkeypatch.setattr(maintenance, "_look_around", lambda _ended: looked.append(network.clock.now - began))
    neighbour = others[0].contact
    if cause == "a neighbour came":
        maintenance._on_contact(neighbour, Heard(new=True))
    else:
        peer.table.failed(neighbour.id, began)
        entry = peer.table.entry(neighbour.id)
        assert entry is not None
        entry.retry_at = began + 100.0
    network.clock.run(10.0)
    assert looked == [pytest.approx(due, abs=0.01)]


def test_a_lookup_whose_first_contacts_have_all_gone_goes_on_to_others_that_it_knows() -> None:
    network = Network.of(12, settings=Settings(k=3))
    network.clock.run(30.0)
    name = "precious"
    network.put(1, name)
    asker = max(network.peers, key=lambda port: distance(network.peers[port].contact.id, key_of(name.encode())))
    known = network.peers[asker].table.seeds(key_of(name.encode()), 4)
    network.peers[known[3].port].storage.put(
        Record(key_of(name.encode()), b"kept", 9, bytes(20), network.clock.wall() + 99.0),
        wall=network.clock.wall(), now=network.clock.now, republish_at=network.clock.now + 99.0,
    )  # fmt: skip
    for contact in known[:3]:
        network.kill(contact.port)
    found, _ = network.get(asker, name)
    assert found.value == b"kept"
