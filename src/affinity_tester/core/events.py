"""Every fact of a run is one of these frozen events; their stream is the one source of all outputs.

`at_ns` is the time of the fact on the run's clock, in nanoseconds; `RunStarted` pairs that clock once with the
wall clock. The tracker observes, the verdict judges, the report words: an event carries values, never sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from operator import add, attrgetter, sub
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool import EndpointChange, PoolSnapshot


@dataclass(frozen=True, slots=True)
class Event:
    """A fact and when it was so."""

    at_ns: int
    """Time of the run, in nanoseconds."""


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The first event of a run."""

    wall_ns: int
    """The wall clock (Unix time) at `at_ns`."""
    utc_offset_s: int
    """The local offset from UTC, in seconds."""
    version: str
    target: TransportAddress
    """Where probes go, for the whole run."""
    target_name: str
    """What the user asked for: a name or an address."""
    sessions: int
    interval_ns: int
    loss_threshold_ns: int
    request_size: int
    """Bytes of one probe."""
    connected: bool
    """Whether the sockets are connected (`--connected`)."""
    lost_guarantees: tuple[str, ...]
    """What this platform cannot do, in words (empty on Linux)."""
    sizes: tuple[int, ...] = ()
    """Probe `seq` has `sizes[seq % len(sizes)]` bytes; empty: each has `request_size`."""
    addresses: tuple[TransportAddress, ...] = ()
    """Every address that is probed, a cohort of sessions each; empty: `target` alone."""
    unprobed: tuple[TransportAddress, ...] = ()
    """Addresses of the same name that no session probes."""


@dataclass(frozen=True, slots=True)
class ForeignServer(Event):
    """The first answer names no pod: a STUN server of another make; only reflexive address and SOFTWARE are tracked."""

    software: str | None


@dataclass(frozen=True, slots=True)
class NothingAnswered(Event):
    """No session has had an answer since the start."""

    waited_ns: int
    """How long: 5 s."""
    reason: str = ""
    """The likeliest reason as far as the cluster knows; empty where it does not, or is not watched."""


@dataclass(frozen=True, slots=True)
class SendingStopped(Event):
    """The last probe went out; replies drain, then judgements settle."""

    interrupted: bool
    """Whether a person (or a signal) ended it, rather than `--duration`."""


@dataclass(frozen=True, slots=True)
class Settling(Event):
    """Nothing is observed any more but the pool; judgements become certain. Told at first and every few seconds."""

    open_count: int
    """Judgements still to come."""
    up_to_ns: int
    """How much longer the run waits for them at the most."""


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """Nothing more will be observed."""

    aborted: bool
    """A second Ctrl-C: judgements still open become `unknown`."""


# --- one session -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionEvent(Event):
    """A fact of one session."""

    session: str
    """`CLIENT-<31-bit number>`."""


class Sighting(NamedTuple):
    """One replied probe: the P or the Q of a change."""

    seq: int
    sent_ns: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Change:
    """Two probes that follow each other in send order among those replied to, and what differs between their replies."""

    number: int
    """Of this session, from 1; it stays the same when the change is revised."""
    kinds: tuple[Kind, ...]
    """What differs, in the order of `Kind`; never empty."""
    before: Sighting
    """P."""
    after: Sighting
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
class LossDirected(SessionEvent):
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
class DuplicateDiffers(SessionEvent):
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
    detail: str = ""
    """For people, such as the operating system's error; empty where the kind says it all."""


@dataclass(frozen=True, slots=True)
class CanaryResult(SessionEvent):
    """A probe from a fresh source port went to the same target while this session was unanswered."""

    sent_ns: int
    identity: Identity | None
    """Who answered it; None: nobody did within the loss threshold."""


@dataclass(frozen=True, slots=True)
class OutageStarted(SessionEvent):
    """Unanswered for 5 s while others are answered."""

    since_seq: int
    """The first unanswered probe."""
    since_ns: int
    """When it was sent."""
    last: Sighting | None
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
    first: Sighting
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


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Losses:
    """Lost probes by direction, where RECEIVED-COUNT tells it; `unknown` is never guessed."""

    up: int = 0
    down: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.up + self.down + self.unknown

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.up + other.up, self.down + other.down, self.unknown + other.unknown)


@dataclass(frozen=True, slots=True)
class RttStats:
    """Round-trip times in nanoseconds; None where nothing was answered."""

    count: int = 0
    min_ns: int | None = None
    mean_ns: int | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None
    jitter_ns: int | None = None
    """Mean absolute difference of the times of consecutive probes (IPDV, RFC 3393 section 4)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one session (or all) counted; `sent == answered + lost + pending`."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    pending: int = 0
    late: int = 0
    """Replies to lost probes; the probe stays lost."""
    duplicate: int = 0
    reordered: int = 0
    """Answers to an older probe than the newest answered (RFC 4737)."""
    changes: int = 0
    """Changed pairs."""
    pairs: int = 0
    """Pairs of probes compared: successive ones among those replied to."""
    timer_misses: int = 0
    """Slots skipped since the client was too late to send."""
    send_errors: int = 0
    """Probes that the machine itself refused to send (ENOBUFS, EPERM): self-inflicted."""
    socket_drops: int = 0
    """Replies dropped at the socket's full receive buffer: self-inflicted."""
    wrong_source: int = 0
    network_errors: int = 0
    stale: int = 0
    """Replies to probes older than the kept history (60 s): late or duplicate, it is no longer known which."""
    undecodable: int = 0
    """Datagrams that were no reply to a probe of this client."""
    cross_delivered: int = 0
    """Replies to another session's probes."""
    own_losses: int = 0
    """Lost probes whose reply this machine dropped at the socket's full buffer, as far as its drops account for them."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, _counts(self), _counts(other)))

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(*map(sub, _counts(self), _counts(earlier)))


# 10,000 sessions are summed up between two probes: `dataclasses.astuple` copies deeply and takes ten times as long.
_counts = attrgetter(*Counts.__slots__)


@dataclass(frozen=True, slots=True)
class SessionStats(SessionEvent):
    """Periodic: what happened since the session's previous line, and in all."""

    delta: Counts
    total: Counts
    serving: Identity | None
    """The newest replied probe's identity (by send order); None when nothing was answered yet."""


@dataclass(frozen=True, slots=True)
class StatsTick(Event):
    """Sums up one period; the `SessionStats` before it are of all sessions, or of the worst ones where there are many."""

    sessions: int

    delta: Counts
    total: Counts


@dataclass(frozen=True, slots=True)
class SessionSummary(SessionEvent):
    """The end of a session."""

    local: TransportAddress
    total: Counts
    losses: Losses
    rtt: RttStats
    kinds: tuple[tuple[Kind, int], ...]
    """How many changes of each kind."""
    longest_gap_ns: int
    """The longest time from sent(P) to the reply of Q over all changes; 0 without one."""
    unanswered_ns: int
    """From the first probe after the newest replied one until the last probe; 0 when the last was replied to."""
    serving: Identity | None


@dataclass(frozen=True, slots=True)
class RunSummary(Event):
    """All sessions together."""

    duration_ns: int
    """From the first probe until sending stopped."""
    total: Counts
    losses: Losses
    rtt: RttStats
    kinds: tuple[tuple[Kind, int], ...]
    longest_gap_ns: int


# --- the pool and the cluster ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WatchBegun(Event):
    """The pool is watched from here on."""

    context: str
    service: str
    """namespace/name."""
    via: str
    """How the target leads there: `load-balancer`, `node-port`, `cluster-ip` or `external-ip`; empty: not known."""
    addressed_ns: int | None = None
    """When the Service was given its address, on the run's clock (it may lie before its zero); None: not known."""


@dataclass(frozen=True, slots=True)
class WatchMissing(Event):
    """The pool is not watched: the operator's word that it stands still has to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolObserved(Event):
    """What the pool is: a list, or a change that the watch told.

    What differs from the snapshot before happened in (since_ns, until_ns] (docs/judging.md#dating).
    """

    since_ns: int
    """When the newest list was asked for that does not show it."""
    until_ns: int
    """When the first page of a list that shows it was there, or the watch's news of it, whichever came first."""
    snapshot: PoolSnapshot
    asked_ns: int | None = None
    """It comes from a consistent list that was asked for then: all that happened before is in it. None: a watch told it,
    which may be late, and proves nothing of what else happened."""
    changes: tuple[EndpointChange, ...] = ()
    """How it differs from the snapshot observed before it, causes first; empty for the first, or where it does not."""


@dataclass(frozen=True, slots=True)
class PoolConfirmed(Event):
    """A consistent list shows the pool as known: nothing that happened before it was asked for was missed."""

    asked_ns: int


@dataclass(frozen=True, slots=True)
class PoolUnobserved(Event):
    """The watch is down: since `since_ns` the pool may have changed unseen, until a list is told."""

    since_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class ApiServerAnswered(Event):
    """The API server answered a list of one item, which is asked for every half settle time."""

    asked_ns: int


@dataclass(frozen=True, slots=True)
class WrongPool(Event):
    """Pods answer that were never in the watched pool: the wrong cluster or Service. The pool counts as not watched."""

    pod: str


@dataclass(frozen=True, slots=True)
class NodeAddresses(Event):
    """The nodes' InternalIPs: which reflexive IPs are whose. Told when it changes."""

    names: tuple[tuple[str, str], ...]
    """(IP, node name), in order."""


class ClusterSubject(StrEnum):
    """What kind of object a cluster event is about."""

    NODE = "node"
    SERVICE = "service"
    PROXY = "proxy"
    """A pod that forwards the packets of Services, such as kube-proxy's."""
    POD = "pod"
    """A backend pod of the Service."""
    WATCH = "watch"
    """The watch itself: something that it cannot see. Nothing happened in the cluster."""


class ClusterAction(StrEnum):
    """What happened to the subject of a cluster event."""

    ADDED = "added"
    REMOVED = "removed"
    READY = "ready"
    NOT_READY = "not-ready"
    CORDONED = "cordoned"
    UNCORDONED = "uncordoned"

    CREATED = "created"
    DELETED = "deleted"
    RESTARTED = "restarted"
    UPGRADED = "upgraded"
    PLACED = "placed"
    """A proxy's pod that had no node got one."""
    MOVED = "moved"
    """A proxy's pod is on another node."""

    FIELDS_CHANGED = "fields-changed"
    """The Service was edited."""
    ADDRESS_CHANGED = "address-changed"
    """The Service's load balancer has other addresses."""

    LIST_FORBIDDEN = "list-forbidden"
    """WATCH: the objects of `resource` may not be listed."""
    NO_PROXY_SEEN = "no-proxy-seen"
    """WATCH: no pod of a known proxy is there."""
    UNREADABLE = "unreadable"
    """WATCH: an object is not as the API says; `detail` says how."""
    MORE_UNREADABLE = "more-unreadable"
    """WATCH: so many objects are unreadable that the others are not told one by one."""
    INTERNAL_ERROR = "internal-error"
    """WATCH: this program erred while it watched `resource`; `detail` is the error."""


@dataclass(frozen=True, slots=True)
class ClusterEvent(Event):
    """Something happened in the cluster; it explains by being near, not by changing the pool.

    The fields after `action` have their defaults where they say nothing about it.
    """

    subject: ClusterSubject
    name: str
    """The object's; of a Service and for WATCH namespace/name of the Service."""
    action: ClusterAction
    node: str = ""
    """The node that a pod is on (DELETED: was on); empty where it has none, and for MOVED."""
    old: tuple[str, ...] = ()
    """What was there before: addresses (ADDRESS_CHANGED), the node (MOVED), else a proxy's images."""
    new: tuple[str, ...] = ()
    """What is there instead. A proxy's images are told where they differ from those that ran on its node before."""
    fields: tuple[str, ...] = ()
    """FIELDS_CHANGED: names of the Service's fields, in order."""
    last_end: str = ""
    """RESTARTED: why the container had ended, such as `OOMKilled`; empty where that is not known."""
    resource: str = ""
    """WATCH: which objects: `nodes`, `services`, `pods`, `proxies`, ..."""
    detail: str = ""
    """WATCH: a text from outside: the namespace (LIST_FORBIDDEN; empty: all), or the error."""


@dataclass(frozen=True, slots=True)
class RulesGiven(Event):
    """What the run is judged by, so that a record can be judged again."""

    settle_ns: int
    affinity_window_ns: int
    max_loss: float | None
    fail_on_avoidable: bool
    balancer_check_ns: int = 35_000_000_000


# --- judging ---------------------------------------------------------------------------------------------------------


class Judgement(StrEnum):
    """The class of a change or an outage (docs/judging.md); the first that matches wins."""

    POD_RESTART = "pod-restart"
    EXPLAINED = "explained"
    IDLE = "idle"
    CLIENT = "client"
    """This machine's own doing."""
    POD_SILENT = "pod-silent"
    """The session's pod is in the pool and answers nobody: no affinity keeps a flow on a dead pod."""
    INFORMATION = "information"
    UNKNOWN = "unknown"
    VIOLATION = "violation"


@dataclass(frozen=True, slots=True)
class ChangeJudged(SessionEvent):
    """A change's judgement, once it is certain. A later one for the same number replaces it (a late reply revised it)."""

    change: Change
    judgement: Judgement
    avoidable: bool | None
    """For `explained`: whether the old pod was still serving; None when that is not known or not asked."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class OutageJudged(SessionEvent):
    """An outage's judgement. It is told anew when it changes, until the silence ends; only a violation is final."""

    since_seq: int
    since_ns: int
    judgement: Judgement
    avoidable: bool | None
    reasons: tuple[Reason, ...]
    lasts: bool = False
    """It was not over then, so that its class may change."""


class Stray(StrEnum):
    """A reply that arrived elsewhere than it should have."""

    WRONG_SOURCE = "wrong-source"
    CROSS_DELIVERED = "cross-delivered"


@dataclass(frozen=True, slots=True)
class StrayJudged(SessionEvent):
    """The judgement of a `WrongSource` or a `CrossDelivered`."""

    stray: Stray
    seq: int
    """The probe that was replied to: of the session, or of the owner of what was delivered to it."""
    heard_ns: int
    """When its reply was received: with session, kind and seq it says which event is judged."""
    judgement: Judgement
    reasons: tuple[Reason, ...]


class Certainty(StrEnum):
    """How sure a diagnosis is."""

    LIKELY = "likely"
    """The distinguishing fact was seen."""
    POSSIBLE = "possible"
    """It fits, but a fact is missing."""
    CANNOT_TELL = "cannot tell"
    """Nothing in the catalogue fits."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A fault of the catalogue (docs/failure-modes.md), and why it is thought to be it."""

    name: str
    """The catalogue's name; empty for `cannot tell`."""
    certainty: Certainty
    evidence: tuple[str, ...]
    """Facts with numbers, each a sentence without its full stop."""
    missing: str = ""
    """What would settle it; empty for `likely`."""
    remedy: str = ""
    """What to try."""
    references: tuple[str, ...] = ()
    """Issues where it is known, such as kubernetes/kubernetes#122740."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """The sessions of an incident that had the same reflexive IP before it: mostly one ingress node's."""

    ip: str
    sessions: int
    """Of this incident."""
    of: int
    """All sessions that had this reflexive IP then."""
    node: str = ""
    """The node whose InternalIP it is; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class NearFact:
    """Something that happened in the cluster, or became different in the pool, around an incident."""

    at_ns: int
    after_ns: int
    """How long after the incident first showed; negative: before it."""
    event: ClusterEvent | None = None
    """None: it is a change of the pool."""
    change: EndpointChange | None = None
    """None: it is a cluster event."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Changes, outages and loss bursts that lie within a second of each other."""

    number: int
    from_ns: int
    """The first sent(P)."""
    to_ns: int
    """The last sent(Q)."""
    continuing: bool
    """It was cut at 60 s; the next incident goes on with it."""
    sessions: int
    of: int
    """All sessions of the run."""
    changes: int
    outages: int
    bursts: int
    strays: int
    """Replies that arrived elsewhere."""
    lost: int
    """Probes lost in its outages and bursts."""
    kinds: tuple[tuple[Kind, int], ...]
    cohorts: tuple[Cohort, ...]
    """Largest first."""
    near: tuple[NearFact, ...]
    """Cluster events and pool changes around it, in the order in which they were told."""
    judgements: tuple[tuple[Judgement, int], ...]
    diagnoses: tuple[Diagnosis, ...]
    """The best first."""


@dataclass(frozen=True, slots=True)
class IncidentOngoing(Event):
    """An incident lasts for an outage's sake: what it is so far. `IncidentClosed` with the same number follows."""

    incident: Incident


@dataclass(frozen=True, slots=True)
class IncidentClosed(Event):
    """An incident is over and all of it is judged."""

    incident: Incident


@dataclass(frozen=True, slots=True)
class RunDiagnosed(Event):
    """What the run as a whole shows and no incident does, such as one client IP that is spread over pods."""

    diagnoses: tuple[Diagnosis, ...]
    """The best first; never empty."""


class Outcome(StrEnum):
    """A run's verdict."""

    PASS = "PASS"  # noqa: S105 - a verdict, no password
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Verdict(Event):
    """The end of every run."""

    outcome: Outcome
    reasons: tuple[str, ...]
    """Why, in words; never empty."""
    strength: str
    """What a PASS is worth, in words; empty otherwise."""
    violations: int
    judged_pairs: int
    still_ns: int
    """How long the pool stood still (all of the run when it was not watched)."""


# --- the lab ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Injected(Event):
    """The lab broke something on purpose; what follows in the log is its doing."""

    number: int
    """Of the plan's faults, from 1."""
    fault: str
    """Its name in the plan (docs/failure-modes.md), such as `node-rehash`."""
    text: str
    """What was done, in words, such as `node "node-4" (127.1.0.4) joins the balancer: 5 of 10 flows move to it`."""
    sessions: tuple[str, ...]
    """Those that must notice."""
