"""The routing table: against a brute-force oracle, and its rules one by one."""

import math
from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.ids import BITS, as_int, distance, random_id
from node.routing import (
    BACKOFF_EARLY,
    BACKOFF_MOST,
    EVICTION_FAILURES,
    LATELY,
    TIMEOUT_LEAST,
    TIMEOUT_MOST,
    Entry,
    Limits,
    RoutingTable,
)
from node.wire import Contact

OWN = bytes(20)
FAR = 1 << (BITS - 1)  # the half of the space that does not hold OWN: one bucket, which only section 2.4 splits


def contact(number: int, port: int = 0) -> Contact:
    return Contact(number.to_bytes(20, "big"), "h", port or 1 + number % 65535)


def full_far_bucket(k: int = 2) -> RoutingTable:
    """A table with k near contacts and a far bucket that is full; a farther newcomer finds no place there."""
    table = RoutingTable(OWN, k)
    for number in (*range(1, k + 1), *(FAR + n for n in range(1, k + 1))):
        table.answered(contact(number), 0.0, rtt=0.01)
    return table


def fail(table: RoutingTable, who: Contact, times: int = EVICTION_FAILURES) -> None:
    for n in range(times):
        table.failed(who.id, float(n))


# --- against the oracle -------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([1, 2, 8, 20]))
def test_the_true_k_closest_are_always_known(seed: int, count: int, k: int) -> None:
    rng = Random(seed)
    table = RoutingTable(random_id(rng), k)
    met = [Contact(random_id(rng), "h", port) for port in range(1, count + 1)]
    for other in met:
        table.answered(other, 0.0, rtt=0.01)
    truth = sorted(met, key=lambda c: distance(c.id, table.own))[:k]
    assert table.closest(table.own, k) == truth


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(1, 25))
def test_closest_agrees_with_sorting_the_whole_table(seed: int, count: int, wanted: int) -> None:
    rng = Random(seed)
    table, target = RoutingTable(random_id(rng), 8), random_id(rng)
    for port in range(1, count + 1):
        table.answered(Contact(random_id(rng), "h", port), 0.0, rtt=0.01)
    everyone = sorted((e.contact for e in table.entries()), key=lambda c: distance(c.id, target))
    assert table.closest(target, wanted) == everyone[:wanted]


events = st.lists(st.tuples(st.sampled_from(["answered", "requested", "failed"]), st.integers(1, 60)), max_size=200)


@settings(deadline=None)
@given(events, st.sampled_from([1, 3]))
def test_the_invariants_hold_after_any_events(happened: list[tuple[str, int]], k: int) -> None:
    table, most = RoutingTable(OWN, k), 0
    for now, (event, n) in enumerate(happened):
        who = contact((n * 0x9E3779B97F4A7C15 << 96) % (1 << BITS) or 1, n)
        if event == "answered":
            table.answered(who, float(now), rtt=0.01)
        elif event == "requested":
            table.requested(who, float(now))
        else:
            table.failed(who.id, float(now))
        answering = sum(entry.verified for entry in table.entries())
        assert answering >= most, "a contact that had answered was dropped without another in its place"
        most = answering
    buckets = table.buckets()
    assert [b.low for b in buckets] == [0, *(b.high for b in buckets[:-1])]
    assert buckets[-1].high == 1 << BITS
    for bucket in buckets:
        assert len(bucket.entries) <= k
        assert len(bucket.spares) <= k
        assert not bucket.entries.keys() & bucket.spares.keys()
        assert all(bucket.low <= e.number < bucket.high for e in [*bucket.entries.values(), *bucket.spares.values()])
    assert len(table) == sum(len(b.entries) for b in buckets)


def verified(table: RoutingTable) -> list[Contact]:
    """All that answered where they are known, those in buckets and the spares."""
    known = [e for bucket in table.buckets() for held in (bucket.entries, bucket.spares) for e in held.values()]
    return sorted((e.contact for e in known if e.verified), key=lambda c: c.id)


def most_of_one_subnet(held: Iterable[Entry]) -> int:
    return max(Counter(e.contact.host for e in held).values(), default=0)


crowd = st.lists(
    st.tuples(st.sampled_from(["answered", "answered", "requested", "failed"]), st.integers(1, 20), st.integers(1, 12)),
    max_size=150,
)


@settings(deadline=None)
@given(crowd, st.sampled_from([1, 3]), st.sampled_from([(0, 0), (1, 3), (2, 2)]), st.sampled_from([1.0, 25.0]))
def test_who_is_where_holds_after_any_events(
    happened: list[tuple[str, int, int]], k: int, most: tuple[int, int], pause: float
) -> None:
    """Twenty identities at twelve addresses of three subnets: they move, restart as others, and claim what is not so."""
    table = RoutingTable(OWN, k, Limits(*most, str))
    for n, (event, identity, port) in enumerate(happened):
        who = Contact((identity * 0x9E3779B97F4A7C15 << 96).to_bytes(24, "big")[-20:], f"subnet {port % 3}", port)
        before, now = verified(table), n * pause
        if event == "answered":
            heard = table.answered(who, now, rtt=0.01)
            assert not heard or who in table.closest(who.id, 1)
        elif event == "requested":
            table.requested(who, now)
            assert verified(table) == before, "requests neither teach nor undo anything that an answer has shown"
        else:
            table.failed(who.id, now, asked=who)
            assert who in before or verified(table) == before, "nobody fails for silence where it does not live"
        addresses = [(c.host, c.port) for c in verified(table)]
        assert len(addresses) == len(set(addresses)), "an address belongs to one identity"
        assert max(map(len, (bucket.spares for bucket in table.buckets()))) <= k
        assert not most[0] or all(most_of_one_subnet(b.entries.values()) <= most[0] for b in table.buckets())
        assert not most[1] or most_of_one_subnet(table.entries()) <= most[1]
        what_is_told_is_what_entries_say(table, now)


def what_is_told_is_what_entries_say(table: RoutingTable, now: float) -> None:
    """What a table keeps at hand, and changes bit by bit, is what one finds by looking through all of it."""
    entries = list(table.entries())
    alive = [e for e in entries if e.alive]
    assert table.alive() == len(alive)
    assert set(table.closest(OWN, len(entries))) == {e.contact for e in alive}
    assert {e.contact.id for e in entries if e.contact.id in table.suspects()} == {
        e.contact.id for e in entries if e.failures
    }
    ids = {e.contact.id for e in entries}
    due = {e.contact.id for e in table.due(math.inf, 1000)} & ids
    assert due == ids - {e.contact.id for e in alive}
    silent = {e.contact.id for e in alive if now - e.seen >= 60.0 and e.retry_at <= now}
    assert {e.contact.id for e in table.unheard(now, 60.0, 1000)} == silent


# --- failures -----------------------------------------------------------------------------------


def test_one_timeout_evicts_nobody() -> None:
    table = full_far_bucket()
    spare, victim = contact(FAR + 9), contact(FAR + 1)
    table.answered(spare, 1.0, rtt=0.01)
    fail(table, victim, times=1)
    assert table.entry(victim.id) is not None
    assert table.entry(spare.id) is None


def test_after_several_failures_in_a_row_a_live_spare_takes_the_place() -> None:
    table = full_far_bucket()
    spare, victim = contact(FAR + 9), contact(FAR + 1)
    table.answered(spare, 1.0, rtt=0.01)
    fail(table, victim)
    assert table.entry(victim.id) is None
    assert table.entry(spare.id) is not None


def test_a_spare_that_answered_long_ago_is_pinged_before_it_takes_a_place() -> None:
    table = full_far_bucket()
    spare, victim = contact(FAR + 9), contact(FAR + 1)
    table.answered(spare, 1.0, rtt=0.01)
    for n in range(EVICTION_FAILURES):
        table.failed(victim.id, 1.0 + LATELY + 1 + n)
    assert spare not in table.closest(spare.id, 4)
    assert spare in [e.contact for e in table.due(100.0, 9)]
    assert table.answered(spare, 100.0, rtt=0.01).new
    assert spare in table.closest(spare.id, 1)
    assert table.entry(victim.id) is None


def test_a_spare_that_takes_a_place_is_looked_for_when_it_has_been_silent_for_long() -> None:
    table = RoutingTable(OWN, 1)
    place, spare = contact(1 << 159), contact((1 << 159) + 1)
    table.answered(place, 0.0, rtt=0.01)
    table.answered(spare, 1.0, rtt=0.01)
    table.answered(place, 50.0, rtt=0.01)
    assert not table.unheard(55.0, 60.0, 1)  # and nobody can be before 110
    fail(table, place)
    assert table.closest(spare.id, 1) == [spare]
    assert [entry.contact for entry in table.unheard(62.0, 60.0, 1)] == [spare]


def test_a_spare_that_asks_us_is_pinged_once_there_is_a_place_for_it() -> None:
    table = full_far_bucket()
    spare = contact(FAR + 9)
    table.answered(spare, 1.0, rtt=0.01)
    assert not table.requested(spare, 2.0)
    for n in range(EVICTION_FAILURES):
        table.failed(contact(FAR + 1).id, 100.0 + n)
    assert table.requested(spare, 110.0)
    assert not table.requested(spare, 110.0), "one such ping is under way"


def test_a_request_does_not_put_a_spare_unverified_into_a_place_that_became_free() -> None:
    table = full_far_bucket()
    spare, leaves = contact(FAR + 9), contact(FAR + 1)
    table.answered(spare, 1.0, rtt=0.01)
    table.answered(contact(3, leaves.port), 2.0, rtt=0.01)
    assert table.entry(leaves.id) is None
    assert table.requested(spare, 3.0), "it is to be pinged"
    assert spare in verified(table)
    assert table.answered(spare, 3.1, rtt=0.01).new


def test_without_a_spare_nobody_is_dropped_however_dead() -> None:
    table = full_far_bucket()
    for entry in list(table.entries()):
        fail(table, entry.contact, times=50)
    assert len(table) == 4
    assert table.closest(OWN, 4) == []
    assert len(table.seeds(OWN, 4)) == 4, "if all are suspect, they are all there is to ask"


def test_who_never_answered_is_dropped_when_it_is_given_up_but_not_the_last() -> None:
    table = RoutingTable(OWN, 8)
    table.requested(contact(1), 0.0)
    fail(table, contact(1))
    assert table.entry(contact(1).id) is not None, "there is nobody else"
    table.answered(contact(2), 9.0, rtt=0.01)
    table.requested(contact(3), 9.0)
    for who in (1, 3):
        fail(table, contact(who))
    assert [entry.contact for entry in table.entries()] == [contact(2)]


def test_who_never_answered_stays_while_a_spare_waits_which_is_pinged_for_its_place() -> None:
    table = RoutingTable(OWN, 2)
    for number in (1, 2, FAR + 1):
        table.answered(contact(number), 0.0, rtt=0.01)
    made_up, spare = contact(FAR + 2), contact(FAR + 3)
    table.requested(made_up, 0.0)
    table.requested(spare, 1.0)
    fail(table, made_up)
    assert spare in [entry.contact for entry in table.due(500.0, 8)]
    table.answered(spare, 500.0, rtt=0.01)
    assert table.entry(spare.id) is not None
    assert table.entry(made_up.id) is None


def test_made_up_contacts_keep_no_suspect_waiting_nor_suspects_a_newcomer() -> None:
    table = RoutingTable(OWN, 20)
    for number in range(1, 6):
        table.answered(contact(number), 0.0, rtt=0.01)
    for number in range(100, 110):
        table.requested(contact(number), 0.0)
    suspects = [contact(1), contact(2)]
    for suspect in suspects:
        table.failed(suspect.id, 5.0)
    assert [entry.contact for entry in table.due(6.0, 3)] == [*suspects, contact(100)]
    for number in range(3, 6):
        table.failed(contact(number).id, 5.0)
    assert [entry.contact for entry in table.due(6.0, 3)] == [*suspects, contact(100)]
    for number in range(100, 110):
        table.answered(contact(number), 7.0, rtt=0.01)
    assert [entry.contact for entry in table.due(7.0, 3)] == [*suspects, contact(3)], "no place stays empty"


def test_of_two_that_are_given_up_the_one_leaves_that_answered_longer_ago() -> None:
    table = full_far_bucket()
    table.answered(contact(FAR + 1), 1.0, rtt=0.01)
    for who in (1, 2):
        fail(table, contact(FAR + who))
    table.answered(contact(FAR + 9), 9.0, rtt=0.01)
    far = [entry.contact for entry in table.entries() if entry.number >= FAR]
    assert far == [contact(FAR + 1), contact(FAR + 9)]


def test_one_answer_clears_all_failures_and_tells_what_was_missed() -> None:
    table = full_far_bucket()
    victim = next(table.entries()).contact
    fail(table, victim)
    heard = table.answered(victim, 9.0, rtt=0.01)
    assert heard.missed_since == 0.0
    assert victim in table.closest(OWN, 4)


def test_a_suspect_is_neither_handed_out_nor_asked_while_others_can_be() -> None:
    table = full_far_bucket()
    suspect = contact(1)
    fail(table, suspect, times=1)
    assert suspect not in table.closest(OWN, 4)
    assert suspect not in table.seeds(OWN, 4)


def test_suspects_are_pinged_again_with_a_back_off_that_grows_with_their_silence() -> None:
    table = full_far_bucket()
    suspect, pauses, now = contact(1), [], 100.0
    while now < 4000.0:
        table.failed(suspect.id, now)
        entry = table.entry(suspect.id)
        assert entry is not None
        assert table.due(entry.retry_at - 0.01, 9) == []
        assert [e.contact for e in table.due(entry.retry_at, 9)] == [suspect]
        pauses.append((now - 100.0, round(entry.retry_at - now, 6)))
        now = entry.retry_at
    assert [pause for _, pause in pauses] == sorted(pause for _, pause in pauses)
    assert pauses[0][1] < 1.0
    assert all(pause <= BACKOFF_EARLY for silence, pause in pauses if silence <= 15.0), "a short cut heals soon"
    assert pauses[-1][1] == BACKOFF_MOST
    assert len(pauses) < 100, "the dead are not pinged every few seconds for ever"


def test_a_contact_may_fail_for_days() -> None:
    table = full_far_bucket()
    fail(table, contact(1), times=5000)
    assert [e.contact for e in table.due(5000.0 + BACKOFF_MOST, 9)] == [contact(1)]


def test_a_request_of_a_suspect_makes_its_ping_due_at_once() -> None:
    table = full_far_bucket()
    suspect = contact(1)
    fail(table, suspect)
    assert table.due(5.0, 9) == []
    table.requested(suspect, 5.0)
    assert [e.contact for e in table.due(5.0, 9)] == [suspect]


# --- subnets ------------------------------------------------------------------------------------


def limited(k: int = 8, bucket: int = 2, table: int = 3) -> RoutingTable:
    """A table that takes so many contacts of one first letter of their host."""
    return RoutingTable(OWN, k, Limits(bucket, table, lambda host: host[0]))


def test_one_subnet_gets_so_many_places_in_a_bucket_and_in_the_table() -> None:
    table = limited(k=2)
    for number in (1, 2, 3, FAR + 1, FAR + 2, FAR + 3):
        table.answered(Contact(number.to_bytes(20, "big"), f"x{number}", 7), 0.0, rtt=0.01)
    held = [e.contact for e in table.entries()]
    assert len(held) == 3
    assert all(len(bucket.entries) <= 2 for bucket in table.buckets())
    table.answered(Contact((5).to_bytes(20, "big"), "y", 7), 0.0, rtt=0.01)
    assert len(table) == 4, "another subnet is welcome"


def test_addresses_without_a_subnet_know_no_limit() -> None:
    table = RoutingTable(OWN, 8, Limits(1, 1, lambda host: ""))
    for number in range(1, 6):
        table.answered(contact(number), 0.0, rtt=0.01)
    assert len(table) == 5


def test_a_place_that_becomes_free_is_free_for_its_subnet_again() -> None:
    table = limited(bucket=1)
    first, second = (Contact(n.to_bytes(20, "big"), "x", 7) for n in (1, 2))
    table.answered(first, 0.0, rtt=0.01)
    table.answered(second, 1.0, rtt=0.01)  # the same address with another identity
    assert [e.contact for e in table.entries()] == [second]


def of_subnet(letter: str, number: int) -> Contact:
    return Contact(number.to_bytes(20, "big"), f"{letter}{number}", 7)


def test_a_spare_takes_the_place_of_one_that_was_given_up_in_its_own_subnet() -> None:
    table = limited(bucket=1)
    victim, spare = of_subnet("x", 1), of_subnet("x", 2)
    table.answered(victim, 0.0, rtt=0.01)
    table.answered(spare, 1.0, rtt=0.01)
    assert [e.contact for e in table.entries()] == [victim]
    fail(table, victim)
    assert [e.contact for e in table.entries()] == [spare]


@pytest.mark.parametrize("forged", [(FAR + 1, FAR + 2), (FAR + 1, FAR + 2, 1)], ids=["bucket", "table"])
def test_addresses_that_never_answered_shut_nobody_out_of_their_subnet(forged: tuple[int, ...]) -> None:
    table = limited(k=3)
    for number in (2, 3, 4):
        table.answered(of_subnet("y", number), 0.0, rtt=0.01)
    for number in forged:
        table.requested(of_subnet("x", number), 0.0)
        table.failed(of_subnet("x", number).id, 1.0)
    honest = of_subnet("x", FAR + 9)
    size = len(table)
    table.answered(honest, 2.0, rtt=0.01)
    assert honest in table.closest(honest.id, 1)
    assert len(table) == size, "one of them made room"


def test_a_spare_pushes_those_out_that_hold_the_places_of_its_subnet_without_an_answer() -> None:
    table = limited(k=1, bucket=1, table=1)
    victim, spare = of_subnet("y", FAR + 1), of_subnet("x", FAR + 2)
    for who in (of_subnet("z", 1), victim, spare):
        table.answered(who, 0.0, rtt=0.01)
    table.requested(of_subnet("x", 2), 0.0)
    fail(table, victim)
    assert spare in table.closest(spare.id, 1)


def test_requests_of_one_subnet_get_no_more_places_than_it_has() -> None:
    table = limited(k=20)
    for number in range(1, 12):
        table.requested(of_subnet("x", number), 0.0)
    assert len(table) == 2


def test_a_newcomer_of_a_subnet_pushes_out_nobody_who_answered() -> None:
    table = limited()
    first = [of_subnet("x", number) for number in (1, 2)]
    for who in first:
        table.answered(who, 0.0, rtt=0.01)
    fail(table, first[0], times=EVICTION_FAILURES - 1)
    table.answered(of_subnet("x", 3), 9.0, rtt=0.01)
    assert [e.contact for e in table.entries()] == first


# --- identity -----------------------------------------------------------------------------------


def test_who_moves_into_a_subnet_that_has_its_places_keeps_none() -> None:
    table = RoutingTable(OWN, 20, Limits(table=2, subnet_of=lambda host: host[:1]))
    for n, host in ((1, "a1"), (2, "a2"), (3, "b1")):
        table.answered(Contact(n.to_bytes(20, "big"), host, n), 0.0, rtt=0.01)
    mover = Contact((3).to_bytes(20, "big"), "a3", 3)
    table.failed(mover.id, 0.5)
    assert not table.answered(mover, 1.0, rtt=0.01)
    assert [entry.contact.host for entry in table.entries()] == ["a1", "a2"]
    table.failed(mover.id, 1.5)
    table.answered(Contact((3).to_bytes(20, "big"), "b2", 3), 2.0, rtt=0.01)
    assert [entry.contact.host for entry in table.entries()] == ["a1", "a2", "b2"]


def test_an_unverified_contact_never_pushes_out_a_verified_one() -> None:
    table = full_far_bucket()
    before = {e.contact for e in table.entries()}
    for n in range(10, 60):
        table.requested(contact(FAR + n), 1.0)
    assert {e.contact for e in table.entries()} == before


@pytest.mark.parametrize("failures", [0, EVICTION_FAILURES - 1], ids=["untried", "suspect"])
def test_nor_does_it_push_out_anybody_else(failures: int) -> None:
    table = RoutingTable(OWN, 1)
    table.answered(contact(1), 0.0, rtt=0.01)
    table.requested(contact(FAR + 1), 0.0)
    fail(table, contact(FAR + 1), times=failures)
    table.requested(contact(FAR + 2), 9.0)
    assert [e.contact for e in table.entries()] == [contact(1), contact(FAR + 1)]


def test_made_up_contacts_hide_none_of_the_k_closest_that_answered() -> None:
    table = RoutingTable(OWN, 4)
    for number in (1, *(FAR + n for n in range(2, 6))):
        table.answered(contact(number), 0.0, rtt=0.01)
    for number in range(100, 104):
        table.requested(contact(number), 0.0)
    table.answered(contact(FAR + 1), 1.0, rtt=0.01)
    assert table.closest(OWN, 4) == [contact(n) for n in (1, FAR + 1, FAR + 2, FAR + 3)]


def test_spares_go_along_when_their_bucket_is_split() -> None:
    table = RoutingTable(OWN, 2)
    spare = contact(FAR + 2**101)
    for who in (contact(1), contact(FAR + 2**100), contact(FAR + 2**100 + 1), spare, contact(FAR + 1)):
        table.answered(who, 0.0, rtt=0.01)
    assert [e.contact for bucket in table.buckets() for e in bucket.spares.values()] == [spare]
    assert all(bucket.covers(e.number) for bucket in table.buckets() for e in bucket.spares.values())


def test_a_verified_spare_outlives_any_number_of_requests_of_strangers() -> None:
    table = full_far_bucket()
    spare = contact(FAR + 9)
    table.answered(spare, 1.0, rtt=0.01)
    for n in range(10, 10 + table.k + 1):
        table.requested(contact(FAR + n), 2.0)
    fail(table, contact(FAR + 1))
    assert spare in table.closest(spare.id, 1)


def test_a_lookup_starts_with_those_alive_and_fills_up_with_the_untried() -> None:
    table = RoutingTable(OWN, 8)
    for number in (FAR + 1, FAR + 2):
        table.answered(contact(number), 0.0, rtt=0.01)
    for number in (1, 2):
        table.requested(contact(number), 0.0)
    alive, untried = [contact(FAR + 1), contact(FAR + 2)], [contact(1), contact(2)]
    assert table.seeds(OWN, 2) == alive, "however near the untried say that they are"
    assert table.seeds(OWN, 3) == [*alive, contact(1)]
    assert table.seeds(OWN, 9) == [*alive, *untried]


def test_a_lookup_starts_with_the_untried_before_suspects() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1), 0.0, rtt=0.01)
    table.requested(contact(2), 0.0)
    table.failed(contact(1).id, 1.0)
    assert table.seeds(OWN, 8) == [contact(2)]


def test_an_unverified_contact_is_not_handed_out_and_is_pinged() -> None:
    table = RoutingTable(OWN, 8)
    table.requested(contact(5), 0.0)
    assert table.closest(OWN, 8) == []
    assert [e.contact for e in table.due(0.0, 9)] == [contact(5)]


def test_a_verified_contact_takes_the_place_of_one_never_verified() -> None:
    table = RoutingTable(OWN, 1)
    table.answered(contact(1), 0.0, rtt=0.01)
    table.requested(contact(FAR + 1), 0.0)
    table.answered(contact(FAR + 2), 0.0, rtt=0.01)
    assert table.entry(contact(FAR + 1).id) is None
    assert table.entry(contact(FAR + 2).id) is not None


def test_another_identity_at_an_address_replaces_the_old_one() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1, 7), 0.0, rtt=0.01)
    table.answered(contact(2, 7), 1.0, rtt=0.01)
    assert table.closest(OWN, 8) == [contact(2, 7)]


def test_a_spare_is_forgotten_when_another_identity_answers_at_its_address() -> None:
    table = full_far_bucket()
    before, after = contact(FAR + 9, 7), contact(3, 7)
    table.answered(before, 1.0, rtt=0.01)
    table.answered(after, 2.0, rtt=0.01)
    fail(table, contact(FAR + 1))
    assert [e.contact for e in table.entries() if e.contact.port == 7] == [after]
    assert before not in table.closest(before.id, 9)
    again = contact(4, 7)
    table.answered(again, 3.0, rtt=0.01)
    assert [e.contact for e in table.entries() if e.contact.port == 7] == [again]


def test_who_has_moved_away_does_not_suffer_from_who_comes_to_its_old_address() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1, 7), 0.0, rtt=0.01)
    table.failed(contact(1).id, 1.0)
    table.answered(contact(1, 8), 2.0, rtt=0.01)
    table.answered(contact(2, 7), 3.0, rtt=0.01)
    assert table.closest(OWN, 8) == [contact(1, 8), contact(2, 7)]


def test_two_spares_never_share_an_address() -> None:
    table = full_far_bucket()
    before, after = contact(FAR + 9, 7), contact(FAR + 10, 7)
    table.answered(before, 1.0, rtt=0.01)
    table.answered(after, 2.0, rtt=0.01)
    for number in (FAR + 1, FAR + 2):
        fail(table, contact(number))
    assert [e.contact for e in table.entries() if e.contact.port == 7] == [after]


def test_a_claim_to_live_elsewhere_moves_nobody_until_that_address_answers() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1, 7), 0.0, rtt=0.01)
    table.requested(contact(1, 8), 1.0)
    assert table.closest(OWN, 8) == [contact(1, 7)]
    table.failed(contact(1).id, 1.5)
    table.answered(contact(1, 8), 2.0, rtt=0.01)
    assert table.closest(OWN, 8) == [contact(1, 8)]


def test_who_answers_as_one_that_is_alive_elsewhere_gets_that_pinged_and_takes_nothing() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1, 7), 0.0, rtt=0.01)
    heard = table.answered(contact(1, 8), 1.0, rtt=0.01)
    assert not heard
    assert heard.lives_at == contact(1, 7)
    assert table.closest(OWN, 8) == [contact(1, 7)]
    assert table.answered(contact(1, 8), 1.0, rtt=0.01).lives_at is None, "one such ping is under way"


def test_nor_does_it_take_the_place_of_a_spare_before_that_has_failed() -> None:
    table = full_far_bucket()
    table.answered(contact(FAR + 9, 7), 1.0, rtt=0.01)
    assert table.answered(contact(FAR + 9, 8), 2.0, rtt=0.01).lives_at == contact(FAR + 9, 7)
    fail(table, contact(FAR + 1))
    assert table.closest(contact(FAR + 9).id, 1) == [contact(FAR + 9, 7)]


def test_a_spare_that_failed_is_found_where_it_answers_next() -> None:
    table = full_far_bucket()
    table.answered(contact(FAR + 9, 7), 1.0, rtt=0.01)
    table.failed(contact(FAR + 9).id, 2.0, asked=contact(FAR + 9, 7))
    table.answered(contact(FAR + 9, 8), 3.0, rtt=0.01)
    fail(table, contact(FAR + 1))
    assert table.closest(contact(FAR + 9).id, 1) == [contact(FAR + 9, 8)]


def test_silence_at_an_address_that_others_tell_is_no_failure_of_who_lives_elsewhere() -> None:
    table = full_far_bucket()
    spare = contact(FAR + 9, 7)
    table.answered(spare, 1.0, rtt=0.01)
    for identity in (FAR + 1, FAR + 9):
        table.failed(contact(identity).id, 2.0, asked=contact(identity, 9))
    assert not table.is_suspect(contact(FAR + 1).id)
    fail(table, contact(FAR + 1))
    assert table.closest(spare.id, 1) == [spare], "it was not forgotten"


def test_who_never_answered_is_at_once_where_it_answers() -> None:
    table = RoutingTable(OWN, 8)
    table.requested(contact(1, 8), 0.0)
    assert table.answered(contact(1, 7), 1.0, rtt=0.01).new
    assert table.closest(OWN, 8) == [contact(1, 7)]


def test_ourselves_are_never_in_the_table() -> None:
    table = RoutingTable(OWN, 8)
    assert not table.answered(contact(0, 1), 0.0, rtt=0.01)
    assert not table.requested(contact(0, 1), 0.0)
    assert len(table) == 0


def test_another_incarnation_is_noticed_once_in_an_answer() -> None:
    table = RoutingTable(OWN, 8)
    assert table.answered(contact(1), 0.0, rtt=0.01, incarnation=10).new
    assert not table.answered(contact(1), 1.0, rtt=0.01, incarnation=10)
    assert table.answered(contact(1), 2.0, rtt=0.01, incarnation=11).restarted
    assert not table.answered(contact(1), 3.0, rtt=0.01, incarnation=11)


def test_a_request_in_another_incarnation_asks_for_one_ping_and_is_not_believed() -> None:
    table = RoutingTable(OWN, 8)
    table.answered(contact(1), 0.0, rtt=0.01, incarnation=10)
    assert not table.requested(contact(1), 1.0, incarnation=10)
    assert table.requested(contact(1), 1.0, incarnation=11)
    assert not table.requested(contact(1), 1.0, incarnation=11), "one such ping is under way"
    assert table.answered(contact(1), 1.1, rtt=0.01, incarnation=11).restarted


# --- timeouts -----------------------------------------------------------------------------------


def entry() -> Entry:
    return Entry(contact(1), as_int(contact(1).id), 0.0)


def test_the_timeout_is_the_given_one_until_the_round_trip_is_known() -> None:
    assert entry().timeout(0.7) == 0.7


@pytest.mark.parametrize(
    ("rtt", "least", "most"),
    [(0.001, TIMEOUT_LEAST, TIMEOUT_LEAST), (0.2, 0.6, 0.7), (5.0, TIMEOUT_MOST, TIMEOUT_MOST)],
    ids=["floor", "three-round-trips", "ceiling"],
)
def test_a_steady_round_trip_gives_about_three_of_it(rtt: float, least: float, most: float) -> None:
    known = entry()
    for _ in range(50):
        known.measure(rtt)
    assert least <= known.timeout() <= most


def test_a_sudden_rise_of_the_round_trip_widens_the_timeout_beyond_it_at_once() -> None:
    known = entry()
    for _ in range(50):
        known.measure(0.004)
    known.measure(0.36)
    assert known.timeout() > 0.36
