"""Which addresses share a subnet, and which know no limit."""

import pytest

from node.diversity import limits_of, subnet_of
from node.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.20.3.4", "10.1.2.3", "172.18.0.5", "192.168.1.1", "::1", "node-7"])
def test_loopback_private_addresses_and_names_know_no_limit(host: str) -> None:
    assert subnet_of(host) == ""


def test_public_addresses_share_a_subnet_by_their_first_bits() -> None:
    assert subnet_of("8.8.8.8") == subnet_of("8.8.8.9") != subnet_of("8.8.9.8")
    assert subnet_of("2a00:1450:1::1") == subnet_of("2a00:1450:1:5::2") != subnet_of("2a00:1450:2::1")


def test_the_limits_are_those_of_the_settings() -> None:
    limits = limits_of(Settings(subnet_bucket=4, subnet_table=0))
    assert (limits.bucket, limits.table) == (4, 0)
