"""What an ICMP error means: type and code say more than the errno (RFC 792, RFC 1812 5.2.7.1, RFC 4443 3.1)."""

from __future__ import annotations

from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import NetworkError


class IcmpMeaning(StrEnum):
    """Who refuses the packet, and why."""

    PROHIBITED = "administratively prohibited: a firewall refuses it"
    HOST_UNREACHABLE = "host unreachable: the next hop does not answer"
    NET_UNREACHABLE = "network unreachable: a router has no route"
    PORT_UNREACHABLE = "port unreachable: nothing listens there, or a node rejects what it has no endpoint for"
    TIME_EXCEEDED = "time exceeded: a routing loop"
    TOO_BIG = "packet too big for a hop"


_V4_UNREACHABLE, _V4_TIME_EXCEEDED = 3, 11
_V6_UNREACHABLE, _V6_TOO_BIG, _V6_TIME_EXCEEDED = 1, 2, 3

_V4_CODES = {
    0: IcmpMeaning.NET_UNREACHABLE,
    1: IcmpMeaning.HOST_UNREACHABLE,
    3: IcmpMeaning.PORT_UNREACHABLE,
    4: IcmpMeaning.TOO_BIG,
    9: IcmpMeaning.PROHIBITED,
    10: IcmpMeaning.PROHIBITED,
    13: IcmpMeaning.PROHIBITED,
}
_V6_CODES = {
    0: IcmpMeaning.NET_UNREACHABLE,
    1: IcmpMeaning.PROHIBITED,
    3: IcmpMeaning.HOST_UNREACHABLE,
    4: IcmpMeaning.PORT_UNREACHABLE,
    5: IcmpMeaning.PROHIBITED,
    6: IcmpMeaning.PROHIBITED,
}
_ERRNOS = {
    "ECONNREFUSED": IcmpMeaning.PORT_UNREACHABLE,
    "EHOSTUNREACH": IcmpMeaning.HOST_UNREACHABLE,
    "ENETUNREACH": IcmpMeaning.NET_UNREACHABLE,
    "EMSGSIZE": IcmpMeaning.TOO_BIG,
    "EACCES": IcmpMeaning.PROHIBITED,
}
"""Where type and code are not known: what the errno mostly stands for."""


def icmp_meaning(event: NetworkError) -> IcmpMeaning | None:
    """Return what an ICMP error means; None where it says nothing of use."""
    if event.icmp_type is None:
        return _ERRNOS.get(event.error)

    six = event.offender is not None and TransportAddress(event.offender, 0).is_ipv6
    if event.icmp_type == (_V6_UNREACHABLE if six else _V4_UNREACHABLE):
        return (_V6_CODES if six else _V4_CODES).get(event.icmp_code or 0)
    if event.icmp_type == (_V6_TIME_EXCEEDED if six else _V4_TIME_EXCEEDED):
        return IcmpMeaning.TIME_EXCEEDED
    return IcmpMeaning.TOO_BIG if six and event.icmp_type == _V6_TOO_BIG else None
