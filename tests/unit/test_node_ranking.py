"""Contacts by distance: the same as sorting all of them, however close their identifiers lie."""

from hypothesis import given, settings
from hypothesis import strategies as st

from node.ids import BITS, BYTES, as_int, distance
from node.ranking import PREFIX, Ranking
from node.wire import Contact

# Identifiers that share their first bits, those that differ in them alone, and whatever comes.
numbers = st.one_of(
    st.integers(0, 2**BITS - 1),
    st.integers(0, 63).map(lambda n: n << (BITS - 6)),
    st.integers(0, 2**12 - 1).map(lambda n: n << (BITS - PREFIX - 3)),
    st.integers(0, 63),
)


def contact(number: int) -> Contact:
    return Contact(number.to_bytes(BYTES, "big"), "h", 1)


@settings(deadline=None, max_examples=400)
@given(st.sets(numbers, max_size=120), numbers, st.integers(1, 25), numbers, st.booleans())
def test_it_is_the_same_as_sorting_everyone(
    known: set[int], target: int, count: int, other: int, leave_one_out: bool
) -> None:
    wanted = contact(target).id
    contacts = sorted(map(contact, known), key=lambda c: distance(c.id, wanted))
    but = (contacts[other % min(len(contacts), count)] if contacts and other % 2 else contact(other)).id
    but = but if leave_one_out else b""
    expected = [c for c in contacts if c.id != but]
    ranking = Ranking((as_int(c.id), c) for c in contacts)
    assert ranking.nearest(target, count, but) == expected[:count]
    assert len(ranking) == len(contacts)


@settings(deadline=None, max_examples=200)
@given(
    st.sets(numbers, max_size=40),
    st.lists(st.tuples(st.booleans(), numbers | st.integers(0, 39)), max_size=60),
    numbers,
)
def test_who_comes_and_goes_leaves_it_as_if_made_anew(
    known: set[int], happened: list[tuple[bool, int]], target: int
) -> None:
    present, ranking = set(known), Ranking((n, contact(n)) for n in known)
    for come, which in happened:
        number = sorted(present)[which % len(present)] if which < 40 and present and not come else which
        same = ranking.add(number, contact(number)) if come else ranking.discard(number)
        present = present | {number} if come else present - {number}
        if not same:  # two of them share their first bits
            ranking = Ranking((n, contact(n)) for n in present)
        expected = sorted(present, key=lambda n: n ^ target)[:20]
        assert ranking.nearest(target, 20) == [contact(n) for n in expected]


def test_who_is_somewhere_else_now_is_told_there() -> None:
    ranking = Ranking([(1, contact(1))])
    moved = Contact(contact(1).id, "elsewhere", 2)
    assert ranking.add(1, moved)
    assert ranking.nearest(0, 1) == [moved]


def test_who_shares_the_first_bits_with_the_one_left_out_stays() -> None:
    there, asker = contact(1 << (BITS - 1)), contact((1 << (BITS - 1)) + 1)
    assert Ranking([(as_int(there.id), there)]).nearest(0, 20, asker.id) == [there]


def test_whoever_is_alone_near_the_target_and_left_out_is_replaced_by_one_from_afar() -> None:
    near, far = contact(1), [contact((1 << (BITS - 1)) + n) for n in range(8)]
    ranking = Ranking((as_int(c.id), c) for c in (near, *far))
    assert ranking.nearest(0, 1, near.id) == far[:1]
