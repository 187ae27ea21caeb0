"""The client's UDP sockets: how they are opened, read, and asked for errors and drops.

On Linux, each reply carries the kernel's receive time, the socket counts the replies that it dropped, and an unconnected
socket reports ICMP errors. On other systems the client runs without these, and says so at start.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.units import NS_PER_S

LINUX = sys.platform == "linux"

# Python has no names for these; the numbers are those of uapi/asm-generic/socket.h, uapi/linux/in.h and in6.h.
_SO_TIMESTAMPNS = 35
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_ERRQUEUE_LEVELS = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
_EXTENDED_ERR = struct.Struct("=IBBBBII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data. The sockaddr of the sender follows it."""
_TIMESPEC = struct.Struct("@ll")

RECEIVE_BUFFER = 1 << 18
"""Bytes to ask for: room for seconds of a session's replies. The kernel grants at most net.core.rmem_max."""

_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) if LINUX else 0
_ANCILLARY_ERROR = 512

LOCAL_ERRNOS = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EAGAIN, errno.EACCES})
"""Errors of a send that this machine refused (full queue, conntrack, a local packet filter)."""

ADDRESS_ERRNOS = frozenset({errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ECONNABORTED})
"""Errors of a send whose local address or interface is gone."""


class IcmpError(NamedTuple):
    """One ICMP error, from a socket's error queue."""

    error: str
    """The name of its errno, such as ECONNREFUSED."""
    offender: str | None
    """The IP address that sent the ICMP error; None if unknown."""
    probe: bytes
    """The start of the datagram that it quotes; may be empty."""
    destination: TransportAddress | None = None
    """Where that datagram was sent to; None if unknown."""
    icmp_type: int | None = None
    icmp_code: int | None = None
    """Type and code of ICMP or ICMPv6; None if unknown."""


def missing_capabilities() -> tuple[str, ...]:
    """Return what this platform cannot do for the client, as texts for the log."""
    if LINUX:
        return ()
    return (
        "no kernel receive timestamps: a busy client inflates round-trip times",
        "no socket drop counts: replies dropped at this machine count as lost in the network",
        "no ICMP errors on unconnected sockets: a closed port looks like silence",
    )


def local_source_for(target: TransportAddress, scope_id: int = 0) -> str:
    """Return the source address that this machine uses towards the target. Raise `UserError` if there is no route.

    The kernel chooses it when a socket is connected; no packet is sent.
    """
    try:
        with socket.socket(socket.AF_INET6 if target.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(socket_address(target, scope_id))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"no route from this machine to {target} ({error.strerror}): check the address and the network"
        ) from error


def bound_source_for(bind: str) -> Callable[[TransportAddress, int], str]:
    """Return a `local_source_for` that always answers with this address, as long as it is one of this machine's.

    It raises `UserError` where it is none, or where no route leads from it to the target.
    """

    def source_for(target: TransportAddress, scope_id: int = 0) -> str:
        address = TransportAddress(bind, 0)
        if address.is_ipv6 != target.is_ipv6:
            raise UserError(f"--bind {bind}: no probe can go from it to {target}, an address of the other family")
        try:
            with socket.socket(socket.AF_INET6 if target.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(socket_address(address, scope_id))
                probe.connect(socket_address(target, scope_id))
        except OSError as error:
            raise UserError(
                f"--bind {bind}: no probe can go from it to {target} ({error.strerror}): take an address of this machine"
                " (ip address) from which the target is reached"
            ) from error
        return bind

    return source_for


@lru_cache(maxsize=64)
def socket_address(target: TransportAddress, scope_id: int = 0) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address in the socket module's form; it is cached, so that all sessions share one object."""
    return (target.ip, target.port, 0, scope_id) if target.is_ipv6 else (target.ip, target.port)


def transport_address(source: tuple[str, int]) -> TransportAddress:
    """Return an address that the socket module gave, without the scope that it may have."""
    return TransportAddress(source[0].partition("%")[0], source[1])


def open_probe_socket(
    source: str, target: TransportAddress, *, scope_id: int, connected: bool, dscp: int | None = None
) -> socket.socket:
    """Return a non-blocking UDP socket on a free port at `source`, with receive timestamps and ICMP errors switched on.

    `dscp` marks what it sends. Raises `OSError` (no descriptor left, no such address).
    """
    family = socket.AF_INET6 if target.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        # Receive timestamps and ICMP errors need Linux; see `missing_capabilities`.
        if LINUX:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.setsockopt(*_ERRQUEUE_LEVELS[target.is_ipv6], 1)
        if dscp is not None:
            traffic_class = dscp << 2  # below it are the two bits of ECN
            level = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if target.is_ipv6 else (socket.IPPROTO_IP, socket.IP_TOS)
            sock.setsockopt(*level, traffic_class)
        sock.bind((source, 0, 0, scope_id) if target.is_ipv6 else (source, 0))
        if connected:
            sock.connect(socket_address(target, scope_id))
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, buffers: tuple[bytearray]) -> tuple[int, int | None, tuple[str, int]]:
    """Read one datagram into the buffer, which must have room for any.

    Return its size, the kernel's receive time (of the wall clock, in ns; None if it has none) and its source. Raises
    `BlockingIOError` if the socket is empty, or `OSError`.
    """
    if not LINUX:
        size, source = sock.recvfrom_into(buffers[0])
        return size, None, source

    size, ancillary, _flags, source = sock.recvmsg_into(buffers, _ANCILLARY)
    for _level, kind, data in ancillary:  # with the options that are set, a timestamp is all that comes with a datagram
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return size, seconds * NS_PER_S + nanoseconds, source
    return size, None, source


def read_error_queue(sock: socket.socket) -> list[IcmpError]:
    """Read all ICMP errors from the socket's error queue, and clear its pending error (only Linux has these)."""
    errors: list[IcmpError] = []
    while LINUX:
        try:
            payload, ancillary, _flags, address = sock.recvmsg(2048, _ANCILLARY_ERROR, socket.MSG_ERRQUEUE)
        except OSError:  # the queue is empty (EAGAIN), or this is the pending error, which is cleared by that
            break
        errors += [
            _extended_error(data, payload, address)
            for level, kind, data in ancillary
            if (level, kind) in _ERRQUEUE_LEVELS and len(data) >= _EXTENDED_ERR.size
        ]
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errors


def _extended_error(data: bytes, payload: bytes, destination: tuple[str, int] | None) -> IcmpError:
    number, _origin, icmp_type, icmp_code, *_ = _EXTENDED_ERR.unpack_from(data)
    name = errno.errorcode.get(number, str(number))
    address = data[_EXTENDED_ERR.size :]
    family = int.from_bytes(address[:2], sys.byteorder) if len(address) >= 8 else 0  # noqa: PLR2004 - up to sin_addr's end
    offender = None
    if family == socket.AF_INET:
        offender = socket.inet_ntop(socket.AF_INET, address[4:8])
    elif family == socket.AF_INET6:
        offender = socket.inet_ntop(socket.AF_INET6, address[8:24])
    sent_to = transport_address(destination) if destination else None
    if offender is None:
        return IcmpError(name, None, payload, sent_to)  # the kernel's own error, not one that was heard
    return IcmpError(name, offender, payload, sent_to, icmp_type, icmp_code)


def drop_count(sock: socket.socket) -> int:
    """Return how many datagrams were dropped because the receive buffer was full; 0 if the system does not count them."""
    if not LINUX:
        return 0
    words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
    return int.from_bytes(words[4 * _MEMINFO_DROPS : 4 * _MEMINFO_WORDS], sys.byteorder)
