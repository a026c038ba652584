"""Limits per subnet of advertised addresses: one party with many identities must not fill a bucket. Pure.

Off for loopback and private addresses, where all nodes are of one owner and often of one subnet; and for names, unless
a limit is set that is not the default: then all names of one parent domain count as one subnet, as one party may make up
as many of them as it likes. Rejected: to resolve names. The core does no I/O, and whoever owns a name may let it point
elsewhere a moment later.
"""

from __future__ import annotations

import functools
import ipaddress
import re

from node.routing import Limits
from node.settings import DEFAULTS, Settings

PREFIX = {4: 24, 6: 48}  # bits that name a subnet: what one customer usually gets
LABELS = 2  # that name a parent domain
NUMBER = re.compile("0x[0-9a-f]+|[0-9]+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def limits_of(settings: Settings) -> Limits:
    """The limits that these settings ask for."""
    bucket, table = settings.subnet_bucket, settings.subnet_table
    set_on_purpose = bucket not in (0, DEFAULTS.subnet_bucket) or table not in (0, DEFAULTS.subnet_table)
    return Limits(bucket, table, subnet_or_domain_of if set_on_purpose else subnet_of)


@functools.lru_cache(4096)
def subnet_of(host: str) -> str:
    """The subnet of an address; empty for names, and where no limit applies."""
    address = _address_of(_as_resolved(host))
    if address is None or address.is_loopback or address.is_private:
        return ""
    return str(ipaddress.ip_network((int(address), PREFIX[address.version]), strict=False))


@functools.lru_cache(4096)
def subnet_or_domain_of(host: str) -> str:
    """The subnet of an address, or the parent domain of a name; empty for names of one label: those are of one's own network."""
    name = _as_resolved(host)
    if _address_of(name) is not None:
        return subnet_of(host)
    labels = name.split(".")
    return ".".join(labels[-LABELS:]) if len(labels) > 1 else ""


def _as_resolved(host: str) -> str:
    """A host as it is looked up: neither case nor a last dot tells two apart, nor do other scripts' digits and dots."""
    try:
        ascii_only = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:  # no such name can be looked up
        ascii_only = host
    return ascii_only.lower().removesuffix(".")


def _address_of(host: str) -> Address | None:
    """The address that is written there, in any way that resolvers read; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _from_numbers(host)
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _from_numbers(host: str) -> Address | None:
    """An address as inet_aton(3) reads it: one to four numbers, of which the last fills the bytes that are left."""
    parts = host.split(".")
    try:
        *first, last = map(_number, parts)
    except ValueError:
        return None
    left = 4 - len(first)
    if left < 1 or last >= 256**left or any(number > 255 for number in first):
        return None
    return ipaddress.IPv4Address(int.from_bytes(bytes(first) + last.to_bytes(left, "big"), "big"))


def _number(text: str) -> int:
    """A number as in C: hexadecimal after 0x, octal after 0.

    Raises:
        ValueError: it is none.
    """
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number as in C")
    return int(text, 16 if text.startswith("0x") else 8 if text.startswith("0") else 10)
