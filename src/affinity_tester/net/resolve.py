"""A target as the user wrote it, resolved once for the whole run."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress, parse_ip, split_host_port
from affinity_tester.errors import UserError


class Target(NamedTuple):
    """Where probes go."""

    address: TransportAddress
    name: str
    """What the user wrote."""
    scope_id: int = 0
    """The interface of a link-local IPv6 address; else 0."""


async def resolve_target(text: str, default_port: int) -> Target:
    """Read `host`, `host:port`, an IPv4 or IPv6 address with or without port; a name is resolved now, once.

    Raises `UserError` when it is malformed, does not resolve, or is no address that probes can be sent to.
    """
    try:
        host, port = split_host_port(text)
    except ValueError as error:
        raise UserError(f"the target is wrong: {error}") from error
    port = default_port if port is None else port
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is no host name"
        raise UserError(
            f"the target {host!r} does not resolve ({reason}): check the name, or give an address"
        ) from error
    sockaddr = found[0][4]
    address = parse_ip(str(sockaddr[0]).partition("%")[0])
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise UserError(f"the target {address} is no unicast address: give the address of the Service")
    scope_id = int(sockaddr[3]) if len(sockaddr) > 3 else 0  # noqa: PLR2004 - (ip, port, flow, scope)
    if address.version == 6 and address.is_link_local and not scope_id:  # noqa: PLR2004 - IP's version
        raise UserError(f"the target {address} is link-local and names no interface: write {address}%eth0, or so")
    return Target(TransportAddress(str(address), port), text, scope_id)
