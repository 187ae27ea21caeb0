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
    Change,
    ChangeJudged,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    Counts,
    CrossDelivered,
    Diagnosis,
    DuplicateDiffers,
    Event,
    ForeignServer,
    Incident,
    IncidentClosed,
    Injected,
    NetworkError,
    NothingAnswered,
    OutageEnded,
    OutageJudged,
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
    Stray,
    StrayJudged,
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
    changes_judged: dict[int, ChangeJudged] = field(default_factory=dict)
    """The newest judgement of each change, by number."""
    outages_judged: dict[int, OutageJudged] = field(default_factory=dict)
    """The newest judgement of each outage, by its first unanswered probe."""
    outage_ends: dict[int, int] = field(default_factory=dict)
    """When each ended outage ended, by its first unanswered probe: when the first probe that was answered was sent."""
    strays_judged: dict[tuple[Stray, int, int], StrayJudged] = field(default_factory=dict)
    """The judgement of each stray reply, by kind, probe and time."""
    lost: list[ProbesLost] = field(default_factory=list)
    alerts: list[SessionEvent] = field(default_factory=list)
    """What else is reported in red."""
    summary: SessionSummary | None = None


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
        self.injections: dict[int, Injection] = {}
        """By number."""
        self.packets: dict[TransportAddress, list[PacketEvent]] = {}
        """By flow, in order of time."""
        self.sessions: dict[str, SessionRecord] = {}
        """By name."""
        self.pool_ns: list[int] = []
        """When the pool changed, in truth."""
        self.observed_ns: list[tuple[int, int]] = []
        """Between when and when the client knows that each change was; the first: when it first knew the pool."""
        self.blackouts: list[BlackoutStarted] = []
        self.blackout_ends: dict[int, int] = {}
        """When each ended blackout ended, by when it began."""
        self.stopped_ns: int | None = None
        """When sending stopped."""
        self.blind_ns: list[tuple[int, int]] = []
        """From when to when the pool was not observed."""
        self._blind_since_ns: int | None = None
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

    def inject(self, injection: Injection) -> Injected:
        """Take in an injection, and return the event that tells of it."""
        self.injections[injection.number] = injection
        flows = {effect.flow for effect in injection.effects}
        names = tuple(session.name for session in self.sessions.values() if session.flow in flows)
        return Injected(
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
            case ChangeSeen() | ChangeRevised():
                self.sessions[event.session].changes[event.change.number] = event.change
            case ChangeWithdrawn():
                self.sessions[event.session].changes.pop(event.change.number, None)
            case ProbesLost():
                self.sessions[event.session].lost.append(event)
            case (
                OutageStarted() | WrongSource() | CrossDelivered() | NetworkError() | DuplicateDiffers() | ClientFault()
            ):
                self.sessions[event.session].alerts.append(event)
            case OutageEnded():
                self.sessions[event.session].outage_ends[event.since_seq] = event.first.sent_ns
            case BlackoutStarted():
                self.blackouts.append(event)
            case BlackoutEnded():
                self.blackout_ends[event.since_ns] = event.until_ns
            case SendingStopped():
                self.stopped_ns = event.at_ns
            case SessionSummary():
                self.sessions[event.session].summary = event
            case RunSummary():
                self.total = event.total
            case NothingAnswered():
                self.invalidate("no session was answered")
            case ForeignServer():
                self.invalidate("the pods' replies name no pod")
            case PoolObserved():
                self.observed_ns.append((event.since_ns, event.until_ns))
                if self._blind_since_ns is not None:
                    self.blind_ns.append((self._blind_since_ns, event.at_ns))
                    self._blind_since_ns = None
            case PoolUnobserved():
                self._blind_since_ns = event.since_ns
            case RunEnded():
                self.aborted = event.aborted
            case ChangeJudged():
                self.sessions[event.session].changes_judged[event.change.number] = event
            case OutageJudged():
                self.sessions[event.session].outages_judged[event.since_seq] = event
            case StrayJudged():
                self.sessions[event.session].strays_judged[event.stray, event.seq, event.heard_ns] = event
            case IncidentClosed():
                self.incidents.append(event.incident)
            case RunDiagnosed():
                self.run_diagnoses += event.diagnoses
            case Verdict():
                self.verdict = event

    def invalidate(self, problem: str) -> None:
        """Take in what makes the run worthless."""
        self.invalid_reasons.append(problem)
