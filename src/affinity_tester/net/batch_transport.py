"""A datagram transport that moves up to 64 datagrams in each system call (recvmmsg, sendmmsg).

It works with any `asyncio.DatagramProtocol`: it calls `datagram_received` for each datagram, and sends the replies at the end
of the batch. It differs from asyncio's own transport in one thing: datagrams never wait in memory. For each that finds no
room in the socket's send buffer, it calls `error_received` with a `SendBufferFullError`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

from affinity_tester.net.mmsg import BATCH_SIZE, Batch

MAX_BATCHES = 4
"""Batches read in one turn of the event loop, about a millisecond of work; then other sockets have their turn."""

_NO_ADDRESS = object()
"""Stands for the address while no datagram is being delivered."""


class SendBufferFullError(BlockingIOError):
    """A datagram was dropped because the socket's send buffer is full."""

    def __init__(self, datagram: bytes) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.datagram = datagram


class BatchTransport(asyncio.DatagramTransport):
    """A transport on an unconnected, non-blocking socket. It closes the socket when it is closed itself."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        batch: Batch,
    ) -> None:
        """Start reading. Transports of one thread may share `batch`, since it is empty again after each callback."""
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": None})
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._batch = batch
        self._closing = False
        self._address: object = _NO_ADDRESS
        """The source of the datagram that is being delivered, until the protocol replies to it."""
        self._peer = b""
        """The sockaddr of that source."""
        self._peers: list[bytes] = []
        """The sockaddrs that the replies of this batch go to."""
        self._replies: list[bytes | bytearray | memoryview] = []
        """The replies of this batch, one for each of `_peers`."""
        protocol.connection_made(self)
        loop.add_reader(self._fd, self._read_ready)

    def _read_ready(self) -> None:
        """Deliver the datagrams that are queued at the socket; after a full batch there may be more."""
        for _ in range(MAX_BATCHES):
            try:
                count = self._batch.receive(self._fd)
            except BlockingIOError:
                return
            except OSError as error:
                self._protocol.error_received(error)  # an ICMP error about an earlier reply
                return

            self._deliver(count)
            if count < BATCH_SIZE or self._closing:
                return

    def _deliver(self, count: int) -> None:
        """Give the protocol each datagram of the batch, then send its replies."""
        address_of, decode = self._batch.addresses.get, self._batch.decode
        receive = self._protocol.datagram_received

        for peer, data in self._batch.received(count):
            address = address_of(peer)
            if address is None:
                address = decode(peer)
            self._peer = peer
            self._address = address
            try:
                receive(data, address)
            except Exception as error:
                self._report_error(error)

        self._address = _NO_ADDRESS
        self._flush()

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send at the end of the batch if this is the reply to the datagram being delivered, else at once.

        `data` is not copied before it is sent (as in uvloop's transport), so a buffer must not change until then.
        """
        # The very object that was delivered, which needs no comparison of its parts.
        if addr is self._address:
            self._address = _NO_ADDRESS  # a second reply is sent at once: there is room for one to each datagram
            self._peers.append(self._peer)
            self._replies.append(data)
            return

        # Earlier replies first, so that datagrams leave in the order in which the protocol sent them.
        self._flush()
        try:
            self._sock.sendto(data, addr)
        except BlockingIOError:
            self._protocol.error_received(SendBufferFullError(bytes(data)))
        except OSError as error:
            self._protocol.error_received(error)

    def _flush(self) -> None:
        """Send the replies of the batch. One that fails is left out; a full send buffer drops all that remain."""
        replies = self._replies
        if not replies:
            return

        batch, ready, sent = self._batch, len(replies), 0
        batch.load(self._peers, replies)
        self._peers.clear()
        self._replies = []

        while sent < ready:
            try:
                sent += batch.send(self._fd, sent, ready)
            except BlockingIOError:
                for reply in replies[sent:]:
                    self._protocol.error_received(SendBufferFullError(bytes(reply)))
                return
            except OSError as error:
                self._protocol.error_received(error)
                sent += 1

    def _report_error(self, error: Exception) -> None:
        context = {"message": "datagram_received failed", "exception": error, "transport": self}
        self._loop.call_exception_handler(context | {"protocol": self._protocol})

    def get_write_buffer_size(self) -> int:
        """Return 0: no datagram ever waits in memory."""
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the datagrams."""
        return self._protocol

    def is_closing(self) -> bool:
        """True if `close` was called."""
        return self._closing

    def close(self) -> None:
        """Stop reading now; the socket is closed in the event loop's next turn."""
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._fd)
            self._loop.call_soon(self._connection_lost)

    def abort(self) -> None:
        """Close as `close` does: no datagram waits to be sent."""
        self.close()

    def _connection_lost(self) -> None:
        try:
            self._protocol.connection_lost(None)
        finally:
            self._sock.close()
