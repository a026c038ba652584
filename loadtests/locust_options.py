"""Kadstorm's options beside Locust's own, and the worker's configuration that they come to.

Options come from the command line, from the environment, from the page's form (those of SHOWN) and, in workers, from the
master, which sends whatever is in its options when a test starts: also ``points`` and ``form``, which no command line has.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadtests.config import DEFAULT_CLIENT, DEFAULT_IN_FLIGHT, WorkerConfig
from loadtests.curves import OWN
from loadtests.errors import ConfigError

# option, type, default, help; those of SHOWN are in the page's form, too
OPTIONS: tuple[tuple[str, type, Any, str], ...] = (
    ("--cluster-id", str, "kademlia", "the cluster's name; nodes refuse other clusters' clients"),
    ("--rate", float, None, "operations a second, of all workers (open model); without it, -u users (closed model)"),
    ("--arrivals", str, "poisson", "open model: poisson or constant"),
    ("--shape", str, "", "how rate or users change, such as ramp:to=500,over=60 (`kadstorm list shapes`); needs -t"),
    ("--think", float, 0.1, "closed model: seconds between an answer and the user's next operation"),
    ("--stores", float, 0.2, "share of operations that are stores, 0 to 1"),
    ("--rewrites", float, 0.0, "share of stores that write a key again, 0 to 1"),
    ("--missing", float, 0.0, "share of lookups of keys that nobody stored, 0 to 1"),
    ("--keys", int, 300, "keys stored before the load starts"),
    ("--popularity", str, "uniform", "which keys are asked for: uniform, zipf or latest"),
    ("--value-size", int, 256, "bytes"),
    ("--write-acks", int, 1, "holders from which on a store is ok"),
    ("--gateway-choice", str, "random", "random or sticky"),
    ("--operation-timeout", float, 5.0, "seconds"),
    ("--attempts", int, 1, "attempts of an operation that fails, with growing waits in between"),
    ("--max-in-flight", int, DEFAULT_IN_FLIGHT, "operations in flight beyond which arrivals are shed"),
    ("--seed", int, 1, "of keys, values and arrivals"),
    ("--client", str, DEFAULT_CLIENT, "the target's client, module:Class"),
    ("--load-workers", int, None, "worker processes in all; --processes sets it by itself"),
    ("--load-config", str, "", "a JSON file with the load's options and sites, as `kadstorm load` writes it"),
    ("--clock", float, None, "what rows' times count from (CLOCK_MONOTONIC, s); default: each test's start"),
    ("--panel", str, "", "the socket of the session whose panel the page shows"),
)
SHOWN = ("--rate", "--think", "--stores", "--value-size", "--operation-timeout")
LOAD = (
    "--rate", "--arrivals", "--shape", "--think", "--stores", "--rewrites", "--missing", "--keys", "--popularity",
    "--value-size", "--write-acks", "--gateway-choice", "--operation-timeout", "--attempts", "--max-in-flight",
)  # fmt: skip


def add_options(parser: Any) -> None:
    """Add Kadstorm's options to Locust's; each can come from the environment too."""
    group = parser.add_argument_group("Kadstorm", "-H takes the gateways: HOST:PORT or NAME=HOST:PORT, with commas")
    for option, kind, default, text in OPTIONS:
        variable = "KADSTORM_LOAD" + option.upper().replace("-", "_").removeprefix("_")
        action = group.add_argument(
            option, type=kind, default=default, env_var=variable, help=f"{text} (default: {default})"
        )
        action.include_in_web_ui = option in SHOWN
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    group.add_argument(
        "--read-back", action="store_true", help="in the end look up every key that was acknowledged, in whichever test"
    )
    group.add_argument(
        "--operations",
        default=f"locust-{stamp}/operations",
        metavar="DIR",
        help="where rows go (default: %(default)s)",
    )


def given_options(parser: Any, options: Any) -> set[str]:
    """Those of Kadstorm's options that somebody wrote, also with their defaults as values."""
    defaults = parser.get_source_to_settings_dict().get("defaults", {})
    return {option for option, *_ in OPTIONS if option not in defaults and getattr(options, dest(option)) is not None}


def check_pairs(options: Any, given: set[str]) -> None:
    """Refuse options of which one would silently have no effect beside another. Raises ConfigError."""
    users = options.num_users is not None
    pairs = [
        (users and "--rate" in given, "-u", "--rate", "is of the closed model", "of the open one"),
        (users and "--arrivals" in given, "-u", "--arrivals", "is of the closed model", "of the open one"),
        ("--think" in given and "--rate" in given, "--think", "--rate", "is of the closed model", "of the open one"),
    ]
    for wrong, one, other, what, else_ in pairs:
        if wrong:
            raise ConfigError(f"{one} and {other} exclude each other: {one} {what}, {other} {else_}")
    if "--arrivals" in given and not {"--rate", "--load-config"} & given:
        raise ConfigError("--arrivals says when operations of the open model come: it needs --rate")
    if "--load-config" in given and (beside := [option for option in LOAD if option in given]):
        raise ConfigError(
            f"{beside[0]} and --load-config exclude each other: the file {options.load_config} has all options of the load"
        )
    if users and options.load_config and is_open(options):
        raise ConfigError(f"-u and --load-config exclude each other: {options.load_config} has the open model")


def is_open(options: Any) -> bool:
    """Whether operations come by a rate, or a trace, and not from users that wait. Raises ConfigError."""
    base = file_config(options).get("load", {})
    return _model(options)["rate_per_s"] is not None or base.get("trace_s") is not None


def configuration(options: Any, host: str | None, worker: str, *, index: int, workers: int) -> WorkerConfig:
    """The configuration of the worker with that name and number, from Locust's options.

    Raises:
        ConfigError: an option is missing or wrong.
    """
    given = file_config(options)
    raw = {
        "worker": worker,
        "index": index,
        "workers": workers,
        "seed": options.seed,
        "cluster": options.cluster_id,
        "client": options.client,
        "gateways": [_gateway(address) for address in (host or "").split(",") if address],
        "sites": given.get("sites", []),
        "load": {**given["load"], **_changed_load(options, given["load"])} if given else _load(options),
        "duration_s": None,
        "operations": str(Path(options.operations) / f"{worker}.arrow"),
    }
    try:
        return msgspec.convert(raw, WorkerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error} (gateways come from -H, the rest from the options under 'Kadstorm')") from error


def filled(options: Any, form: Mapping[str, str]) -> Namespace:
    """The options as they would be with what stands in the page's form."""
    shown = {dest(option): form[dest(option)] for option in SHOWN if dest(option) in form}
    users = {"num_users": form["user_count"]} if "user_count" in form else {}
    return Namespace(**{**vars(options), **shown, **users})


def shown_options(options: Any) -> dict[str, Any]:
    """What the page's form begins with."""
    return {dest(option): getattr(options, dest(option)) for option in SHOWN}


def dest(option: str) -> str:
    """The option's name in the parsed options."""
    return option.removeprefix("--").replace("-", "_")


def file_config(options: Any) -> dict[str, Any]:
    """What --load-config holds; empty without it. Raises ConfigError."""
    if not options.load_config:
        return {}
    try:
        return msgspec.json.decode(Path(options.load_config).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--load-config {options.load_config}: cannot be read: {error}") from error


def parsed_shape(options: Any) -> tuple[str, dict[str, float]]:
    """The name and the options of --shape. Raises ConfigError."""
    name, _, text = options.shape.partition(":")
    curve = OWN.get(name)
    if curve is None:
        raise ConfigError(f"--shape: no shape {name!r}: there are {', '.join(OWN)}")
    try:
        given = {key: float(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}
    except ValueError as error:
        raise ConfigError(f"--shape {options.shape}: numbers are expected: {error}") from error
    if set(given) != set(curve.options) or not options.run_time:
        raise ConfigError(
            f"--shape {name} takes {', '.join(f'{key}=…' for key in curve.options)}, all of them, and needs -t"
        )
    return name, given


def curve_points(options: Any) -> list[list[float]] | None:
    """The rate's curve by --shape, as workers follow it; only who has -t can tell. Raises ConfigError."""
    if not options.shape or options.rate in (None, ""):
        return None
    name, given = parsed_shape(options)
    try:
        rate = float(options.rate)
    except ValueError as error:
        raise ConfigError(f"--rate {options.rate}: a number is expected: {error}") from error
    with of_the_shape(options):
        return [list(point) for point in OWN[name].points(rate, float(options.run_time), given)]


@contextmanager
def of_the_shape(options: Any) -> Iterator[None]:
    """What a shape says against its options, as a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"--shape {options.shape}: {error}") from error


def _model(options: Any) -> dict[str, Any]:
    """What says when operations come: a rate, or users. The page sends an empty text for a rate that was deleted."""
    rate = None if options.rate in (None, "") else options.rate
    return {"rate_per_s": rate, "users": None if rate is not None else options.num_users or 1}


def _load(options: Any) -> dict[str, Any]:
    return {
        **_model(options),
        "curve": getattr(options, "points", None),
        "think_s": options.think,
        "arrivals": options.arrivals,
        "stores": options.stores,
        "rewrites": options.rewrites,
        "missing": options.missing,
        "keys": options.keys,
        "popularity": options.popularity,
        "value_size": options.value_size,
        "write_acks": options.write_acks,
        "gateways": options.gateway_choice,
        "timeout_s": options.operation_timeout,
        "retry": {"attempts": options.attempts} if options.attempts != 1 else None,
        "max_in_flight": options.max_in_flight,
    }


def _changed_load(options: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's form, or a tag, changes of a load that comes from a file: what is not as the form began."""
    begun: Mapping[str, Any] = getattr(options, "form", {})
    names = {"think": "think_s", "operation_timeout": "timeout_s"}
    now = {name: value for name, value in shown_options(options).items() if name != "rate"}
    changed = {names.get(name, name): value for name, value in now.items() if value != begun.get(name, value)}
    if given.get("trace_s") is None and (options.rate != begun.get("rate") or given.get("rate_per_s") is None):
        changed |= {**_model(options), "curve": None}  # the curve belonged to the rate of the file
    return changed


def _gateway(address: str) -> dict[str, Any]:
    name, named, place = address.strip().removeprefix("http://").rpartition("=")
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"-H: {address!r} is no gateway: expected HOST:PORT")
    return {"name": name if named else f"{host}:{port}", "host": host, "port": int(port)}
