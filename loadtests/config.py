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

DEFAULT_IN_FLIGHT = 2000
DEFAULT_CLIENT = "loadtests.client:KademliaClient"


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member that clients may ask."""

    name: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients do. Exactly one of ``rate_per_s`` (open model) and ``users`` (closed model) is set."""

    rate_per_s: Positive | None = None
    users: AtLeastOne | None = None
    think_s: Annotated[float, Meta(ge=0)] = 0.1  # s between an answer and the same user's next operation
    arrivals: Literal["poisson", "constant"] = "poisson"
    stores: Share = 0.2  # share of operations that are stores
    keys: Count = 300
    value_size: Count = 256  # bytes
    write_acks: AtLeastOne = 1  # holders from which on a store is ok
    gateways: Literal["random", "sticky"] = "random"
    timeout_s: Positive = 5.0
    max_in_flight: AtLeastOne = DEFAULT_IN_FLIGHT

    def __post_init__(self) -> None:
        if (self.rate_per_s is None) == (self.users is None):
            raise ValueError("exactly one of 'rate_per_s' (open model) and 'users' (closed model) must be given")
        if not self.keys and not self.stores:
            raise ValueError("'keys: 0' with 'stores: 0' leaves nothing to look up; raise one of them")


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker. ``duration_s`` null: until told to stop. ``client`` is the target's ``module:Class``."""

    worker: str
    index: Count = 0
    workers: AtLeastOne = 1
    seed: int
    cluster: str
    client: str = DEFAULT_CLIENT
    gateways: Annotated[list[Gateway], Meta(min_length=1)]
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
