from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress, parse_ip, split_host_port


@pytest.mark.parametrize("text", ["203.0.113.7:40312", "[2001:db8::1]:40312"])
def test_a_transport_address_is_written_as_it_is_read(text: str) -> None:
    assert str(TransportAddress.parse(text)) == text


@given(st.ip_addresses(), st.integers(1, 65535))
def test_any_address_survives_the_round_trip(ip: object, port: int) -> None:
    address = TransportAddress(str(parse_ip(str(ip))), port)
    assert TransportAddress.parse(str(address)) == address
    assert address.is_ipv6 == (":" in address.ip)


def test_an_ipv4_mapped_address_is_an_ipv4_address() -> None:
    assert str(parse_ip("::ffff:192.0.2.1")) == "192.0.2.1"
    assert str(parse_ip("2001:DB8:0::1")) == "2001:db8::1"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("example.org", ("example.org", None)),
        (" example.org:1 ", ("example.org", 1)),
        ("203.0.113.7:65535", ("203.0.113.7", 65535)),
        ("::1", ("::1", None)),
        ("fe80::1%eth0", ("fe80::1%eth0", None)),
        ("[::1]", ("::1", None)),
        ("[::1]:3478", ("::1", 3478)),
    ],
)
def test_host_and_port_are_told_apart(text: str, parts: tuple[str, int | None]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "names no host"),
        (":3478", "names no host"),
        ("[]:3478", "names no host"),
        ("[::1", "write \\[IPv6 address\\]:port"),
        ("[::1]3478", "write \\[IPv6 address\\]:port"),
        ("host:", "port '' is not a number from 1 to 65535"),
        ("host:0", "port '0' is not"),
        ("host:65536", "port '65536' is not"),
        ("host:-1", "port '-1' is not"),
        ("host:²", "port '²' is not"),
    ],
)
def test_what_is_no_host_and_port_is_refused_in_words(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        split_host_port(text)


def test_an_address_without_a_port_is_no_transport_address() -> None:
    with pytest.raises(ValueError, match="has no port"):
        TransportAddress.parse("::1")
    with pytest.raises(ValueError, match="example"):
        TransportAddress.parse("example.org:1")
