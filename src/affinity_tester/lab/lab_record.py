"""The record of a lab run: what was injected, what the lab did to packets, and what the client saw and judged.

The lab tells it what it does; whoever runs the lab feeds it the run's events, once and in order. `compare` holds the
accounts against each other when the run is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    ConflictingDuplicate,
    Counts,
    CrossDelivered,
    Diagnosis,
    Event,
    FaultInjected,
    ForeignServer,
    Incident,
    IncidentClosed,
    NetworkError,
    NoReplies,
    OutageCase,
    OutageEnded,
    OutageStarted,
    Outcome,
    PoolObserved,
    PoolUnobserved,
    ProbesLost,
    RunDiagnosed,
    RunEnded,
    RunSummary,
    SendingStopped,
    SessionEvent,
    SessionStarted,
    SessionSummary,
    StrayCase,
    Verdict,
    WrongSource,
)
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.injection import Injection
from affinity_tester.lab.packet_log import PacketEvent


@dataclass(slots=True)
class SessionRecord:
    """What one session saw."""

    name: str
    flow: TransportAddress
    """Its source address."""
    changes: dict[int, Change] = field(default_factory=dict)
    """The final state of each change, by number."""
    changes_judged: dict[int, CaseJudged] = field(default_factory=dict)
    """The newest judgement of each change, by number."""
    outages_judged: dict[OutageCase, CaseJudged] = field(default_factory=dict)
    """The newest judgement of each outage."""
    outage_ends: dict[int, int] = field(default_factory=dict)
    """When each ended outage ended, by its first unanswered probe: when the first probe that was answered was sent."""
    strays_judged: dict[StrayCase, CaseJudged] = field(default_factory=dict)
    """The judgement of each stray reply."""
    lost: list[ProbesLost] = field(default_factory=list)
    alerts: list[SessionEvent] = field(default_factory=list)
    """What else is reported in red."""
    summary: SessionSummary | None = None

    def feed(self, event: SessionEvent) -> None:
        """Take in an event of this session."""
        match event:
            case ChangeSeen() | ChangeRevised():
                self.changes[event.change.number] = event.change
            case ChangeWithdrawn():
                self.changes.pop(event.change.number, None)
            case ProbesLost():
                self.lost.append(event)
            case OutageEnded():
                self.outage_ends[event.since_seq] = event.first.sent_ns
            case CaseJudged(case=Change(number=number)):
                self.changes_judged[number] = event
            case CaseJudged(case=OutageCase() as outage):
                self.outages_judged[outage] = event
            case CaseJudged(case=StrayCase() as stray):
                self.strays_judged[stray] = event
            case SessionSummary():
                self.summary = event
            case (
                OutageStarted()
                | WrongSource()
                | CrossDelivered()
                | NetworkError()
                | ConflictingDuplicate()
                | ClientFault()
            ):
                self.alerts.append(event)


class LabRecord:
    """The accounts of one run."""

    def __init__(
        self,
        planned: Sequence[Fault],
        settle_ns: int = 0,
        move_ns: int = 0,
        expected_outcomes: frozenset[Outcome] = frozenset(Outcome),
    ) -> None:
        """Begin with the plan's faults, in their order, and the settle time by which the run is judged.

        `move_ns` is how long after a pod's end the flows may take to move; `expected_outcomes` are the right verdicts.
        """
        self.planned = tuple(planned)
        self.settle_ns = settle_ns
        self.move_ns = move_ns
        self.expected_outcomes = expected_outcomes

        # What the lab did.
        self.injections: dict[int, Injection] = {}
        """By number."""
        self.packets: dict[TransportAddress, list[PacketEvent]] = {}
        """By flow, in order of time."""
        self.pool_ns: list[int] = []
        """When the pool changed, in truth."""

        # What the client saw, and made of it.
        self.sessions: dict[str, SessionRecord] = {}
        """By name."""
        self.observed_ns: list[tuple[int, int]] = []
        """Between when and when the client knows that each change was; the first: when it first knew the pool."""
        self.blackouts: list[BlackoutStarted] = []
        self.blackout_ends: dict[int, int] = {}
        """When each ended blackout ended, by when it began."""
        self.stopped_ns: int | None = None
        """When sending stopped."""
        self.unobserved_ns: list[tuple[int, int]] = []
        """From when to when the pool was not observed."""
        self._unobserved_since_ns: int | None = None
        self.incidents: list[Incident] = []
        self.run_diagnoses: list[Diagnosis] = []
        """What the diagnosis named the run as a whole."""
        self.verdict: Verdict | None = None
        """None: nobody judged this run."""
        self.total = Counts()
        """What the client counted in all."""
        self.aborted = False
        """True if judgements that were still open at the end are `unknown`."""
        self.invalid_reasons: list[str] = []
        """What makes the run worthless, whatever the accounts say."""

    def inject(self, injection: Injection) -> FaultInjected:
        """Take in an injection, and return the event that tells of it."""
        self.injections[injection.number] = injection
        flows = {effect.flow for effect in injection.effects}
        names = tuple(session.name for session in self.sessions.values() if session.flow in flows)
        return FaultInjected(
            injection.at_ns, injection.number, self.planned[injection.number - 1].name, injection.text, names
        )

    def pool_changed(self, at_ns: int) -> None:
        """Take in when the pool changed, whoever knows of it."""
        self.pool_ns.append(at_ns)

    def log_packet(self, packet: PacketEvent) -> None:
        """Take in what the lab did to a packet."""
        self.packets.setdefault(packet.flow, []).append(packet)

    def feed(self, event: Event) -> None:
        """Take in an event of the run: what the client saw, what the analysis made of it, what the control plane told."""
        match event:
            case SessionStarted():
                self.sessions[event.session] = SessionRecord(event.session, event.local)
            case SessionEvent():
                self.sessions[event.session].feed(event)
            case BlackoutStarted():
                self.blackouts.append(event)
            case BlackoutEnded():
                self.blackout_ends[event.since_ns] = event.until_ns
            case SendingStopped():
                self.stopped_ns = event.at_ns
            case RunSummary():
                self.total = event.total
            case NoReplies():
                self.invalidate("no session was answered")
            case ForeignServer():
                self.invalidate("the pods' replies name no pod")
            case PoolObserved():
                self._observe(event)
            case PoolUnobserved():
                self._unobserved_since_ns = event.since_ns
            case RunEnded():
                self.aborted = event.aborted
            case IncidentClosed():
                self.incidents.append(event.incident)
            case RunDiagnosed():
                self.run_diagnoses += event.diagnoses
            case Verdict():
                self.verdict = event

    def invalidate(self, problem: str) -> None:
        """Take in what makes the run worthless."""
        self.invalid_reasons.append(problem)

    def _observe(self, event: PoolObserved) -> None:
        self.observed_ns.append((event.since_ns, event.until_ns))
        if self._unobserved_since_ns is not None:
            self.unobserved_ns.append((self._unobserved_since_ns, event.at_ns))
            self._unobserved_since_ns = None
