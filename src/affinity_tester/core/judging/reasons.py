"""Why a change, an outage or a stray reply has its class: facts with their values, which `report` puts into words.

`offset_ns` is how long after the judged case something was: negative is before it. A change's case is the moment at which
it was seen, an outage's when its first silent probe was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import EndpointChange


class PoolState(StrEnum):
    """What is known of the pool around a violation."""

    STILL = "still"
    """No change of it lies within reach."""
    NOT_WATCHED = "not-watched"
    """The operator's promise that it stands still has to do."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One fact that a judgement rests on; each kind is a class of its own."""


# --- a change of the pool ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolChanged(Reason):
    """The pool change that explains the case."""

    change: EndpointChange
    offset_ns: int
    """How long after the case the pool changed; negative: before it."""


@dataclass(frozen=True, slots=True)
class PoolChangedToo(Reason):
    """Another change that was told at the same moment as the one that explains the case."""

    change: EndpointChange


@dataclass(frozen=True, slots=True)
class MorePoolChanges(Reason):
    """Further changes of that moment, too many to name."""

    count: int


@dataclass(frozen=True, slots=True)
class PoolPerhapsChanged(Reason):
    """A pool change lies perhaps within reach: it happened in the `width_ns` that end at `offset_ns`."""

    change: EndpointChange
    width_ns: int
    """How long the time is in which the pool changed at some moment."""
    offset_ns: int
    """How long after the case that time ends; negative: before it."""


@dataclass(frozen=True, slots=True)
class ServingPodUnknown(Reason):
    """The pool changed, and which pod had answered the session is not known."""

    change: EndpointChange
    offset_ns: int
    """How long after the case the pool changed; negative: before it."""


@dataclass(frozen=True, slots=True)
class NoReadyEndpoint(Reason):
    """No endpoint was ready."""

    perhaps: bool = False
    """Only at about that time: whether it was so in the outage is not certain."""


@dataclass(frozen=True, slots=True)
class PodStopped(Reason):
    """The session's pod left the pool or stopped serving."""

    pod: str
    offset_ns: int | None
    """None: at about the outage's end."""


@dataclass(frozen=True, slots=True)
class PodReplaced(Reason):
    """Another instance answers under the pod's name."""

    pod: str


# --- a pool that stood still -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NothingExplains(Reason):
    """No pool change explains the case: a violation."""

    pool: PoolState
    """What is known of the pool."""


@dataclass(frozen=True, slots=True)
class PodAnswersOthers(Reason):
    """The session's pod lives, so the flow's entry or its path is dead."""

    pod: str
    pool: PoolState
    """What is known of the pool."""
    settled_after_ns: int | None = None
    """The pool had changed, and flows have had this time to be moved since; None: no change lies within reach."""


@dataclass(frozen=True, slots=True)
class FlowNotMoved(Reason):
    """The session's pod is gone, new flows are answered, and this one was left behind."""

    pod: str
    canaries: int
    """Canaries answered since flows should have been moved."""


@dataclass(frozen=True, slots=True)
class NeverAnswered(Reason):
    """The session was never answered, though canaries are."""

    pool: PoolState
    """What is known of the pool."""


@dataclass(frozen=True, slots=True)
class CanariesAnswered(Reason):
    """Canaries are answered by a server that names no pod."""

    canaries: int
    """How many."""
    pool: PoolState
    """What is known of the pool."""


@dataclass(frozen=True, slots=True)
class PodNameShared(Reason):
    """Two instances live under one pod name at the same time."""

    pod: str


# --- a pod, a node, a server -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodRestarted(Reason):
    """The same pod answers with a new instance."""


@dataclass(frozen=True, slots=True)
class PodAnswersNobody(Reason):
    """All sessions of the pod are silent, and enough canaries were answered by other pods."""

    pod: str
    sessions: int
    canaries: int
    """Canaries that other pods answered."""


@dataclass(frozen=True, slots=True)
class NodeNotReady(Reason):
    """The node of the session's pod is NotReady."""

    node: str
    """The node's name."""
    pod: str


@dataclass(frozen=True, slots=True)
class PodLifeUnknown(Reason):
    """It is not known whether the session's pod was alive during the outage."""

    pod: str | None
    answered: bool
    """It answered others, but only shortly before the outage ended."""


@dataclass(frozen=True, slots=True)
class CanariesTooFew(Reason):
    """The session's pod is gone, and too few canaries were answered since to tell whether the flow should have moved."""

    pod: str


@dataclass(frozen=True, slots=True)
class AddressUnanswered(Reason):
    """No canary was answered at the session's own target address, though others are at other addresses."""

    target: TransportAddress
    """The session's target address."""


@dataclass(frozen=True, slots=True)
class ForeignSource(Reason):
    """A server of another make may answer from another address."""


@dataclass(frozen=True, slots=True)
class WildcardListener(Reason):
    """The server listens on a wildcard, so that any of its addresses may answer."""


# --- the client --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientPaused(Reason):
    """The client sent no probe for longer than the affinity window."""

    pause_ns: int
    """The longest time between two consecutive probes."""


@dataclass(frozen=True, slots=True)
class RepliesDropped(Reason):
    """Replies were dropped at this machine's full socket buffer."""

    count: int


@dataclass(frozen=True, slots=True)
class LocalAddressChanged(Reason):
    """This machine's own address changed or was gone."""


@dataclass(frozen=True, slots=True)
class ClientNatPossible(Reason):
    """All sessions of one local address changed within a second, and nothing excludes the client's own NAT."""

    sessions: int
    """How many."""
    asked: bool
    """A reference was asked, and did not settle it."""


@dataclass(frozen=True, slots=True)
class AddressBeforeCluster(Reason):
    """Policy Local, and neither address is a node's: what moved it is before the cluster."""

    old: TransportAddress
    new: TransportAddress


@dataclass(frozen=True, slots=True)
class ReferenceMoved(Reason):
    """The reference saw another address then, too, so the client's own NAT moved."""

    old: TransportAddress
    """What it saw before."""
    new: TransportAddress
    """What it saw since."""


@dataclass(frozen=True, slots=True)
class ReferenceStayed(Reason):
    """The reference saw the same address throughout; said beside a violation."""

    mapped: TransportAddress
    independent: bool
    """Pods had seen this very address, so the NAT maps endpoint-independently, and did not move."""


# --- what is not known -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WatchBeganLater(Reason):
    """The pool was not yet watched for all of the reach."""

    offset_ns: int
    """How long after the case the watch began; negative: before it."""


@dataclass(frozen=True, slots=True)
class PoolNotObserved(Reason):
    """The watch was interrupted for so long within reach."""

    lasted_ns: int
    """How long the watch was interrupted."""
    at_onset: bool = False
    """Around the beginning of an outage, rather than around a change."""


@dataclass(frozen=True, slots=True)
class TooManyOpen(Reason):
    """More cases than are kept waited for the pool to be confirmed."""

    limit: int
    """How many cases are kept."""


class Doubt(StrEnum):
    """What keeps a case from being judged and has no values of its own."""

    RUN_ENDED_UNCONFIRMED = "run-ended-unconfirmed"
    """The run ended before a list confirmed the pool."""
    RUN_ENDED = "run-ended"
    """The run ended before the class was certain."""
    WITHIN_HEALTH_CHECK = "within-health-check"
    """Never answered, but for less time than the balancer's health check takes."""
    ADDRESS_NEW = "address-new"
    """The Service has had its address for less than 5 min."""
    NO_CANARY_ANSWERED = "no-canary-answered"
    """No canary was answered, so that nothing says whether new flows are."""
    FEW_SESSIONS = "few-sessions"
    """Of fewer than 3 sessions, the client's own network may be the reason."""
    POOL_CHANGED_AT_START = "pool-changed-at-start"
    """The pool changed around the beginning of a session that was never answered."""
    POOL_NOT_OBSERVED_AT_START = "pool-not-observed-at-start"
    """The pool was not observed around the beginning of a session that was never answered."""
    DEAD_POD_POSSIBLE = "dead-pod-possible"
    """A ready pod is not seen to answer, and may have got these sessions."""
    DEAD_SERVER_POSSIBLE = "dead-server-possible"
    """One of several foreign servers may have died."""
    LOSS_POSSIBLE = "loss-possible"
    """At so much loss, chance alone makes silences of this length."""


@dataclass(frozen=True, slots=True)
class InDoubt(Reason):
    """The case cannot be judged."""

    doubt: Doubt
    """Why not."""
