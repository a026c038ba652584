"""Experiment and seed -> a fixed list of timed actions. Pure.

Each timeline entry draws from a generator of its own, seeded by SHA-256(seed, index), through `random()` alone;
whatever is drawn is rounded to microseconds. So the plan is the same, byte for byte, on any machine, and an entry
that is added or taken away changes no other's draws.

The planner follows the membership: occurrences are planned in the order of their times, and each selects among
those that the earlier ones have left alive at that moment. An occurrence that would do nothing is a mistake: no
fault is inert by plan.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from harness import faults
from harness.effects import Effect, MemberClaim
from harness.errors import ExperimentError, HarnessError
from harness.experiment import MOST_NODES, Experiment
from harness.faults import CannotPlan, Entry, Fault
from harness.links import Topology
from harness.quantities import time_text
from harness.records import SCHEMA, Action, Plan, PlannedNode
from harness.selectors import Selector, select_members, select_sites

if TYPE_CHECKING:
    from harness.backends import Power

ID = re.compile(r"[0-9a-f]{40}")


def make_plan(experiment: Experiment, *, spare: int = 0) -> Plan:
    """The plan of an experiment, with ``spare`` more nodes that faults by hand can bring in.

    Raises ExperimentError if something in it would do nothing.
    """
    seed = experiment.top.seed
    world = World(
        plan_nodes(seed, experiment.top.cluster.nodes, experiment.sites),
        k=experiment.top.cluster.node.k,
        bootstrap=experiment.bootstrap,
        duration_us=experiment.top.duration,
        newcomer=lambda number: plan_node(seed, number, experiment.sites),
    )
    rngs = {timed.index: random.Random(derived(seed, "entry", timed.index)) for timed in experiment.timeline}
    occurrences = [(entry, timed) for timed in experiment.timeline for entry in timed.occurrences()]
    inert: dict[str, None] = {}
    for entry, timed in sorted(occurrences, key=lambda pair: (pair[0].at_us, pair[0].index)):
        until = entry.until_us
        if until is None and timed.fault.lasts == "optional":  # without `for`: until the clock stops
            until = experiment.top.duration
        planned, why = _planned(timed.fault, timed.options, replace(entry, until_us=until), world, rngs[entry.index])
        if why:
            inert[f"{timed.place}: `{entry.name}` at {time_text(entry.at_us)}: {why}"] = None
        world.add(planned)
    if inert:
        raise ExperimentError(list(inert))
    world.recruit(spare)
    actions = sorted(world.actions, key=lambda action: (action.at_us, action.entry))
    return Plan(schema=SCHEMA, seed=seed, experiment=experiment.resolved(), nodes=world.nodes, actions=actions)


def _planned(fault: Fault, options: Any, entry: Entry, world: World, rng: random.Random) -> tuple[list[Action], str]:
    """The actions of one occurrence, and why they would do nothing or cannot be had, if so."""
    try:
        planned = fault.plan(options, entry, world, rng)
    except CannotPlan as error:
        return [], str(error)
    return planned, world.inert(fault, planned)


def plan_bytes(plan: Plan) -> bytes:
    """`plan.json`: canonical, so that equal plans are equal bytes."""
    return json.dumps(msgspec.to_builtins(plan), indent=1, ensure_ascii=False).encode() + b"\n"


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan into its file, whole or not at all. Raises HarnessError."""
    part = path.with_suffix(".part")
    try:
        part.write_bytes(plan_bytes(plan))
        part.replace(path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written: {error.strerror}") from error


def plan_text(plan: Plan) -> str:
    """The experiment of a plan as YAML: what its `experiment.yaml` is when the plan is played again."""
    return yaml.safe_dump(
        plan.experiment.get("source", plan.experiment), sort_keys=False, allow_unicode=True, width=120
    )


def powers_by_kind(plans: Iterable[Plan]) -> dict[tuple[str, str], set[Power]]:
    """What is needed of each kind of backend and target: (backend, target) -> `powers_needed` of all its plans."""
    needed: dict[tuple[str, str], set[Power]] = {}
    for plan in plans:
        cluster = plan.experiment["cluster"]
        needed.setdefault((cluster["backend"], cluster["target"]), set()).update(powers_needed(plan))
    return needed


def powers_needed(plan: Plan) -> frozenset[Power]:
    """What the plan needs to be done to members that not every engine of containers can do: freezing, and limits."""
    limits = plan.experiment["cluster"].get("limits") or {}
    found: set[Power] = {power for power in ("cpus", "memory") if limits.get(power)}
    topology = Topology.build(plan.nodes, host="")
    effects = (effect for action in plan.actions for effect in faults.get(action.fault).effects(action, topology))
    if any(isinstance(effect, MemberClaim) and effect.state == "paused" for effect in effects):
        found.add("pause")
    return frozenset(found)


def load_plan(path: Path) -> Plan:
    """The plan in a file. Raises ExperimentError if it is none of ours, or contradicts itself."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise ExperimentError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExperimentError([f"{path}: not a plan of Kadstorm: {error}"]) from error
    mistakes = [f"{path}: {text}" for text in _contradictions(plan)]
    if mistakes:
        raise ExperimentError(mistakes)
    return plan


def _contradictions(plan: Plan) -> list[str]:
    """What would fail later. Actions are looked at only if the nodes are right."""
    if found := [*_wrong_experiment(plan), *_wrong_nodes(plan)]:
        return found
    topology = Topology.build(plan.nodes, host="")
    for index, action in enumerate(plan.actions):
        found += [f"action {index}: {text}" for text in _wrong_action(action, plan, topology)]
    times = [action.at_us for action in plan.actions]
    return found if times == sorted(times) else [*found, "the actions are not in the order of their times"]


def _wrong_experiment(plan: Plan) -> Iterator[str]:
    if plan.schema != SCHEMA:
        yield f"schema {plan.schema} is not known; this version of Kadstorm reads schema {SCHEMA}"
    needed = ("name", "cluster", "network", "load", "duration_us", "settle_us")
    if missing := [key for key in needed if key not in plan.experiment]:
        yield f"the experiment lacks {', '.join(missing)}"
    elif not isinstance(plan.experiment["duration_us"], int) or plan.experiment["duration_us"] < 1:
        yield "the experiment's duration_us is no length"


def _wrong_nodes(plan: Plan) -> Iterator[str]:
    if not plan.nodes:
        yield "it has no nodes"
    for what in ("name", "id"):
        values = [getattr(node, what) for node in plan.nodes]
        yield from (f"two nodes have the {what} {value}" for value, times in Counter(values).items() if times > 1)
    yield from (f"{node.name}: an id has 40 hexadecimal digits" for node in plan.nodes if not ID.fullmatch(node.id))


def _wrong_action(action: Action, plan: Plan, topology: Topology) -> Iterator[str]:
    if not 0 <= action.at_us < plan.experiment["duration_us"]:
        yield "begins outside the run"
    if action.until_us is not None and action.until_us < action.at_us:
        yield "ends before it begins"
    if action.fault not in faults.names():
        yield f"no fault `{action.fault}`"
        return
    try:
        effects = faults.get(action.fault).effects(action, topology)
    except (LookupError, TypeError, ValueError) as error:
        yield f"its options are not those of `{action.fault}`: {error!r}"
        return
    if not action.targets or not effects:
        yield "it would do nothing"
    named = dict.fromkeys([*action.targets, *(name for effect in effects for name in _subjects(effect))])
    if strangers := [name for name in named if name not in topology.names and name not in topology.sites]:
        yield f"no node or site {', '.join(strangers)}"


def _subjects(effect: Effect) -> tuple[str, ...]:
    return (effect.member,) if isinstance(effect, MemberClaim) else (effect.source, effect.destination)


def derived(seed: int, *parts: object) -> int:
    """A number that follows from the seed and the parts alone."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def plan_nodes(seed: int, count: int, sites: int) -> list[PlannedNode]:
    """Names, identities and sites of nodes. Identities are the first 160 bits of a SHA-256 of the seed."""
    return [plan_node(seed, number, sites) for number in range(count)]


def plan_node(seed: int, number: int, sites: int) -> PlannedNode:
    """One of them, a joiner too: it is in site number mod ``sites``."""
    return PlannedNode(f"node-{number}", f"{derived(seed, 'node', number) >> 96:040x}", f"site-{number % sites}")


class World:
    """Who is where, and who is alive when, as far as planned. See `faults.PlanWorld` and `selectors.Population`."""

    def __init__(
        self,
        nodes: Sequence[PlannedNode],
        *,
        k: int,
        bootstrap: int,
        duration_us: int | None = None,
        newcomer: Callable[[int], PlannedNode] | None = None,
    ) -> None:
        self.actions: list[Action] = []
        self.nodes = list(nodes)
        self.k = k
        self.duration_us = duration_us
        self._newcomer = newcomer
        self._topology = Topology.build(self.nodes, host="")
        self._numbers = {node.name: int(node.id, 16) for node in self.nodes}
        self._bootstrap = [node.name for node in self.nodes[:bootstrap]]
        self._there: dict[str, int] = {node.name: 0 for node in self.nodes}  # since when; joiners come later
        self._away: dict[str, list[tuple[int, int | None]]] = {node.name: [] for node in self.nodes}
        self._now = 0

    def add(self, actions: Sequence[Action]) -> None:
        """Take planned actions into account from now on."""
        for action in actions:
            self.actions.append(action)
            for effect in faults.get(action.fault).effects(action, self._topology):
                if isinstance(effect, MemberClaim) and effect.state == "dead":
                    self._away[effect.member].append((action.at_us, action.until_us))
                elif isinstance(effect, MemberClaim) and effect.state == "running":
                    self._there.setdefault(effect.member, action.at_us)

    def inert(self, fault: Fault, actions: Sequence[Action]) -> str:
        """Why these actions of one occurrence would do nothing, if so."""
        if not actions:
            return "nobody would leave in that time"
        if not all(action.targets for action in actions):
            return "nobody that it selects is alive then"
        if not all(fault.effects(action, self._topology) for action in actions):
            return "it cuts nothing: there is no link from the one side to the other"
        return ""

    def select_members(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """See `PlanWorld.select_members`."""
        self._now = at_us
        return select_members(selector, self, rng)

    def select_sites(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """See `PlanWorld.select_sites`."""
        self._now = at_us
        for atom in selector.atoms:
            if atom.kind in ("node", "closest", "bootstrap"):
                self._require_own_sites(select_members(Selector((atom,)), self, rng))
        return select_sites(selector, self, rng)

    def _require_own_sites(self, names: Sequence[str]) -> None:
        """Raise CannotPlan if links cannot tell one of these members from another that is there by now."""
        for name in names:
            others = [n for n in self.members() if n != name and self.site_of(n) == self.site_of(name)]
            if others:
                raise CannotPlan(
                    f"{name} shares {self.site_of(name)} with {others[0]}, so that links cannot tell them apart: "
                    f"select the site, or raise cluster.sites to {len(self.nodes)}"
                )

    def members_at(self, at_us: int) -> list[str]:
        """See `PlanWorld.members_at`."""
        self._now = at_us
        return self.members()

    def recruit(self, count: int) -> list[str]:
        """See `PlanWorld.recruit`."""
        if self._newcomer is None or len(self.nodes) + count > MOST_NODES:
            raise CannotPlan(f"{len(self.nodes) + count} nodes in all, and {MOST_NODES} is the most")
        new = [self._newcomer(len(self.nodes) + i) for i in range(count)]
        self.nodes += new
        self._topology = Topology.build(self.nodes, host="")
        self._away |= {node.name: [] for node in new}
        self._numbers |= {node.name: int(node.id, 16) for node in new}
        return [node.name for node in new]

    def members(self) -> list[str]:
        """Those alive now."""
        return [name for name in self._topology.names if self._alive(name)]

    def sites(self) -> list[str]:
        """All sites."""
        return list(self._topology.sites)

    def site_of(self, member: str) -> str:
        """The site of a node."""
        return self._topology.site_of(member)

    def bootstrap(self) -> list[str]:
        """The nodes that the others join through."""
        return self._bootstrap

    def number_of(self, member: str) -> int:
        """Its identifier as a number."""
        return self._numbers[member]

    def _alive(self, name: str) -> bool:
        if self._now < self._there.get(name, self._now + 1):
            return False
        return not any(since <= self._now and (until is None or self._now < until) for since, until in self._away[name])


# --- for people -----------------------------------------------------------------------------------------------------


def describe(plan: Plan, width: int = 80) -> str:
    """The schedule as a small chart and a list."""
    experiment = plan.experiment
    duration = experiment["duration_us"]
    lines = [
        f"{experiment['name']}: {len(plan.nodes)} nodes, {time_text(duration)}, seed {plan.seed}, "
        f"{len(plan.actions)} actions"
    ]
    names = list(dict.fromkeys([*experiment.get("names", []), *(action.name for action in plan.actions)]))
    label = max([len(name) for name in names], default=0)
    cells = max(20, width - label - 2)
    lines += ["", f"{'':{label}}  {_axis(duration, cells)}"] if names else []
    for name in names:
        lines.append(f"{name:{label}}  {_bar([a for a in plan.actions if a.name == name], duration, cells)}")
    lines += ["", *(_line(action) for action in plan.actions)]
    return "\n".join(lines)


def _axis(duration: int, cells: int) -> str:
    """Times above the chart: the beginning, the quarters, the end; each begins where its moment is, but the last."""
    end = time_text(duration)
    axis = "0"
    for quarter in (1, 2, 3):
        mark, at = f"{duration * quarter / 4e6:g}s", cells * quarter // 4
        if len(axis) < at and at + len(mark) < cells - len(end):
            axis = f"{axis:{at}}{mark}"
    return f"{axis:{cells - len(end)}}{end}"


def _bar(actions: Sequence[Action], duration: int, cells: int) -> str:
    bar = ["·"] * cells
    for action in actions:
        first = min(cells - 1, action.at_us * cells // duration)
        end = action.until_us if action.until_us is not None else action.at_us
        for cell in range(first, max(first + 1, -(-end * cells // duration))):
            bar[min(cell, cells - 1)] = "█" if action.until_us is not None else "▌"
    return "".join(bar)


def _line(action: Action) -> str:
    until = "for good" if action.until_us is None else f"to {action.until_us / 1e6:8.3f} s"
    targets = ", ".join(action.targets[:6]) + (
        f" and {len(action.targets) - 6} more" if len(action.targets) > 6 else ""
    )
    return f"  {action.at_us / 1e6:8.3f} s {until:14} {action.name}: {targets}{_options_text(action.options)}"


def _options_text(options: dict[str, Any]) -> str:
    plain = {
        key: value for key, value in options.items() if isinstance(value, str | int) and not isinstance(value, bool)
    }
    return f"  ({', '.join(f'{key} {value}' for key, value in plain.items())})" if plain else ""
