"""Churn as it was seen somewhere: a CSV file of node, online, offline, replayed as it is.

    node,online,offline
    a,0,12.5
    b,3,40
    a,15,60

One row for each session. Times are seconds since the fault's beginning, as plain numbers or with their unit (`90s`, `2m`). A node
is away between its sessions, before its first one and after its last. The nodes are mapped to the selected members in the
order in which they first appear, unless all of them are named like members (`node-3`): then each is that member.

The file is read when the experiment is; a relative path begins at the working folder. What it says ends up in the plan, so
that a plan needs no file.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from pydantic import model_validator

from harness.options import Section, Text
from harness.quantities import parse_time

COLUMNS = ["node", "online", "offline"]
Interval = tuple[int, int]  # [from, to) in µs


class Trace(Section):
    """A trace file."""

    file: Text

    @model_validator(mode="after")
    def _readable(self) -> Trace:
        self.sessions  # noqa: B018  read now, so that its mistakes are told with those of the experiment
        return self

    @cached_property
    def sessions(self) -> dict[str, list[Interval]]:
        """The sessions of each node, in order; nodes in the order in which they appear. Raises ValueError."""
        found: dict[str, list[Interval]] = {}
        for number, row in enumerate(self._rows(), 2):
            name, online, offline = row
            interval = _time(online, self.file, number), _time(offline, self.file, number)
            if interval[0] >= interval[1]:
                raise ValueError(f"{self.file}:{number}: `online` must come before `offline`")
            found.setdefault(name, []).append(interval)
        if not found:
            raise ValueError(f"{self.file}: no session is in it")
        return {name: _ordered(name, intervals, self.file) for name, intervals in found.items()}

    def _rows(self) -> list[list[str]]:
        try:
            with Path(self.file).open(newline="", encoding="utf-8") as opened:
                rows = [[cell.strip() for cell in row] for row in csv.reader(opened) if row]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not rows or rows[0] != COLUMNS:
            raise ValueError(f"{self.file}: its first line must be {','.join(COLUMNS)}")
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(COLUMNS) or not row[0]:
                raise ValueError(f"{self.file}:{number}: {','.join(COLUMNS)} are expected, not {','.join(row)}")
        return rows[1:]

    def assigned(self, members: Sequence[str]) -> dict[str, list[Interval]]:
        """The sessions of each of the members that the trace speaks of; see the module."""
        if all(name in members for name in self.sessions):
            return dict(self.sessions)
        return dict(zip(members, self.sessions.values(), strict=False))


def gaps(sessions: Sequence[Interval], end: int) -> list[Interval]:
    """When a node is away, between 0 and ``end``."""
    edges = [0, *(moment for session in sessions for moment in session), end]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(left, min(back, end)) for left, back in pairs if left < min(back, end)]


def _time(text: str, file: str, line: int) -> int:
    try:
        plain = Decimal(text)
    except InvalidOperation:
        try:
            return parse_time(text)
        except ValueError as error:
            raise ValueError(f"{file}:{line}: {error}") from error
    if not plain.is_finite() or plain < 0:
        raise ValueError(f"{file}:{line}: seconds from 0 on are expected, not {text}")
    return round(plain * 1_000_000)


def _ordered(name: str, intervals: list[Interval], file: str) -> list[Interval]:
    ordered = sorted(intervals)
    for earlier, later in pairwise(ordered):
        if later[0] < earlier[1]:
            raise ValueError(f"{file}: two sessions of {name} overlap, at {later[0] / 1e6:g} s")
    return ordered
