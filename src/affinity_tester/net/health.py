"""The health port: `/livez` and `/readyz` over HTTP, since Kubernetes has no UDP probe.

Cloud load balancers want a TCP or HTTP check for UDP services too, so anyone may connect, and no crowd of connections
may keep the kubelet's probe out: a pod that fails it goes unready, and its live flows move. So connections are bounded
in number, and at the bound the one that has waited longest gives way to the new one; a probe sends its request at once,
and is answered in the same turn of the event loop. Requests are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.addresses import bind_tcp, bound_address

MAX_REQUEST_BYTES = 4096
"""A probe's request line and headers have some 200 bytes."""

MAX_CONNECTIONS = 64
"""Kubelet and a cloud's checkers open a handful at a time."""

ACCEPTS_PER_TURN = 16
"""Far fewer than there may be: what has just connected is read before a crowd can displace it."""

BACKLOG = 512
"""Connections that the kernel keeps until they are accepted: a burst of them waits there, and is not refused."""

FIRST_BYTE_S = 1.0
"""From the connection to the request's first byte: the kubelet's whole patience by default."""

REQUEST_S = 2.0
"""From there to the end of its headers, which a probe sends in one packet."""

PAUSE_S = 1.0
"""Between two tries to accept when the machine refuses it."""

WARN_EVERY_S = 60.0
"""At most one line in this time says that connections could not be accepted."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class HealthServer:
    """`/livez` answers 200 while `trouble()` is empty, and else 503 with it; `/readyz` 200 while the event loop turns."""

    def __init__(
        self,
        trouble: Callable[[], str] = lambda: "",
        warn: Callable[[str], None] = lambda _: None,
        *,
        first_byte_s: float = FIRST_BYTE_S,
        request_s: float = REQUEST_S,
    ) -> None:
        """`warn` is told in words what the operator should know; it may not raise."""
        self._trouble = trouble
        self._warn = warn
        self._first_byte_s = first_byte_s
        self._request_s = request_s
        self._listeners: list[socket.socket] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._open: dict[_Connection, None] = {}
        """In the order in which they were accepted."""
        self.displaced = 0
        """Connections that gave way to newer ones."""
        self.refused = 0
        """Times that the machine refused to accept one."""
        self._warned_at_s = -WARN_EVERY_S
        self.addresses: tuple[TransportAddress, ...] = ()
        """Where it listens."""

    @classmethod
    async def start(
        cls,
        hosts: tuple[str, ...],
        port: int,
        trouble: Callable[[], str] = lambda: "",
        warn: Callable[[str], None] = lambda _: None,
        *,
        first_byte_s: float = FIRST_BYTE_S,
        request_s: float = REQUEST_S,
    ) -> Self:
        """Listen on each of the numeric addresses. Raises `UserError`."""
        self = cls(trouble, warn, first_byte_s=first_byte_s, request_s=request_s)
        loop = asyncio.get_running_loop()
        try:
            for host in hosts:
                listener = bind_tcp(host, port)
                self._listeners.append(listener)
                listener.listen(BACKLOG)
                loop.add_reader(listener, self._accept, listener)
                self.addresses += (bound_address(listener),)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop listening and cut the connections."""
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
        """How many are open."""
        return len(self._open)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    continue  # this one has gone again (accept(2))
                self._note_refusal(error)
                if not self._open:
                    self._pause(listener)
                    return
                self._displace()
                continue
            if len(self._open) >= MAX_CONNECTIONS:
                self._displace()
            sock.setblocking(False)
            self._open[_Connection(sock, self._answer, self._forget, self._first_byte_s, self._request_s)] = None

    def _displace(self) -> None:
        """Close the one that has waited longest."""
        self.displaced += 1
        next(iter(self._open)).close()

    def _forget(self, connection: _Connection) -> None:
        self._open.pop(connection, None)

    def _pause(self, listener: socket.socket) -> None:
        """Leave a listener alone for a while: a connection that cannot be accepted would wake it without end."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._paused[listener] = loop.call_later(PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._paused[listener]
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _note_refusal(self, error: OSError) -> None:
        self.refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_at_s >= WARN_EVERY_S:
            self._warned_at_s = now_s
            times = f", {self.refused:,} times so far" if self.refused > 1 else ""
            self._warn(f"the health port cannot accept connections: {error.strerror}{times} (ulimit -n)")

    def _answer(self, head: bytes) -> bytes:
        """The answer to a request's line and headers."""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _response(400)
        method, target, _version = words
        path = target.partition(b"?")[0]
        if path not in (b"/livez", b"/readyz"):
            return _response(404)
        if method not in (b"GET", b"HEAD"):
            return _response(405)
        trouble = self._trouble() if path == b"/livez" else ""
        return _response(503 if trouble else 200, trouble, with_body=method != b"HEAD")


class _Connection:
    """One request, and its answer; nothing of it outlives its time."""

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[bytes], bytes],
        forget: Callable[[_Connection], None],
        first_byte_s: float,
        request_s: float,
    ) -> None:
        self._sock = sock
        self._answer = answer
        self._forget = forget
        self._request_s = request_s
        self._head = b""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(first_byte_s, self.close)
        self._loop.add_reader(sock, self._read)

    def close(self) -> None:
        """Cut it."""
        if self._sock.fileno() >= 0:
            self._deadline.cancel()
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._forget(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()  # it has gone: there is nobody to tell
            return
        if data and not self._head:
            self._deadline.cancel()
            self._deadline = self._loop.call_later(self._request_s, self.close)
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            self._finish(self._answer(head))
        elif len(self._head) > MAX_REQUEST_BYTES:
            self._finish(_response(431))
        elif not data:
            # A check that only connects has been answered by the connection itself.
            self._finish(_response(400) if self._head else b"")

    def _finish(self, response: bytes) -> None:
        """Answer and close: so few bytes always fit into the buffer of a socket that has sent nothing."""
        try:
            self._sock.send(response)
        except OSError:
            pass  # it has gone: there is nobody to tell
        finally:
            self.close()


def _response(status: int, trouble: str = "", *, with_body: bool = True) -> bytes:
    reason = _REASONS[status]
    body = f"{trouble or reason.lower()}\n".encode()
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
