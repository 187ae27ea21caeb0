"""One session: its socket, its token and its tracker. It sends probes, reads replies and emits events about both."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ClientFault,
    ClientFaultKind,
    Counts,
    CrossDelivered,
    Event,
    NetworkError,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.tracker import SessionTracker
from affinity_tester.core.stun import ProbeCodec, listens_on_wildcard, token_in
from affinity_tester.errors import StunError
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.drops import DropHistory
from affinity_tester.net.probe_socket import (
    ADDRESS_ERRNOS,
    LOCAL_ERRNOS,
    IcmpError,
    drop_count,
    read_error_queue,
    receive,
    socket_address,
    transport_address,
)
from affinity_tester.units import NS_PER_S

if TYPE_CHECKING:
    from affinity_tester.net.reference import Reference  # which is made of sessions

MAX_READS = 10_000
"""The most datagrams read from a socket at once. Its buffer holds fewer, so only a continuing flood reaches this."""

REPEAT_AFTER_NS = 10 * NS_PER_S
"""While replies keep coming from one wrong source, or for one other session, the event is repeated after so long."""

MAX_EMITTED = 64
"""The most different events that a session emits once or repeatedly: replies from many sources must not fill memory."""

_BUFFERS = (bytearray(1 << 16),)
"""One buffer for all sessions, large enough for any datagram: each is decoded before the next is read."""

counters: Callable[[Session], tuple[int, ...]] = attrgetter(
    "tracker.sent_count",
    "tracker.answered",
    "tracker.lost",
    "tracker.pending",
    "tracker.late",
    "tracker.duplicate",
    "tracker.reordered",
    "tracker.changes",
    "tracker.pairs",
    "timer_misses",
    "send_errors",
    "drops",
    "wrong_source",
    "network_errors",
    "tracker.stale",
    "undecodable",
    "cross_delivered",
    "own_losses",
)
"""Return a session's `Counts` as a plain tuple in the same order, so that 10,000 sessions are added up between two probes."""


class Session:
    """One session: a UDP socket with one source address for its whole life."""

    __slots__ = (
        "_codec",
        "_destination",
        "_drop_history",
        "_emit",
        "_emitted",
        "_expected_source",
        "_sessions_by_token",
        "cross_delivered",
        "drops",
        "error_response",
        "local",
        "name",
        "network_errors",
        "own_losses",
        "reference",
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
        codec: ProbeCodec,
        *,
        emit: Callable[[Event], None],
        scope_id: int = 0,
        connected: bool,
        sessions_by_token: Mapping[int, Session] = MappingProxyType({}),
    ) -> None:
        """Take over a bound socket.

        `sessions_by_token` has all sessions of the run, so that a reply to another session's probe is recognised.
        """
        self.sock = sock
        self.target = target
        self.tracker = tracker
        self.name = tracker.session
        self._codec = codec
        self._emit = emit
        self._expected_source = socket_address(target, scope_id)
        """The source that replies come from."""
        self._destination = None if connected else self._expected_source
        ip, port = sock.getsockname()[:2]
        self.local = TransportAddress(sys.intern(ip), port)
        self.timer_misses = self.send_errors = self.wrong_source = self.network_errors = self.undecodable = 0
        self.error_response: str | None = None
        """Code and reason of the last STUN error response to a probe."""
        self.drops = 0
        """Replies that the socket dropped because its buffer was full."""
        self.cross_delivered = 0
        """Replies to other sessions' probes that arrived here."""
        self.own_losses = 0
        """Lost probes that are explained by `drops`."""
        self._drop_history: DropHistory | None = None
        """When the drops were noticed; None before the first drop."""
        self.reference: Reference | None = None
        """Takes what comes from the run's reference; None without one."""
        self._sessions_by_token = sessions_by_token
        self._emitted: dict[tuple[str, ...], int] | None = None
        """When each event of a kind was last emitted; None before the first, as in most sessions."""

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send the next probe. If this machine refuses it, count that, and emit one event for each error."""
        tracker = self.tracker
        request = self._codec.request(tracker.sent_count)
        now_ns = clock.now_ns()
        try:
            self._transmit(request)
        except OSError as error:
            now_ns = self._retry(request, now_ns, error)
            if not now_ns:
                return
        tracker.sent(now_ns)

    def _transmit(self, request: bytes) -> None:
        if self._destination is None:
            self.sock.send(request)
        else:
            self.sock.sendto(request, self._destination)

    def _retry(self, request: bytes, now_ns: int, failure: OSError) -> int:
        """Send again if the failure was about an earlier probe. Return the time of sending; 0 if this probe was not sent."""
        if failure.errno not in LOCAL_ERRNOS and failure.errno not in ADDRESS_ERRNOS:
            # The kernel reports an ICMP error about an earlier probe in the next call, and did not send this one. If it
            # fails again, the error is this machine's own (such as a lost route), and not the network's.
            errors = read_error_queue(self.sock)
            retried_ns = clock.now_ns()
            try:
                self._transmit(request)
            except OSError as retry_failure:
                self._emit_network_errors(now_ns, errors)
                failure = retry_failure
            else:
                self._emit_network_errors(now_ns, errors or [_as_icmp(failure)])
                return retried_ns

        self.send_errors += 1
        name = errno.errorcode.get(failure.errno or 0, str(failure.errno))
        fault = ClientFaultKind.LOCAL_ADDRESS if failure.errno in ADDRESS_ERRNOS else ClientFaultKind.SEND_ERROR
        self._emit_once((fault, name), ClientFault(now_ns, self.name, fault, f"{name}: {failure.strerror}"))
        return 0

    def send_aside(self, datagram: bytes, destination: tuple[str, int] | tuple[str, int, int, int]) -> int:
        """Send a datagram that is no probe to another server, and count nothing. Return when it was sent.

        Raises `OSError` if this machine refuses it.
        """
        sent_ns = clock.now_ns()
        try:
            self.sock.sendto(datagram, destination)
        except OSError:
            # As for a probe, the failure may be about an earlier one; if not, this fails again.
            self.drain_error_queue(sent_ns)
            sent_ns = clock.now_ns()
            self.sock.sendto(datagram, destination)
        return sent_ns

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, to_run_ns: int) -> int | None:
        """Read one datagram. Return None if the socket was empty.

        Otherwise return a time before which no datagram is left in the socket, 0 if that is unknown. `to_run_ns` is what
        `wall_to_run_ns` returned.
        """
        try:
            size, wall_ns, source = receive(self.sock, _BUFFERS)
        except BlockingIOError:
            return None
        except OSError as error:  # an ICMP error, on a connected socket or a system without error queues
            self.drain_error_queue(clock.now_ns(), error)
            return 0

        received_ns = clock.now_ns() if wall_ns is None else wall_ns + to_run_ns
        try:
            seq, identity, count = self._codec.read(_BUFFERS[0], size)
        except StunError as error:
            if error.reason == "error-response" and self._is_from_target(source):
                self.error_response = error.detail
            self._read_other_transaction(error, size, source, received_ns)
        else:
            if seq >= self.tracker.sent_count:
                self.undecodable += 1
            elif source == self._expected_source or self._is_from_target(source):
                self.tracker.replied(seq, identity, count, received_ns)
            else:
                self._read_wrong_source(seq, identity, source, received_ns)
        return 0 if wall_ns is None else received_ns

    def _read_wrong_source(self, seq: int, identity: Identity, source: tuple[str, int], received_ns: int) -> None:
        """Count a reply to a probe of this session that came from a wrong source."""
        self.wrong_source += 1
        sent_ns = self.tracker.replied_elsewhere(seq, identity, received_ns)
        if sent_ns is not None:
            address = transport_address(source)
            wildcard = listens_on_wildcard(identity.software)
            event = WrongSource(received_ns, self.name, address, self.target, seq, sent_ns, identity, wildcard)
            self._emit_unless_recent(("source", str(address)), event)

    def _read_other_transaction(self, error: StunError, size: int, source: tuple[str, int], received_ns: int) -> None:
        """Count a datagram that is no reply to a probe of this session; it may be a reply to another session's probe."""
        owner = self._sessions_by_token.get(token_in(_BUFFERS[0])) if error.reason == "other-transaction" else None
        reply = None if owner is None else owner.read_cross_delivered(size, received_ns)
        if owner is None or reply is None:
            reference = self.reference
            if reference is None or not reference.read(self, bytes(_BUFFERS[0][:size]), source, received_ns):
                self.undecodable += 1
            return

        self.cross_delivered += 1
        seq, identity, sent_ns = reply
        if sent_ns is not None:
            event = CrossDelivered(
                received_ns, self.name, owner.name, seq, sent_ns, identity, transport_address(source)
            )
            self._emit_unless_recent(("owner", owner.name), event)

    def read_cross_delivered(self, size: int, received_ns: int) -> tuple[int, Identity, int | None] | None:
        """Decode a datagram with this session's token that another session read.

        Return (sequence number, identity of the replier, time the probe was sent), with None for a time that is no longer
        known. Return None if the datagram is no reply to a probe of this session.
        """
        try:
            seq, identity, _count = self._codec.read(_BUFFERS[0], size)
        except StunError:
            return None
        if seq >= self.tracker.sent_count:
            return None
        return seq, identity, self.tracker.replied_elsewhere(seq, identity, received_ns)

    def read_until_empty(self) -> int:
        """Read all datagrams. Return a time at which the socket was empty, or before which no datagram is left in it."""
        now_ns = clock.now_ns()
        to_run_ns = wall_to_run_ns()
        read_ns: int | None = 0
        # Bounded, because a flood must not keep the client here. The queue is in order of time, so the last datagram read
        # shows how far reading got.
        for _ in range(MAX_READS):
            read_ns = self.read(to_run_ns)
            if read_ns is None:
                return now_ns
        return min(read_ns or 0, now_ns)

    def _is_from_target(self, source: tuple[str, int]) -> bool:
        """True if a source is the target; an IPv6 source may also have a flow label, another scope and a zone."""
        return source[1] == self.target.port and source[0].partition("%")[0] == self.target.ip

    def drain_error_queue(self, now_ns: int, failure: OSError | None = None) -> None:
        """Read all ICMP errors. `failure` is what a call raised, and counts if the queue is empty."""
        errors = read_error_queue(self.sock)
        self._emit_network_errors(now_ns, errors or ([] if failure is None else [_as_icmp(failure)]))

    def _emit_network_errors(self, now_ns: int, errors: list[IcmpError]) -> None:
        for error in errors:
            if self.reference is not None and self.reference.owns_error(self, error):
                continue
            try:
                seq = self._codec.seq_of_quoted(error.probe)
            except StunError:
                continue  # about a datagram of another socket that had this port before
            self.network_errors += 1
            event = NetworkError(now_ns, self.name, seq, error.error, error.offender)
            self._emit_once(("icmp", error.error, error.offender or ""), event)

    # --- what is known ---------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Declare overdue probes lost, once the socket has been read past their deadline."""
        deadline_ns = self.tracker.deadline_ns
        if deadline_ns is None or deadline_ns >= clock.now_ns():
            return

        sent_ns = deadline_ns - self.tracker.loss_threshold_ns
        read_ns = self.read_until_empty()
        lost_before = self.tracker.lost
        self.tracker.expire(read_ns)
        lost = self.tracker.lost - lost_before

        if lost:
            self.check_drops()
            if self._drop_history is not None:
                self.own_losses += self._drop_history.claim(lost, sent_ns)

    def check_drops(self) -> None:
        """Read the kernel's count of replies that this socket dropped; emit an event for the first."""
        drops = drop_count(self.sock)
        if drops != self.drops:
            now_ns = clock.now_ns()
            if self._drop_history is None:
                self._drop_history = DropHistory()
            self._drop_history.record(now_ns, drops - self.drops)
            self.drops = drops
            detail = f"{drops:,} datagrams dropped at this machine's full socket buffer"
            self._emit_once(("drops",), ClientFault(now_ns, self.name, ClientFaultKind.SOCKET_DROPS, detail))

    def drops_since_reply(self) -> int:
        """Return how many unanswered probes, since the last reply, drops of this socket can explain at most.

        Drops noticed at one time can only explain probes of that time, so a burst of drops does not explain a long silence.
        """
        self.check_drops()
        tracker = self.tracker
        since = tracker.unanswered()
        if since is None or self._drop_history is None:
            return 0

        first, since_ns = since
        reach_ns = (
            2 * tracker.loss_threshold_ns
        )  # a reply takes up to one threshold, and its drop is noticed up to another later
        dropped = sum(
            min(count, tracker.sent_between(max(since_ns, at_ns - reach_ns), at_ns + 1))
            for at_ns, count in self._drop_history.since(since_ns)
        )
        return min(dropped, tracker.sent_count - first)

    @property
    def token(self) -> int:
        """The session token of its probes."""
        return self._codec.token

    @property
    def wrong_sources(self) -> list[str]:
        """The wrong sources that events were emitted about."""
        return [key[1] for key in self._emitted or () if key[0] == "source"]

    def counts(self) -> Counts:
        """Return everything counted so far."""
        return Counts(*counters(self))

    def summary(self, now_ns: int) -> SessionSummary:
        """Return the session's final event."""
        tracker = self.tracker
        kinds = tuple((kind, count) for kind, count in zip(Kind, tracker.kind_counts, strict=True) if count)
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

    def _emit_once(self, key: tuple[str, ...], event: Event) -> None:
        """Emit an event, unless one with this key was emitted before."""
        if self._emitted is None or key not in self._emitted:
            self._emit_unless_recent(key, event)

    def _emit_unless_recent(self, key: tuple[str, ...], event: Event) -> None:
        """Emit an event, unless one with this key was emitted within `REPEAT_AFTER_NS`."""
        if self._emitted is None:
            self._emitted = {}
        emitted_ns = self._emitted.get(key)
        is_due = len(self._emitted) < MAX_EMITTED if emitted_ns is None else event.at_ns - emitted_ns >= REPEAT_AFTER_NS
        if is_due:
            self._emitted[key] = event.at_ns
            self._emit(event)


def _as_icmp(failure: OSError) -> IcmpError:
    return IcmpError(errno.errorcode.get(failure.errno or 0, str(failure.errno)), None, b"")
