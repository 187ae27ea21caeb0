"""The health port: `/livez` and `/readyz` over HTTP, since Kubernetes has no UDP probe, and `/metrics` where there are any.

Cloud load balancers also want a TCP or HTTP check for UDP services, so anyone may connect. But no crowd of connections may
keep the kubelet's probe out: a pod that fails it becomes unready, and its live flows move. So the number of connections is
bounded, and at the bound a new connection displaces the oldest one. A real probe sends its request at once and is answered
in the same turn of the event loop, so it is never the one displaced. Requests are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.addresses import bind_tcp, bound_address

MAX_REQUEST_BYTES = 4096
"""A probe's request line and headers are some 200 bytes."""

MAX_CONNECTIONS = 64
"""The kubelet and a cloud's health checkers open a handful at a time."""

ACCEPTS_PER_TURN = 16
"""Far below `MAX_CONNECTIONS`, so that a new connection is read before a crowd can displace it."""

BACKLOG = 512
"""Connections that the kernel keeps until they are accepted, so that a burst waits instead of being refused."""

FIRST_BYTE_S = 1.0
"""Timeout from the connection to the request's first byte: the kubelet's default for the whole probe."""

REQUEST_S = 2.0
"""Timeout from the first byte to the end of the headers, which a probe sends in one packet."""

PAUSE_S = 1.0
"""The wait before accepting again, after the machine had no room for a connection."""

WARN_EVERY_S = 60.0
"""The shortest time between two warnings that connections cannot be accepted."""

PAGE_S = 1.0
"""A page of metrics is answered again for so long: whoever asks more often must not cost more."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


MetricsPage = Callable[[], Awaitable[tuple[str, bytes]]]
"""Returns what `/metrics` answers: the content's type and the content."""


class HealthServer:
    """Answers `/livez` with 200, or with 503 and `unhealthy_reason()` if that is not empty; `/readyz` always with 200.

    `/metrics` is answered with what `metrics` returns. All stay unanswered while the event loop is blocked.
    """

    def __init__(
        self,
        unhealthy_reason: Callable[[], str] = lambda: "",
        warn: Callable[[str], None] = lambda _: None,
        *,
        metrics: MetricsPage | None = None,
        first_byte_s: float = FIRST_BYTE_S,
        request_s: float = REQUEST_S,
    ) -> None:
        """`warn` is called with what the operator should know, as a text; it must not raise."""
        self._unhealthy_reason = unhealthy_reason
        self._warn = warn
        self._metrics = metrics
        self._page: tuple[str, bytes] | None = None
        self._page_s = 0.0
        """When the page was asked for."""
        self._first_byte_s = first_byte_s
        self._request_s = request_s
        self._listeners: list[socket.socket] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._open: dict[_Connection, None] = {}
        """The open connections, in the order in which they were accepted."""
        self.displaced = 0
        """Connections that were closed to make room for newer ones."""
        self.refused = 0
        """How often the machine had no room for a connection."""
        self._warned_at_s = -WARN_EVERY_S
        self.addresses: tuple[TransportAddress, ...] = ()
        """The addresses that it listens at."""

    @classmethod
    async def start(
        cls,
        hosts: tuple[str, ...],
        port: int,
        unhealthy_reason: Callable[[], str] = lambda: "",
        warn: Callable[[str], None] = lambda _: None,
        *,
        metrics: MetricsPage | None = None,
        option: str = "--health-port",
        first_byte_s: float = FIRST_BYTE_S,
        request_s: float = REQUEST_S,
    ) -> Self:
        """Listen on each of the numeric addresses. Raise `UserError`, which names `option`, if one cannot be bound."""
        self = cls(unhealthy_reason, warn, metrics=metrics, first_byte_s=first_byte_s, request_s=request_s)
        loop = asyncio.get_running_loop()
        try:
            for host in hosts:
                listener = bind_tcp(host, port, option)
                self._listeners.append(listener)
                listener.listen(BACKLOG)
                loop.add_reader(listener, self._accept, listener)
                self.addresses += (bound_address(listener),)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop listening and close all connections."""
        loop = asyncio.get_running_loop()
        for handle in self._paused.values():
            handle.cancel()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for connection in tuple(self._open):
            connection.close()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    continue  # the peer has gone already (accept(2))

                # No descriptor or memory left: make room, or wait where there is nothing to close.
                self._count_refusal(error)
                if not self._open:
                    self._pause(listener)
                    return
                self._close_oldest()
                continue

            if len(self._open) >= MAX_CONNECTIONS:
                self._close_oldest()
            sock.setblocking(False)
            self._open[
                _Connection(sock, self._answer, self._connection_closed, self._first_byte_s, self._request_s)
            ] = None

    def _close_oldest(self) -> None:
        """Close the connection that was accepted first."""
        self.displaced += 1
        next(iter(self._open)).close()

    def _connection_closed(self, connection: _Connection) -> None:
        self._open.pop(connection, None)

    def _pause(self, listener: socket.socket) -> None:
        """Stop accepting for a while: a connection that cannot be accepted would wake the event loop without end."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._paused[listener] = loop.call_later(PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._paused[listener]
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _count_refusal(self, error: OSError) -> None:
        self.refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_at_s >= WARN_EVERY_S:
            self._warned_at_s = now_s
            times = f", {self.refused:,} times so far" if self.refused > 1 else ""
            self._warn(f"the health port cannot accept connections: {error.strerror}{times} (ulimit -n)")

    def _answer(self, head: bytes) -> bytes | Awaitable[bytes]:
        """Return the response to a request, given its request line and headers, or an awaitable of it."""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _response(400)

        method, target, _version = words
        path = target.partition(b"?")[0]
        if path not in (b"/livez", b"/readyz") and not (path == b"/metrics" and self._metrics is not None):
            return _response(404)
        if method not in (b"GET", b"HEAD"):
            return _response(405)
        if path == b"/metrics" and self._metrics is not None:
            return self._answer_metrics(self._metrics, with_body=method != b"HEAD")

        unhealthy_reason = self._unhealthy_reason() if path == b"/livez" else ""
        return _response(503 if unhealthy_reason else 200, unhealthy_reason, with_body=method != b"HEAD")

    async def _answer_metrics(self, metrics: MetricsPage, *, with_body: bool) -> bytes:
        now_s = asyncio.get_running_loop().time()
        if self._page is None or now_s - self._page_s >= PAGE_S:
            self._page, self._page_s = await metrics(), now_s
        content_type, body = self._page
        return _response(200, body=body, content_type=content_type, with_body=with_body)


class _Connection:
    """One connection: it reads one request, answers it, and closes; a timeout closes it too."""

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[bytes], bytes | Awaitable[bytes]],
        on_close: Callable[[_Connection], None],
        first_byte_s: float,
        request_s: float,
    ) -> None:
        self._sock = sock
        self._answer = answer
        self._on_close = on_close
        self._request_s = request_s
        self._head = b""
        self._answering: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(first_byte_s, self.close)
        self._loop.add_reader(sock, self._read)

    def close(self) -> None:
        """Close the connection."""
        if self._sock.fileno() >= 0:
            self._deadline.cancel()
            if self._answering is not None:
                self._answering.cancel()
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._on_close(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()  # the peer has gone
            return

        if data and not self._head:
            self._deadline.cancel()
            self._deadline = self._loop.call_later(self._request_s, self.close)
        self._head += data

        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            answer = self._answer(head)
            if isinstance(answer, bytes):
                self._finish(answer)
            else:
                self._loop.remove_reader(self._sock)
                self._answering = self._loop.create_task(self._finish_later(answer))
        elif len(self._head) > MAX_REQUEST_BYTES:
            self._finish(_response(431))
        elif not data:
            # A TCP check only connects, and needs no answer.
            self._finish(_response(400) if self._head else b"")

    def _finish(self, response: bytes) -> None:
        """Send the response and close. It always fits into the send buffer, which is empty before it."""
        try:
            self._sock.send(response)
        except OSError:
            pass  # the peer has gone
        finally:
            self.close()

    async def _finish_later(self, answer: Awaitable[bytes]) -> None:
        """Send a response that takes time to make, and may be longer than the send buffer; the deadline holds for all."""
        try:
            await self._loop.sock_sendall(self._sock, await answer)
        except OSError:
            pass  # the peer has gone
        finally:
            self._answering = None
            self.close()


def _response(
    status: int,
    unhealthy_reason: str = "",
    *,
    body: bytes | None = None,
    content_type: str = "text/plain; charset=utf-8",
    with_body: bool = True,
) -> bytes:
    reason = _REASONS[status]
    if body is None:
        body = f"{unhealthy_reason or reason.lower()}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == 405:  # noqa: PLR2004 - RFC 9110 section 15.5.6: it names the methods allowed
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode() + (body if with_body else b"")
