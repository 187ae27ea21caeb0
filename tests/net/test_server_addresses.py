"""What the kernel says of its addresses, and what is said when one cannot be bound."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from affinity_tester.errors import UserError
from affinity_tester.net import addresses


def newaddr(family: int, flags: int, *attributes: tuple[int, bytes]) -> bytes:
    """One RTM_NEWADDR message of the first interface, without its netlink header (rtnetlink(7))."""
    packed = b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in attributes
    )
    return struct.pack("=BBBBI", family, 24, flags, 0, 1) + packed


V4, PEER, V6, LINK_LOCAL = (
    socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1")
)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (newaddr(socket.AF_INET, 0x80, (1, V4), (2, V4), (3, b"eth0\0")), ["192.0.2.1"]),
        (newaddr(socket.AF_INET, 0x80, (1, PEER), (2, V4)), ["192.0.2.1"]),
        (newaddr(socket.AF_INET6, 0x80, (1, V6)), ["2001:db8::1"]),
        (newaddr(socket.AF_INET6, 0x80, (1, LINK_LOCAL)), [f"fe80::1%{socket.if_indextoname(1)}"]),
        (newaddr(socket.AF_INET6, 0x40, (1, V6)), []),
        (newaddr(socket.AF_INET6, 0x08, (1, V6)), []),
        (newaddr(socket.AF_UNIX, 0, (1, V4)), []),
        (newaddr(socket.AF_INET, 0x80, (3, b"eth0\0")), []),
    ],
)
def test_an_address_as_the_kernel_tells_it(message: bytes, found: list[str]) -> None:
    assert addresses._usable_address(message) == found


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (errno.EACCES, "no right to use this port; choose a --port of 1024 or above"),
        (errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_why_an_address_cannot_be_bound(code: int, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(_sock: socket.socket, _address: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(addresses.socket.socket, "bind", bind)
    with pytest.raises(UserError) as caught:
        addresses.bind_udp("127.0.0.1", 53)
    assert str(caught.value) == f"cannot listen on 127.0.0.1:53: {problem}"


def test_a_family_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(addresses.socket, "socket", no_socket)
    with pytest.raises(UserError) as caught:
        addresses.bind_tcp("::1", 8080)
    assert str(caught.value) == "cannot listen on [::1]:8080: Address family not supported by protocol"
