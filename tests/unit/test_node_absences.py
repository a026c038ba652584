"""Who did not answer: the silent are doubted for a while, those that refused are not, and who answers is neither."""

from __future__ import annotations

from node import absences
from node.absences import DOUBT, Absences
from node.wire import Contact

A = Contact(b"a" * 20, "h", 1)


def test_the_silent_are_doubted_for_a_while_from_their_first_silence_on() -> None:
    known = Absences()
    known.note(A, 10.0, refused=False)
    known.note(A, 10.0 + DOUBT - 1, refused=False)
    assert known.silent(10.0 + DOUBT - 1) == {A}
    assert known.silent(10.0 + DOUBT) == set()


def test_who_refuses_has_ended_until_it_answers_or_falls_silent() -> None:
    known = Absences()
    known.note(A, 0.0, refused=False)
    known.note(A, 1.0, refused=True)
    assert (known.refusing(), known.silent(1.0)) == ({A}, set())
    known.note(A, DOUBT, refused=False)
    assert (known.refusing(), known.silent(DOUBT + 1)) == (set(), {A})
    known.answered(A)
    assert not known.known


def test_so_many_are_remembered_and_no_more() -> None:
    known = Absences()
    known.note(A, 0.0, refused=False)
    for number in range(absences.MOST):
        known.note(Contact(number.to_bytes(20, "big"), "h", 2), 1.0, refused=False)
    assert len(known.known) == absences.MOST
    assert A not in known.known
