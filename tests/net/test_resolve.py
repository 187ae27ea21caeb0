"""Targets as users write them."""

from __future__ import annotations

import re
import socket

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Destination, Target, resolve_target


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", TransportAddress("127.0.0.1", 3478)),
        ("127.0.0.1:5000", TransportAddress("127.0.0.1", 5000)),
        (" 127.0.0.1 ", TransportAddress("127.0.0.1", 3478)),
        ("::1", TransportAddress("::1", 3478)),
        ("[::1]", TransportAddress("::1", 3478)),
        ("[::1]:5000", TransportAddress("::1", 5000)),
        ("2001:0DB8:0:0::7", TransportAddress("2001:db8::7", 3478)),
        ("::ffff:127.0.0.1", TransportAddress("127.0.0.1", 3478)),
        ("[::ffff:127.0.0.1]:5000", TransportAddress("127.0.0.1", 5000)),
    ],
)
async def test_addresses(text: str, address: TransportAddress) -> None:
    assert await resolve_target(text, 3478) == Target(address, text)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[object, ...]) -> list[object]:
    """Let every name resolve to these: (address,), or (address, scope). Returns what is asked."""
    asked: list[object] = []

    def resolver(host: str, port: int, *_: int) -> object:
        asked.append((host, port))
        found = []
        for address, *scope in addresses:
            six = ":" in str(address)
            place = (address, port, 0, *(scope or [0])) if six else (address, port)
            found.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, 17, "", place))
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return asked


async def test_a_name_is_resolved_once_to_all_addresses_of_the_family_of_its_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = resolving(
        monkeypatch,
        ("2001:db8::1",), ("192.0.2.1",), ("fe80::2%eth0", 7), ("2001:db8::1",), ("192.0.2.2",), ("2001:db8::3",),
    )  # fmt: skip
    found = await resolve_target("lb.example:5000", 3478)
    assert asked == [("lb.example", 5000)]
    assert found == Target(
        TransportAddress("2001:db8::1", 5000),
        "lb.example:5000",
        more=(
            Destination(TransportAddress("fe80::2", 5000), 7),
            Destination(TransportAddress("2001:db8::3", 5000)),
        ),
        unprobed=(TransportAddress("192.0.2.1", 5000), TransportAddress("192.0.2.2", 5000)),
    )
    assert found.destinations == (Destination(found.address), *found.more)


async def test_an_address_that_nothing_can_be_sent_to_is_left_out_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving(monkeypatch, ("0.0.0.0",), ("192.0.2.1",), ("fe80::1",))
    left = (TransportAddress("0.0.0.0", 1), TransportAddress("fe80::1", 1))
    assert await resolve_target("lb.example", 1) == Target(
        TransportAddress("192.0.2.1", 1), "lb.example", unprobed=left
    )
    resolving(monkeypatch, ("0.0.0.0",), ("fe80::1",))
    with pytest.raises(UserError, match=r"the target 0\.0\.0\.0 is no unicast address"):
        await resolve_target("lb.example", 1)


async def test_localhost_is_this_machine() -> None:
    assert (await resolve_target("localhost", 1)).address.ip in {"127.0.0.1", "::1"}


async def test_a_link_local_address_keeps_its_interface() -> None:
    index = socket.if_nametoindex("lo")
    assert await resolve_target("[fe80::1%lo]:9", 1) == Target(TransportAddress("fe80::1", 9), "[fe80::1%lo]:9", index)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "no-such-host.invalid",
            r"the target 'no-such-host\.invalid' does not resolve \(.+\): check the name, or give an",
        ),
        ("a..b", r"the target 'a\.\.b' does not resolve \(.+\): check the name, or give an address"),
        (
            "a" * 70 + ".example",
            r"the target 'a+\.example' does not resolve \(.+\): check the name, or give an address",
        ),
        ("127.0.0.1:65536", r"the target is wrong: port '65536' is not a number from 1 to 65535"),
        ("127.0.0.1:0", r"the target is wrong: port '0' is not a number from 1 to 65535"),
        ("127.0.0.1:", r"the target is wrong: port '' is not a number from 1 to 65535"),
        ("127.0.0.1:stun", r"the target is wrong: port 'stun' is not a number from 1 to 65535"),
        (":3478", r"the target is wrong: ':3478' names no host"),
        ("[::1", r"the target is wrong: '\[::1' is not an address: write \[IPv6 address\]:port"),
        ("0.0.0.0", r"the target 0\.0\.0\.0 is no unicast address: give the address of the Service"),
        ("::", r"the target :: is no unicast address"),
        ("224.0.0.1", r"the target 224\.0\.0\.1 is no unicast address"),
        ("ff02::1%lo", r"the target ff02::1 is no unicast address"),
        ("255.255.255.255", r"the target 255\.255\.255\.255 is no unicast address"),
        ("fe80::1", r"the target fe80::1 is link-local and names no interface: write fe80::1%eth0"),
    ],
)
async def test_what_a_user_can_get_wrong_is_one_line(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        await resolve_target(text, 3478)
    assert re.match(line, str(caught.value)), str(caught.value)
