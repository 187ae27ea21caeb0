"""This machine's own addresses, and sockets bound to them.

A reply must leave from the address that its request was sent to (docs/protocol.md). A socket bound to one address does that
by itself; replies from a wildcard socket leave from whatever address routing selects.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError

RECEIVE_BUFFER = 4 << 20
"""Bytes to ask for; the kernel grants at most net.core.rmem_max. Bursts wait here while the process does not run."""

_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST_DUMP = 0x0301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSG_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTATTR = struct.Struct("=HH")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_UNUSABLE_FLAGS = 0x40 | 0x08
"""IFA_F_TENTATIVE | IFA_F_DADFAILED: the address cannot be bound (yet)."""


def local_addresses() -> tuple[str, ...]:
    """Return all addresses of this machine as text, IPv4 first; link-local IPv6 ones have a scope (`fe80::1%eth0`)."""
    if hasattr(socket, "AF_NETLINK"):
        found = _from_netlink()
    else:
        # On other systems than Linux: what the host name resolves to, and loopback.
        infos = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_DGRAM)
        found = ["127.0.0.1", "::1", *(str(info[4][0]) for info in infos)]
    return tuple(sorted(dict.fromkeys(found), key=lambda text: ":" in text))


def _from_netlink() -> list[str]:
    """Return the addresses of all interfaces from the kernel (rtnetlink(7), RTM_GETADDR)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        size = _NLMSG_HEADER.size + _IFADDRMSG.size
        netlink.send(_NLMSG_HEADER.pack(size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + _IFADDRMSG.pack(0, 0, 0, 0, 0))

        found: list[str] = []
        while True:
            data = netlink.recv(1 << 16)
            while data:
                length, kind, *_ = _NLMSG_HEADER.unpack_from(data)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                if kind == _RTM_NEWADDR:
                    found.extend(_usable_address(data[_NLMSG_HEADER.size : length]))
                data = data[_aligned(length) :]


def _usable_address(message: bytes) -> list[str]:
    """Return the address of one RTM_NEWADDR message in a list, which is empty if the address cannot be bound."""
    family, _prefix, flags, _scope, index = _IFADDRMSG.unpack_from(message)
    if flags & _UNUSABLE_FLAGS or family not in (socket.AF_INET, socket.AF_INET6):
        return []

    values: dict[int, bytes] = {}
    rest = message[_IFADDRMSG.size :]
    while len(rest) >= _RTATTR.size:
        length, kind = _RTATTR.unpack_from(rest)
        values[kind] = rest[_RTATTR.size : length]
        rest = rest[_aligned(length) :]

    # On a point-to-point link IFA_ADDRESS is the peer's address, and IFA_LOCAL this machine's.
    packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    if packed is None:
        return []

    address = ip_address(packed)
    needs_scope = family == socket.AF_INET6 and address.is_link_local
    return [f"{address}%{socket.if_indextoname(index)}" if needs_scope else str(address)]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def is_wildcard(host: str) -> bool:
    """True if the address stands for all local addresses (0.0.0.0 or ::)."""
    return ip_address(host).is_unspecified


def bind_udp(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a non-blocking UDP socket on one numeric address, with a large receive buffer. Raise `UserError`.

    With `reuse_port`, it shares the address with other sockets that have the option, and the kernel spreads flows over them.
    """
    sock = _bind(socket.SOCK_DGRAM, host, port, "--port", reuse_port=reuse_port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def enable_reuseport(sock: socket.socket) -> None:
    """Let sockets that are bound later with `reuse_port` share this socket's address."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def bind_tcp(host: str, port: int, option: str = "--health-port") -> socket.socket:
    """Return a non-blocking TCP socket on one numeric address, which does not listen yet.

    Raise `UserError`, which names the option that chose the port.
    """
    return _bind(socket.SOCK_STREAM, host, port, option)


def bound_address(sock: socket.socket) -> TransportAddress:
    """Return the address that a socket is bound to."""
    name = sock.getsockname()
    return TransportAddress(name[0].partition("%")[0], name[1])


def _bind(kind: socket.SocketKind, host: str, port: int, option: str, *, reuse_port: bool = False) -> socket.socket:
    protocol = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    try:
        ip_address(host)  # stricter than the resolver, which also takes forms like 127.1
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
    except (OSError, ValueError):
        raise UserError(f"{host!r} is not an IP address: --host and POD_IPS take addresses, not names") from None

    where = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    try:
        sock = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"cannot listen on {where}: {error.strerror}") from error

    try:
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            enable_reuseport(sock)
        if family == socket.AF_INET6:
            # IPv4 has sockets of its own, so that no peer's address is an IPv4-mapped one.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise UserError(f"cannot listen on {where}: {_remedy(error, protocol, option)}") from error
    return sock


def _remedy(error: OSError, protocol: str, option: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"{protocol} port in use; end what uses it, or choose another {option}"
        case errno.EADDRNOTAVAIL:
            return "not an address of this machine; `ip address` shows those it has"
        case errno.EACCES:
            return f"no right to use this port; choose a {option} of 1024 or above"
    return str(error.strerror)
