"""Finds which of several addresses answer at all, each asked from a socket of its own."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterable

from affinity_tester.core.stun import ProbeCodec
from affinity_tester.errors import StunError
from affinity_tester.net.resolve import Destination
from affinity_tester.settings import DEFAULT_REQUEST_SIZE

ATTEMPTS = 3
"""Probes that an address gets: one lost packet is no dead address."""

WAIT_S = 0.7
"""How long each of them is waited for."""

MAX_DATAGRAM = 65_535


async def find_answering(destinations: Iterable[Destination], key: bytes | None = None) -> tuple[Destination, ...]:
    """Return those that answer a probe, in their order. All are asked at once."""
    destinations = tuple(destinations)
    answers = await asyncio.gather(*(_answers(each, key) for each in destinations))
    return tuple(each for each, answered in zip(destinations, answers, strict=True) if answered)


async def _answers(destination: Destination, key: bytes | None) -> bool:
    address, scope_id = destination
    codec = ProbeCodec(secrets.randbits(64), (DEFAULT_REQUEST_SIZE,), key)
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    to = (address.ip, address.port, 0, scope_id) if address.is_ipv6 else (address.ip, address.port)
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for seq in range(ATTEMPTS):
            try:
                await loop.sock_sendto(sock, codec.request(seq), to)
                async with asyncio.timeout(WAIT_S):
                    while not _is_reply(codec, await loop.sock_recv(sock, MAX_DATAGRAM)):
                        pass
            except (TimeoutError, OSError):  # no route, no reply, or an ICMP error
                continue
            return True
    return False


def _is_reply(codec: ProbeCodec, data: bytes) -> bool:
    try:
        codec.read(data, len(data))
    except StunError:
        return False
    return True
