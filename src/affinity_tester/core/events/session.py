"""What happens to a session, and to all sessions together: replies, changes, losses, outages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events.base import Case, Event, SessionEvent
from affinity_tester.core.identity import Identity, Kind


class RepliedProbe(NamedTuple):
    """One replied probe: the P or the Q of a change."""

    seq: int
    sent_ns: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Change(Case):
    """Two probes that follow each other in send order among those replied to, and what differs between their replies."""

    number: int
    """Of this session, from 1; it stays the same when the change is revised."""
    kinds: tuple[Kind, ...]
    """What differs, in the order of `Kind`; never empty."""
    before: RepliedProbe
    """P."""
    after: RepliedProbe
    """Q."""
    seen_ns: int
    """When both replies were there: no later reply was needed to know it."""
    longest_pause_ns: int
    """The longest time between two consecutive sends from P to Q (lost probes count as sends)."""
    settled_ns: int
    """From this time on every probe sent between P and Q is answered or lost; only a late reply could still revise."""


@dataclass(frozen=True, slots=True)
class SessionStarted(SessionEvent):
    """Its socket is bound; probes follow."""

    local: TransportAddress
    target: TransportAddress | None = None
    """Where its probes go; None: to the run's `target`."""


@dataclass(frozen=True, slots=True)
class FirstAnswer(SessionEvent):
    """The session's first reply: what its changes are changes from."""

    seq: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class ChangeSeen(SessionEvent):
    """A change, told at the first reply that shows it."""

    change: Change


@dataclass(frozen=True, slots=True)
class ChangeRevised(SessionEvent):
    """A reply arrived inside a reported pair: the change with this number has a narrower pair now."""

    change: Change
    was: Change


@dataclass(frozen=True, slots=True)
class ChangeWithdrawn(SessionEvent):
    """A reply arrived that merges this change's pair into another change: what it told is told by that one now.

    Only where replies differ in which attributes they carry, for instance with alternating probe sizes.
    """

    change: Change
    into: int
    """The number of the change that tells it now."""


@dataclass(frozen=True, slots=True)
class ProbesLost(SessionEvent):
    """Probes whose reply had not come within the loss threshold when the socket was read empty past it."""

    first_seq: int
    count: int
    """Consecutive sequence numbers from `first_seq`."""
    first_sent_ns: int
    last_sent_ns: int


@dataclass(frozen=True, slots=True)
class LossDirection(SessionEvent):
    """A gap of lost probes was closed by a reply of the same (instance, reflexive address): its counts tell which way.

    Told for the gap alone, as evidence of an incident; the session's totals rest on whole spans (core.session).
    """

    first_seq: int
    """The first probe after the reply before the gap."""
    last_seq: int
    """The last probe before the reply that closed it."""
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class LateReply(SessionEvent):
    """A reply to a probe that was already lost (RFC 7680); it stays lost."""

    seq: int
    delay_ns: int


@dataclass(frozen=True, slots=True)
class ConflictingDuplicate(SessionEvent):
    """A second reply (RFC 5560) that names another pod or address than the first: evidence, not a change."""

    seq: int
    first: Identity
    second: Identity


@dataclass(frozen=True, slots=True)
class WrongSource(SessionEvent):
    """A reply came from another address than the probe was sent to: it names pod and instance, and answers nothing.

    Told for the first of each (session, source), and again every 10 s while more come.
    """

    source: TransportAddress
    expected: TransportAddress
    seq: int
    sent_ns: int
    """When the probe was sent; `at_ns` is when its reply was received."""
    identity: Identity
    wildcard: bool = False
    """The server listens on a wildcard, so that it may answer from another address than it was asked at; it says so."""


@dataclass(frozen=True, slots=True)
class CrossDelivered(SessionEvent):
    """A reply to a probe of another session of this client arrived at this one.

    Told for the first of each (session, owner), and again every 10 s while more come.
    """

    owner: str
    """The session that had sent the probe."""
    seq: int
    """The owner's probe."""
    sent_ns: int
    """When the owner sent it; `at_ns` is when its reply was received."""
    identity: Identity
    source: TransportAddress


@dataclass(frozen=True, slots=True)
class NetworkError(SessionEvent):
    """An ICMP error heard for a probe (IP_RECVERR). Told once for each (session, error)."""

    seq: int | None
    """The probe it quotes; None when the quote is too short."""
    error: str
    """The errno's name, such as ECONNREFUSED."""
    offender: str | None
    """The address that sent the ICMP error."""


class ClientFaultKind(StrEnum):
    """What this machine did to a session."""

    SOCKET_DROPS = "socket-drops"
    """Replies were dropped at the socket's full receive buffer."""
    SEND_ERROR = "send-error"
    """The machine refused to send a probe."""
    LOCAL_ADDRESS = "local-address"
    """The machine's own address changed, or is gone."""
    EXHAUSTED = "exhausted"
    """The session sent its 2^32nd probe and ended."""


@dataclass(frozen=True, slots=True)
class ClientFault(SessionEvent):
    """The client's own doing: its losses are never counted against the network. Told once for each (session, fault)."""

    fault: ClientFaultKind
    """What this machine did."""
    detail: str = ""
    """For people, such as the operating system's error; empty where the kind says it all."""


@dataclass(frozen=True, slots=True)
class CanaryResult(SessionEvent):
    """A probe from a fresh source port went to the same target while this session was unanswered."""

    sent_ns: int
    identity: Identity | None
    """Who answered it; None: nobody did within the loss threshold."""


@dataclass(frozen=True, slots=True)
class ReferenceResult(SessionEvent):
    """The reference, a second STUN server that is not in the cluster, was asked from this session's own socket.

    Told once for each request, 10 a second in all: when its answer was received, or when it was given up.
    """

    sent_ns: int
    """When the request was sent."""
    mapped: TransportAddress | None
    """The XOR-MAPPED-ADDRESS of its answer; None: it was not answered within the loss threshold."""


@dataclass(frozen=True, slots=True)
class OutageStarted(SessionEvent):
    """Unanswered for 5 s while others are answered."""

    since_seq: int
    """The first unanswered probe."""
    since_ns: int
    """When it was sent."""
    last: RepliedProbe | None
    """The newest replied probe before; None from sequence 0 on."""
    longest_pause_ns: int = 0
    """The longest time between two consecutive sends from the last replied probe until now; 0 without one."""
    own_drops: int = 0
    """Replies that this session's full socket buffer dropped since."""
    probes: int = 0
    """Probes unanswered so far."""
    others_answered: bool = True
    """Other sessions are answered; False: only canaries, from fresh source ports, are."""


@dataclass(frozen=True, slots=True)
class OutageEnded(SessionEvent):
    """An outage's session is answered again."""

    since_seq: int
    since_ns: int
    probes: int
    """Probes sent in it."""
    first: RepliedProbe
    """The probe whose reply ended it."""


@dataclass(frozen=True, slots=True)
class BlackoutStarted(Event):
    """No session and no canary has been answered for 5 s."""

    since_ns: int
    """When the first probe was sent that was not answered, nor any after it."""
    sessions: int
    """How many have sent probes since."""


@dataclass(frozen=True, slots=True)
class BlackoutEnded(Event):
    """A session or a canary is answered again."""

    since_ns: int
    until_ns: int
    """When the first probe was sent that was answered again."""
    probes: int
    """Probes that all sessions sent in it."""
    canaries: int
    """Canaries that were not answered in it."""


class PodSample(NamedTuple):
    """One pod that answers."""

    pod: str
    instance: bytes | None
    sent_ns: int
    """When the newest probe was sent that it answered."""


class IngressSample(NamedTuple):
    """One reflexive IP behind which probes are answered: mostly an ingress node's."""

    ip: str
    sent_ns: int
    """When the newest probe was sent that was answered behind it."""


@dataclass(frozen=True, slots=True)
class PathsAnswered(Event):
    """Who answers the sessions that are in no outage, and behind which reflexive IPs. Told once a second in an outage."""

    pods: tuple[PodSample, ...]
    ingress: tuple[IngressSample, ...]
