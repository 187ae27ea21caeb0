"""A datagram transport that moves up to 64 datagrams per system call (recvmmsg, sendmmsg).

It feeds an ordinary `asyncio.DatagramProtocol`: one `datagram_received` a datagram, and what the protocol sends in reply
leaves at the end of the batch. The protocol cannot tell it from asyncio's own transport, but for one thing: datagrams
never wait in memory. What finds no room in the socket's send buffer goes to `error_received`, one `NoRoomError` each.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

from affinity_tester.net.mmsg import SIZE, Batch

MAX_BATCHES = 4
"""Batches read at one wake-up: about a millisecond's work, then the other sockets and the health port have their turn."""

_NOBODY = object()
"""No address: no datagram is in hand."""


class NoRoomError(BlockingIOError):
    """A datagram found no room in the socket's send buffer, and is dropped."""

    def __init__(self, datagram: bytes) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.datagram = datagram


class BatchTransport(asyncio.DatagramTransport):
    """For an unconnected, non-blocking socket, which it closes in the end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        batch: Batch,
    ) -> None:
        """Start to read. Transports of one thread may share a batch: its content does not outlive a wake-up."""
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": None})
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._batch = batch
        self._closing = False
        self._address: object = _NOBODY
        """The source of the datagram that the protocol has in hand, until it replies."""
        self._peer = b""
        """Its sockaddr."""
        self._peers: list[bytes] = []
        """Where the replies of this batch go."""
        self._replies: list[bytes | bytearray | memoryview] = []
        protocol.connection_made(self)
        loop.add_reader(self._fd, self._read_ready)

    def _read_ready(self) -> None:
        """Deliver what is queued; a full batch means that there may be more."""
        for _ in range(MAX_BATCHES):
            try:
                count = self._batch.receive(self._fd)
            except BlockingIOError:
                return
            except OSError as error:
                self._protocol.error_received(error)  # an ICMP error, which an earlier reply met
                return
            self._deliver(count)
            if count < SIZE or self._closing:
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
                self._report(error)
        self._address = _NOBODY
        self._flush()

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send at the end of the batch if it is the reply to the datagram in hand, else at once.

        Until then `data` is not copied (as in uvloop's transport), so a buffer may not change in between.
        """
        if addr is self._address:
            self._address = _NOBODY  # a second reply goes the other way: a batch has no room for more than it received
            self._peers.append(self._peer)
            self._replies.append(data)
            return
        self._flush()
        try:
            self._sock.sendto(data, addr)
        except BlockingIOError:
            self._protocol.error_received(NoRoomError(bytes(data)))
        except OSError as error:
            self._protocol.error_received(error)

    def _flush(self) -> None:
        """Send the replies. One that fails is passed over; a full buffer fails all the rest."""
        replies = self._replies
        if not replies:
            return
        batch, ready, sent = self._batch, len(replies), 0
        batch.put(self._peers, replies)
        self._peers.clear()
        self._replies = []
        while sent < ready:
            try:
                sent += batch.send(self._fd, sent, ready)
            except BlockingIOError:
                for reply in replies[sent:]:
                    self._protocol.error_received(NoRoomError(bytes(reply)))
                return
            except OSError as error:
                self._protocol.error_received(error)
                sent += 1

    def _report(self, error: Exception) -> None:
        context = {"message": "datagram_received failed", "exception": error, "transport": self}
        self._loop.call_exception_handler(context | {"protocol": self._protocol})

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What it feeds."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def close(self) -> None:
        """Read no more; the socket is closed after the loop's next turn."""
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._fd)
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        """As `close`: nothing waits here."""
        self.close()

    def _lose(self) -> None:
        try:
            self._protocol.connection_lost(None)
        finally:
            self._sock.close()
