"""Resolves the target that the user wrote, and the reference, once for the whole run."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple

from affinity_tester.core.address import TransportAddress, parse_ip, split_host_port
from affinity_tester.errors import UserError

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}


class Destination(NamedTuple):
    """One address that probes can be sent to."""

    address: TransportAddress
    scope_id: int = 0
    """The interface of a link-local IPv6 address; else 0."""


class Target(NamedTuple):
    """What a run probes: one address or several."""

    address: TransportAddress
    name: str
    """What the user wrote."""
    scope_id: int = 0
    """The interface of a link-local IPv6 address; else 0."""
    more: tuple[Destination, ...] = ()
    """Further addresses of the same name, which are probed too."""
    unprobed: tuple[TransportAddress, ...] = ()
    """Addresses of the same name that are not probed: those of the other family, and those no probe can be sent to."""

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """All addresses to probe, starting with `address`."""
        return (Destination(self.address, self.scope_id), *self.more)


async def resolve_target(text: str, default_port: int, version: int | None = None) -> Target:
    """Parse `host`, `host:port`, or an IPv4 or IPv6 address with or without a port; resolve a name once.

    Of a name's addresses, those in the family of the first one are probed, since that is the family the system prefers;
    `version` (4 or 6) asks for one.
    Raises `UserError` if the text is malformed, does not resolve, or has no address that probes can be sent to.
    """
    found, port = await _look_up("target", text, default_port, version)
    usable: dict[TransportAddress, Destination] = {}
    unprobed: dict[TransportAddress, None] = {}
    failure: UserError | None = None
    for *_, sockaddr in found:
        try:
            destination = _destination("target", sockaddr, port)
        except UserError as error:
            failure = failure or error
            unprobed[_address(sockaddr, port)] = None
        else:
            usable.setdefault(destination.address, destination)

    if not usable:
        assert failure is not None, "a name that resolves has an address"
        raise failure

    first, *others = usable.values()
    more = tuple(other for other in others if other.address.is_ipv6 == first.address.is_ipv6)
    unprobed |= dict.fromkeys(other.address for other in others if other not in more)
    return Target(first.address, text, first.scope_id, more, tuple(unprobed))


async def resolve_reference(text: str, default_port: int, target: Target) -> Target:
    """Parse and resolve the reference as `resolve_target` does a target, to one address of the target's family.

    Raises `UserError` too if it has none, or if it is the target.
    """
    found, port = await _look_up("reference", text, default_port)
    is_ipv6 = target.address.is_ipv6
    same_family = [sockaddr for *_, sockaddr in found if _address(sockaddr, port).is_ipv6 == is_ipv6]
    if not same_family:
        family = "IPv6" if is_ipv6 else "IPv4"
        raise UserError(
            f"the reference {text} has no {family} address, and the target {target.address} is probed over {family}:"
            " name a server that has one"
        )

    address, scope_id = _destination("reference", same_family[0], port)
    if address in (destination.address for destination in target.destinations):
        raise UserError(f"the reference {address} is the target: name a server that is not in this cluster")
    return Target(address, text, scope_id)


async def _look_up(what: str, text: str, default_port: int, version: int | None = None) -> tuple[list[Any], int]:
    """Return what the resolver knows of a host, and the port to ask there. Raise `UserError`."""
    try:
        host, port = split_host_port(text)
    except ValueError as error:
        raise UserError(f"the {what} is wrong: {error}") from error
    port = default_port if port is None else port

    try:
        look_up = asyncio.get_running_loop().getaddrinfo
        return await look_up(host, port, type=socket.SOCK_DGRAM, family=_FAMILIES[version]), port
    except (socket.gaierror, UnicodeError) as error:
        if version is not None and isinstance(error, socket.gaierror):
            raise UserError(
                f"the {what} {host!r} has no IPv{version} address ({error.strerror}): check the name, or leave out what asks"
                f" for IPv{version} (-{version}, --bind)"
            ) from error
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is no host name"
        raise UserError(
            f"the {what} {host!r} does not resolve ({reason}): check the name, or give an address"
        ) from error


def _address(sockaddr: tuple[Any, ...], port: int) -> TransportAddress:
    return TransportAddress(str(parse_ip(str(sockaddr[0]).partition("%")[0])), port)


def _destination(what: str, sockaddr: tuple[Any, ...], port: int) -> Destination:
    """Return the destination of an address from the resolver. Raise `UserError` if no probe can be sent to it."""
    address = parse_ip(str(sockaddr[0]).partition("%")[0])
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        right = "the Service" if what == "target" else "a STUN server"
        raise UserError(f"the {what} {address} is no unicast address: give the address of {right}")
    scope_id = int(sockaddr[3]) if len(sockaddr) > 3 else 0  # noqa: PLR2004 - (ip, port, flow, scope)
    if address.version == 6 and address.is_link_local and not scope_id:  # noqa: PLR2004 - IP's version
        raise UserError(f"the {what} {address} is link-local and names no interface: write {address}%eth0, or so")
    return Destination(TransportAddress(str(address), port), scope_id)
