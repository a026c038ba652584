"""The experiment file: its models, and loading it with all of its mistakes told at once.

Two passes. The models check each value by itself; then the rules between values are checked, as far as the values
they concern are right. Each mistake has the place of the value or key that it is about: ``file:line:column: what is
wrong``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from harness import document, expectations, faults, load_options, selectors
from harness.document import Document, Path_
from harness.errors import ExperimentError, UsageError
from harness.expectations import did_you_mean
from harness.faults import Fault
from harness.load_options import LoadSection, resolved_load
from harness.options import AtLeastOne, PositiveTime, Section, Size, Text, Time, Whole
from harness.quantities import time_text
from harness.targets.kademlia_options import NodeOptions

OWN_SITES, SHARED_SITES = 64, 16  # up to so many nodes each has a site of its own, above that so many share
ENTRY_KEYS = ("at", "for", "repeat", "name")
MOST_NODES = 10_000
RECRUITING = {"join", "replace"}  # faults that bring in new members
LARGEST_SEED = 2**53 - 1  # exact in every program that reads our JSON

Mistake = tuple[document.Mark, str]


class LimitsSection(Section):
    """What one member may use up; the containers' engine holds it to that."""

    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    memory: Size | None = None


class ClusterSection(Section):
    nodes: Annotated[AtLeastOne, Field(le=MOST_NODES)] = 20
    backend: Literal["process", "docker"] = "process"
    target: Text = "kademlia"
    sites: AtLeastOne | None = None
    bootstrap: AtLeastOne | None = None
    limits: LimitsSection = LimitsSection()
    node: NodeOptions = NodeOptions()


class NetworkSection(Section):
    latency: Time = 0
    jitter: Time = 0


class RepeatSection(Section):
    every: PositiveTime
    times: AtLeastOne


class EntrySection(Section):
    """What every timeline entry has beside its fault."""

    at: Time
    for_: PositiveTime | None = Field(default=None, alias="for")
    repeat: RepeatSection | None = None
    name: Text | None = None


class TopSection(Section):
    """The file's top level, without what is checked by itself: the timeline and the expectations."""

    name: Text
    description: str = ""
    seed: Annotated[Whole, Field(ge=0, le=LARGEST_SEED)] = 0
    cluster: ClusterSection = ClusterSection()
    network: NetworkSection = NetworkSection()
    load: LoadSection = LoadSection()
    duration: PositiveTime
    settle: Time = 5_000_000
    timeline: list[Any] = Field(default_factory=list)
    expect: list[Any] = Field(default_factory=list)


@dataclass(frozen=True)
class TimelineEntry:
    """One entry, right in itself. Times in µs."""

    index: int
    name: str
    at_us: int
    for_us: int | None
    every_us: int
    times: int
    fault: Fault
    options: Any
    place: str = ""  # of the entry in its file, for what shows only when it is planned

    def occurrences(self) -> Iterator[faults.Entry]:
        """Each time that it happens."""
        for number in range(self.times):
            at = self.at_us + number * self.every_us
            yield faults.Entry(self.index, self.name, at, None if self.for_us is None else at + self.for_us)


@dataclass(frozen=True)
class Experiment:
    """An experiment without mistakes. ``text`` is its file, overrides applied."""

    top: TopSection
    timeline: list[TimelineEntry]
    expect: list[str]
    text: str
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.top.name

    @property
    def sites(self) -> int:
        return self.top.cluster.sites or default_sites(self.top.cluster.nodes)

    @property
    def bootstrap(self) -> int:
        return self.top.cluster.bootstrap or min(2, self.top.cluster.nodes)

    def resolved(self) -> dict[str, Any]:
        """Everything with its defaults, as plain JSON values: times in µs, shares in millionths, rates per 1,000 s."""
        top = self.top
        cluster = top.cluster.model_dump() | {"sites": self.sites, "bootstrap": self.bootstrap}
        return {
            "name": top.name,
            "description": top.description,
            "cluster": cluster,
            "network": {"latency_us": top.network.latency, "jitter_us": top.network.jitter},
            "load": resolved_load(top.load, acks=default_acks(top.cluster), sites=self.sites, duration=top.duration),
            "duration_us": top.duration,
            "settle_us": top.settle,
            "timeline": self.raw.get("timeline") or [],
            "names": [entry.name for entry in self.timeline],
            "expect": self.expect,
            "source": self.raw,  # as it was written, overrides applied: a plan that is played again says what it came from
        }


def default_sites(nodes: int) -> int:
    """Sites that a cluster has unless told otherwise."""
    return nodes if nodes <= OWN_SITES else SHARED_SITES


def default_acks(cluster: ClusterSection) -> int:
    """Half of the holders that a record has, rounded up."""
    return -(-min(cluster.node.k, cluster.nodes) // 2)


# --- loading --------------------------------------------------------------------------------------------------------


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment in a file, with overrides (`load.rate=50/s`) applied.

    Raises:
        ExperimentError: every mistake of the file, each with its place, in the file's order.
    """
    source = document.read(path)
    for assignment in overrides:
        source.override(assignment)
    return check(source)


def check(source: Document) -> Experiment:
    """The experiment in a document. Raises ExperimentError with every mistake."""
    mistakes: list[Mistake] = list(source.mistakes)
    if not isinstance(source.data, dict):
        what = "the file is empty" if source.data is None else "a mapping with name, cluster, load, … is expected"
        raise ExperimentError([f"{source.mark(())}: {what}"])
    top, wrong = _check_top(source, mistakes)
    timeline = _check_timeline(source, top, wrong, mistakes)
    expect = _check_expectations(source, timeline, mistakes)
    if top is not None:
        mistakes += _check_between(source, top, wrong)
    if mistakes:
        raise ExperimentError(_told(mistakes))
    assert top is not None
    text = yaml.safe_dump(source.data, sort_keys=False, allow_unicode=True, width=120)
    return Experiment(top, [entry for entry in timeline.values() if entry], expect, text, source.data)


def _told(mistakes: list[Mistake]) -> list[str]:
    ordered = sorted(mistakes, key=lambda mistake: (mistake[0].line, mistake[0].column))
    return list(dict.fromkeys(f"{mark}: {text}" for mark, text in ordered))


def _check_top(source: Document, mistakes: list[Mistake]) -> tuple[TopSection | None, set[Path_]]:
    """The top level, with what is wrong replaced by defaults, and the paths of what was wrong."""
    data = {key: value for key, value in source.data.items() if value is not None}
    wrong: set[Path_] = set()
    for _ in range(2):  # the second time without what is wrong, so that the rest can be checked against each other
        try:
            return TopSection.model_validate(data, context={"folder": Path(source.source).parent}), wrong
        except ValidationError as error:
            for detail in error.errors():
                path = _path(detail)
                if path not in wrong:
                    wrong.add(path)
                    mistakes.append(_mistake(source, path, detail, TopSection))
                data = _without(data, path)
            data = {"name": "?", "duration": "1000000h", **data}
    return None, wrong


def _without(data: dict[str, Any], path: Path_) -> dict[str, Any]:
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    inner = data.get(str(path[0]))
    if not isinstance(inner, dict):
        return data
    return {**data, str(path[0]): _without(inner, path[1:])}


def _path(detail: ErrorDetails) -> Path_:
    return tuple("for" if step == "for_" else step for step in detail["loc"])


def _mistake(source: Document, path: Path_, detail: ErrorDetails, model: type[BaseModel], at: Path_ = ()) -> Mistake:
    """One of pydantic's findings in the product's words."""
    kind, key = detail["type"], path[-1] if path else ""
    whole = (*at, *path)
    if kind == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        text = f"no key `{key}`{did_you_mean(str(key), known) or '; there are: ' + ', '.join(known)}"
        return source.mark(whole, key=True), text
    if kind == "missing":
        return source.mark(whole[:-1]), f"`{key}` is missing"
    return source.mark(whole), f"`{key}`: {_words(detail)}"


def _words(detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than_equal":
        return f"at least {context['ge']} is expected, not {value}"
    bounds = {"less_than_equal": ("at most", "le"), "greater_than": ("a number above", "gt")}
    if kind in bounds:
        words, bound = bounds[kind]
        return f"{words} {context[bound]} is expected, not {value}"
    if kind in ("float_type", "float_parsing"):
        return f"a number is expected, not {value!r}"
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"no {value!r}{did_you_mean(str(value), choices) or ': one of ' + ', '.join(choices) + ' is expected'}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a mapping is expected, not {value!r}"
    if kind == "list_type":
        return f"a list is expected, not {value!r}"
    if kind == "string_type":
        return f"a text is expected, not {value!r}"
    if kind in ("bool_type", "bool_parsing"):
        return f"true or false is expected, not {value!r}"
    return str(detail["msg"]).replace("Input should be", "it must be")  # an extension's own constraint


def _known_keys(model: type[BaseModel], path: Path_) -> list[str]:
    for step in path:
        annotation = model.model_fields[str(step)].annotation
        candidates = (annotation, *get_args(annotation))  # a section may be optional
        model = next(each for each in candidates if isinstance(each, type) and issubclass(each, Section))
    return [info.alias or name for name, info in model.model_fields.items()]


# --- rules between values -------------------------------------------------------------------------------------------


def _check_between(source: Document, top: TopSection, wrong: set[Path_]) -> Iterator[Mistake]:
    """Rules that concern two values, both of which are right by themselves."""
    cluster, load, network = top.cluster, top.load, top.network
    written = source.data.get("load") if isinstance(source.data.get("load"), dict) else {}
    assert isinstance(written, dict)
    raw_load = {key for key, value in written.items() if value is not None}

    def at(*path: str) -> document.Mark:
        return source.mark(path, key=True)

    sized = ("cluster", "nodes") not in wrong
    if sized and cluster.bootstrap is not None and cluster.bootstrap > cluster.nodes:
        yield at("cluster", "bootstrap"), f"`bootstrap`: {cluster.bootstrap} nodes of {cluster.nodes}"
    joiners = _recruits(source.data.get("timeline"))  # who may have sites of their own
    if sized and not joiners and cluster.sites is not None and cluster.sites > cluster.nodes:
        yield at("cluster", "sites"), f"`sites`: {cluster.sites} sites for {cluster.nodes} nodes; at most one a node"
    if cluster.backend == "process" and load.containers:
        yield at("load", "containers"), "`containers`: load workers in containers need `backend: docker`"
    if cluster.backend == "process" and cluster.limits != LimitsSection() and ("cluster", "limits") not in wrong:
        yield at("cluster", "limits"), "`limits`: only containers are held to limits (`backend: docker`)"
    if network.jitter > network.latency and ("network", "latency") not in wrong:
        yield (
            at("network", "jitter"),
            f"`jitter`: at most the latency, {time_text(network.latency)}, is expected; "
            f"not {time_text(network.jitter)}",
        )
    duration = None if ("duration",) in wrong or "duration" not in source.data else top.duration
    sites = (cluster.sites or default_sites(cluster.nodes)) if sized and ("cluster", "sites") not in wrong else None
    for key, text in load_options.mistakes(load, raw_load, duration=duration, sites=sites):
        yield at("load", key), text
    holders = min(cluster.node.k, cluster.nodes)
    if sized and ("cluster", "node", "k") not in wrong and load.write_acks is not None and load.write_acks > holders:
        yield (
            at("load", "write_acks"),
            f"`write_acks`: a record has at most {holders} holders here, not {load.write_acks}",
        )


def _recruits(timeline: Any) -> bool:
    """Whether an entry brings in new members."""
    entries = timeline if isinstance(timeline, list) else []
    return any(isinstance(entry, dict) and not RECRUITING.isdisjoint(entry) for entry in entries)


# --- timeline -------------------------------------------------------------------------------------------------------


def _check_timeline(
    source: Document, top: TopSection | None, wrong: set[Path_], mistakes: list[Mistake]
) -> dict[str, TimelineEntry | None]:
    """Entries by their names; None for those with mistakes, whose names are still known."""
    raw = source.data.get("timeline")
    named: dict[str, TimelineEntry | None] = {}
    for index, item in enumerate(raw if isinstance(raw, list) else []):
        before = len(mistakes)
        checker = _EntryChecker(source, ("timeline", index), item, mistakes)
        entry = checker.check(index, named, top, wrong)
        name = checker.name_among(named)
        if name in named and isinstance(item, dict) and item.get("name"):
            mistakes.append((source.mark(("timeline", index, "name")), f"`name`: {name!r} is taken by an entry above"))
        named[name] = entry if len(mistakes) == before else None
    return named


@dataclass
class _EntryChecker:
    """Checks one timeline entry."""

    source: Document
    path: Path_
    item: Any
    mistakes: list[Mistake]

    def add(self, text: str, *steps: str, key: bool = False) -> None:
        self.mistakes.append((self.source.mark((*self.path, *steps), key=key), text))

    def fault_keys(self) -> list[str]:
        """All keys but those of every entry, and those that are meant to be one of them, beside a fault."""
        if not isinstance(self.item, dict):
            return []
        strangers = [key for key in self.item if key not in ENTRY_KEYS]
        known = [key for key in strangers if key in faults.names()]
        return [key for key in strangers if key in known or not known or not did_you_mean(key, ENTRY_KEYS)]

    def _check_keys(self) -> None:
        keys = self.fault_keys()
        for key in self.item:
            if key not in (*ENTRY_KEYS, *keys):
                self.add(f"no key `{key}`{did_you_mean(key, ENTRY_KEYS)}", key, key=True)
        if len(keys) != 1:
            what = ", ".join(f"`{key}`" for key in keys)
            self.add(f"exactly one fault is expected, not {f'two or more: {what}' if keys else 'none'}")

    def name_among(self, taken: dict[str, Any]) -> str:
        """The entry's own name, or its fault's, with a number behind it from the second one on."""
        given = self.item.get("name") if isinstance(self.item, dict) else None
        if isinstance(given, str) and given:
            return given
        base = (self.fault_keys() or ["entry"])[0]
        number = 2
        name = base
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        return name

    def check(
        self, index: int, taken: dict[str, Any], top: TopSection | None, wrong: set[Path_]
    ) -> TimelineEntry | None:
        if not isinstance(self.item, dict):
            self.add(f"an entry with `at` and a fault is expected, not {self.item!r}")
            return None
        common = self._common()
        keys = self.fault_keys()
        checked = [self._fault(key) for key in keys if key in faults.names() or len(keys) == 1]
        self._check_keys()
        if top is not None and ("cluster", "nodes") not in wrong:
            for key in keys:
                self._check_selectors(key, top)
        if common is None or len(checked) != 1 or checked[0] is None:
            if common is not None and top is not None:
                self._check_times(common, None, None, top, wrong)
            return None
        fault, options = checked[0]
        for_us = self._for(common, fault)
        if top is not None:
            self._check_times(common, fault, options, top, wrong)
        repeat = common.repeat
        return TimelineEntry(
            index,
            self.name_among(taken),
            common.at,
            for_us,
            repeat.every if repeat else 0,
            repeat.times if repeat else 1,
            fault,
            options,
            str(self.source.mark((*self.path, self.fault_keys()[0]))),
        )

    def _common(self) -> EntrySection | None:
        given = {key: value for key, value in self.item.items() if key in ENTRY_KEYS}
        try:
            return EntrySection.model_validate(given)
        except ValidationError as error:
            for detail in error.errors():
                self.mistakes.append(_mistake(self.source, _path(detail), detail, EntrySection, self.path))
                given.pop(str(_path(detail)[0]), None)
            return EntrySection.model_validate(given) if "at" in given else None  # the rest can still be checked

    def _fault(self, key: str) -> tuple[Fault, Any] | None:
        try:
            fault = faults.get(key)
        except UsageError as error:
            self.add(str(error), key, key=True)
            return None
        value = self.item[key]
        if fault.shorthand and isinstance(value, str):
            value = {fault.shorthand: value}
        try:
            return fault, fault.Options.model_validate({} if value is None else value)
        except ValidationError as error:
            for detail in error.errors():
                path = tuple(step for step in _path(detail))
                at = (*self.path, key)
                self.mistakes.append(
                    _mistake(self.source, path, detail, fault.Options, at)
                    if path
                    else (self.source.mark(at), f"`{key}`: {_words(detail)}")
                )
            return None

    def _for(self, common: EntrySection, fault: Fault) -> int | None:
        if fault.lasts == "required" and common.for_ is None:
            self.add(f"`{fault.key}` needs `for`: how long it lasts")
        if fault.lasts == "refused" and common.for_ is not None:
            self.add(f"`{fault.key}` takes no `for`", "for", key=True)
        return common.for_

    def _check_selectors(self, key: str, top: TopSection) -> None:
        """Those that are right in themselves, whatever else is wrong with the fault's options."""
        nodes = top.cluster.nodes
        sites = top.cluster.sites or default_sites(nodes)
        options = self.item[key]
        if key not in faults.names() or not isinstance(options, dict):
            return
        links = faults.get(key).level == "link"
        for name, info in faults.get(key).Options.model_fields.items():
            written = info.alias or name
            if written not in options or not _is_selector(info.annotation):
                continue
            several = _is_list(info.annotation) and isinstance(options[written], list)
            for value in options[written] if several else [options[written]]:
                with suppress(ValueError):  # told already
                    selector = selectors.parse(value)
                    for text in selectors.mistakes(selector, nodes=nodes, sites=sites, links=links):
                        self.add(f"`{written}`: {text}", key, written)

    def _check_times(
        self, common: EntrySection, fault: Fault | None, options: Any, top: TopSection, wrong: set[Path_]
    ) -> None:
        if ("duration",) in wrong or "duration" not in self.source.data:
            return
        repeat = common.repeat
        last = common.at + (repeat.every * (repeat.times - 1) if repeat else 0)
        length = common.for_ or getattr(options, "restart_after", None) or 0
        end = time_text(top.duration)
        if common.at >= top.duration:
            self.add(f"`at`: it starts at {time_text(common.at)}, after the end of the experiment at {end}", "at")
        elif last + length > top.duration:
            step = "repeat" if repeat else "for" if common.for_ else "at"
            self.add(f"`{step}`: it ends at {time_text(last + length)}, after the end of the experiment at {end}", step)
        if repeat and not common.for_ and fault is not None and fault.lasts != "refused":
            self.add("`repeat` needs `for` beside it: how long each time lasts", "repeat", key=True)
        if repeat and common.for_ and common.for_ > repeat.every:
            self.add("`repeat`: `every` is shorter than `for`, so the times would overlap", "repeat")


def _is_selector(annotation: Any) -> bool:
    """Whether an option's type is a selector, optional or not."""
    return annotation is selectors.Selector or any(_is_selector(part) for part in get_args(annotation))


def _is_list(annotation: Any) -> bool:
    """Whether an option is a list of selectors, optional or not."""
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


# --- expectations ---------------------------------------------------------------------------------------------------


def _check_expectations(
    source: Document, timeline: dict[str, TimelineEntry | None], mistakes: list[Mistake]
) -> list[str]:
    raw = source.data.get("expect")
    texts = []
    for index, text in enumerate(raw if isinstance(raw, list) else []):
        mark = source.mark(("expect", index))
        if not isinstance(text, str):
            mistakes.append((mark, f"an expectation such as `lost == 0` is expected, not {text!r}"))
            continue
        try:
            wrong = expectations.check_names(expectations.parse(text), list(timeline))
        except expectations.ExpectationSyntaxError as error:
            wrong = str(error)
        if wrong:
            mistakes.append((mark, wrong))
        texts.append(text)
    return texts
