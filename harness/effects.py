"""What faults ask of the world while they are in force: pure data, made true and taken back by the reconcilers.

A fault never touches a toxic or a process. It returns effects; two reconcilers own the doing: `reconciler.py` for links,
`cluster.py` for members. So effects of several faults stack, and leave in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LinkEffectKind = Literal["latency", "bandwidth", "slicer", "slow_close", "limit_data", "reset", "blackhole", "refuse"]
MemberState = Literal["running", "paused", "dead"]


@dataclass(frozen=True)
class LinkEffect:
    """One effect on all that travels from the nodes of site ``source`` to those of site ``destination``.

    ``attributes`` are Toxiproxy's, as sorted (name, integer) pairs: latency and jitter in ms, rate in KB/s, average_size,
    size_variation and bytes in bytes, delay in ms (slow_close) or µs (slicer), timeout in ms (reset).
    ``toxicity`` is the share of connections, in thousandths (1,000 = all).
    `refuse` and `reset` act on whole connections that ``source`` opens to ``destination``.
    """

    source: str
    destination: str
    kind: LinkEffectKind
    attributes: tuple[tuple[str, int], ...] = ()
    toxicity: int = 1000


@dataclass(frozen=True)
class MemberClaim:
    """A member is to be in ``state`` while the claim holds; the strongest of all claims wins (dead > paused > running).

    ``graceful`` asks for SIGTERM instead of SIGKILL on the way to dead. ``keep_data`` says whether a restart finds the
    member's data again.
    """

    member: str
    state: MemberState
    graceful: bool = False
    keep_data: bool = False


Effect = LinkEffect | MemberClaim
