"""The ways in which faults measure that they happened, and that they ended. Each fault mixes in the one that fits it.

- `Delay`: one-way delay from node to node, less the one before (latency).
- `Silence`: pings that must not arrive, in the direction that was asked, and pings that must (black hole, partition).
- `Refusal`: pings that must fail at once, because the connection is refused or cut (refuse).
- `Absence`: the process table (kill, churn).

Every measurement is repeated while time is left until it shows the effect: a busy machine delays pings, it never makes
an inert fault look effective. For the same reason the *lower* bound of a delay is the strict one. Pairs on which something
else acts at the same time say nothing about this fault and count as unknown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.effects import Effect, LinkEffect
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.records import Action
from harness.targets import Ping

Pair = tuple[str, str]

SAMPLE = 64  # pairs of one kind that are pinged, at most
PINGS = 3  # per pair, for one measurement of a delay
PING_TIMEOUT = 1.0  # s
POLL = 0.05  # s between two looks at the process table
SHORTEST = 0.2  # s; a fault that is shorter cannot be observed
DELAY_SLACK = 0.005  # s; timers and clocks are that exact on an idle machine
HEAL_SLACK = 0.025  # s above the delay before the fault, or a quarter of what was asked, whichever is larger


class _HasEffects(Protocol):
    def effects(self, action: Action, topology: Topology) -> list[Effect]: ...


def affected_pairs(fault: _HasEffects, action: Action, probe: Probe) -> list[Pair]:
    """All (source, destination) nodes whose bytes the action's link effects touch, in the topology's order."""
    sites = {
        (effect.source, effect.destination): None
        for effect in fault.effects(action, probe.topology)
        if isinstance(effect, LinkEffect)
    }
    return [
        (here, there)
        for source, destination in sites
        for here in probe.topology.nodes_of(source)
        for there in probe.topology.nodes_of(destination)
        if here != there
    ]


def sample(pairs: Sequence[Pair], probe: Probe, limit: int = SAMPLE) -> list[Pair]:
    """At most ``limit`` of the pairs, the same for the same seed."""
    keyed = sorted((probe.rng.random(), index) for index in range(len(pairs)))
    return [pairs[index] for _, index in sorted(keyed[:limit], key=lambda item: item[1])]


def until_shown(probe: Probe, measure: Callable[[], Observation]) -> Observation:
    """Measure until the effect has been seen on every target or the time is used up. What has been seen once on a target
    was there: with many targets on a busy machine, no single measurement need show them all."""
    seen = measure()
    while seen.effective is False and probe.remaining() > SHORTEST:
        again = measure()
        shown = {
            name: again.targets.get(name) if verdict is not True else True for name, verdict in seen.targets.items()
        }
        seen = Observation(shown, again.observed)
    return seen


def unknown(action: Action, why: str) -> Observation:
    """Nothing can be said, and why."""
    return Observation(dict.fromkeys(action.targets), {"unknown": why})


def by_target(action: Action, probe: Probe, verdicts: dict[Pair, bool | None]) -> dict[str, bool | None]:
    """Verdicts of pairs, gathered by the sites that the action targets: false before true before unknown."""
    result: dict[str, bool | None] = dict.fromkeys(action.targets)
    for pair, verdict in verdicts.items():
        for site in {probe.topology.site_of(name): None for name in pair}:
            if site in result and verdict is not None:
                result[site] = verdict and result[site] is not False
    return result


def milliseconds(seconds: float) -> float:
    """For the journal: ms with one decimal."""
    return round(seconds * 1000, 1)


# --- latency ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delays:
    """Least one-way delay per pair before the fault, in seconds."""

    least: dict[Pair, float]


class Delay:
    """Mixin for faults that delay. Shown if each source's median delay over the value before is at least
    asked − jitter − 5 ms, and its least is at most twice what was asked and 100 ms more."""

    def measure_before(self: _HasEffects, action: Action, probe: Probe) -> Delays:
        """Least delays of a sample of the affected pairs."""
        pairs = sample(affected_pairs(self, action, probe), probe)
        return Delays({pair: min(delays) for pair, delays in one_way(pairs, probe).items()})

    def observe(self, action: Action, probe: Probe, before: Delays) -> Observation:
        """See the class."""
        latency, jitter = asked_delay(action)
        low, high = latency - jitter - DELAY_SLACK, 2 * (latency + jitter) + 0.1

        def shown(deltas: list[float]) -> bool:
            return statistics.median(deltas) >= low and min(deltas) <= high

        return until_shown(probe, lambda: compared(action, probe, before, shown))

    def observe_healed(self, action: Action, probe: Probe, before: Delays) -> Observation:
        """Ended if each target's least delay is what it was before, within HEAL_SLACK or a quarter of what was asked."""
        latency, jitter = asked_delay(action)
        slack = max(HEAL_SLACK, (latency - jitter) / 4)
        return until_shown(probe, lambda: compared(action, probe, before, lambda deltas: min(deltas) <= slack))


def compared(
    action: Action,
    probe: Probe,
    before: Delays,
    shown: Callable[[list[float]], bool],
    *,
    padding: int = 0,
    timeout: float = PING_TIMEOUT,
) -> Observation:
    """One-way times now, less those before; ``shown`` judges those of each target's pings."""
    pairs = probe.undisturbed(list(before.least))
    deltas = {
        pair: [delay - before.least[pair] for delay in delays]
        for pair, delays in one_way(pairs, probe, padding=padding, timeout=timeout).items()
    }
    if not deltas:
        return unknown(action, "no pair could be pinged that nothing else acts on")
    seen = [delta for values in deltas.values() for delta in values]
    targets: dict[str, bool | None] = dict.fromkeys(action.targets)
    for site in targets:
        of_site = [d for pair, values in deltas.items() if probe.topology.site_of(pair[0]) == site for d in values]
        targets[site] = shown(of_site) if of_site else None
    return Observation(
        targets,
        {
            "delay_ms": milliseconds(statistics.median(seen)),
            "least_ms": milliseconds(min(seen)),
            "most_ms": milliseconds(max(seen)),
            "before_ms": milliseconds(statistics.median(before.least.values())),
            "pairs": len(deltas),
        },
    )


def asked_delay(action: Action) -> tuple[float, float]:
    """Latency and jitter that the action asks for, in seconds."""
    return action.options["latency_ms"] / 1000, action.options.get("jitter_ms", 0) / 1000


def one_way(
    pairs: Sequence[Pair], probe: Probe, *, padding: int = 0, timeout: float = PING_TIMEOUT
) -> dict[Pair, list[float]]:
    """One-way delays of PINGS pings per pair; pairs that never answered are left out."""
    delays: dict[Pair, list[float]] = {}
    for _ in range(PINGS):
        for ping in probe.ping(pairs, timeout=timeout, padding=padding):
            if ping.forward_s is not None:
                delays.setdefault((ping.source, ping.destination), []).append(ping.forward_s)
    return delays


# --- black hole, partition, refuse --------------------------------------------------------------


class Silence:
    """Mixin for faults that lose bytes. Shown if no sampled ping arrives in a direction that is cut, while pings between
    nodes on which nothing acts are answered; a direction that is not cut must still carry pings."""

    def measure_before(self, action: Action, probe: Probe) -> None:
        """Nothing is compared."""

    def observe(self: Any, action: Action, probe: Probe, before: None) -> Observation:
        """See the class."""
        if probe.remaining() < SHORTEST:
            return unknown(action, "too short to be observed")
        return until_shown(probe, lambda: cut_seen(self, action, probe, self.is_cut))

    def observe_healed(self: Any, action: Action, probe: Probe, before: None) -> Observation:
        """Ended if pings on all sampled pairs are answered."""
        return until_shown(probe, lambda: healed_seen(self, action, probe))

    @staticmethod
    def is_cut(ping: Ping) -> bool | None:
        """Whether a ping shows that its direction is cut; None if nobody knows."""
        if ping.outcome == "unknown" or ping.arrived is None:
            return None
        return not ping.arrived


class Refusal(Silence):
    """Mixin for faults that refuse connections: a ping must be refused or cut off, and not time out in silence."""

    @staticmethod
    def is_cut(ping: Ping) -> bool | None:
        """See `Silence.is_cut`."""
        if ping.outcome == "unknown":
            return None
        return ping.outcome in ("refused", "disconnected") and not ping.arrived


def cut_seen(fault: _HasEffects, action: Action, probe: Probe, is_cut: Callable[[Ping], bool | None]) -> Observation:
    """Ping across the cut, against a one-way cut, and beside it."""
    affected = affected_pairs(fault, action, probe)
    cut = probe.undisturbed(sample(affected, probe))
    open_ = probe.undisturbed(sample(list(untouched(affected)), probe))
    timeout = min(PING_TIMEOUT, probe.remaining() / 2)
    pings = probe.ping(cut + open_, timeout=timeout)
    verdicts = {(ping.source, ping.destination): is_cut(ping) for ping in pings[: len(cut)]}
    through = [carried(ping) for ping in pings[len(cut) :]]
    verdicts |= dict(zip(open_, through, strict=True))
    return Observation(
        by_target(action, probe, verdicts),
        {
            "cut_pairs": len(cut),
            "cut_pairs_silent": sum(verdicts[pair] is True for pair in cut),
            "open_pairs": len(open_),
            "open_pairs_heard": sum(seen is True for seen in through),
        },
    )


def carried(ping: Ping) -> bool | None:
    """Whether the direction carried the ping; its answer may be lost to a one-way cut."""
    return None if ping.outcome == "unknown" else ping.arrived


def untouched(affected: Sequence[Pair]) -> Iterator[Pair]:
    """Pairs among the same nodes that the fault leaves alone, the reverse of one-way cuts among them."""
    touched = dict.fromkeys(affected)
    names = dict.fromkeys(name for pair in affected for name in pair)
    for here in names:
        for there in names:
            if here != there and (here, there) not in touched:
                yield here, there


def healed_seen(fault: _HasEffects, action: Action, probe: Probe) -> Observation:
    """Ping the pairs that were cut."""
    pairs = probe.undisturbed(sample(affected_pairs(fault, action, probe), probe))
    if not pairs:
        return unknown(action, "no pair could be pinged that nothing else acts on")
    pings = probe.ping(pairs, timeout=PING_TIMEOUT)
    verdicts = {
        (ping.source, ping.destination): None if ping.outcome == "unknown" else ping.outcome == "ok" for ping in pings
    }
    answered = sum(verdict is True for verdict in verdicts.values())
    return Observation(by_target(action, probe, verdicts), {"pairs": len(pairs), "pairs_answering": answered})


# --- kill, churn --------------------------------------------------------------------------------


class Absence:
    """Mixin for faults that end members: the process must be gone, and at the heal be there again."""

    def measure_before(self, action: Action, probe: Probe) -> None:
        """Nothing is compared."""

    def observe(self, action: Action, probe: Probe, before: None) -> Observation:
        """Shown if the process table has no such process."""
        return until_state(action, probe, "dead")

    def observe_healed(self, action: Action, probe: Probe, before: None) -> Observation:
        """Ended if the process runs; unknown for a member that another fault holds down."""
        return until_state(action, probe, "running", ignore_held=True)


def until_state(
    action: Action,
    probe: Probe,
    wanted: str,
    *,
    ignore_held: bool = False,
    names: Sequence[str] | None = None,
    settled: Callable[[str], bool] = lambda _: True,
) -> Observation:
    """Look at the process table until all targets (or ``names``) are in the wanted state or the time is used up.

    ``settled`` says of a member in that state whether all is known of it that will be asked for.
    """
    looked_at = action.targets if names is None else names
    while True:
        free = [name for name, _ in probe.undisturbed([(name, name) for name in looked_at])]
        states = {name: probe.process_state(name) for name in looked_at}
        targets: dict[str, bool | None] = {
            name: None if ignore_held and name not in free else state == wanted for name, state in states.items()
        }
        done = False not in targets.values() and all(settled(name) for name in looked_at)
        if done or probe.remaining() <= POLL:
            return Observation(targets, {"processes": states})
        time.sleep(POLL)  # the process table cannot be awaited, only looked at
