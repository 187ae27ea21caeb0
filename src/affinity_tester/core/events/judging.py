"""What follows from what was observed: judgements, incidents with their diagnoses, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.events.base import Case, Event, SessionEvent
from affinity_tester.core.events.cluster import ClusterEvent
from affinity_tester.core.identity import Kind
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool import EndpointChange


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
class OutageCase(Case):
    """An outage, which with its session is named by its first unanswered probe."""

    since_seq: int
    since_ns: int
    """When that probe was sent."""


class Stray(StrEnum):
    """A reply that arrived elsewhere than it should have."""

    WRONG_SOURCE = "wrong-source"
    CROSS_DELIVERED = "cross-delivered"


@dataclass(frozen=True, slots=True)
class StrayCase(Case):
    """A `WrongSource` or a `CrossDelivered`."""

    stray: Stray
    seq: int
    """The probe that was replied to: of the session, or of the owner of what was delivered to it."""
    heard_ns: int
    """When its reply was received: with session, kind and seq it says which event is judged."""


@dataclass(frozen=True, slots=True)
class CaseJudged(SessionEvent):
    """The judgement of a case, once it is certain. A later one of the same case replaces it.

    A change is judged anew when a late reply revised it; an outage when its class changes, until the silence ends, and only
    a violation is final; a stray reply is judged once.
    """

    case: Case
    """What is judged: a change as it stood then, an outage or a stray reply."""
    judgement: Judgement
    avoidable: bool | None
    """Of an explained change or outage: whether the old pod was still serving; None when that is not known or not asked."""
    reasons: tuple[Reason, ...]
    lasts: bool = False
    """The outage was not over then, so that its class may change."""


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
    total: int
    """All sessions that had this reflexive IP then."""
    node: str = ""
    """The node whose InternalIP it is; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class NearFact:
    """Something that happened in the cluster, or became different in the pool, around an incident."""

    at_ns: int
    """When it happened; of a change of the pool: when it was known at the latest."""
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
    total_sessions: int
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
    context: tuple[NearFact, ...]
    """Cluster events and pool changes around it, in the order in which they were told."""
    judgements: tuple[tuple[Judgement, int], ...]
    diagnoses: tuple[Diagnosis, ...]
    """The best first."""
    avoidable: int = 0
    """Changes and outages that a change of the pool explains, and that a sound proxy would have avoided."""


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
