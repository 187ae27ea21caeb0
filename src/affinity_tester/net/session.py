"""One session: its socket, its token and its tracker. It sends when told, reads when told, and tells what it sees."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from time import monotonic_ns

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClientFault, Counts, Event, NetworkError, SessionSummary, WrongSource
from affinity_tester.core.identity import Kind
from affinity_tester.core.stun import (
    HEADER_SIZE,
    ResponseDecoder,
    new_request,
    pack_transaction_id,
    unpack_transaction_id,
)
from affinity_tester.core.tracker import SessionTracker
from affinity_tester.errors import StunError
from affinity_tester.net.clock import wall_to_monotonic_ns
from affinity_tester.net.probe_socket import (
    ADDRESS_ERRNOS,
    LOCAL_ERRNOS,
    IcmpError,
    drop_count,
    read_error_queue,
    receive,
    socket_address,
)

READ_BOUND = 10_000
"""Datagrams read on one look at a socket: more than its buffer holds, so only a flood that goes on reaches it."""


class Session:
    """A UDP socket from one source address, for its whole life."""

    __slots__ = (
        "_decoder",
        "_destination",
        "_drops",
        "_emit",
        "_key",
        "_request_size",
        "_token",
        "_told",
        "local",
        "name",
        "network_errors",
        "previous",
        "send_errors",
        "sock",
        "target",
        "timer_misses",
        "tracker",
        "undecodable",
        "wrong_source",
    )

    def __init__(
        self,
        sock: socket.socket,
        target: TransportAddress,
        tracker: SessionTracker,
        token: int,
        decoder: ResponseDecoder,
        *,
        emit: Callable[[Event], None],
        scope_id: int = 0,
        request_size: int,
        key: bytes | None,
        connected: bool,
    ) -> None:
        """Take over a bound socket; `decoder` is shared by all sessions, `token` has 64 random bits."""
        self.sock = sock
        self.target = target
        self.tracker = tracker
        self.name = tracker.session
        self._token = token
        self._decoder = decoder
        self._emit = emit
        self._request_size = request_size
        self._key = key
        self._destination = None if connected else socket_address(target, scope_id)
        self.local = TransportAddress(*sock.getsockname()[:2])
        self.timer_misses = self.send_errors = self.wrong_source = self.network_errors = self.undecodable = 0
        self._drops = 0
        self._told: set[tuple[str, ...]] = set()
        self.previous = Counts()
        """The counts of the last statistics line."""

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send the next probe, unless this machine refuses it (which is counted, and told once)."""
        tracker = self.tracker
        request = new_request(pack_transaction_id(self._token, tracker.sent_count), self._request_size, self._key)
        now_ns = monotonic_ns()
        failure = self._send_once(request)
        if failure is not None and failure.errno not in LOCAL_ERRNOS and failure.errno not in ADDRESS_ERRNOS:
            # An ICMP error about an earlier probe: heard, and this probe is still to be sent (design, section 3).
            self.hear_errors(now_ns, failure)
            now_ns = monotonic_ns()
            failure = self._send_once(request)
        if failure is None:
            tracker.sent(now_ns)
            return
        self.send_errors += 1
        name = errno.errorcode.get(failure.errno or 0, str(failure.errno))
        fault = "local-address" if failure.errno in ADDRESS_ERRNOS else "send-error"
        self._tell_once((fault, name), ClientFault(now_ns, self.name, fault, f"{name}: {failure.strerror}"))

    def _send_once(self, request: bytes) -> OSError | None:
        try:
            if self._destination is None:
                self.sock.send(request)
            else:
                self.sock.sendto(request, self._destination)
        except OSError as error:
            return error
        return None

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, to_monotonic_ns: int) -> int | None:
        """Read one datagram, if there is one; `to_monotonic_ns` is net.clock's sample.

        Returns a time that was before all that is still to be read (0: not known), None when the socket was empty.
        """
        try:
            payload, wall_ns, source = receive(self.sock)
        except BlockingIOError:
            return None
        except OSError as error:  # a connected socket, or a system without error queues, tells ICMP errors here
            self.hear_errors(monotonic_ns(), error)
            return 0
        received_ns = monotonic_ns() if wall_ns is None else wall_ns + to_monotonic_ns
        self._accept(payload, source, received_ns)
        return 0 if wall_ns is None else received_ns

    def read_empty(self) -> int:
        """Read all there is; return a time at which the socket was seen empty, or that was before what is left."""
        now_ns = monotonic_ns()
        to_monotonic_ns = wall_to_monotonic_ns()
        read_ns: int | None = 0
        # Bounded: a flood must not keep the client here. The queue is in order, so what was read last tells how far it got.
        for _ in range(READ_BOUND):
            read_ns = self.read(to_monotonic_ns)
            if read_ns is None:
                return now_ns
        return min(read_ns or 0, now_ns)

    def _accept(self, payload: bytes, source: tuple[str, int], received_ns: int) -> None:
        try:
            response = self._decoder.decode(payload)
        except StunError:
            self.undecodable += 1
            return
        token, seq = unpack_transaction_id(response.transaction_id)
        if token != self._token or seq >= self.tracker.sent_count:
            self.undecodable += 1
            return
        if source[1] != self.target.port or source[0].partition("%")[0] != self.target.ip:
            self.wrong_source += 1
            address = TransportAddress(source[0].partition("%")[0], source[1])
            self._tell_once(("source", str(address)), WrongSource(received_ns, self.name, address, self.target))
            return
        self.tracker.replied(seq, response.identity, response.received_count, received_ns)

    def hear_errors(self, now_ns: int, failure: OSError | None = None) -> None:
        """Drain the error queue; `failure` is what a call returned, which counts when the queue tells nothing."""
        heard = read_error_queue(self.sock)
        if not heard and failure is not None:
            heard = [IcmpError(errno.errorcode.get(failure.errno or 0, str(failure.errno)), None, b"")]
        for error in heard:
            self.network_errors += 1
            event = NetworkError(now_ns, self.name, self._quoted(error.probe), error.error, error.offender)
            self._tell_once(("icmp", error.error, error.offender or ""), event)

    def _quoted(self, probe: bytes) -> int | None:
        """The sequence number of a quoted probe of this session."""
        if len(probe) < HEADER_SIZE:
            return None
        token, seq = unpack_transaction_id(probe[8:HEADER_SIZE])
        return seq if token == self._token else None

    # --- what is known ---------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Lose what is overdue, after the socket was read empty past the deadline."""
        deadline_ns = self.tracker.deadline_ns
        if deadline_ns is None or deadline_ns >= monotonic_ns():
            return
        lost_before = self.tracker.lost
        self.tracker.expire(self.read_empty())
        if self.tracker.lost != lost_before:
            self.check_drops()

    def check_drops(self) -> None:
        """Ask the kernel how many replies this socket's full buffer has cost."""
        drops = drop_count(self.sock)
        if drops != self._drops:
            self._drops = drops
            detail = f"{drops} replies dropped at this machine's full socket buffer"
            self._tell_once(("drops",), ClientFault(monotonic_ns(), self.name, "socket-drops", detail))

    def counts(self) -> Counts:
        """Everything counted so far."""
        tracker = self.tracker
        return Counts(
            sent=tracker.sent_count,
            answered=tracker.answered,
            lost=tracker.lost,
            pending=tracker.pending,
            late=tracker.late,
            duplicate=tracker.duplicate,
            reordered=tracker.reordered,
            changes=tracker.changes,
            pairs=tracker.pairs,
            timer_misses=self.timer_misses,
            send_errors=self.send_errors,
            socket_drops=self._drops,
            wrong_source=self.wrong_source,
            network_errors=self.network_errors,
            stale=tracker.stale,
            undecodable=self.undecodable,
        )

    def summary(self, now_ns: int) -> SessionSummary:
        """The end of the session."""
        tracker = self.tracker
        kinds = tuple((kind, count) for kind in Kind if (count := tracker.kind_counts.get(kind, 0)))
        return SessionSummary(
            now_ns,
            self.name,
            self.local,
            self.counts(),
            tracker.losses(),
            tracker.rtt.stats(),
            kinds,
            tracker.longest_gap_ns,
            tracker.unanswered_ns,
            tracker.serving,
        )

    def _tell_once(self, key: tuple[str, ...], event: Event) -> None:
        if key not in self._told and len(self._told) < 64:  # noqa: PLR2004 - a spray of sources must not grow memory
            self._told.add(key)
            self._emit(event)
