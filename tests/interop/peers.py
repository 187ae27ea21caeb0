"""What tests with other makers' programs share."""

from __future__ import annotations

import shutil
import socket

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.addresses import bind_udp

HOSTS = ("127.0.0.1", "::1")


def program(name: str, package: str) -> str:
    """The path of a Debian package's program; the test is skipped without it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def free_port(host: str) -> int:
    with bind_udp(host, 0) as sock:
        return int(sock.getsockname()[1])


def ask(sock: socket.socket, target: TransportAddress, datagram: bytes, within_s: float) -> bytes | None:
    """The answer to `datagram`; None when there is none in time."""
    sock.settimeout(within_s)
    try:
        sock.sendto(datagram, target)
        return sock.recv(65_536)
    except (TimeoutError, ConnectionRefusedError):
        return None
