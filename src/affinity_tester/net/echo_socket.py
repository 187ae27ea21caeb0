"""Readers: each empties one socket when there is something to read, and answers.

They read many datagrams at one wake-up, since that halves what the event loop costs each of them, but not without
end: the other sockets and the health port get their turn. What cannot be sent is counted, and never waits in memory.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator

from affinity_tester import clock
from affinity_tester.core.rate_limit import pack_source
from affinity_tester.core.stun import HEADER_SIZE, MAX_COUNT
from affinity_tester.net.mmsg import SIZE, Batch, Started, is_available, peer_address, peer_ip
from affinity_tester.net.responder import Responder

PER_WAKE_UP = 4 * SIZE
"""Datagrams read at one wake-up at most: about a millisecond's work."""

_LARGEST = 65_536
"""Bytes: no UDP datagram is as long."""


def make_reader() -> Callable[[socket.socket, Responder], Callable[[], None]]:
    """What makes the readers of a server's sockets: call it with each."""
    if not _has_batches():
        return lambda sock, responder: functools.partial(read_single, sock, responder)
    batch_of = functools.cache(Batch)  # one for each address family: its content does not outlive a wake-up
    return lambda sock, responder: BatchReader(sock, responder, batch_of(sock.family)).read


_has_batches = functools.cache(is_available)


def read_single(sock: socket.socket, responder: Responder) -> None:
    """Answer what is queued, datagram by datagram; any platform can."""
    for _ in range(PER_WAKE_UP):
        try:
            data, source = sock.recvfrom(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            responder.send_errors += 1  # an ICMP error, which an earlier reply met
            return
        if not source[1]:
            responder.drop("source-port-0")  # nothing can be sent there
            continue
        if responder.limit is not None:
            over = responder.limit.refuse(pack_source(source[0]), clock.now_ns())
            if over is not None:
                responder.drop(over)
                continue
        reply = responder.respond(data, source)  # IPv6 adds flow and scope, which tell sources apart
        if reply is None:
            continue
        try:
            sock.sendto(reply, source)
        except BlockingIOError:
            responder.unsent(reply)
        except OSError:
            responder.send_errors += 1


class BatchReader:
    """Answers what is queued at a socket, a batch at a time."""

    def __init__(self, sock: socket.socket, responder: Responder, batch: Batch) -> None:
        self._fd = sock.fileno()
        self._responder = responder
        self._limit = responder.limit
        self._batch = batch

    def read(self) -> None:
        """Answer what is queued; a full batch means that there may be more."""
        for _ in range(PER_WAKE_UP // SIZE):
            try:
                received = self._batch.receive(self._fd)
            except BlockingIOError:
                return
            except OSError:
                self._responder.send_errors += 1  # an ICMP error, which an earlier reply met
                return
            self._send(self._answer(received))
            if received < SIZE:
                return

    def _answer(self, received: int) -> int:
        """Write the replies to the datagrams of the batch; returns how many there are.

        The hot path: one look-up finds the flow, four comparisons that this is the request it is prepared for, and its
        parts are written where they are sent from. A new flow, and any other datagram, goes the long way.
        """
        responder, batch = self._responder, self._batch
        find, out, stride, lengths = responder.flows.get, batch.out, batch.stride, batch.lengths
        ready = offset = answered = 0
        starts = batch.starts(received)
        for index, (peer, head, token, seq, padding), (size,) in (
            starts if self._limit is None else self._within(starts)
        ):
            flow = find((token, peer))
            if flow is not None and flow.size == size and flow.request_head == head and flow.padding == padding:
                flow.count = count = flow.count + 1
                tail = flow.tail or flow.template.tail(token + seq)
                flow.pack(out, offset, flow.reply_head, token, seq, tail, count & MAX_COUNT)
                if lengths[ready] != flow.reply_size:
                    batch.set_length(ready, flow.reply_size)
                answered += 1
            else:
                reply = self._answer_any(index, peer, size)
                if reply is None:
                    continue
                batch.put(ready, peer, reply)
            ready += 1
            offset += stride
        responder.answered += answered
        return ready

    def _within(self, starts: Iterator[Started]) -> Iterator[Started]:
        """Those that the limit lets pass; the other ones are counted."""
        limit, now_ns = self._limit, clock.now_ns()
        assert limit is not None
        ip = peer_ip(self._batch.name_size)
        for started in starts:
            over = limit.refuse(started[1][0][ip], now_ns)
            if over is None:
                yield started
            else:
                self._responder.drop(over)

    def _answer_any(self, index: int, peer: bytes, size: int) -> bytes | None:
        address = peer_address(peer)
        if not address[1]:
            self._responder.drop("source-port-0")  # nothing can be sent there
            return None
        return self._responder.respond(self._batch.datagram(index, size), address, peer)

    def _send(self, ready: int) -> None:
        """Send the first `ready` replies. One that fails is counted and passed over; a full buffer fails all the rest."""
        sent = 0
        while sent < ready:
            try:
                sent += self._batch.send(self._fd, sent, ready)
            except BlockingIOError:
                for index in range(sent, ready):
                    self._responder.unsent(self._batch.sent_start(index, HEADER_SIZE))
                return
            except OSError:
                self._responder.send_errors += 1
                sent += 1
