"""Transport addresses: an IP address and a port, as the user writes them and as they are shown."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Self

from affinity_tester.units import NS_PER_S

MAX_PORT = 65535

LOCAL_CHECK_NS = NS_PER_S
"""The client checks its machine's own addresses at most so often: a change may be so old when it is told."""


class TransportAddress(NamedTuple):
    """An IP address and a UDP port ("transport address", RFC 8489 section 4)."""

    ip: str
    """The address in its canonical text (RFC 5952 for IPv6), without a scope."""
    port: int
    """0 to 65535."""

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """True if the address family is IPv6."""
        return ":" in self.ip

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `203.0.113.7:40312` or `[2001:db8::1]:40312`; raise `ValueError` for anything else."""
        host, port = split_host_port(text)
        if port is None:
            raise ValueError(f"{text!r} has no port")
        return cls(str(parse_ip(host)), port)


def parse_ip(text: str) -> IPv4Address | IPv6Address:
    """Read an IP address and unwrap an IPv4-mapped one; raise `ValueError` if it is none."""
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def split_host_port(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port`, `::1`, `[::1]` or `[::1]:port`; the port is None when there is none.

    Raises `ValueError` with a text for people when the host is empty, a bracket is open, or the port is not in 1..65535.
    """
    text = text.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address: write [IPv6 address]:port")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
    if not host:
        raise ValueError(f"{text!r} names no host")
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"port {port!r} is not a number from 1 to {MAX_PORT}")
    return host, int(port)
