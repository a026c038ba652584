"""What faults on members have in common: their option, their action, and how new members come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from harness import selectors
from harness.faults import Entry
from harness.options import Section, Select
from harness.records import Action
from harness.selectors import Atom


class MembersOnly(Section):
    """``nodes`` selects members."""

    nodes: Select


def _amount(value: Any) -> Atom:
    parsed = selectors.parse(value).atoms
    if len(parsed) != 1 or parsed[0].kind not in ("count", "share"):
        raise ValueError(f"a number of new nodes, or a share of those there such as 25%, is expected, not {value!r}")
    return parsed[0]


Amount = Annotated[Atom, BeforeValidator(_amount)]  # how many new members: a count, or a share of those that are there


def how_many(amount: Atom, there: int) -> int:
    """The number that an amount stands for; shares are rounded up."""
    return amount.number if amount.kind == "count" else -(-there * amount.number // 1_000_000)


def member_action(
    key: str, entry: Entry, targets: Sequence[str], *, until_us: int | None = None, **options: Any
) -> Action:
    """One action on members, from the entry's beginning to its end unless told otherwise."""
    return Action(
        at_us=entry.at_us,
        until_us=entry.until_us if until_us is None else until_us,
        fault=key,
        name=entry.name,
        entry=entry.index,
        targets=list(targets),
        options=options,
    )
