"""The echo server's protocol: it answers each datagram with what the `Responder` makes of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from affinity_tester import clock
from affinity_tester.core.echo import Responder
from affinity_tester.net.batch_transport import NoRoomError


class EchoProtocol(asyncio.DatagramProtocol):
    """For any datagram transport. Several, each on a socket of its own, may share one `Responder`."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._respond = responder.respond if responder.limit is None else self._respond_within_limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the replies there."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._send: Callable[[bytes, tuple[Any, ...]], None] = self._transport.sendto

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Answer."""
        respond = self._respond
        reply = respond(data, addr)
        if reply is not None:
            send = self._send
            send(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """Count a reply that could not be sent, or the ICMP error that an earlier one met."""
        if isinstance(exc, NoRoomError):
            self._responder.unsent(exc.datagram)
        else:
            self._responder.send_failed()

    def pause_writing(self) -> None:
        """Drop what would only wait in memory: asyncio's own transport keeps what finds no room in the socket's buffer."""
        self._send = self._drop

    def resume_writing(self) -> None:
        """Send again."""
        self._send = self._transport.sendto

    def _drop(self, reply: bytes, _addr: tuple[Any, ...]) -> None:
        self._responder.unsent(reply)

    def _respond_within_limit(self, data: bytes, addr: tuple[Any, ...]) -> bytes | None:
        return self._responder.respond_within_limit(data, addr, packed_ip(addr[0]), clock.now_ns())


@lru_cache(maxsize=4096)
def packed_ip(ip: str) -> bytes:
    """The bytes of an IP address in text, with or without a scope."""
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip.partition("%")[0])
