"""The expectation language, ``METRIC OP VALUE [SCOPE]``: parsed and checked. Pure; what is measured is for `reports/`.

    lookup.p99 <= 250ms outside faults
    recovery <= 10s after partition
    lost == 0

A value is kept in the unit of its metric: seconds, shares from 0 to 1, operations per second, or plain numbers.
Rules: units are written out (a share may also be written as 0.99); a mistake is told with what was meant; names of
timeline entries may hold spaces, so whatever follows `during` or `after` is the name.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

Dimension = Literal["share", "time", "rate", "count"]
ScopeKind = Literal["all", "during", "after", "before_faults", "outside_faults"]

KINDS: Final = ("lookup", "store")
OPERATION_METRICS: Final[dict[str, Dimension]] = {
    "success": "share",
    "p50": "time",
    "p90": "time",
    "p99": "time",
    "p99.9": "time",
    "max": "time",
    "mean": "time",
    "rate": "rate",
    "hops": "count",
    "rpcs": "count",
}
RUN_METRICS: Final[dict[str, Dimension]] = {
    "recovery": "time",
    "lost": "count",
    "stale": "count",
    "wrong": "count",
    "unreachable": "count",
}
METRICS: Final[dict[str, Dimension]] = {
    **{f"{kind}.{name}": dimension for kind in KINDS for name, dimension in OPERATION_METRICS.items()},
    **RUN_METRICS,
}
OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
UNITS: Final[dict[Dimension, dict[str, Decimal]]] = {  # in the unit that a value is kept in; "" is no unit
    "share": {"%": Decimal("0.01"), "": Decimal(1)},
    "time": {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)},
    "rate": {"/s": Decimal(1)},
    "count": {"": Decimal(1)},
}
EXPECTED: Final[dict[Dimension, str]] = {
    "share": "a share from 0% to 100%, such as 99%",
    "time": "a time with its unit, such as 250ms or 10s",
    "rate": "a rate with its unit, such as 100/s",
    "count": "a plain number, such as 0 or 12.5",
}
LONGEST_NUMBER: Final = 18  # digits: more than any value here can use; keeps a hostile one from costing time

_SPLIT = re.compile(r"\s*([^\s<>=!]+)\s*([<>=!]+)\s*(\S+)\s*(.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(.*)", re.ASCII | re.DOTALL)


class ExpectationSyntaxError(ValueError):
    """A text that is no expectation; the message says what is wrong with it and what was meant."""


@dataclass(frozen=True)
class Scope:
    """Which operations count. ``name`` is a timeline entry's, for `during` and `after`."""

    kind: ScopeKind = "all"
    name: str = ""

    def __str__(self) -> str:
        words = {"all": "", "before_faults": "before faults", "outside_faults": "outside faults"}
        return words.get(self.kind, f"{self.kind} {self.name}")


@dataclass(frozen=True)
class Expectation:
    """One expectation. ``metric`` is a key of METRICS, ``op`` of OPERATORS; ``value`` in s, share, 1/s or plain."""

    text: str
    metric: str
    op: str
    value: float
    scope: Scope

    @property
    def kind(self) -> str:
        """lookup or store; empty for a metric of the whole run."""
        return self.metric.partition(".")[0] if "." in self.metric else ""

    @property
    def measure(self) -> str:
        """The metric without its kind: success, p99, lost, …"""
        return self.metric.partition(".")[2] or self.metric

    @property
    def dimension(self) -> Dimension:
        """What kind of quantity it is about."""
        return METRICS[self.metric]

    def holds(self, measured: float) -> bool:
        """Whether a measured value, in the same unit as ``value``, meets it."""
        return OPERATORS[self.op](measured, self.value)


def parse(text: str) -> Expectation:
    """The expectation that a text holds. Names of entries are not checked here: see `check_names`.

    Raises:
        ExpectationSyntaxError: with all that is known of what was meant.
    """
    parts = _SPLIT.fullmatch(text)
    if parts is None:
        raise ExpectationSyntaxError(_malformed(text))
    metric, op, value, scope = parts.groups()
    if metric not in METRICS:
        raise ExpectationSyntaxError(_no_metric(metric))
    if op not in OPERATORS:
        meant = {"=": "==", "=<": "<=", "=>": ">=", "<>": "!="}.get(op)
        near = f", did you mean `{meant}`?" if meant else f": one of {' '.join(OPERATORS)} is expected"
        raise ExpectationSyntaxError(f"no operator `{op}`{near}")
    return Expectation(text.strip(), metric, op, _value(metric, value), _scope(metric, scope))


def check_names(expectation: Expectation, names: Collection[str]) -> str | None:
    """What is wrong with the entry that the scope names, as a message; None if it is one of ``names``."""
    name = expectation.scope.name
    if not name or name in names:
        return None
    there = f" (entries: {', '.join(names)})" if names else " (the timeline is empty)"
    return f"no timeline entry `{name}`{did_you_mean(name, names) or there}"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """``, did you mean `x`?`` for the nearest known word; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near else ""


def quantity(dimension: Dimension, text: str) -> float:
    """A value in the unit that its dimension is kept in: `250ms` is 0.25. Raises ExpectationSyntaxError."""
    units = UNITS[dimension]
    found = _NUMBER.fullmatch(text)
    if found is None or len(found[1]) > LONGEST_NUMBER or found[2] not in units:
        expected = f"{EXPECTED[dimension]}, is expected, not `{text}`{_unit_meant(text, units)}"
        raise ExpectationSyntaxError(expected)
    value = Decimal(found[1]) * units[found[2]]
    if dimension == "share" and value > 1:
        percent = f", did you mean `{text}%`?" if not found[2] and value <= 100 else ""
        raise ExpectationSyntaxError(f"`{text}` is more than the whole: a share is at most 100%{percent}")
    return float(value)


# --- parts ------------------------------------------------------------------------------------------------------------


def _malformed(text: str) -> str:
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    wrong_metric = f"{_no_metric(word)}; " if word and re.fullmatch(r"[\w.]+", word) and word not in METRICS else ""
    return f"{wrong_metric}`{text.strip()}` is no expectation: METRIC OP VALUE [SCOPE], as in `lookup.success >= 99%`"


def _no_metric(word: str) -> str:
    if word in OPERATION_METRICS:
        return f"no metric `{word}`, did you mean `lookup.{word}` or `store.{word}`?"
    kind, _, measure = word.partition(".")
    if kind in KINDS:
        near = difflib.get_close_matches(measure, OPERATION_METRICS, n=1)
        meant = f", did you mean `{kind}.{near[0]}`?" if near else f" (of a {kind}: {', '.join(OPERATION_METRICS)})"
        return f"no metric `{word}`{meant}"
    known = ", ".join(["lookup.success", "lookup.p99", "store.success", "…", *RUN_METRICS])
    return f"no metric `{word}`{did_you_mean(word, METRICS) or f' (metrics: {known})'}"


def _value(metric: str, text: str) -> float:
    try:
        return quantity(METRICS[metric], text)
    except ExpectationSyntaxError as error:
        raise ExpectationSyntaxError(f"{metric}: {error}") from None


def _unit_meant(text: str, units: Collection[str]) -> str:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return ""
    meant = {"sec": "s", "secs": "s", "min": "m", "hr": "h", "µs": "us", "rps": "/s", "/sec": "/s", "ops/s": "/s"}
    unit = meant.get(found[2].lower(), found[2].lower())
    choices = [unit] if unit in units else [u for u in ("ms", "s", "/s") if u in units] if not found[2] else []
    return f", did you mean {' or '.join(f'`{found[1]}{choice}`' for choice in choices)}?" if choices else ""


def _scope(metric: str, text: str) -> Scope:
    word, _, name = text.partition(" ")
    name = name.strip()
    if not text:
        scope = Scope()
    elif word in ("before", "outside") and name == "faults":
        scope = Scope("before_faults" if word == "before" else "outside_faults")
    elif word in ("during", "after") and name:
        scope = Scope("during" if word == "during" else "after", name)
    else:
        raise ExpectationSyntaxError(_no_scope(text, word))
    _check_scope(metric, scope)
    return scope


def _no_scope(text: str, word: str) -> str:
    if word in ("during", "after"):
        return f"`{word}` what? Name an entry of the timeline, as in `{word} partition`"
    known = ("during", "after", "before faults", "outside faults")
    near = did_you_mean(text, known) or did_you_mean(word, known)
    return f"no scope `{text}`{near or ' (scopes: during NAME, after NAME, before faults, outside faults, or none)'}"


def _check_scope(metric: str, scope: Scope) -> None:
    if metric == "recovery" and scope.kind not in ("after", "all"):
        raise ExpectationSyntaxError("recovery: is measured after a fault, as in `recovery <= 10s after partition`")
    if metric in RUN_METRICS and metric != "recovery" and scope.kind != "all":
        raise ExpectationSyntaxError(
            f"{metric}: is counted at the end of the run, so it takes no scope: leave `{scope}` out"
        )
