"""The echo server's asyncio protocol: it sends the reply that `Responder` makes to each datagram."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from affinity_tester import clock
from affinity_tester.core.delayed_replies import DelayedReply
from affinity_tester.core.echo import Responder
from affinity_tester.net.batch_transport import SendBufferFullError


class EchoProtocol(asyncio.DatagramProtocol):
    """Works on any datagram transport. Protocols of several sockets may share one `Responder`."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._respond = responder.respond if responder.limit is None else self._respond_within_limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send replies through this transport."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._send: Callable[[bytes, tuple[Any, ...]], None] = self._transport.sendto

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Send the reply to a datagram, if it has one."""
        respond = self._respond
        reply = respond(data, addr)
        if reply is not None:
            send = self._send
            send(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """Count a reply that could not be sent, or an ICMP error about an earlier one."""
        if isinstance(exc, SendBufferFullError):
            self._responder.count_unsent(exc.datagram)
        else:
            self._responder.count_send_error()

    def pause_writing(self) -> None:
        """Drop replies from now on. asyncio's own transport would keep them in memory until the send buffer has room."""
        self._send = self._drop

    def resume_writing(self) -> None:
        """Send replies again."""
        self._send = self._transport.sendto

    def _drop(self, reply: bytes, _addr: tuple[Any, ...]) -> None:
        self._responder.count_unsent(reply)

    def _respond_within_limit(self, data: bytes, addr: tuple[Any, ...]) -> bytes | None:
        return self._responder.respond_within_limit(data, addr, packed_ip(addr[0]), clock.now_ns())


class KeyedEchoProtocol(EchoProtocol):
    """An `EchoProtocol` that also sends delayed replies when they are due. Without a key nobody gets one."""

    def __init__(self, responder: Responder) -> None:
        super().__init__(responder)
        self._accepted = responder.accepted
        self._timers: dict[DelayedReply, asyncio.TimerHandle] = {}
        """Of the delayed replies that are to leave through this transport."""
        self._sends_delayed = False

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Send the reply to a datagram, if it has one, and another one later where that was accepted."""
        reply = self._respond(data, addr)
        if reply is not None:
            self._send(reply, addr)
        if self._accepted:
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        while self._accepted:
            reply = self._accepted.pop()
            self._timers[reply] = loop.call_later(reply.delay_ms / 1_000, self._send_delayed, reply)

    def _send_delayed(self, reply: DelayedReply) -> None:
        """Send a delayed reply; the transport tells by `error_received` if it cannot be sent."""
        del self._timers[reply]
        self._sends_delayed = True
        self._transport.sendto(self._responder.render_delayed(reply), reply.source)
        failure = "" if self._sends_delayed else "send-failed"
        self._sends_delayed = False
        self._responder.delayed.end(reply, failure)

    def error_received(self, exc: Exception) -> None:
        """Count a reply that could not be sent, a delayed one apart."""
        if self._sends_delayed:
            self._sends_delayed = False
        else:
            super().error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up the delayed replies: nothing leaves through this transport any more."""
        for reply, timer in self._timers.items():
            timer.cancel()
            self._responder.delayed.end(reply, "shutdown")
        self._timers.clear()


def protocol_for(responder: Responder) -> EchoProtocol:
    """Return a protocol for one more socket of this responder's."""
    return KeyedEchoProtocol(responder) if responder.keyed else EchoProtocol(responder)


@lru_cache(maxsize=4096)
def packed_ip(ip: str) -> bytes:
    """Return the bytes of an IP address given as text, with or without a scope."""
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip.partition("%")[0])
