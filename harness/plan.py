"""From an experiment and a seed to a fixed list of timed actions; and plans as bytes.

Pure but for `load_plan`. Same file and seed, same bytes, on any machine: node ids and the generator of each entry come
from SHA-256, entries draw through `random()` and inverse functions of our own, times are rounded to µs, and nothing
ever iterates over a set. Occurrences are planned in the order of their time, so each sees who was killed before it,
whatever the order in the file. A link fault that repeats strikes the same links each time; a member fault picks anew.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import faults
from harness.effects import Effect, LinkEffect, MemberClaim
from harness.errors import ExperimentError, UsageError
from harness.experiment import Experiment
from harness.faults import Fault
from harness.gantt import describe
from harness.records import SCHEMA, Action, Plan, PlannedNode
from harness.selectors import Census, Shape
from harness.world import PlanWorld, UnplannableError

__all__ = ["describe", "entry_rng", "load_plan", "make_plan", "node_id", "plan_json", "planned_nodes"]

ID_BYTES: Final = 20


def node_id(seed: int, index: int) -> str:
    """40 hexadecimal digits: the first 20 bytes of SHA-256 of `<seed>/node/<index>`."""
    return hashlib.sha256(f"{seed}/node/{index}".encode()).digest()[:ID_BYTES].hex()


def entry_rng(seed: int, index: int) -> random.Random:
    """The generator of one timeline entry, seeded by SHA-256 of `<seed>/<index>`."""
    return random.Random(int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()))


def planned_nodes(seed: int, shape: Shape) -> list[PlannedNode]:
    """node-0, node-1, …; node i in site i mod the number of sites."""
    return [
        PlannedNode(f"node-{index}", node_id(seed, index), f"site-{index % shape.sites}")
        for index in range(shape.nodes)
    ]


def make_plan(experiment: Experiment) -> Plan:
    """The plan of an experiment.

    Raises:
        ExperimentError: an entry that is right in itself has no plan (nobody is left to kill, nothing would be cut).
    """
    nodes = planned_nodes(experiment.seed, experiment.shape)
    census = Census(nodes, experiment.shape.bootstrap, experiment.settings.cluster.node.k)
    return Plan(
        schema=SCHEMA,
        seed=experiment.seed,
        experiment=experiment.resolved(),
        nodes=nodes,
        actions=_planned(experiment, PlanWorld(census)),
    )


def _planned(experiment: Experiment, world: PlanWorld) -> list[Action]:
    rngs = {item.entry.index: entry_rng(experiment.seed, item.entry.index) for item in experiment.timeline}
    occurrences = [(one, item) for item in experiment.timeline for one in item.entry.occurrences()]
    occurrences.sort(key=lambda pair: (pair[0].at_us, pair[0].index))
    actions: list[Action] = []
    mistakes: dict[str, None] = {}
    for occurrence, item in occurrences:
        same = item.fault.level == "link"  # a fault that flaps flaps in one place
        rng = entry_rng(experiment.seed, occurrence.index) if same else rngs[occurrence.index]
        try:
            made = item.fault.plan(item.options, occurrence, world, rng)
        except UnplannableError as error:
            place = experiment.document.place(("timeline", occurrence.index, item.entry.fault))
            mistakes[f"{place}: {occurrence.name}: {error}"] = None
            continue
        _follow(world, item.fault, made)
        actions += made
    if mistakes:
        raise ExperimentError(list(mistakes))
    return sorted(actions, key=lambda action: (action.at_us, action.entry))


def _follow(world: PlanWorld, fault: Fault, actions: Sequence[Action]) -> None:
    """Keep track of who is away when."""
    for action in actions:
        for effect in fault.effects(action, world):
            if isinstance(effect, MemberClaim) and effect.state != "running":
                world.note_absence(effect.member, action.at_us, action.until_us)


# --- bytes ----------------------------------------------------------------------------------------------------------


def plan_json(plan: Plan) -> bytes:
    """`plan.json`: JSON with one node and one action a line. The same plan gives the same bytes everywhere."""
    encode = msgspec.json.Encoder(order="deterministic").encode
    head = b'{"schema":%d,"seed":%d,\n"experiment":%s' % (plan.schema, plan.seed, encode(plan.experiment))
    nodes, actions = (b",\n".join(map(encode, part)) for part in (plan.nodes, plan.actions))
    return head + b',\n"nodes":[\n' + nodes + b'],\n"actions":[\n' + actions + b"]}\n"


def load_plan(path: Path) -> Plan:
    """A stored plan.

    Raises:
        ExperimentError: it cannot be read, is of another version, or does not fit together; all that is wrong.
    """
    plan = _decoded(path)
    if mistakes := list(_inconsistencies(plan)):
        raise ExperimentError([f"{path}: {text}" for text in mistakes])
    return plan


class _StoredCluster(msgspec.Struct):
    nodes: int
    backend: str
    sites: int
    bootstrap: int
    node: dict[str, Any]


class _StoredNetwork(msgspec.Struct):
    latency_ms: int
    jitter_ms: int


class _StoredEntry(msgspec.Struct):
    name: str
    fault: str
    at_s: float


class _StoredExperiment(msgspec.Struct):
    """What a run needs of a resolved experiment; the types of `Experiment.resolved`."""

    name: str
    seed: int
    cluster: _StoredCluster
    network: _StoredNetwork
    load: dict[str, Any]
    duration_s: float
    settle_s: float
    timeline: list[_StoredEntry]
    expect: list[str]


def _decoded(path: Path) -> Plan:
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ExperimentError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExperimentError([f"{path}: this is no JSON, or only a part of it: {error}"]) from error
    if not isinstance(raw, dict) or "schema" not in raw or "actions" not in raw:
        raise ExperimentError([f"{path}: this is no plan: `kadstorm plan FILE --json` prints one"])
    if raw["schema"] != SCHEMA:
        made = f"a plan of schema {raw['schema']}, and this version of Kadstorm plays schema {SCHEMA}"
        raise ExperimentError([f"{path}: {made}: make it again from its experiment file"])
    try:
        plan = msgspec.convert(raw, Plan)
        msgspec.convert(plan.experiment, _StoredExperiment)
    except msgspec.ValidationError as error:
        raise ExperimentError([f"{path}: the plan is damaged: {error}"]) from error
    return plan


def _inconsistencies(plan: Plan) -> Iterator[str]:
    stored = msgspec.convert(plan.experiment, _StoredExperiment)
    if plan.seed != stored.seed:
        yield f"seed is {plan.seed}, but its experiment has {stored.seed}"
    yield from _node_mistakes(plan, stored)
    world = PlanWorld(Census(plan.nodes, stored.cluster.bootstrap, 1))
    for index, action in enumerate(plan.actions):
        yield from (f"actions[{index}]: {text}" for text in _action_mistakes(action, stored, world))
    times = [action.at_us for action in plan.actions]
    if times != sorted(times):
        yield "the actions are not in the order of their time"


def _node_mistakes(plan: Plan, stored: _StoredExperiment) -> Iterator[str]:
    if len(plan.nodes) < stored.cluster.nodes:
        yield f"{len(plan.nodes)} nodes, but its experiment has {stored.cluster.nodes}"
    for what, values in (("name", [n.name for n in plan.nodes]), ("id", [n.id for n in plan.nodes])):
        yield from (f"two nodes have the {what} `{value}`" for value, times in Counter(values).items() if times > 1)
    for index, node in enumerate(plan.nodes):
        if len(node.id) != 2 * ID_BYTES or not set(node.id) <= set("0123456789abcdef"):
            yield f"nodes[{index}]: `{node.id}` is no id: {2 * ID_BYTES} hexadecimal digits"


def _action_mistakes(action: Action, stored: _StoredExperiment, world: PlanWorld) -> Iterator[str]:
    if not 0 <= action.at_us < stored.duration_s * 1e6:
        yield f"at_us {action.at_us} is outside the run"
    if action.until_us is not None and action.until_us <= action.at_us:
        yield f"until_us {action.until_us} is not after at_us {action.at_us}"
    if not 0 <= action.entry < len(stored.timeline):
        yield f"entry {action.entry}: the timeline has {len(stored.timeline)}"
    try:
        fault = faults.get(action.fault)
    except UsageError as error:
        yield str(error)
        return
    known = world.sites if fault.level == "link" else world.nodes
    yield from _target_mistakes(action.targets, known, "site" if fault.level == "link" else "node")
    yield from _effect_mistakes(fault, action, world)


def _target_mistakes(targets: Sequence[str], known: Sequence[str], what: str) -> Iterator[str]:
    if not targets:
        yield "it has no targets"
    there = set(known)
    yield from (f"no {what} `{target}` in this plan" for target in targets if target not in there)


def _effect_mistakes(fault: Fault, action: Action, world: PlanWorld) -> Iterator[str]:
    """Its effects must be computable, and be about what is there."""
    try:
        named = [name for effect in fault.effects(action, world) for name in _named(effect)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        yield f"its options do not fit the fault `{action.fault}`: {error!r}"
        return
    there = {*world.sites, *world.nodes, *action.targets}
    yield from (
        f"its options name `{name}`, which is not in this plan" for name in dict.fromkeys(named) if name not in there
    )


def _named(effect: Effect) -> tuple[str, ...]:
    return (effect.source, effect.destination) if isinstance(effect, LinkEffect) else (effect.member,)
