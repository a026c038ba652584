"""The load section of an experiment: its model, its rules, what it comes to with its defaults, and what workers are told.

Two models exclude each other: *open*, where operations are due by `rate` (or a recorded trace) whatever becomes of those
before, and *closed*, where each of so many `users` waits for its answer, thinks, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo

from harness import shapes
from harness.expectations import did_you_mean
from harness.options import AtLeastOne, PositiveTime, Rate, Section, Share, Time
from harness.quantities import LARGEST, parse_share, parse_size, time_text

DEFAULT_RATE = 50_000  # thousandths per second, if neither `rate` nor `users` is given
DEFAULT_SKEW = 990_000  # millionths: Zipf's exponent as YCSB has it
MOST_SKEW = 5.0
MOST_TRACED = 200_000  # arrivals: the plan holds them all
SMALLEST_VALUE = 8  # bytes: fewer are right by chance now and then, and none at all always
LARGEST_VALUE = 1 << 20  # bytes; nodes take no larger frames
MODELS = ("poisson", "constant")
POPULARITIES = ("uniform", "zipf", "latest")


@dataclass(frozen=True)
class Shape:
    """A rate's curve: options in plain units (s, per s)."""

    name: str
    options: Mapping[str, float]


@dataclass(frozen=True)
class Arrivals:
    """How operations come: by a process, or at recorded times (µs, ascending)."""

    model: Literal["poisson", "constant", "trace"]
    trace: tuple[int, ...] = ()


@dataclass(frozen=True)
class Popularity:
    """Which keys are asked for. ``skew_ppm``: Zipf's exponent in millionths."""

    kind: Literal["uniform", "zipf", "latest"] = "uniform"
    skew_ppm: int = DEFAULT_SKEW


@dataclass(frozen=True)
class ValueSize:
    """Bytes: fixed, or from one to another alike, or by shares (millionths)."""

    fixed: int | None = None
    uniform: tuple[int, int] | None = None
    histogram: tuple[tuple[int, int], ...] | None = None

    def resolved(self) -> Any:
        """As the plan has it."""
        if self.fixed is not None:
            return self.fixed
        if self.uniform is not None:
            return {"uniform": list(self.uniform)}
        return {"histogram": [list(part) for part in self.histogram or ()]}


@dataclass(frozen=True)
class Sites:
    """Where clients are: sites by name, so many of them, or all."""

    names: tuple[str, ...] = ()
    count: int | None = None
    everywhere: bool = False

    def resolved(self, total: int) -> list[str]:
        """Names of sites; so many are spread evenly over all."""
        if self.everywhere:
            return [f"site-{number}" for number in range(total)]
        if self.count is not None:
            return [f"site-{number * total // self.count}" for number in range(self.count)]
        return list(self.names)


# --- values as they are written -------------------------------------------------------------------------------------


def _shape(value: Any) -> Shape:
    return Shape(*shapes.parse(value))


def _arrivals(value: Any, info: ValidationInfo) -> Arrivals:
    if isinstance(value, dict) and set(value) == {"trace"}:
        return Arrivals("trace", _traced(value["trace"], Path((info.context or {}).get("folder", "."))))
    if value not in MODELS:
        choices = (*MODELS, "trace")
        meant = did_you_mean(str(value), choices) or ": poisson, constant or {trace: FILE} is expected"
        raise ValueError(f"no {value!r}{meant}")
    return Arrivals(value)


def _traced(name: Any, folder: Path) -> tuple[int, ...]:
    """The moments in a file, one a line, in seconds from the clock's start on; `#` begins a comment."""
    if not isinstance(name, str):
        raise ValueError(f"`trace`: the name of a file is expected, not {name!r}")
    path = folder / name
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`trace`: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            times.append(_moment(text, f"{path}:{number}", times[-1] if times else 0))
    if not 0 < len(times) <= MOST_TRACED:
        raise ValueError(f"`trace`: {path} has {len(times):,} moments; 1 to {MOST_TRACED:,} are expected")
    return tuple(times)


def _moment(text: str, place: str, before: int) -> int:
    try:
        at = round(float(text) * 1e6)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"`trace`: {place}: a moment in seconds is expected, such as 1.25; not {text!r}") from error
    if not before <= at <= LARGEST:
        raise ValueError(f"`trace`: {place}: moments must ascend from 0 on, and {text} does not")
    return at


def _popularity(value: Any) -> Popularity:
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("zipf", "latest"):
        [(kind, skew)] = value.items()
        if isinstance(skew, bool) or not isinstance(skew, int | float) or not 0 < skew <= MOST_SKEW:
            raise ValueError(f"`{kind}`: an exponent above 0 and up to {MOST_SKEW:g} is expected, not {skew!r}")
        return Popularity(kind, round(skew * 1e6))
    if value not in POPULARITIES:
        meant = did_you_mean(str(value), POPULARITIES) or ": uniform, zipf, latest or {zipf: 1.2} is expected"
        raise ValueError(f"no {value!r}{meant}")
    return Popularity(value)


def _value_size(value: Any) -> ValueSize:
    if not isinstance(value, dict):
        return ValueSize(fixed=_size(value))
    if set(value) == {"uniform"}:
        ends = value["uniform"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"`uniform`: two sizes are expected, such as [64B, 4KiB]; not {ends!r}")
        low, high = (_size(end) for end in ends)
        if low > high:
            raise ValueError(f"`uniform`: from the smaller to the larger size is expected, not {ends[0]} to {ends[1]}")
        return ValueSize(uniform=(low, high))
    if set(value) == {"histogram"}:
        return ValueSize(histogram=_histogram(value["histogram"]))
    raise ValueError("a size such as 256B, {uniform: [64B, 4KiB]} or {histogram: {64B: 90%, 4KiB: 10%}} is expected")


def _histogram(written: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(written, dict) or not written:
        raise ValueError("`histogram`: sizes with their shares are expected, such as {64B: 90%, 4KiB: 10%}")
    parts = tuple((_size(size), parse_share(share)) for size, share in written.items())
    if sum(share for _, share in parts) != 1_000_000 or not all(share for _, share in parts):
        raise ValueError(
            f"`histogram`: shares above 0% that make up 100% are expected, not {', '.join(written.values())}"
        )
    return parts


def _size(value: Any) -> int:
    size = parse_size(value)
    if size < SMALLEST_VALUE:
        raise ValueError(f"a value has at least {SMALLEST_VALUE} bytes, so that none is right by chance; not {value}")
    if size > LARGEST_VALUE:
        raise ValueError(f"a value has at most {LARGEST_VALUE >> 20} MiB, not {value}")
    return size


def _sites(value: Any) -> Sites:
    if value == "all":
        return Sites(everywhere=True)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Sites(count=value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`all`, a number of sites, or names such as [site-0, site-3] are expected, not {value!r}")
    return Sites(names=tuple(dict.fromkeys(names)))


# --- the section ----------------------------------------------------------------------------------------------------


class RetrySection(Section):
    """What clients do about failures: attempts of one operation, the next one through a gateway chosen anew."""

    attempts: Annotated[AtLeastOne, Field(le=100)]
    wait: Literal["exponential", "fixed"] = "exponential"
    first: Time = 100_000
    longest: Time = 2_000_000


class LoadSection(Section):
    """The file's `load`."""

    rate: Rate | None = None
    shape: Annotated[Shape, PlainValidator(_shape)] | None = None
    users: AtLeastOne | None = None
    think: Time | None = None
    arrivals: Annotated[Arrivals, PlainValidator(_arrivals)] | None = None
    stores: Share = 200_000
    rewrites: Share = 0
    missing: Share = 0
    keys: AtLeastOne = 100
    popularity: Annotated[Popularity, PlainValidator(_popularity)] = Popularity()
    value_size: Annotated[ValueSize, PlainValidator(_value_size)] = ValueSize(fixed=256)
    write_acks: AtLeastOne | None = None
    gateways: Literal["random", "sticky"] = "random"
    sites: Annotated[Sites, PlainValidator(_sites)] | None = None
    timeout: PositiveTime = 5_000_000
    retry: RetrySection | None = None
    processes: Annotated[AtLeastOne, Field(le=64)] = 1
    containers: bool = False
    max_in_flight: AtLeastOne = 2000


Told = tuple[str, str]  # a key of the section, and what is wrong with it


def mistakes(load: LoadSection, written: Set[str], *, duration: int | None, sites: int | None) -> Iterator[Told]:
    """Rules between values that are right by themselves. ``written`` are the keys that the file has; ``duration`` (µs) and
    ``sites`` are None where those are wrong."""
    yield from _model_mistakes(load, written)
    if load.shape is not None and duration is not None:
        late = [f"`{key}`" for key, value in load.shape.options.items() if key == "at" and value * 1e6 >= duration]
        if late:
            yield "shape", f"`shape`: {late[0]} is after the end of the experiment at {time_text(duration)}"
    if load.shape is not None and duration is not None and load.users is None:
        yield from _shape_mistakes(load.shape, load.rate or DEFAULT_RATE, duration)
    retry = load.retry
    if retry is not None and retry.wait == "fixed" and "longest" in retry.model_fields_set:
        yield "retry", "`retry`: `longest` belongs to `wait: exponential`; a fixed wait is always `first`"
    elif retry is not None and retry.longest < retry.first and retry.wait == "exponential":
        yield "retry", f"`retry`: `longest` is shorter than `first`, {time_text(retry.first)}"
    if load.sites is not None and sites is not None:
        yield from (("sites", f"`sites`: {text}") for text in _site_mistakes(load.sites, sites))


def _model_mistakes(load: LoadSection, written: Set[str]) -> Iterator[Told]:
    traced = load.arrivals is not None and load.arrivals.model == "trace"
    if {"rate", "users"} <= written:
        yield "users", "`users` (closed model) and `rate` (open model) exclude each other"
    elif {"users", "arrivals"} <= written:
        yield "arrivals", "`arrivals` belongs to `rate` (open model), not to `users` (closed model)"
    if "think" in written and "users" not in written:
        yield "think", "`think` belongs to `users` (closed model), not to `rate` (open model)"
    if {"shape", "users"} <= written:
        yield "shape", "`shape` belongs to `rate` (open model), not to `users` (closed model)"
    if traced and "rate" in written:
        yield "rate", "`rate` and `arrivals: {trace: …}` exclude each other: the trace says when operations come"
    if traced and "shape" in written:
        yield "shape", "`shape` and `arrivals: {trace: …}` exclude each other: the trace says when operations come"


def _shape_mistakes(shape: Shape, rate: int, duration: int) -> Iterator[Told]:
    try:
        _points(shape, rate, duration)
    except ValueError as error:
        yield "shape", f"`shape`: {error}"


def _site_mistakes(wanted: Sites, total: int) -> Iterator[str]:
    known = {f"site-{number}" for number in range(total)}
    if wanted.count is not None and wanted.count > total:
        yield f"{wanted.count} sites of {total}"
    for name in wanted.names:
        if name not in known:
            yield f"no site `{name}`; there are site-0 to site-{total - 1}"


def resolved_load(load: LoadSection, *, acks: int, sites: int, duration: int) -> dict[str, Any]:
    """The load with its defaults, in plain units. ``acks`` is the default of `write_acks`; ``duration`` in µs."""
    arrivals = load.arrivals or Arrivals("poisson")
    is_open = load.users is None and arrivals.model != "trace"
    rate = (load.rate or DEFAULT_RATE) if is_open else None
    return {
        "rate_per_1000s": rate,
        "points": _points(load.shape, rate, duration),
        "shape": None if load.shape is None else {load.shape.name: dict(load.shape.options)},
        "users": load.users,
        "think_us": load.think or 0,
        "arrivals": None if load.users is not None else arrivals.model,
        "trace_us": [at for at in arrivals.trace if at < duration] if arrivals.model == "trace" else None,
        "stores_ppm": load.stores,
        "rewrites_ppm": load.rewrites,
        "missing_ppm": load.missing,
        "keys": load.keys,
        "popularity": load.popularity.kind,
        "skew_ppm": load.popularity.skew_ppm,
        "value_size": load.value_size.resolved(),
        "write_acks": load.write_acks or acks,
        "gateways": load.gateways,
        "sites": [] if load.sites is None else load.sites.resolved(sites),
        "timeout_us": load.timeout,
        "retry": None if load.retry is None else _resolved_retry(load.retry),
        "processes": load.processes,
        **({"containers": True} if load.containers else {}),
        "max_in_flight": load.max_in_flight,
    }


def _resolved_retry(retry: RetrySection) -> dict[str, Any]:
    return {
        "attempts": retry.attempts,
        "wait": retry.wait,
        "first_us": retry.first,
        "longest_us": max(retry.first, retry.longest),
    }


def _points(shape: Shape | None, rate: int | None, duration: int) -> list[list[int]] | None:
    """The curve as [µs, thousandths per second]."""
    if shape is None or rate is None:
        return None
    points = shapes.get(shape.name).points(rate / 1000, duration / 1e6, shape.options)
    return [[round(at * 1e6), round(value * 1000)] for at, value in points]


# --- from the plan to the workers -----------------------------------------------------------------------------------


def worker_options(load: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved load of a plan as a worker's configuration has it: seconds and shares."""
    points, trace, retry, size = load.get("points"), load.get("trace_us"), load.get("retry"), load["value_size"]
    if isinstance(size, dict) and "histogram" in size:
        size = {"histogram": [[bytes_, share / 1e6] for bytes_, share in size["histogram"]]}
    arrivals = load["arrivals"]
    return {
        "rate_per_s": None if load["rate_per_1000s"] is None else load["rate_per_1000s"] / 1000,
        "curve": None if not points else [[at / 1e6, rate / 1000] for at, rate in points],
        "trace_s": None if trace is None else [at / 1e6 for at in trace],
        "users": load["users"],
        "think_s": load["think_us"] / 1e6,
        "arrivals": arrivals if arrivals in MODELS else "poisson",
        "stores": load["stores_ppm"] / 1e6,
        "rewrites": load.get("rewrites_ppm", 0) / 1e6,
        "missing": load.get("missing_ppm", 0) / 1e6,
        "keys": load["keys"],
        "popularity": load.get("popularity", "uniform"),
        "skew": load.get("skew_ppm", DEFAULT_SKEW) / 1e6,
        "value_size": size,
        "write_acks": load["write_acks"],
        "gateways": load["gateways"],
        "timeout_s": load["timeout_us"] / 1e6,
        "retry": None if retry is None else _worker_retry(retry),
        "max_in_flight": load.get("max_in_flight", 2000),
    }


def _worker_retry(retry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attempts": retry["attempts"],
        "wait": retry["wait"],
        "first_s": retry["first_us"] / 1e6,
        "longest_s": retry["longest_us"] / 1e6,
    }


def patience(load: Mapping[str, Any]) -> float:
    """Seconds that one operation may take with all of its attempts."""
    timeout, retry = load["timeout_us"] / 1e6, load.get("retry")
    if retry is None:
        return float(timeout)
    return float(retry["attempts"] * timeout + (retry["attempts"] - 1) * retry["longest_us"] / 1e6)


def expected_operations(load: Mapping[str, Any], seconds: float) -> float | None:
    """How many operations are due in the first ``seconds`` in the open model; None in the closed one. (`reports/` counts
    for itself.)"""
    if load.get("trace_us") is not None:
        return float(sum(at < seconds * 1e6 for at in load["trace_us"]))
    if load["rate_per_1000s"] is None:
        return None
    points = load.get("points") or [[0, load["rate_per_1000s"]]]
    return float(max(rate for _, rate in points)) / 1000 * seconds  # an upper bound: it is used for deadlines
