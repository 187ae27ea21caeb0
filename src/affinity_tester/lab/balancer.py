"""The load balancer's sockets: it moves datagrams between clients and pods as `NetworkModel` and `Impairments` say.

    client  <->  front socket  | impairments, network |  source socket (node ip, port)  <->  pod

Each flow has a source socket of its own on its node's address, so a pod sees there what it would see behind a node's
masquerade. All of 127.0.0.0/8 can be bound on Linux, and no root is needed.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.packet_log import Direction, Dropped
from affinity_tester.units import NS_PER_S

MAX_DATAGRAM = 65_535
"""No UDP datagram is longer."""

MAX_BATCH = 64
"""Datagrams read from one socket before the other sockets have their turn."""

SWEEP_S = 1.0
"""Time between two sweeps for idle flows."""

FLOOD_SIZE = 64
"""Bytes of a datagram of `flood`: a receive buffer counts it as about as much as a reply."""

_TOKEN = slice(8, 16)
"""The session token in probe and reply: the transaction id's first 8 bytes."""

RECEIVE_BUFFER = 1 << 20
"""Bytes asked for at the front socket: a busy machine's pause of a second must not become a loss."""


@dataclass(frozen=True, slots=True)
class Diversion:
    """Where some of one client's replies are delivered in place of the client."""

    to: TransportAddress
    share: float
    """The share of the replies (0 to 1)."""
    rng: random.Random


class Sources:
    """The bound source sockets; the network claims its addresses here."""

    def __init__(self) -> None:
        """Begin with no socket."""
        self._sockets: dict[TransportAddress, socket.socket] = {}
        self.on_open: Callable[[TransportAddress, socket.socket], None] = lambda _source, _sock: None
        """Called with each new socket."""

    def claim(self, source: TransportAddress) -> bool:
        """Bind a source address; False when it is taken. Raises `OSError` when the machine has no more sockets."""
        sock = _bound_socket(source)
        if sock is None:
            return False
        self._sockets[source] = sock
        self.on_open(source, sock)
        return True

    def __getitem__(self, source: TransportAddress) -> socket.socket:
        """Return the socket of a claimed address."""
        return self._sockets[source]

    def release(self, keep: frozenset[TransportAddress]) -> tuple[socket.socket, ...]:
        """Give up all sockets but those of these addresses, and return them for the caller to close."""
        gone = tuple(sock for source, sock in self._sockets.items() if source not in keep)
        self._sockets = {source: sock for source, sock in self._sockets.items() if source in keep}
        return gone


def _no_pod_socket(address: TransportAddress) -> socket.socket:
    """Find no pod's socket: nothing can leave from a pod then."""
    raise LookupError(address)


class Balancer:
    """A running load balancer; `start` makes one, `close` ends it."""

    def __init__(
        self,
        front: socket.socket,
        network: NetworkModel,
        impairments: Impairments,
        sources: Sources,
        pod_socket: Callable[[TransportAddress], socket.socket],
    ) -> None:
        """Serve on this bound, non-blocking socket from now on; needs a running selector event loop.

        `pod_socket` returns the socket of the pod at an address, for what leaves from there.
        """
        self.network = network
        self.impairments = impairments
        self._log = impairments.log

        # What went wrong in the lab itself.
        self.refused = 0
        """Datagrams that the machine did not let pass: losses that nobody wanted, so the run is worth nothing."""
        self.refusal = ""
        """Why, in the machine's words."""
        self.unclaimed = 0
        """Datagrams that reached a source socket and belong to no flow."""

        # What faults do to replies.
        self.wrong_source: set[TransportAddress] = set()
        """Clients whose replies leave from another address than the service's."""
        self.diversions: dict[TransportAddress, Diversion] = {}
        """Clients of whose replies some are delivered to another client."""
        self.holding: set[TransportAddress] = set()
        """Clients whose replies wait for `flood`."""
        self._held: list[tuple[bytes, TransportAddress]] = []
        self._owners: dict[bytes, TransportAddress] = {}
        """The client of each session token, which stands in each probe and its reply: two flows may share a source."""

        self._other = _other_socket(front)
        self._closed = False
        self._front = front
        self._sources = sources
        self._pod_socket = pod_socket
        self._loop = asyncio.get_running_loop()
        sources.on_open = self._opened
        self._loop.add_reader(front, self._front_readable)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    @classmethod
    def start(
        cls,
        network: NetworkModel,
        impairments: Impairments,
        sources: Sources,
        front: TransportAddress,
        pod_socket: Callable[[TransportAddress], socket.socket] = _no_pod_socket,
    ) -> Self:
        """Listen at `front` (port 0: any). `sources` is where the network claims its addresses. Raises `OSError`."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(front)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        except OSError:
            sock.close()
            raise
        return cls(sock, network, impairments, sources, pod_socket)

    @property
    def address(self) -> TransportAddress:
        """Return the address to which clients send."""
        return TransportAddress(*self._front.getsockname())

    @property
    def is_waiting(self) -> bool:
        """True if a probe waits at the front socket to be read."""
        try:
            self._front.recv(1, socket.MSG_PEEK)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close every socket; what is in the queues is lost."""
        self._closed = True
        self._sweeper.cancel()
        self._close(self._front)
        self._other.close()
        for sock in self._sources.release(frozenset()):
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()

    def _opened(self, source: TransportAddress, sock: socket.socket) -> None:
        self._loop.add_reader(sock, partial(self._source_readable, source, sock))

    def _sweep(self) -> None:
        for sock in self._sources.release(self.network.expire(clock.now_ns())):
            self._close(sock)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _front_readable(self) -> None:
        for data, client in received(self._front):
            for delay_ns in self.impairments.delays(Direction.UP, client, clock.now_ns(), len(data)):
                self._after(delay_ns, partial(self._forward, data, client))

    def _forward(self, data: bytes, client: TransportAddress) -> None:
        try:
            entry = self.network.forward(client, clock.now_ns())
        except OSError as error:
            self._refuse(error)
            return
        if entry is not None:
            self._owners[data[_TOKEN]] = client
            self._send(self._sources[entry.source], data, entry.pod.address)

    def _source_readable(self, source: TransportAddress, sock: socket.socket) -> None:
        for data, sender in received(sock):
            now_ns = clock.now_ns()
            client = self.network.reverse(source, sender, now_ns)
            if client is None:
                self.unclaimed += 1
                continue

            if self.network.loses_reply(source, sender):
                self._log(Dropped(client, now_ns, Direction.DOWN, "dead-path"))
                continue

            # The model knows addresses alone; the token tells whose reply it is where two flows share one.
            owner = self._owners.get(data[_TOKEN], client)
            if source in self.network.shared_sources and owner != client:
                self._log(Dropped(owner, now_ns, Direction.DOWN, "snat-collision"))
                self._send(self._front, data, client)
                continue
            client = owner  # where they differ, it was on its way when the two flows parted

            for delay_ns in self.impairments.delays(Direction.DOWN, client, now_ns, len(data)):
                self._after(delay_ns, partial(self._reply, data, client, source, sender))

    def _reply(self, data: bytes, client: TransportAddress, source: TransportAddress, sender: TransportAddress) -> None:
        diversion = self.diversions.get(client)
        if self.network.is_direct(source, sender):
            self._log(Dropped(client, clock.now_ns(), Direction.DOWN, "wrong-source"))
            self._send(self._pod_socket(sender), data, client)
        elif diversion is not None and diversion.rng.random() < diversion.share:
            self._log(Dropped(client, clock.now_ns(), Direction.DOWN, "cross-delivery"))
            self._send(self._front, data, diversion.to)
        elif client in self.wrong_source:
            self._log(Dropped(client, clock.now_ns(), Direction.DOWN, "wrong-source"))
            self._send(self._other, data, client)
        elif client in self.holding:
            self._held.append((data, client))
        else:
            self._send(self._front, data, client)

    def flood(self, count: int) -> None:
        """Send `count` meaningless datagrams to each client whose replies are held, and the held replies behind them.

        The client has no turn in between, so the kernel drops and counts what its receive buffers cannot hold. Replies
        stay held until `release`, so that no other one meets a full buffer.
        """
        for client in self.holding:
            for _ in range(count):
                self._send(self._front, bytes(FLOOD_SIZE), client)

        for data, client in self._held:
            self._log(Dropped(client, clock.now_ns(), Direction.DOWN, "full-buffer"))
            self._send(self._front, data, client)
        self._held.clear()

    def release(self) -> None:
        """Send the held replies, and hold none any more."""
        self.holding.clear()
        for data, client in self._held:
            self._send(self._front, data, client)
        self._held.clear()

    def _after(self, delay_ns: int, action: Callable[[], None]) -> None:
        if delay_ns:
            self._loop.call_later(delay_ns / NS_PER_S, self._unless_closed, action)
        else:
            action()

    def _unless_closed(self, action: Callable[[], None]) -> None:
        if not self._closed:
            action()

    def _send(self, sock: socket.socket, data: bytes, to: TransportAddress) -> None:
        try:
            sock.sendto(data, to)
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        self.refused += 1
        self.refusal = error.strerror or str(error)


def _other_socket(front: socket.socket) -> socket.socket:
    """Return a socket at the front's IP address, and another port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((front.getsockname()[0], 0))
    return sock


def _bound_socket(address: TransportAddress) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return sock


def received(sock: socket.socket) -> list[tuple[bytes, TransportAddress]]:
    """Return what is in the socket's queue, up to a batch."""
    batch: list[tuple[bytes, TransportAddress]] = []
    try:
        while len(batch) < MAX_BATCH:
            data, sender = sock.recvfrom(MAX_DATAGRAM)
            batch.append((data, TransportAddress(*sender)))
    except OSError:
        # Empty, or (on some kernels) an ICMP error that an earlier datagram caused: neither is a datagram.
        pass
    return batch
