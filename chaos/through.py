"""Observing a link by fresh connections through it: for effects that pings between nodes, on pooled connections, hide.

The harness opens connections of its own to the link's proxy; see `harness/transfers.py`. What travels from A to B is
requests on A's connections to B and answers on B's connections to A, so an effect from A to B is looked for on both: through
the proxy from A's site to B, and through the one from B's site to A.

A toxicity below 100% is drawn once per connection. Then so many connections are opened that one of them is hit but for
a chance of one in a million (200 at most), and the effect is there if one is; where even that leaves a chance of 1%
that none is hit, nothing can be said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

from chaos.observing import SHORTEST, Pair, affected_pairs, milliseconds, sample, until_shown
from harness.observation import Observation, Probe
from harness.records import Action
from harness.transfers import Transfer

LINKS = 16  # pairs of nodes that are looked at, at most
MOST = 200  # connections through one link
MISS = 1e-6  # chance that none of them is hit
BLIND = 0.01  # chance of that from which on nothing is said
ALL = 1000  # toxicity, in thousandths
ALLOWANCE = 2.0  # s for a transfer on top of what the effect itself may take
LOOKS = 3  # one after another, that must all show an effect: a machine that stalls for a moment looks like one, too

Hit = Callable[[Action, Transfer, Transfer], bool | None]  # action, what was seen, what was seen before


class ThroughLinks:
    """Mixin: shown if connections through each sampled link are hit; ended if none is, and all are answered."""

    whole_connection = False  # the effect acts on connections that the source opens, in no direction
    size = 1024  # bytes that are echoed

    def echo_size(self, action: Action) -> int:
        """How many bytes are echoed."""
        return self.size

    def patience(self, action: Action) -> float:
        """Seconds that a transfer under the effect may take."""
        return ALLOWANCE

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        """Whether one connection shows the effect; None if it cannot be told."""
        raise NotImplementedError

    def measured(self, seen: Sequence[Transfer], before: Sequence[Transfer]) -> dict[str, Any]:
        """What the journal is told."""
        return endings(seen)

    def measure_before(self, action: Action, probe: Probe) -> dict[Pair, list[Transfer]]:
        """A connection through each link of a sample of the affected pairs."""
        pairs = sample(affected_pairs(self, action, probe), probe, LINKS)  # type: ignore[arg-type]
        seen = self._transfers(action, probe, pairs, 1)
        return {pair: one for pair, one in seen.items() if all(each.ending == "answered" for each in one)}

    def observe(self, action: Action, probe: Probe, before: dict[Pair, list[Transfer]]) -> Observation:
        """See the class."""
        tries = connections(action.options.get("toxicity", ALL))
        if not tries:
            return Observation(
                dict.fromkeys(action.targets), {"unknown": "too few connections would be hit to see one"}
            )
        return until_shown(probe, lambda: self._looks(action, probe, before, tries))

    def observe_healed(self, action: Action, probe: Probe, before: dict[Pair, list[Transfer]]) -> Observation:
        """See the class."""
        tries = connections(action.options.get("toxicity", ALL)) or 1
        return until_shown(probe, lambda: self._look(action, probe, before, tries, healed=True))

    def _looks(self, action: Action, probe: Probe, before: dict[Pair, list[Transfer]], tries: int) -> Observation:
        """LOOKS of them, fewer if time runs out; a target that one look does not show is not shown."""
        seen = self._look(action, probe, before, tries)
        for _ in range(LOOKS - 1):
            if True not in seen.targets.values() or probe.remaining() <= SHORTEST:
                break
            again = self._look(action, probe, before, tries)
            shown = {
                name: False if verdict and again.targets[name] is False else verdict
                for name, verdict in seen.targets.items()
            }
            seen = Observation(shown, again.observed)
        return seen

    def _look(
        self, action: Action, probe: Probe, before: dict[Pair, list[Transfer]], tries: int, *, healed: bool = False
    ) -> Observation:
        pairs = probe.undisturbed(list(before))
        if not pairs:
            why = "no link could be looked at that nothing else acts on"
            return Observation(dict.fromkeys(action.targets), {"unknown": why})
        seen = self._transfers(action, probe, pairs, tries)
        targets: dict[str, bool | None] = dict.fromkeys(action.targets)
        for pair in pairs:
            site = probe.topology.site_of(pair[0])
            verdict = self._verdict(action, seen[pair], before[pair], healed=healed)
            if site in targets and verdict is not None:
                targets[site] = verdict and targets[site] is not False
        flat = [each for pair in pairs for each in seen[pair]]
        return Observation(targets, {"connections": len(flat), **self.measured(flat, [before[p][0] for p in pairs])})

    def _verdict(self, action: Action, seen: list[Transfer], before: list[Transfer], *, healed: bool) -> bool | None:
        """Of all connections through the two links of a pair, interleaved: first the one link, then the other."""
        ways = len(before)
        verdicts = []
        for way in range(ways):
            hits = [self.hit(action, each, before[way]) for each in seen[way::ways]]
            known = [hit for hit in hits if hit is not None]
            answered = all(each.ending == "answered" for each in seen[way::ways])
            verdicts.append((not any(known) and answered if healed else any(known)) if known else None)
        return None if None in verdicts else all(verdicts)

    def _transfers(self, action: Action, probe: Probe, pairs: Sequence[Pair], tries: int) -> dict[Pair, list[Transfer]]:
        links = [(pair, link) for pair in pairs for _ in range(tries) for link in self._links(probe, pair)]
        timeout = self.patience(action)
        done = probe.transfers([link for _, link in links], size=self.echo_size(action), timeout=timeout)
        seen: dict[Pair, list[Transfer]] = {}
        for (pair, _), each in zip(links, done, strict=True):
            seen.setdefault(pair, []).append(each)
        return seen

    def _links(self, probe: Probe, pair: Pair) -> Iterator[tuple[str, str]]:
        here, there = pair
        yield probe.topology.site_of(here), there
        if not self.whole_connection:
            yield probe.topology.site_of(there), here


class OfAnother(ThroughLinks):
    """Observes another fault's effects."""

    def __init__(self, fault: Any) -> None:
        self.effects = fault.effects


class Either:
    """Mixin in front of another way of observing: where the effect hits only a share of the connections, fresh ones are looked
    at instead, by an observer of the class ``some``."""

    some: ClassVar[type[OfAnother]]

    def measure_before(self, action: Action, probe: Probe) -> Any:
        """See the module."""
        return self._way(action).measure_before(action, probe)

    def observe(self, action: Action, probe: Probe, before: Any) -> Observation:
        """See the module."""
        return cast(Observation, self._way(action).observe(action, probe, before))

    def observe_healed(self, action: Action, probe: Probe, before: Any) -> Observation:
        """See the module."""
        return cast(Observation, self._way(action).observe_healed(action, probe, before))

    def _way(self, action: Action) -> Any:
        return self.some(self) if partial(action) else super()


def partial(action: Action) -> bool:
    """Whether the action's effect hits only a share of the connections."""
    return bool(action.options.get("toxicity", ALL) < ALL)


def connections(toxicity: int) -> int:
    """How many connections show an effect of that toxicity (thousandths) but for MISS; 0 if too many would be needed."""
    if toxicity >= ALL:
        return 1
    spared = 1 - toxicity / ALL
    needed = math.ceil(math.log(MISS) / math.log(spared))
    return min(needed, MOST) if spared**MOST <= BLIND else 0


def endings(seen: Sequence[Transfer]) -> dict[str, Any]:
    """How many connections ended in which way."""
    kinds = dict.fromkeys(sorted({each.ending for each in seen}))
    return {kind: sum(each.ending == kind for each in seen) for kind in kinds}


def median_ms(values: Sequence[float]) -> float | None:
    """For the journal."""
    return milliseconds(statistics.median(values)) if values else None
