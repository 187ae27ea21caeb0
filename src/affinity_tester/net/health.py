"""The health port: `/livez` and `/readyz` over HTTP, since Kubernetes has no UDP probe.

Cloud load balancers want a TCP or HTTP check for UDP services too, so anyone may connect: requests are bounded in size and
time, and connections in number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.addresses import bind_tcp, bound_address

MAX_REQUEST_BYTES = 4096
"""A probe's request line and headers have some 200 bytes."""

MAX_CONNECTIONS = 64
"""Kubelet and a cloud's checkers open a handful at a time; what comes above is closed at once."""

TIMEOUT_S = 5.0
"""From the connection to the end of the request's headers, and as long again for the answer."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class HealthServer:
    """`/livez` answers 200 while the event loop turns, `/readyz` 200 while `is_ready()` and else 503."""

    def __init__(self, is_ready: Callable[[], bool], *, timeout_s: float = TIMEOUT_S) -> None:
        self._is_ready = is_ready
        self._timeout_s = timeout_s
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.addresses: tuple[TransportAddress, ...] = ()
        """Where it listens."""

    @classmethod
    async def start(
        cls, hosts: tuple[str, ...], port: int, is_ready: Callable[[], bool], *, timeout_s: float = TIMEOUT_S
    ) -> Self:
        """Listen on each of the numeric addresses. Raises `UserError`."""
        self = cls(is_ready, timeout_s=timeout_s)
        try:
            for host in hosts:
                sock = bind_tcp(host, port)
                self._servers.append(await asyncio.start_server(self._serve, sock=sock, limit=MAX_REQUEST_BYTES))
                self.addresses += (bound_address(sock),)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop listening and cut the connections."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            writer.write(await self._answer(reader))
            async with asyncio.timeout(self._timeout_s):
                await writer.drain()
        except (TimeoutError, OSError, asyncio.CancelledError):
            # Too slow, or gone: there is nobody to tell. Cancelled: `close` awaits the end of this task, no more.
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request's headers and return the whole answer. Raises `TimeoutError` or `OSError`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(431)
        except asyncio.IncompleteReadError as incomplete:
            # A check that only connects has been answered by the connection itself.
            return _response(400) if incomplete.partial else b""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _response(400)
        method, target, _version = words
        path = target.partition(b"?")[0]
        if path not in (b"/livez", b"/readyz"):
            status = 404
        elif method not in (b"GET", b"HEAD"):
            status = 405
        else:
            status = 200 if path == b"/livez" or self._is_ready() else 503
        return _response(status, with_body=method != b"HEAD")


def _response(status: int, *, with_body: bool = True) -> bytes:
    reason = _REASONS[status]
    body = f"{reason.lower()}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == 405:  # noqa: PLR2004 - RFC 9110 section 15.5.6: it names the methods there are
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode() + (body if with_body else b"")
