"""Targets as users write them."""

from __future__ import annotations

import re
import socket

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target, resolve_target


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


async def test_a_name_is_resolved_to_its_first_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def resolver(host: str, port: int, *_: int) -> object:
        asked.append((host, port))
        sort = socket.SOCK_DGRAM
        return [
            (socket.AF_INET6, sort, 17, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, sort, 17, "", ("192.0.2.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    found = await resolve_target("lb.example:5000", 3478)
    assert (found, asked) == (
        Target(TransportAddress("2001:db8::1", 5000), "lb.example:5000"),
        [("lb.example", 5000)],
    )


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
