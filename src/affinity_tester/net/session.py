"""One session: its socket, its token and its tracker. It sends when told, reads when told, and tells what it sees."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ClientFault,
    Counts,
    CrossDelivered,
    Event,
    NetworkError,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.stun import Conversation, listens_on_wildcard, token_in
from affinity_tester.core.tracker import SessionTracker
from affinity_tester.errors import StunError
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.drops import Drops
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

TELL_AGAIN_NS = 10_000_000_000
"""A reply that arrives elsewhere is told again after so long, while more of its sort come."""

MOST_TOLD = 64
"""So many different things a session tells of once, or now and then: a spray of sources must not grow memory."""

_BUFFERS = (bytearray(1 << 16),)
"""What is read is understood before anything else is, so all sessions read into the same; any datagram fits."""

tally: Callable[[Session], tuple[int, ...]] = attrgetter(
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
"""A session's `Counts`, in their order, as plain numbers: those of 10,000 sessions are summed up between two probes."""


class Session:
    """A UDP socket from one source address, for its whole life."""

    __slots__ = (
        "_destination",
        "_emit",
        "_expected",
        "_noticed",
        "_owners",
        "_told",
        "_wire",
        "cross_delivered",
        "drops",
        "error_response",
        "local",
        "name",
        "network_errors",
        "own_losses",
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
        wire: Conversation,
        *,
        emit: Callable[[Event], None],
        scope_id: int = 0,
        connected: bool,
        owners: Mapping[int, Session] = MappingProxyType({}),
    ) -> None:
        """Take over a bound socket; `owners` has, by token, the sessions whose replies may arrive here by mistake."""
        self.sock = sock
        self.target = target
        self.tracker = tracker
        self.name = tracker.session
        self._wire = wire
        self._emit = emit
        self._expected = socket_address(target, scope_id)
        """The source of replies."""
        self._destination = None if connected else self._expected
        ip, port = sock.getsockname()[:2]
        self.local = TransportAddress(sys.intern(ip), port)
        self.timer_misses = self.send_errors = self.wrong_source = self.network_errors = self.undecodable = 0
        self.error_response: str | None = None
        """Code and reason of the last STUN error response to a probe."""
        self.drops = 0
        """Replies dropped at the socket's full buffer."""
        self.cross_delivered = 0
        """Replies to other sessions' probes."""
        self.own_losses = 0
        """Lost probes that `drops` accounts for."""
        self._noticed: Drops | None = None
        """`drops` in time, once there are some."""
        self._owners = owners
        self._told: dict[tuple[str, ...], int] | None = None
        """What was told, and when; most sessions have nothing to tell."""

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send the next probe, unless this machine refuses it (which is counted, and told once)."""
        tracker = self.tracker
        request = self._wire.request(tracker.sent_count)
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
        """Send once more where the failure told of an earlier probe; returns when that was, 0 when it was refused again."""
        if failure.errno not in LOCAL_ERRNOS and failure.errno not in ADDRESS_ERRNOS:
            # An ICMP error about an earlier probe: heard, and this probe is still to be sent (docs/judging.md#sockets). What
            # fails again is this machine's own trouble (no route any more), and no news of the network.
            heard = read_error_queue(self.sock)
            again_ns = clock.now_ns()
            try:
                self._transmit(request)
            except OSError as again:
                self._tell_errors(now_ns, heard)
                failure = again
            else:
                self._tell_errors(now_ns, heard or [_as_icmp(failure)])
                return again_ns
        self.send_errors += 1
        name = errno.errorcode.get(failure.errno or 0, str(failure.errno))
        fault = "local-address" if failure.errno in ADDRESS_ERRNOS else "send-error"
        self._tell_once((fault, name), ClientFault(now_ns, self.name, fault, f"{name}: {failure.strerror}"))
        return 0

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, to_run_ns: int) -> int | None:
        """Read one datagram, if there is one; `to_run_ns` is net.clock's sample.

        Returns a time that was before all that is still to be read (0: not known), None when the socket was empty.
        """
        try:
            size, wall_ns, source = receive(self.sock, _BUFFERS)
        except BlockingIOError:
            return None
        except OSError as error:  # a connected socket, or a system without error queues, tells ICMP errors here
            self.hear_errors(clock.now_ns(), error)
            return 0
        received_ns = clock.now_ns() if wall_ns is None else wall_ns + to_run_ns
        try:
            seq, identity, count = self._wire.read(_BUFFERS[0], size)
        except StunError as error:
            if error.reason == "error-response" and self._is_expected(source):
                self.error_response = error.detail
            self._read_another_s(error, size, source, received_ns)
        else:
            if seq >= self.tracker.sent_count:
                self.undecodable += 1
            elif source == self._expected or self._is_expected(source):
                self.tracker.replied(seq, identity, count, received_ns)
            else:
                self._read_strayed(seq, identity, source, received_ns)
        return 0 if wall_ns is None else received_ns

    def _read_strayed(self, seq: int, identity: Identity, source: tuple[str, int], received_ns: int) -> None:
        """A reply to a probe of this session, from a wrong source."""
        self.wrong_source += 1
        sent_ns = self.tracker.replied_elsewhere(seq, identity, received_ns)
        if sent_ns is not None:
            address = _address(source)
            wildcard = listens_on_wildcard(identity.software)
            event = WrongSource(received_ns, self.name, address, self.target, seq, sent_ns, identity, wildcard)
            self._tell_again(("source", str(address)), event)

    def _read_another_s(self, error: StunError, size: int, source: tuple[str, int], received_ns: int) -> None:
        """What is no reply to a probe of this session; it may be one to a sibling's."""
        owner = self._owners.get(token_in(_BUFFERS[0])) if error.reason == "other-transaction" else None
        reply = None if owner is None else owner.read_astray(size, received_ns)
        if owner is None or reply is None:
            self.undecodable += 1
            return
        self.cross_delivered += 1
        seq, identity, sent_ns = reply
        if sent_ns is not None:
            event = CrossDelivered(received_ns, self.name, owner.name, seq, sent_ns, identity, _address(source))
            self._tell_again(("owner", owner.name), event)

    def read_astray(self, size: int, received_ns: int) -> tuple[int, Identity, int | None] | None:
        """A sibling read a datagram with this session's token: the sequence number it answers, who did, and when it was sent.

        When it was sent is None if that is forgotten; all is None for what is no reply to a probe of this session.
        """
        try:
            seq, identity, _count = self._wire.read(_BUFFERS[0], size)
        except StunError:
            return None
        if seq >= self.tracker.sent_count:
            return None
        return seq, identity, self.tracker.replied_elsewhere(seq, identity, received_ns)

    def read_empty(self) -> int:
        """Read all there is; return a time at which the socket was seen empty, or that was before what is left."""
        now_ns = clock.now_ns()
        to_run_ns = wall_to_run_ns()
        read_ns: int | None = 0
        # Bounded: a flood must not keep the client here. The queue is in order, so what was read last tells how far it got.
        for _ in range(READ_BOUND):
            read_ns = self.read(to_run_ns)
            if read_ns is None:
                return now_ns
        return min(read_ns or 0, now_ns)

    def _is_expected(self, source: tuple[str, int]) -> bool:
        """An IPv6 source may carry a flow, another scope, and a zone."""
        return source[1] == self.target.port and source[0].partition("%")[0] == self.target.ip

    def hear_errors(self, now_ns: int, failure: OSError | None = None) -> None:
        """Drain the error queue; `failure` is what a call returned, which counts when the queue tells nothing."""
        heard = read_error_queue(self.sock)
        self._tell_errors(now_ns, heard or ([] if failure is None else [_as_icmp(failure)]))

    def _tell_errors(self, now_ns: int, heard: list[IcmpError]) -> None:
        for error in heard:
            try:
                seq = self._wire.quoted(error.probe)
            except StunError:
                continue  # about what another socket sent, which had this port before
            self.network_errors += 1
            event = NetworkError(now_ns, self.name, seq, error.error, error.offender)
            self._tell_once(("icmp", error.error, error.offender or ""), event)

    # --- what is known ---------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Lose what is overdue, after the socket was read empty past the deadline."""
        deadline_ns = self.tracker.deadline_ns
        if deadline_ns is None or deadline_ns >= clock.now_ns():
            return
        sent_ns = deadline_ns - self.tracker.loss_threshold_ns
        read_ns = self.read_empty()
        lost_before = self.tracker.lost
        self.tracker.expire(read_ns)
        lost = self.tracker.lost - lost_before
        if lost:
            self.check_drops()
            if self._noticed is not None:
                self.own_losses += self._noticed.account_for(lost, sent_ns)

    def check_drops(self) -> None:
        """Ask the kernel how many replies this socket's full buffer has cost."""
        drops = drop_count(self.sock)
        if drops != self.drops:
            now_ns = clock.now_ns()
            if self._noticed is None:
                self._noticed = Drops()
            self._noticed.notice(now_ns, drops - self.drops)
            self.drops = drops
            detail = f"{drops:,} datagrams dropped at this machine's full socket buffer"
            self._tell_once(("drops",), ClientFault(now_ns, self.name, "socket-drops", detail))

    def drops_since_reply(self) -> int:
        """How many replies its full buffer dropped in its silence, at most.

        What was noticed at one time are no replies to probes of another, however many: a burst excuses no long silence.
        """
        self.check_drops()
        tracker = self.tracker
        since = tracker.unanswered()
        if since is None or self._noticed is None:
            return 0
        first, since_ns = since
        reach_ns = 2 * tracker.loss_threshold_ns  # a reply in time, noticed when its probe is declared lost
        dropped = sum(
            min(count, tracker.sent_between(max(since_ns, at_ns - reach_ns), at_ns + 1))
            for at_ns, count in self._noticed.since(since_ns)
        )
        return min(dropped, tracker.sent_count - first)

    @property
    def token(self) -> int:
        """The session token of its probes."""
        return self._wire.token

    @property
    def strayed_from(self) -> list[str]:
        """The wrong sources that were told."""
        return [key[1] for key in self._told or () if key[0] == "source"]

    def counts(self) -> Counts:
        """Everything counted so far."""
        return Counts(*tally(self))

    def summary(self, now_ns: int) -> SessionSummary:
        """The end of the session."""
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

    def _tell_once(self, key: tuple[str, ...], event: Event) -> None:
        if self._told is None or key not in self._told:
            self._tell_again(key, event)

    def _tell_again(self, key: tuple[str, ...], event: Event) -> None:
        """Tell it, unless something of the sort was told lately."""
        if self._told is None:
            self._told = {}
        told_ns = self._told.get(key)
        is_due = len(self._told) < MOST_TOLD if told_ns is None else event.at_ns - told_ns >= TELL_AGAIN_NS
        if is_due:
            self._told[key] = event.at_ns
            self._emit(event)


def _address(source: tuple[str, int]) -> TransportAddress:
    return TransportAddress(source[0].partition("%")[0], source[1])


def _as_icmp(failure: OSError) -> IcmpError:
    return IcmpError(errno.errorcode.get(failure.errno or 0, str(failure.errno)), None, b"")
