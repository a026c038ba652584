"""The options of `python -m node` that an experiment may set under `cluster.node`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.options import AtLeastOne, PositiveTime, Section


class NodeOptions(Section):
    """Sizes as numbers, times in µs. What is None is left to the node."""

    k: AtLeastOne = 20
    alpha: AtLeastOne = 3
    beta: AtLeastOne = 3
    republish: PositiveTime | None = None
    refresh: PositiveTime | None = None
    expire: PositiveTime | None = None
    rpc_timeout: PositiveTime | None = None


def command_line_options(options: Mapping[str, Any]) -> Iterator[str]:
    """The resolved options as the node's command line takes them."""
    for name, value in options.items():
        if value is not None:
            yield f"--{name.replace('_', '-')}"
            yield str(value) if name in ("k", "alpha", "beta") else f"{value / 1e6:f}s"
