"""What one load worker is told before it starts: a JSON file, checked before anything runs. Pure but for the read.

Rates, users, keys and the cap on operations in flight are those of the whole run; a worker takes the share that its
``index`` among ``workers`` gives it. So a run with two workers offers the same load as a run with one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from loadtests.client import LoadClient
from loadtests.errors import ConfigError

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]

SMALLEST_VALUE = 8  # bytes: an answer that is wrong must not be right by chance
DEFAULT_IN_FLIGHT = 2000
DEFAULT_CLIENT = "loadtests.client:KademliaClient"

Bytes = Annotated[int, Meta(ge=SMALLEST_VALUE)]


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member that clients may ask."""

    name: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where some clients are: they dial a gateway at its port plus ``offset``, and those in ``direct`` at its own port.

    ``host`` is where they dial, but for those in ``direct``; empty: at the gateway's own.
    """

    name: str
    offset: int
    direct: list[str] = []
    host: str = ""


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of values in bytes: every one from the first to the last alike, or by their shares."""

    uniform: tuple[Bytes, Bytes] | None = None
    histogram: list[tuple[Bytes, Positive]] | None = None

    def __post_init__(self) -> None:
        if (self.uniform is None) == (not self.histogram):
            raise ValueError("exactly one of 'uniform' and 'histogram' must be given")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("'uniform' must not end below its beginning")


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client does about a failure: up to so many attempts in all, each through a gateway of its own."""

    attempts: AtLeastOne
    wait: Literal["exponential", "fixed"] = "exponential"
    first_s: Annotated[float, Meta(ge=0)] = 0.1  # s before the second attempt
    longest_s: Annotated[float, Meta(ge=0)] = 2.0  # s, where waits grow

    def waits(self) -> list[float]:
        """Seconds between the attempts."""
        doubled = [self.first_s * 2**number for number in range(self.attempts - 1)]
        return [self.first_s if self.wait == "fixed" else min(wait, self.longest_s) for wait in doubled]


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients do. Exactly one of ``rate_per_s``, ``trace_s`` (open model) and ``users`` (closed model) is set."""

    rate_per_s: Positive | None = None
    curve: list[tuple[float, Count | float]] | None = None  # (s, rate per s): what the rate follows instead
    trace_s: list[float] | None = None  # due times, ascending
    users: AtLeastOne | None = None
    think_s: Annotated[float, Meta(ge=0)] = 0.1  # s between an answer and the same user's next operation
    arrivals: Literal["poisson", "constant"] = "poisson"
    stores: Share = 0.2  # share of operations that are stores
    rewrites: Share = 0.0  # share of stores that write a key again
    missing: Share = 0.0  # share of lookups that are of keys that nobody stored
    keys: Count = 300
    popularity: Literal["uniform", "zipf", "latest"] = "uniform"
    skew: Positive = 0.99  # Zipf's exponent
    value_size: Bytes | Sizes = 256
    write_acks: AtLeastOne = 1  # holders from which on a store is ok
    gateways: Literal["random", "sticky"] = "random"
    timeout_s: Positive = 5.0  # of one attempt
    retry: Retry | None = None
    max_in_flight: AtLeastOne = DEFAULT_IN_FLIGHT

    def __post_init__(self) -> None:
        if [self.rate_per_s, self.users, self.trace_s].count(None) != 2:
            raise ValueError(
                "exactly one of 'rate_per_s' or 'trace_s' (open model) and 'users' (closed model) must be given"
            )
        if self.curve is not None and (self.rate_per_s is None or not self.curve):
            raise ValueError("'curve' is a list of points, and belongs to 'rate_per_s' (open model)")
        if not self.keys and not self.stores:
            raise ValueError("'keys: 0' with 'stores: 0' leaves nothing to look up; raise one of them")

    @property
    def patience_s(self) -> float:
        """How long an operation may take with all of its attempts."""
        if self.retry is None:
            return self.timeout_s
        return self.retry.attempts * self.timeout_s + sum(self.retry.waits())


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker. ``duration_s`` null: until told to stop. ``client`` is the target's ``module:Class``."""

    worker: str
    index: Count = 0
    workers: AtLeastOne = 1
    seed: int
    cluster: str
    client: str = DEFAULT_CLIENT
    gateways: Annotated[list[Gateway], Meta(min_length=1)]
    sites: list[Site] = []  # where clients are; none: beside their gateways
    load: LoadOptions
    duration_s: Positive | None
    operations: str  # path of the Arrow IPC stream to write; must not exist

    def __post_init__(self) -> None:
        if self.index >= self.workers:
            raise ValueError(f"'index' {self.index} must be below 'workers' {self.workers}")
        if len({gateway.name for gateway in self.gateways}) < len(self.gateways):
            raise ValueError("two gateways have the same name")

    def share(self, total: int) -> int:
        """This worker's part of ``total`` things dealt round to all workers."""
        return len(range(self.index, total, self.workers))


def read_config(path: Path) -> WorkerConfig:
    """The configuration in a JSON file.

    Raises:
        ConfigError: it cannot be read, or is not one; the text has the path of the wrong field.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def client_class(path: str) -> type[LoadClient]:
    """The class that ``module:Class`` names.

    Raises:
        ConfigError: there is no such module or class.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"client {path!r}: expected 'module:Class' that can be imported: {error}") from error
    if not isinstance(found, type):
        raise ConfigError(f"client {path!r} is no class")
    return found
