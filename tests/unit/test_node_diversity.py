"""Which addresses share a subnet, and which know no limit."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.diversity import limits_of, subnet_of
from node.settings import Settings
from node.wire import Contact


def as_it_is_dialled(host: str) -> str:
    """The address that the C library reads."""
    return socket.inet_ntoa(socket.inet_aton(host))


def ways_to_write(number: int) -> list[str]:
    """An IPv4 address in what forms inet_aton(3) takes, decimal, octal and hexadecimal."""
    first, second, third, fourth = number.to_bytes(4, "big")
    return [
        f"{number}",
        f"{number:#x}",
        f"0{number:o}",
        f"0X{number:X}",
        f"{first}.{number & 0xFFFFFF}",
        f"{first:#x}.0{second:o}.{number & 0xFFFF}",
        f"0{first:o}.{second}.{third:#06x}.{fourth}",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.20.3.4", "10.1.2.3", "172.18.0.5", "192.168.1.1", "::1", "node-7"])
def test_loopback_private_addresses_and_names_know_no_limit(host: str) -> None:
    assert subnet_of(host) == ""


@pytest.mark.parametrize("host", ["0x7f000001", "127.1", "0", "10.258", "::ffff:10.1.2.3", "::ffff:127.0.0.1"])
def test_nor_do_loopback_and_private_addresses_that_are_written_otherwise(host: str) -> None:
    assert subnet_of(host) == ""


def test_public_addresses_share_a_subnet_by_their_first_bits() -> None:
    assert subnet_of("8.8.8.8") == subnet_of("8.8.8.9") != subnet_of("8.8.9.8")
    assert subnet_of("2a00:1450:1::1") == subnet_of("2a00:1450:1:5::2") != subnet_of("2a00:1450:2::1")


@given(st.integers(0, 2**32 - 1))
def test_an_address_is_of_its_subnet_however_it_is_written(number: int) -> None:
    for host in ways_to_write(number):
        assert subnet_of(host) == subnet_of(as_it_is_dialled(host)), host


@pytest.mark.parametrize("host", ["0x08080808", "8.526344", "8.8.8.8.", "::ffff:8.8.8.8", "８.８.８.８", "8。8。8。8"])
def test_no_way_to_write_an_address_escapes_its_limit(host: str) -> None:
    assert subnet_of(host) == "8.8.8.0/24"


@pytest.mark.parametrize(
    "host", ["08.8.8.9", "8.8.8.256", "4294967296", "1.2.3.4.5", "0x", "8_8", "-1", "8..8", "9" * 255]
)
def test_what_only_looks_like_an_address_is_a_name(host: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        as_it_is_dialled(host)
    assert subnet_of(host) == ""


def test_a_zone_tells_no_two_subnets_apart() -> None:
    assert subnet_of("2a00:1450:1::1%1") == subnet_of("2a00:1450:1::1%2") == subnet_of("2a00:1450:1::1")


def test_the_limits_are_those_of_the_settings() -> None:
    limits = limits_of(Settings(subnet_bucket=4, subnet_table=0))
    assert (limits.bucket, limits.table) == (4, 0)


@pytest.mark.parametrize(
    "chosen", [Settings(), Settings(subnet_bucket=0), Settings(subnet_table=0)], ids=["default", "table", "bucket"]
)
def test_names_know_no_limit_by_default(chosen: Settings) -> None:
    assert limits_of(chosen).subnet_of("a.example.org") == ""


@pytest.mark.parametrize("chosen", [Settings(subnet_bucket=2), Settings(subnet_table=5)], ids=["bucket", "table"])
def test_names_of_one_parent_domain_are_one_subnet_where_a_limit_is_set(chosen: Settings) -> None:
    of = limits_of(chosen).subnet_of
    assert of("a.example.org") == of("x.B.Example.org.") == of("example.org") != of("a.example.net")
    assert of("node-7") == of("localhost") == "", "a name of one label is one of the own network"
    assert of("0x08080808") == of("8.8.8.8") == subnet_of("8.8.8.9"), "an address is an address"
    assert of("10.1.2.3") == of("10.258") == ""


@pytest.mark.parametrize("host", ["é" * 255, "..", ".", "a..b", "é..é"])
def test_a_name_that_nobody_can_look_up_is_no_mistake(host: str) -> None:
    contact = Contact(bytes(20), host, 1)
    assert subnet_of(contact.host) == ""
    assert isinstance(limits_of(Settings(subnet_bucket=1)).subnet_of(contact.host), str)
