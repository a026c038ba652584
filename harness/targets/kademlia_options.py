"""The options of a Kademlia node that an experiment may set under `cluster.node`, and how its command line has them.

Defaults are the node's own, written out so that a stored plan says all. k = 20 and alpha = 3 are Maymounkov and
Mazières' (2002); refresh and republish after 1 h, expiry after 24 h XLattice's (tRefresh, tReplicate, tExpire).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationInfo, field_validator

from harness.fields import Block, NodeDuration, UnfitValueError, whole
from harness.quantities import DURATION_UNITS, duration_text, seconds

HOUR = DURATION_UNITS["h"]


class NodeOptions(Block):
    """`cluster.node`. Durations are µs."""

    k: Annotated[int, whole(1, 256)] = 20
    alpha: Annotated[int, whole(1, 256)] = 3
    beta: Annotated[int, whole(1, 256)] = 3
    republish: NodeDuration = HOUR
    refresh: NodeDuration = HOUR
    expire: NodeDuration = 24 * HOUR
    rpc_timeout: NodeDuration | None = None  # None: the node adapts it to each contact

    @field_validator("expire")
    @classmethod
    def _outlives_republishing(cls, expire: int, info: ValidationInfo) -> int:
        republish = info.data.get("republish", 0)
        if expire <= republish:
            between = f"republished every {duration_text(republish)}"
            raise UnfitValueError(
                f"records that are {between} would be gone after {duration_text(expire)}: expire must be longer"
            )
        return expire

    def resolved(self) -> dict[str, Any]:
        """Plain values: durations in seconds, with `_s` behind the key."""
        return {
            "k": self.k,
            "alpha": self.alpha,
            "beta": self.beta,
            "republish_s": seconds(self.republish),
            "refresh_s": seconds(self.refresh),
            "expire_s": seconds(self.expire),
            "rpc_timeout_s": None if self.rpc_timeout is None else seconds(self.rpc_timeout),
        }


def command_line_options(options: Mapping[str, Any]) -> list[str]:
    """Resolved options as arguments of `python -m node serve`; what is None is left to the node."""
    arguments: list[str] = []
    for key, value in options.items():
        if value is None:
            continue
        name = key.removesuffix("_s") if key.endswith("_s") else key
        text = f"{round(value * 1000)}ms" if key.endswith("_s") else str(value)
        arguments += [f"--{name.replace('_', '-')}", text]
    return arguments
