"""The lookup, answered by hand: no network, no clock."""

from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from node.ids import as_int, distance, random_id
from node.lookup import MOST_ELSEWHERE, DisjointLookup, Lookup
from node.wire import Contact

OWN = bytes(20)


def contact(number: int) -> Contact:
    return Contact(number.to_bytes(20, "big"), "h", 1 + number % 65535)


def search(seeds: list[Contact], k: int = 4, alpha: int = 2, beta: int = 2, target: int = 0) -> Lookup:
    """A lookup of the identifier ``target``; contact(n) is then at distance n."""
    return Lookup(target.to_bytes(20, "big"), b"\xff" * 20, seeds, k=k, alpha=alpha, beta=beta)


def networks(seed: int, count: int, k: int) -> tuple[list[Contact], dict[bytes, list[Contact]], Random]:
    """Contacts, and for each whom it knows: its true k closest and some others, as a Kademlia table guarantees."""
    rng = Random(seed)
    everyone = [Contact(random_id(rng), "h", port) for port in range(1, count + 1)]
    knows = {}
    for one in everyone:
        others = [c for c in everyone if c is not one]
        near = sorted(others, key=lambda c: distance(c.id, one.id))[:k]
        far = rng.sample(others, min(len(others), k))
        knows[one.id] = list(dict.fromkeys(near + far))
    return everyone, knows, rng


def table(own: Contact, others: list[Contact], k: int, rng: Random) -> list[Contact]:
    """What a Kademlia table guarantees and no more: of each half that does not hold ``own``, k contacts or all."""
    buckets: dict[int, list[Contact]] = {}
    for other in others:
        if other is not own:
            buckets.setdefault((as_int(other.id) ^ as_int(own.id)).bit_length(), []).append(other)
    return [one for bucket in buckets.values() for one in rng.sample(bucket, min(k, len(bucket)))]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 200), st.sampled_from([1, 4, 8]), st.floats(0, 0.4))
def test_from_three_seeds_it_finds_the_true_k_closest_that_live(
    seed: int, count: int, k: int, dead_share: float
) -> None:
    rng = Random(seed)
    everyone = [Contact(random_id(rng), "h", port) for port in range(1, count + 1)]
    dead = [c for c in everyone[1:] if rng.random() < dead_share]
    alive = [c for c in everyone if c not in dead]
    target = random_id(rng)

    def near(contacts: list[Contact], most: int) -> list[Contact]:
        return sorted(contacts, key=lambda c: distance(c.id, target))[:most]

    lookup = Lookup(target, OWN, everyone[:3], k=k, alpha=3, beta=3)
    flight: deque[Contact] = deque()
    while not lookup.done:
        flight.extend(lookup.queries())
        flight.rotate(rng.randrange(-3, 4))
        asked = flight.popleft()
        if asked in dead:
            lookup.failed(asked)
        else:  # some have died since they were last heard of
            lookup.answered(asked, near(table(asked, alive, k, rng), k) + near(dead, rng.randrange(3)))
    assert lookup.closest() == near(alive, k)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 80), st.integers(1, 5), st.integers(1, 5))
def test_nobody_is_asked_twice_and_alpha_holds_until_beta_have_answered(
    seed: int, count: int, alpha: int, beta: int
) -> None:
    everyone, knows, rng = networks(seed, count, 8)
    target = random_id(rng)
    lookup = Lookup(target, OWN, everyone[:2], k=8, alpha=alpha, beta=beta)
    flight: list[Contact] = []
    asked: list[bytes] = []
    answered: set[bytes] = set()
    while not lookup.done:
        new = lookup.queries()
        flight += new
        asked += [c.id for c in new]
        heard_of = sorted({c.id for c in everyone[:2]} | {c.id for one in answered for c in knows[one]})
        nearest = sorted(heard_of, key=lambda one: distance(one, target))[: min(beta, 8)]
        if new and not answered.issuperset(nearest):  # what a final burst sent before somebody closer turned up may fly
            assert len(flight) <= alpha
        one = flight.pop(rng.randrange(len(flight)))
        answered.add(one.id)
        lookup.answered(one, knows[one.id])
    assert len(asked) == len(set(asked))


def test_a_slow_contact_is_overtaken_not_waited_for() -> None:
    lookup = search([contact(10), contact(11), contact(12)], alpha=2)
    slow, fast = lookup.queries()
    lookup.answered(fast, [contact(1)])
    assert lookup.queries() == [contact(1)], "the answer of one is enough to go on"
    assert slow == contact(10)


def test_when_the_beta_closest_have_answered_all_that_are_left_are_asked_at_once() -> None:
    lookup = search([contact(n) for n in range(1, 7)], k=6, alpha=2, beta=2)
    for asked in lookup.queries():
        lookup.answered(asked)
    assert lookup.queries() == [contact(3), contact(4), contact(5), contact(6)]


def test_a_failed_contact_makes_room_for_the_next_closest() -> None:
    lookup = search([contact(n) for n in range(1, 4)], k=2, alpha=2)
    lookup.failed(lookup.queries()[0])
    assert lookup.queries() == [contact(3)]


def test_a_late_answer_still_counts() -> None:
    lookup = search([contact(1), contact(2)], k=2, alpha=2)
    late, other = lookup.queries()
    lookup.failed(late)
    lookup.answered(late, [contact(3)])
    lookup.answered(other)
    assert lookup.done
    assert lookup.closest() == [late, other]


def test_it_is_done_when_everybody_failed() -> None:
    lookup = search([contact(1), contact(2)])
    for asked in lookup.queries():
        lookup.failed(asked)
    assert lookup.done
    assert lookup.closest() == []


def test_it_is_done_at_once_without_anybody_to_ask() -> None:
    assert search([]).done


def test_the_asker_itself_is_never_asked() -> None:
    lookup = Lookup(contact(3).id, contact(5).id, [contact(5)], k=4, alpha=3, beta=3)
    assert lookup.queries() == []


def test_hops_count_how_often_a_contact_had_to_be_learnt() -> None:
    lookup = search([contact(100)], alpha=1)
    (first,) = lookup.queries()
    lookup.answered(first, [contact(50)])
    (second,) = lookup.queries()
    lookup.answered(second, [contact(20)])
    assert [lookup.hops_to(contact(n)) for n in (100, 50, 20)] == [0, 1, 2]


def test_an_answer_of_somebody_who_was_never_heard_of_is_ignored() -> None:
    lookup = search([contact(1)])
    lookup.answered(contact(9), [contact(2)])
    assert lookup.queries() == [contact(1)]


def test_a_slow_contact_takes_no_place_in_k_and_still_counts_when_it_answers() -> None:
    lookup = search([contact(n) for n in range(1, 5)], k=2, alpha=2)
    slow, quick = lookup.queries()
    lookup.slow(slow)
    assert lookup.queries() == [contact(3)], "the next closest is asked in its stead"
    lookup.answered(quick)
    lookup.answered(contact(3))
    assert lookup.done, "nobody waits for the slow one"
    lookup.answered(slow)
    assert lookup.closest() == [slow, quick]


def test_if_all_are_slow_the_lookup_waits_for_them() -> None:
    lookup = search([contact(1)], k=2)
    (only,) = lookup.queries()
    lookup.slow(only)
    assert not lookup.done
    lookup.failed(only)
    assert lookup.done


def test_who_is_slow_and_nearer_than_the_last_that_answered_would_still_change_the_outcome() -> None:
    lookup = search([contact(n) for n in range(1, 5)], k=2, alpha=2)
    slow, quick = lookup.queries()
    assert not lookup.overtaken()
    lookup.slow(slow)
    lookup.answered(quick)
    (third,) = lookup.queries()
    lookup.answered(third)
    assert lookup.done
    assert lookup.overtaken()
    assert lookup.unheard() == [slow]
    lookup.failed(slow)
    assert not lookup.overtaken()
    assert lookup.unheard() == [slow]


def test_who_is_slow_and_farther_than_all_that_answered_would_change_nothing() -> None:
    lookup = search([contact(2), contact(9)], k=2, alpha=2)
    near, far = lookup.queries()
    lookup.slow(far)
    lookup.answered(near, [contact(1)])
    lookup.answered(lookup.queries()[0])
    assert lookup.done
    assert not lookup.overtaken()


def test_suspects_in_an_answer_are_ignored() -> None:
    lookup = search([contact(9)], alpha=1)
    (first,) = lookup.queries()
    lookup.answered(first, [contact(1), contact(2)], suspects={contact(1).id})
    assert lookup.queries() == [contact(2)]


def elsewhere(one: Contact, port: int) -> Contact:
    """The same identifier at another address."""
    return Contact(one.id, "elsewhere", port)


def test_who_fails_at_one_address_is_asked_at_the_next_that_was_told() -> None:
    lookup = search([contact(9), contact(8)], k=2, alpha=1, beta=2)
    (liar,) = lookup.queries()
    lookup.answered(liar, [elsewhere(contact(1), 1)])
    (false,) = lookup.queries()
    lookup.failed(false)
    assert lookup.unheard() == [false]
    (honest,) = lookup.queries()
    lookup.answered(honest, [contact(1)])
    assert not lookup.done
    assert lookup.queries() == [contact(1)], "where it lives"
    lookup.answered(contact(1))
    assert lookup.done
    assert lookup.closest() == [contact(1), contact(8)]
    assert lookup.unheard() == []


def test_addresses_that_were_told_while_one_is_asked_wait_and_a_late_answer_from_there_still_counts() -> None:
    lookup = search([contact(9), contact(8)], alpha=2)
    one, other = lookup.queries()
    lookup.answered(one, [contact(1)])
    assert lookup.queries() == [contact(1)]
    lookup.answered(other, [elsewhere(contact(1), 1)])
    assert lookup.queries() == [], "one at a time"
    lookup.slow(contact(1))
    lookup.failed(contact(1))
    assert lookup.queries() == [elsewhere(contact(1), 1)]
    lookup.failed(contact(1))
    assert lookup.queries() == [], "that it fails twice at the first says nothing of the second"
    lookup.answered(contact(1))
    assert lookup.closest() == [contact(1), contact(8), contact(9)]
    assert lookup.done


def test_one_answer_tells_one_address_of_an_identifier_and_all_together_only_a_few() -> None:
    liars = [contact(n) for n in range(20, 30)]
    lookup = search(liars, k=1, alpha=10)
    assert lookup.queries() == liars[:1]
    lookup.answered(liars[0], [elsewhere(contact(1), port) for port in range(1, 20)])
    asked = 0
    while queries := lookup.queries():
        (false,) = queries
        asked += false.id == contact(1).id
        lookup.failed(false)
    assert asked == 1, "one liar costs one timeout"
    crowd = search([contact(9)], k=1, alpha=1)
    (first,) = crowd.queries()
    crowd.answered(first)
    for port in range(1, 20):
        crowd.reseed([elsewhere(contact(1), port)])
    asked = 0
    while queries := crowd.queries():
        asked += 1
        crowd.failed(queries[0])
    assert asked == 1 + MOST_ELSEWHERE


def test_who_was_silent_at_one_address_is_unheard_there_whatever_becomes_of_another() -> None:
    lookup = search([contact(9)], k=2, alpha=2)
    (one,) = lookup.queries()
    lookup.answered(one, [contact(1)])
    assert lookup.queries() == [contact(1)]
    lookup.failed(contact(1))
    lookup.reseed([elsewhere(contact(1), 1)])
    assert lookup.queries() == [elsewhere(contact(1), 1)]
    lookup.failed(elsewhere(contact(1), 1))
    assert lookup.unheard() == [contact(1), elsewhere(contact(1), 1)]


def test_an_identifier_that_one_path_was_told_a_false_address_of_is_found_on_another() -> None:
    lookup = DisjointLookup(bytes(20), OWN[:-1] + b"\xff", [contact(8), contact(9)], k=2, alpha=1, beta=1, paths=2)
    liar, honest = lookup.queries()
    lookup.answered(liar, [elsewhere(contact(1), 1)])
    lookup.answered(honest, [contact(1)])
    assert lookup.queries() == [elsewhere(contact(1), 1), contact(1)]
    lookup.failed(elsewhere(contact(1), 1))
    lookup.answered(contact(1))
    assert lookup.done
    assert lookup.closest() == [contact(1), contact(8)]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 100), st.integers(2, 4), st.floats(0, 0.3))
def test_disjoint_paths_share_nobody_and_liars_on_one_path_do_not_mislead_the_others(
    seed: int, count: int, paths: int, liars: float
) -> None:
    everyone, knows, rng = networks(seed, count, 12)
    lying = {c.id for c in everyone if rng.random() < liars}
    target = random_id(rng)
    lookup = DisjointLookup(target, OWN, everyone[:8], k=8, alpha=2, beta=2, paths=paths)
    flight: list[Contact] = []
    asked: list[bytes] = []
    while not lookup.done:
        new = lookup.queries()
        asked += [c.id for c in new]
        flight += new
        one = flight.pop(rng.randrange(len(flight)))
        told = [] if one.id in lying else sorted(knows[one.id], key=lambda c: distance(c.id, target))[:8]
        lookup.answered(one, told)
    assert len(asked) == len(set(asked)), "no contact on two paths"
    found = lookup.closest()
    assert found == sorted(found, key=lambda c: distance(c.id, target))
    assert len(found) <= 8
