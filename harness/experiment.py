"""The experiment file: its models, and loading one with all its mistakes at once.

A file is read in four steps, none of which stops at a mistake: the text (`document.py`), the blocks (pydantic,
`validation.py`), the rules between blocks (here and in `timeline.py`), the expectations. Only then does it raise, with
everything that was found, sorted by line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from harness import expectations
from harness.document import Document, read
from harness.fields import (
    Block,
    Duration,
    Line,
    Milliseconds,
    PositiveDuration,
    Prose,
    Rate,
    Share,
    Size,
    UnfitValueError,
    choice,
    whole,
)
from harness.quantities import seconds, shown
from harness.selectors import Shape
from harness.targets.kademlia_options import NodeOptions
from harness.timeline import Known, TimelineEntry, read_timeline
from harness.validation import salvage, validate

MOST_NODES: Final = 10_000
OWN_SITES: Final = 64  # nodes up to which each is its own site by default
SHARED_SITES: Final = 16  # sites by default above that
LARGEST_SEED: Final = 2**53 - 1  # exact in every program that reads our JSON
BACKENDS: Final = tuple(
    dict.fromkeys(["process", "docker", *(e.name for e in entry_points(group="kadstorm.backends"))])
)


class Cluster(Block):
    """`cluster`."""

    nodes: Annotated[int, whole(1, MOST_NODES)]
    backend: Annotated[str, choice(*BACKENDS)] = "process"
    sites: Annotated[int, whole(1, MOST_NODES)] | None = None
    bootstrap: Annotated[int, whole(1, MOST_NODES)] | None = None
    node: NodeOptions = NodeOptions()

    @field_validator("sites", "bootstrap")
    @classmethod
    def _no_more_than_nodes(cls, value: int, info: ValidationInfo) -> int:
        nodes = info.data.get("nodes", MOST_NODES)
        if value > nodes:
            raise UnfitValueError(f"{value} is more than the {nodes} nodes of the cluster")
        return value

    @property
    def shape(self) -> Shape:
        """Nodes, sites and bootstrap nodes, defaults filled in."""
        return cluster_shape(self.nodes, self.sites, self.bootstrap)


def cluster_shape(nodes: int, sites: int | None, bootstrap: int | None) -> Shape:
    """Defaults: a site per node up to 64 nodes, above that 16; two bootstrap nodes, if there are two."""
    return Shape(nodes, sites or (nodes if nodes <= OWN_SITES else SHARED_SITES), bootstrap or min(2, nodes))


class Network(Block):
    """`network`: on every link, one way, for the whole run. ms."""

    latency: Milliseconds = 0
    jitter: Milliseconds = 0

    @field_validator("jitter")
    @classmethod
    def _at_most_latency(cls, jitter: int, info: ValidationInfo) -> int:
        latency = info.data.get("latency", jitter)
        if jitter > latency:
            raise UnfitValueError(f"{jitter}ms is more than the latency, {latency}ms: a delay cannot be negative")
        return jitter


class Load(Block):
    """`load`."""

    rate: Rate | None = None
    users: Annotated[int, whole(1, 100_000)] | None = None
    think: Duration | None = None
    arrivals: Annotated[Literal["poisson", "constant"], choice("poisson", "constant")] | None = None
    stores: Share = Fraction(1, 5)
    keys: Annotated[int, whole(1, 10_000_000)] = 100
    value_size: Size = 256
    write_acks: Annotated[int, whole(1, 256)] | None = None
    gateways: Annotated[Literal["random", "sticky"], choice("random", "sticky")] = "random"
    timeout: PositiveDuration = 5_000_000
    max_in_flight: Annotated[int, whole(1, 1_000_000)] | None = None

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Open and closed model exclude each other, and so do their options."""
        opened, closed = "rate" in given, "users" in given
        if opened and closed:
            second = [key for key in given if key in ("rate", "users")][1]
            yield second, "load: `rate` (open model) and `users` (closed model) exclude each other: keep one"
        elif not opened and not closed:
            yield "", "load: how much? Give `rate: 100/s` (open model) or `users: 50` (closed model)"
        elif opened and "think" in given:
            yield "think", "load.think: belongs to `users`: with `rate`, arrivals do not wait for anything"
        elif closed:
            for key in ("arrivals", "max_in_flight"):
                if key in given:
                    yield key, f"load.{key}: belongs to `rate`: each of the `users` waits for its answers"

    def resolved(self, write_acks: int) -> dict[str, Any]:
        """As the load's workers take it: SI units, defaults filled in."""
        opened = self.rate is not None
        return {
            "rate_per_s": None if self.rate is None else float(self.rate),
            "users": self.users,
            "think_s": seconds(100_000 if self.think is None else self.think),
            "arrivals": self.arrivals or "poisson",
            "stores": float(self.stores),
            "keys": self.keys,
            "value_size": self.value_size,
            "write_acks": write_acks,
            "gateways": self.gateways,
            "timeout_s": seconds(self.timeout),
            "max_in_flight": (self.max_in_flight or 2_000) if opened else self.users,
        }


class Settings(Block):
    """The file's top level. The timeline and the expectations are read apart."""

    name: Line
    description: Prose = ""
    seed: Annotated[int, whole(0, LARGEST_SEED)] = 1
    cluster: Cluster
    network: Network = Network()
    load: Load
    duration: PositiveDuration
    settle: Duration = 5_000_000
    timeline: Any = Field(default_factory=list)
    expect: Any = Field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """An experiment without mistakes. ``document`` knows the places of everything in its file."""

    settings: Settings
    timeline: Sequence[TimelineEntry]
    expect: Sequence[str]
    document: Document

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.settings.name

    @property
    def seed(self) -> int:
        """The seed that decides the plan."""
        return self.settings.seed

    @property
    def shape(self) -> Shape:
        """The cluster's nodes, sites and bootstrap nodes."""
        return self.settings.cluster.shape

    @property
    def write_acks(self) -> int:
        """Holders that make a store ok: as given, or half of min(k, nodes) rounded up."""
        cluster = self.settings.cluster
        return self.settings.load.write_acks or -(-min(cluster.node.k, cluster.nodes) // 2)

    def text(self) -> str:
        """The experiment as YAML: as it was written, or with the overrides applied."""
        return self.document.dumped()

    def resolved(self) -> dict[str, Any]:
        """Plain JSON values, defaults filled in. Units are in the keys (`_s`, `_ms`); bytes; shares 0 to 1."""
        settings, shape = self.settings, self.shape
        return {
            "name": settings.name,
            "description": settings.description,
            "seed": settings.seed,
            "cluster": {
                "nodes": shape.nodes,
                "backend": settings.cluster.backend,
                "sites": shape.sites,
                "bootstrap": shape.bootstrap,
                "node": settings.cluster.node.resolved(),
            },
            "network": {"latency_ms": settings.network.latency, "jitter_ms": settings.network.jitter},
            "load": settings.load.resolved(self.write_acks),
            "duration_s": seconds(settings.duration),
            "settle_s": seconds(settings.settle),
            "timeline": [resolved_entry(entry) for entry in self.timeline],
            "expect": list(self.expect),
        }


def resolved_entry(item: TimelineEntry) -> dict[str, Any]:
    """One entry of the timeline as plain values; its options as they were written."""
    entry = item.entry
    repeat = entry.repeat and {"every_s": seconds(entry.repeat.every_us), "times": entry.repeat.times}
    return {
        "name": entry.name,
        "fault": entry.fault,
        "at_s": seconds(entry.at_us),
        "for_s": None if entry.for_us is None else seconds(entry.for_us),
        "repeat": repeat,
        "options": item.asked,
    }


def load_experiment(path: Path, overrides: Mapping[str, str] | None = None) -> Experiment:
    """The experiment in a file. ``overrides``: `load.rate` (as `--set` has it), or `--nodes`, `--seed`, `--backend`.

    Raises:
        ExperimentError: with every mistake as `file:line:column: what is wrong (and what was meant)`.
    """
    document = read(path, overrides or {})
    data = document.values()
    settings = validate(Settings, data, document, ())
    known = _known(data)
    _check_acks(document, data)
    timeline, names = read_timeline(document, _list(data, "timeline"), known)
    expect = _read_expectations(document, _list(data, "expect"), names)
    document.fail()
    assert settings is not None
    return Experiment(settings, timeline, expect, document)


def _list(data: Mapping[str, Any], key: str) -> object:
    value = data.get(key)
    return [] if value is None else value


def _known(data: Mapping[str, Any]) -> Known:
    """What is right of that which the timeline is checked against."""
    cluster = salvage(Cluster, data.get("cluster"))
    top = salvage(Settings, {"duration": data.get("duration")})
    shape = None
    if {"nodes", "sites", "bootstrap"} <= set(cluster):
        shape = cluster_shape(cluster["nodes"], cluster["sites"], cluster["bootstrap"])
    fits = shape is not None and max(shape.sites, shape.bootstrap) <= shape.nodes
    return Known(shape if fits else None, top.get("duration"))


def _check_acks(document: Document, data: Mapping[str, Any]) -> None:
    cluster = salvage(Cluster, data.get("cluster"))
    raw = data.get("cluster")
    k = salvage(NodeOptions, raw.get("node") if isinstance(raw, dict) else None).get("k")
    acks, nodes = salvage(Load, data.get("load")).get("write_acks"), cluster.get("nodes")
    if acks is None or k is None or nodes is None or acks <= min(k, nodes):
        return
    why = f"k is {k}" if k <= nodes else f"there are {nodes} nodes"
    document.note(("load", "write_acks"), f"load.write_acks: {acks} holders can never acknowledge a store, since {why}")


def _read_expectations(document: Document, value: object, names: Sequence[str]) -> list[str]:
    if not isinstance(value, list):
        document.note(("expect",), f"expect: `{shown(value)}` is no list of expectations")
        return []
    for index, item in enumerate(value):
        if text := _expectation_mistake(item, names):
            document.note(("expect", index), f"expect: {text}")
    return [str(item) for item in value]


def _expectation_mistake(item: object, names: Sequence[str]) -> str | None:
    if not isinstance(item, str):
        return f"`{shown(item)}` is no expectation: write text, as in lookup.success >= 99%"
    try:
        return expectations.check_names(expectations.parse(item), list(names))
    except expectations.ExpectationSyntaxError as error:
        return str(error)
