"""What can be set about a node, with the defaults and where they come from."""

from __future__ import annotations

import msgspec

from node.routing import TIMEOUT_UNKNOWN

HOUR = 3600.0


class Settings(msgspec.Struct, frozen=True):
    """Durations in seconds. k and alpha: Maymounkov and Mazières 2002; tRepublish, tExpire, tRefresh: XLattice.

    ``rpc_timeout`` holds for contacts whose round-trip time is not known yet. ``cache`` is the longest life of a copy on
    a lookup's path, 0 for none. ``paths`` are disjoint (S/Kademlia). ``subnet_*`` are contacts of one public subnet.
    """

    k: int = 20
    alpha: int = 3
    beta: int = 3  # libp2p's resiliency
    republish: float = HOUR
    refresh: float = HOUR
    expire: float = 24 * HOUR
    rpc_timeout: float = TIMEOUT_UNKNOWN
    cache: float = 60.0  # s; a key that is written again may be read stale for so long
    paths: int = 1
    subnet_bucket: int = 3  # libp2p's diversity filter allows 2 to 3
    subnet_table: int = 10


DEFAULTS = Settings()
