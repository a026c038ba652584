"""What `kadstorm load` runs: an experiment put together from the command line, without faults.

Its options are the load section's, so a mistake in one is told as it is in a file, with the option in its place. With a
limit to be found, the plan's rate goes up step by step; `reports/limit.py` says where the objective ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness import document, expectations, experiment
from harness.document import Document, Mark
from harness.errors import UsageError
from harness.experiment import Experiment
from harness.plan import make_plan
from harness.quantities import parse_rate, parse_time
from harness.records import Plan

GROWTH = 1.5  # of the rate from one step to the next
FIRST_RATE = "50/s"
OPTIONS = {  # option -> where it stands in an experiment
    "nodes": "cluster.nodes",
    "backend": "cluster.backend",
    "rate": "load.rate",
    "users": "load.users",
    "think": "load.think",
    "for": "duration",
    "stores": "load.stores",
    "keys": "load.keys",
    "value-size": "load.value_size",
    "processes": "load.processes",
    "seed": "seed",
}
BY_HAND = "on the page people start and stop the load themselves"
EXCLUDED = (  # two options that exclude each other, and why
    ("--for", "--find-limit", "a search lasts as long as its steps take (--step, --up-to)"),
    ("--find-limit", "--ui", BY_HAND),
    ("--for", "--ui", BY_HAND),
    ("load.containers=true", "--ui", "the page's workers are processes beside it"),
)
DEFAULTS = {"name": "load", "cluster": {"nodes": 20}, "duration": "30s", "settle": "1s"}


def read(file: Path | None, options: Mapping[str, Any], settings: list[str], expect: list[str]) -> Experiment:
    """The experiment of a command line: a file's cluster, network and load, or defaults, and the options over them.

    Raises:
        ExperimentError: every mistake, each with its option or its place in the file.
    """
    source = document.parse("{}", "kadstorm load") if file is None else document.read(file)
    if isinstance(source.data, dict):
        kept = {key: value for key, value in source.data.items() if key not in ("timeline", "expect")}
        source.data = {**DEFAULTS, **kept} if file is None else kept
    for name, value in options.items():
        if value is not None:
            _override(source, OPTIONS[name], value, f"--{name} {value}")
    for setting in settings:
        source.override(setting)
    if isinstance(source.data, dict) and expect:
        source.data["expect"] = expect
        source.values[("expect",)] = Mark("--expect")
    return experiment.check(source)


def typed(context: click.Context) -> set[str]:
    """What stands in a command line, by its names there: `--for`, `FILE`."""
    source = context.get_parameter_source
    given = [each for each in context.command.params if source(str(each.name)) is ParameterSource.COMMANDLINE]
    return {each.opts[0] if isinstance(each, click.Option) else each.human_readable_name for each in given}


def refuse_impossible(made: Experiment, typed: Set[str]) -> None:
    """See that no two options exclude each other. ``typed``: those of the command line (`--ui`). Raises UsageError."""
    given = {*typed, *(["load.containers=true"] if made.top.load.containers else [])}
    for one, other, why in EXCLUDED:
        if {one, other} <= given:
            raise UsageError(f"{one} does not go with {other}: {why}")


def _override(source: Document, place: str, value: Any, label: str) -> None:
    source.override(f"{place}={value}")
    path = tuple(place.split("."))
    source.values[path] = source.keys[path] = Mark(label)


def stepped(made: Experiment, objective: str, *, step: str, up_to: str) -> Plan:
    """The plan of a search: the rate goes up by half each ``step``, from the load's own on, ``up_to`` a limit.

    Raises:
        UsageError: an option that makes no sense for a search.
    """
    if made.top.load.users is not None or made.top.load.shape is not None:
        raise UsageError(
            "--find-limit steps the rate of the open model up: it goes with --rate, not with users or a shape"
        )
    checked_objective(objective)
    length, most = _option("--step", step, parse_time), _option("--up-to", up_to, parse_rate)
    plan = make_plan(made)
    load = plan.experiment["load"]
    first = load["rate_per_1000s"]
    if first is None or most < first:
        raise UsageError(f"--up-to {up_to}: the search begins at {(first or 0) / 1000:g}/s; raise it, or lower --rate")
    count = 1 + math.floor(math.log(most / first) / math.log(GROWTH) + 1e-9)
    steps = [
        {"from_us": number * length, "to_us": (number + 1) * length, "rate_per_1000s": round(first * GROWTH**number)}
        for number in range(count)
    ]
    load["points"] = [[each[edge], each["rate_per_1000s"]] for each in steps for edge in ("from_us", "to_us")]
    plan.experiment["duration_us"] = count * length
    plan.experiment["limit"] = {"objective": objective, "steps": steps}
    return plan


def checked_objective(text: str) -> None:
    """Raise UsageError if a text is no objective: an expectation of operations without a scope."""
    try:
        parsed = expectations.parse(text)
    except expectations.ExpectationSyntaxError as error:
        raise UsageError(f"--find-limit: {error}") from error
    if not parsed.kind or parsed.scope.kind != "all":
        raise UsageError(
            f'--find-limit: {text!r}: an objective such as "lookup.p99 <= 100ms" is expected, without a scope'
        )


def _option(name: str, text: str, parse: Any) -> int:
    try:
        value: int = parse(text)
    except ValueError as error:
        raise UsageError(f"{name} {text}: {error}") from error
    if not value:
        raise UsageError(f"{name} {text}: more than zero is expected")
    return value
