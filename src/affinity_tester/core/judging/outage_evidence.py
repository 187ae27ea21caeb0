"""What an outage's class rests on, collected from the events: who answers, what canaries met, what is lost.

Memory is bounded: only so many pods, addresses, canaries and faults are remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    CanaryResult,
    ChangeSeen,
    ClientFault,
    ClientFaultKind,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    FirstAnswer,
    OutageEnded,
    OutageStarted,
    PathsAnswered,
    PoolWatchStarted,
    ProbesLost,
    RunStarted,
    SendingStopped,
    SessionStarted,
)
from affinity_tester.core.identity import Identity
from affinity_tester.units import NS_PER_S

ALIVE_NS = 2 * NS_PER_S
"""A probe sent so long after the silence began and before it ends, and answered by the session's pod, shows that the pod
lives in it."""

OUTLASTS_NS = NS_PER_S
OUTLASTS_PROBES = 3
"""How long, and for how many probes, a silence must outlast the proof that its pod lives: one may be lost by chance."""

MOST_INSTANCES = 10_000
"""Instances and reflexive IPs remembered: a server that draws them anew for each reply must not fill memory."""

_MOST_CANARIES = 400
_MOST_BLACKOUTS = 100
_MOST_FAULTS = 1_000


class Answer(NamedTuple):
    """An answered probe. If it was held back on its way, the answer comes long after it was sent."""

    sent_ns: int
    heard_ns: int
    """When it was known that it was answered."""

    def or_newer(self, other: Answer | None) -> Answer:
        """Return the answer whose probe was sent later; of the same probe, the one that was heard first."""
        return self if other is None or self.sent_ns > other.sent_ns else other


@dataclass(slots=True)
class PodAnswers:
    """What is known of a pod's answers."""

    newest: dict[bytes | None, Answer] = field(default_factory=dict)
    """By instance: the newest probe that it answered."""
    first_ns: dict[bytes | None, int] = field(default_factory=dict)
    """By instance: when the first probe was sent that it is known to have answered."""


class LossRate:
    """The share of probes that answered sessions lose: such loss alone makes silences, too."""

    def __init__(self) -> None:
        """Start with nothing lost."""
        self._begun_ns = 0
        self._probes_per_s = 0.0
        self._lost = 0
        self._runs: dict[str, tuple[int, int]] = {}
        """By session: the sequence number after its newest run of lost probes, and how long the run is."""

    def begin(self, event: RunStarted) -> None:
        """Take the rate of probes from the start of the run."""
        self._begun_ns = event.at_ns
        self._probes_per_s = event.sessions * NS_PER_S / max(1, event.interval_ns)

    def lost(self, event: ProbesLost) -> None:
        """Count lost probes of a session that is in no outage."""
        end, count = self._runs.get(event.session, (0, 0))
        count = event.count + (count if end == event.first_seq else 0)
        self._runs[event.session] = event.first_seq + event.count, count
        self._lost += event.count

    def silent(self, session: str, since_seq: int) -> None:
        """Stop counting what the session lost from this probe on: it belongs to an outage."""
        end, count = self._runs.pop(session, (0, 0))
        self._lost -= min(count, max(0, end - since_seq))

    def chance_of(self, probes: float, now_ns: int) -> float:
        """Return how many silences of so many probes loss alone is expected to have made up to now."""
        sent = max(1.0, (now_ns - self._begun_ns) / NS_PER_S * self._probes_per_s)
        share = min(1.0, self._lost / sent)
        return float(sent * share**probes)


class OutageEvidence:
    """Collect the evidence from every event, in order."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.serving: dict[str, Identity] = {}
        """Who answered each session last."""
        self.targets: dict[str, TransportAddress] = {}
        """Where each session's probes go, where the target has several addresses."""
        self.pods: dict[str, PodAnswers] = {}
        self._instances = 0
        self.ingress: dict[str, Answer] = {}
        """By reflexive IP: the newest probe that was answered behind it."""
        self._canaries: deque[CanaryResult] = deque(maxlen=_MOST_CANARIES)
        self._blackouts: deque[BlackoutEnded] = deque(maxlen=_MOST_BLACKOUTS)
        self._silent_sessions: set[str] = set()
        """Sessions in an outage."""
        self.losses = LossRate()
        self.interval_ns = 1
        """Time between two probes of a session."""
        self.threshold_ns = ALIVE_NS
        """The loss threshold."""
        self.outlasts_ns = OUTLASTS_NS
        """How long a silence must outlast an answer of its pod's, at this interval."""
        self.own_faults: deque[int] = deque(maxlen=_MOST_FAULTS)
        """When this machine's own address was seen to change, or to be gone."""
        self.not_ready: set[str] = set()
        """Nodes that are NotReady."""
        self.addressed_ns: int | None = None
        """When the Service was given its address; None: not known."""
        self.stopped_ns: int | None = None
        """When the last probe was sent; None: not yet."""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted(interval_ns=interval_ns):
                self.losses.begin(event)
                self.interval_ns = max(1, interval_ns)
                self.outlasts_ns = max(OUTLASTS_NS, OUTLASTS_PROBES * interval_ns)
                self.threshold_ns = event.loss_threshold_ns
            case SessionStarted(session=session, target=TransportAddress() as target):
                self.targets[session] = target
            case ProbesLost(session=session):
                if session not in self._silent_sessions:
                    self.losses.lost(event)
            case OutageStarted(session=session):
                self._silent_sessions.add(session)
                self.losses.silent(session, event.since_seq)
            case OutageEnded(session=session):
                self._silent_sessions.discard(session)
                self.serving[session] = event.first.identity
                self._note_answer(event.first.identity, Answer(event.first.sent_ns, event.at_ns))
            case FirstAnswer(session=session, identity=who):
                self.serving[session] = who
                if who.pod is not None:  # when its probe was sent is not told: no proof that the pod lived then
                    self._note_pod(who.pod, who.instance, Answer(0, event.at_ns), first_ns=event.at_ns)
            case ChangeSeen(session=session, change=change):
                self.serving[session] = change.after.identity
                self._note_answer(change.after.identity, Answer(change.after.sent_ns, event.at_ns))
            case CanaryResult():
                self._canaries.append(event)
                if event.identity is not None:
                    self._note_answer(event.identity, Answer(event.sent_ns, event.at_ns))
            case PathsAnswered():
                for pod, instance, sent_ns in event.pods:
                    self._note_pod(pod, instance, Answer(sent_ns, event.at_ns))
                for ip, sent_ns in event.ingress:
                    self._note_ingress(ip, Answer(sent_ns, event.at_ns))
            case BlackoutEnded():
                self._blackouts.append(event)
            case _:
                self._feed_context(event)

    def _feed_context(self, event: Event) -> None:
        """Take in what the cluster and the client's machine tell."""
        match event:
            case ClientFault(fault=ClientFaultKind.LOCAL_ADDRESS):
                self.own_faults.append(event.at_ns)
            case ClusterEvent(subject=ClusterSubject.NODE, name=name, action=ClusterAction.NOT_READY):
                self.not_ready.add(name)
            case ClusterEvent(
                subject=ClusterSubject.NODE, name=name, action=ClusterAction.READY | ClusterAction.REMOVED
            ):
                self.not_ready.discard(name)
            case PoolWatchStarted():
                self.addressed_ns = event.addressed_ns
            case SendingStopped():
                self.stopped_ns = event.at_ns
            case _:
                pass

    def onset_ns(self, since_ns: int) -> int:
        """Return the onset of a silence that began at `since_ns`: where a blackout lay on it, the end of the blackout."""
        for blackout in self._blackouts:
            if blackout.since_ns - ALIVE_NS <= since_ns <= blackout.until_ns:
                since_ns = blackout.until_ns
        return since_ns

    def canaries_in(self, session: str, from_ns: int, to_ns: int | None) -> Iterator[CanaryResult]:
        """Return the canaries that were sent in these times to the session's own target."""
        target = self.targets.get(session)
        return (
            canary
            for canary in self._canaries
            if canary.sent_ns >= from_ns
            and (to_ns is None or canary.sent_ns <= to_ns)
            and self.targets.get(canary.session) == target
        )

    def _note_answer(self, who: Identity, answer: Answer) -> None:
        if who.pod is not None:
            self._note_pod(who.pod, who.instance, answer)
        if who.reflexive is not None:
            self._note_ingress(who.reflexive.ip, answer)

    def _note_ingress(self, ip: str, answer: Answer) -> None:
        if ip in self.ingress or len(self.ingress) < MOST_INSTANCES:
            self.ingress[ip] = answer.or_newer(self.ingress.get(ip))

    def _note_pod(self, name: str, instance: bytes | None, answer: Answer, first_ns: int | None = None) -> None:
        pod = self.pods.get(name)
        if pod is None or instance not in pod.newest:
            if self._instances >= MOST_INSTANCES:
                return

            self._instances += 1
            pod = self.pods.setdefault(name, PodAnswers())
            pod.first_ns[instance] = answer.sent_ns if first_ns is None else first_ns
        pod.newest[instance] = answer.or_newer(pod.newest.get(instance))
