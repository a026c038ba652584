"""Checkers: each reads a run's history and gives a verdict of three values, with the evidence.

One file each, found by the entry points of the group `kadstorm.checkers`, so that other packages can add theirs. They
are extensions: wrapped, not trusted. One that fails or cannot be loaded gives `unknown`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

from harness.records import Verdict
from reports.history import History
from reports.keys import Fates
from reports.neighbours import Look
from reports.setfull import KeyHistories
from reports.summary import CheckResult, FaultSummary
from reports.windows import Windows

GROUP = "kadstorm.checkers"
OWN = {  # used beside what the entry points say, so that a source tree that is not installed has them too
    "durability": "reports.checkers.durability:Durability",
    "integrity": "reports.checkers.integrity:Integrity",
    "load": "reports.checkers.load:LoadDelivered",
    "faults": "reports.checkers.faults:FaultsEffective",
    "members": "reports.checkers.members:MembersAlive",
    "freshness": "reports.checkers.freshness:Freshness",
    "availability": "reports.checkers.availability:Availability",
    "routing": "reports.checkers.routing:Routing",
    "convergence": "reports.checkers.convergence:Convergence",
    "balance": "reports.checkers.balance:Balance",
}
MOST_DETAILS = 12
DEFAULT_K = 20  # of a node that is told no other


@dataclass(frozen=True)
class Case:
    """What a checker may look at.

    ``allowed`` says for lost, stale, wrong and unreachable how many keys an expectation of this experiment tolerates;
    those of which none speaks are left out, and mean 0.
    """

    history: History
    windows: Windows
    fates: Fates
    faults: list[FaultSummary]
    allowed: Mapping[str, float]

    @cached_property
    def key_histories(self) -> KeyHistories:
        """What all reads say of every acknowledged key."""
        from reports.setfull import key_histories

        return key_histories(self.history.frame)

    @cached_property
    def looks(self) -> list[Look]:
        """All looks at the routing tables, by time."""
        from reports.neighbours import looks

        node = self.history.experiment["cluster"].get("node") or {}
        return looks(self.history.contacts, self.history.plan.nodes, int(node.get("k") or DEFAULT_K))


@dataclass(frozen=True)
class Finding:
    """A verdict, one sentence of evidence, and details: which key, which operations, when."""

    verdict: Verdict
    evidence: str
    details: list[dict[str, Any]]


class Checker(Protocol):
    """What a checker has to be. The first line of its class's docstring says what it makes sure of."""

    def check(self, case: Case) -> Finding:
        """Look at a run. May raise: then the verdict is `unknown`."""
        ...


def checkers() -> dict[str, Callable[[], Checker]]:
    """Name -> how to get the checker; our own first, then others' by their names. Nothing is imported yet."""
    loaders: dict[str, Callable[[], Checker]] = {name: _own_loader(place) for name, place in OWN.items()}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        loaders.setdefault(entry.name, _entry_loader(entry.load))
    return loaders


def check_all(case: Case, among: Mapping[str, Callable[[], Checker]] | None = None) -> list[CheckResult]:
    """What every checker says, in their order."""
    loaders = checkers() if among is None else among
    return [_checked(name, load, case) for name, load in loaders.items()]


def _checked(name: str, load: Callable[[], Checker], case: Case) -> CheckResult:
    try:
        finding = load().check(case)
        details = finding.details[:MOST_DETAILS]
        return CheckResult(checker=name, verdict=finding.verdict, evidence=finding.evidence, details=details)
    except Exception as error:  # whatever a checker does wrong: the run is then not known to be good
        return CheckResult(checker=name, verdict="unknown", evidence=f"the checker itself failed: {error!r}")


def _own_loader(place: str) -> Callable[[], Checker]:
    module, _, name = place.partition(":")
    return lambda: getattr(import_module(module), name)()


def _entry_loader(load: Callable[[], Any]) -> Callable[[], Checker]:
    return lambda: load()()
