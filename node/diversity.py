"""Limits per subnet of advertised addresses: one party with many identities must not fill a bucket. Pure.

Off for loopback and private addresses, where all nodes are of one owner and often of one subnet.
"""

from __future__ import annotations

import functools
import ipaddress

from node.routing import Limits
from node.settings import Settings

PREFIX = {4: 24, 6: 48}  # bits that name a subnet: what one customer usually gets


def limits_of(settings: Settings) -> Limits:
    """The limits that these settings ask for."""
    return Limits(settings.subnet_bucket, settings.subnet_table, subnet_of)


@functools.lru_cache(4096)
def subnet_of(host: str) -> str:
    """The subnet of an address; empty for names, and where no limit applies."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""  # a name: whoever hands out names to strangers limits them himself
    if address.is_loopback or address.is_private:
        return ""
    return str(ipaddress.ip_network((address, PREFIX[address.version]), strict=False))
