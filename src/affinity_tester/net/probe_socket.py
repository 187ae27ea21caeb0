"""The client's UDP sockets: what the platform can do for them, and how its answers are read.

On Linux each reply carries the kernel's receive time, the socket tells how many replies it dropped, and ICMP errors are
heard on an unconnected socket. Elsewhere the client runs without, and says so at start.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from functools import lru_cache
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError

LINUX = sys.platform == "linux"

# Python names none of these; the numbers are asm-generic's (uapi/asm-generic/socket.h, uapi/linux/in.h, in6.h).
_SO_TIMESTAMPNS = 35
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_ERRQUEUE_LEVELS = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
_EXTENDED_ERR = struct.Struct("=IBBBBII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data; the offender's sockaddr follows."""
_TIMESPEC = struct.Struct("@ll")

RECEIVE_BUFFER = 1 << 18
"""Bytes asked for: a session's replies of seconds. The kernel caps it at net.core.rmem_max."""

_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) if LINUX else 0
_ANCILLARY_ERROR = 512

LOCAL_ERRNOS = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EAGAIN, errno.EACCES})
"""A send that fails with one of these was refused by this machine (full queue, conntrack, a local filter)."""

ADDRESS_ERRNOS = frozenset({errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ECONNABORTED})
"""A send that fails with one of these has lost its own address or interface."""


class IcmpError(NamedTuple):
    """One entry of a socket's error queue."""

    error: str
    """The errno's name."""
    offender: str | None
    """Who sent the ICMP error."""
    probe: bytes
    """The start of the datagram it quotes; may be empty."""


def lost_guarantees() -> tuple[str, ...]:
    """What this platform cannot do for the client, in words."""
    if LINUX:
        return ()
    return (
        "no kernel receive timestamps: a busy client inflates round-trip times",
        "no socket drop counts: replies dropped at this machine count as lost in the network",
        "no ICMP errors on unconnected sockets: a closed port looks like silence",
    )


def learn_source(target: TransportAddress, scope_id: int = 0) -> str:
    """The source address this machine uses towards the target, from a throw-away connected socket. Raises `UserError`."""
    try:
        with socket.socket(socket.AF_INET6 if target.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(socket_address(target, scope_id))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"no route from this machine to {target} ({error.strerror}): check the address and the network"
        ) from error


@lru_cache(maxsize=64)
def socket_address(target: TransportAddress, scope_id: int = 0) -> tuple[str, int] | tuple[str, int, int, int]:
    """The address as the socket module wants it, and gives it; all sessions share it."""
    return (target.ip, target.port, 0, scope_id) if target.is_ipv6 else (target.ip, target.port)


def open_probe_socket(source: str, target: TransportAddress, *, scope_id: int, connected: bool) -> socket.socket:
    """A non-blocking UDP socket on a port of its own at `source`, with all that this platform can tell switched on.

    Raises `OSError` (no descriptor left, no such address).
    """
    family = socket.AF_INET6 if target.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if LINUX:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.setsockopt(*_ERRQUEUE_LEVELS[target.is_ipv6], 1)
        sock.bind((source, 0, 0, scope_id) if target.is_ipv6 else (source, 0))
        if connected:
            sock.connect(socket_address(target, scope_id))
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, buffers: tuple[bytearray]) -> tuple[int, int | None, tuple[str, int]]:
    """Read one datagram into the buffer, which has room for any.

    Returns its size, the kernel's receive time (by the wall clock, in ns; None without one) and its source. Raises
    `BlockingIOError` when there is none, and `OSError`.
    """
    if not LINUX:
        size, source = sock.recvfrom_into(buffers[0])
        return size, None, source
    size, ancillary, _flags, source = sock.recvmsg_into(buffers, _ANCILLARY)
    for _level, kind, data in ancillary:  # of what was switched on, this is all that comes with a datagram
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return size, seconds * 1_000_000_000 + nanoseconds, source
    return size, None, source


def read_error_queue(sock: socket.socket) -> list[IcmpError]:
    """Empty the socket's error queue, and its pending error with it (Linux; elsewhere there is none)."""
    errors: list[IcmpError] = []
    while LINUX:
        try:
            payload, ancillary, _flags, _address = sock.recvmsg(2048, _ANCILLARY_ERROR, socket.MSG_ERRQUEUE)
        except OSError:  # empty (EAGAIN), or the pending error itself: reading it clears it
            break
        errors += [
            _extended_error(data, payload)
            for level, kind, data in ancillary
            if (level, kind) in _ERRQUEUE_LEVELS and len(data) >= _EXTENDED_ERR.size
        ]
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errors


def _extended_error(data: bytes, payload: bytes) -> IcmpError:
    number = _EXTENDED_ERR.unpack_from(data)[0]
    name = errno.errorcode.get(number, str(number))
    address = data[_EXTENDED_ERR.size :]
    family = int.from_bytes(address[:2], sys.byteorder) if len(address) >= 8 else 0  # noqa: PLR2004 - up to sin_addr's end
    offender = None
    if family == socket.AF_INET:
        offender = socket.inet_ntop(socket.AF_INET, address[4:8])
    elif family == socket.AF_INET6:
        offender = socket.inet_ntop(socket.AF_INET6, address[8:24])
    return IcmpError(name, offender, payload)


def drop_count(sock: socket.socket) -> int:
    """How many datagrams the socket's full receive buffer has cost so far; 0 where the system does not tell."""
    if not LINUX:
        return 0
    words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
    return int.from_bytes(words[4 * _MEMINFO_DROPS : 4 * _MEMINFO_WORDS], sys.byteorder)
