"""What the rules need beyond one incident's own members, collected from the run's events.

Memory is bounded: per session a short list of who served it, per run a fixed number of events of each type.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Set

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis.loss_history import LossHistory
from affinity_tester.core.diagnosis.session_history import SessionHistory
from affinity_tester.core.events import (
    BlackoutEnded,
    CanaryResult,
    Certainty,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    ClusterAction,
    ClusterEvent,
    ConflictingDuplicate,
    Counts,
    CrossDelivered,
    Diagnosis,
    Event,
    FirstAnswer,
    LateReply,
    LossDirection,
    NetworkError,
    NodeAddresses,
    PodAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    ProbesLost,
    ReferenceResult,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    SessionSummary,
    SmallProbeResult,
    StatsTick,
    WrongSource,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.core.session.outages import OUTAGE_NS

_MAX_EVENTS = 10_000
"""Events remembered of each type that happens to single sessions."""

_MAX_SNAPSHOTS = 1_000
"""Snapshots of the pool remembered."""


class RunHistory:
    """The history of a run. `feed` takes every observed event, in order."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing observed; `rules` are what the run is judged by."""
        self.settle_ns = rules.settle_ns
        """How near a change of the pool or the cluster must be to count as near."""
        self.affinity_window_ns = rules.affinity_window_ns
        """A pause longer than this lets a node forget the flow."""
        self.started: RunStarted | None = None
        self.stopped_ns: int | None = None
        self.total = Counts()
        """Of the run, as of the newest statistics."""
        self.sessions: dict[str, SessionHistory] = {}
        self.node_names: dict[str, str] | None = None
        """Node name by IP; None: the nodes are not known."""
        self.pod_names: dict[str, str] = {}
        """Of reflexive IPs that are pods': namespace/name by IP."""
        self.all_node_names: dict[str, str] = {}
        """The same, with the nodes that were removed in the run: flows may still go there."""
        self.pool: PoolSnapshot | None = None
        """The newest snapshot; None: the pool is not watched."""
        self._snapshots: list[PoolSnapshot] = []
        self._snapshots_ns: list[int] = []
        self._pool_changes_ns: deque[tuple[int, int]] = deque(maxlen=_MAX_SNAPSHOTS)
        self.pool_trusted = True
        """False: the watched pool is not the one that answers."""
        self._unobserved_spans: deque[tuple[int, int]] = deque(maxlen=_MAX_SNAPSHOTS)
        self._unobserved_since_ns: int | None = None
        """Since when the pool is not observed."""
        self.cluster: deque[ClusterEvent] = deque(maxlen=_MAX_SNAPSHOTS)
        self.shared_node_ports: list[str] = []
        """Other UDP Services that have the Service's port as a node port: namespace/name, and the port."""
        self.canaries: deque[CanaryResult] = deque(maxlen=_MAX_EVENTS)
        self.references: deque[ReferenceResult] = deque(maxlen=_MAX_EVENTS)
        """What the reference answered, in the order in which it was told."""
        self.loss_directions: deque[LossDirection] = deque(maxlen=_MAX_EVENTS)
        self.wrong_sources: deque[WrongSource] = deque(maxlen=_MAX_EVENTS)
        self.cross_delivered: deque[CrossDelivered] = deque(maxlen=_MAX_EVENTS)
        self.network_errors: deque[NetworkError] = deque(maxlen=_MAX_EVENTS)
        self.client_faults: deque[ClientFault] = deque(maxlen=_MAX_EVENTS)
        self.blackouts: deque[tuple[int, int]] = deque(maxlen=_MAX_SNAPSHOTS)
        """From when until when nobody at all was answered."""
        self.duplicates: deque[ConflictingDuplicate] = deque(maxlen=_MAX_EVENTS)
        self.small_probes: deque[SmallProbeResult] = deque(maxlen=_MAX_EVENTS)
        self.late: deque[LateReply] = deque(maxlen=_MAX_EVENTS)
        self.losses = LossHistory()
        """Which sessions lost probes now and then."""
        self.lost_by_size: Counter[int] = Counter()
        """Lost probes by position in `sizes`."""
        self.flow_wipes_ns: deque[int] = deque(maxlen=_MAX_SNAPSHOTS)
        """When the incidents began that were diagnosed as flow-wipe: a period shows in their distances."""

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def began_ns(self) -> int:
        """When the run began."""
        return self.started.at_ns if self.started else 0

    @property
    def interval_ns(self) -> int:
        """Time between two probes of a session."""
        return self.started.interval_ns if self.started else 0

    @property
    def loss_threshold_ns(self) -> int:
        """How long a reply is waited for."""
        return self.started.loss_threshold_ns if self.started else 0

    def known_until_ns(self, now_ns: int) -> int:
        """Return until when every change is known at a time: what is not answered yet may show another."""
        until_ns = now_ns - self.loss_threshold_ns
        return until_ns if self.stopped_ns is None else min(until_ns, self.stopped_ns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the probes, by sequence number in turn."""
        if self.started is None:
            return ()
        return self.started.sizes or (self.started.request_size,)

    @property
    def watched(self) -> bool:
        """True if the pool is watched, and the right one."""
        return self.pool is not None and self.pool_trusted

    @property
    def reference(self) -> TransportAddress | None:
        """The second STUN server that is asked; None: none is."""
        return self.started.reference if self.started else None

    def spec(self, name: str, at_ns: int | None = None) -> str | None:
        """Return a field of the Service's spec as it was at a time, or as it is (None); None: not known.

        Before the first snapshot it was what that shows, as far as anybody knows.
        """
        if self.pool is None or not self.pool_trusted:
            return None
        pool = self.pool if at_ns is None else self._snapshots[max(0, bisect_right(self._snapshots_ns, at_ns) - 1)]
        return dict(pool.spec).get(name)

    def is_stranger(self, pod: str) -> bool:
        """True if a pod was in no list of the watched pool, which is known not to be the one that answers."""
        seen = any(snapshot.of_pod(pod) is not None for snapshot in self._snapshots)
        return self.pool is not None and not self.pool_trusted and not seen

    def identity_at(self, name: str, at_ns: int) -> Identity | None:
        """Return who served a session at a time; None: nobody has answered it."""
        session = self.sessions.get(name)
        return None if session is None else session.identity_at(at_ns)

    def had_been_at(self, name: str, key: Callable[[Identity], str | None], places: Set[str], before_ns: int) -> bool:
        """True if a session had been at one of these, as far back as is remembered, before it was where it was at a time."""
        session = self.sessions.get(name)
        past = [] if session is None else [who for at_ns, who in session.identities if at_ns <= before_ns]
        return not places.isdisjoint(map(key, past[:-1]))

    def nodes_behind(self, ips: Set[str]) -> dict[str, set[str]]:
        """Return for each of these reflexive IPs the nodes of all pods reached through it, as far as is remembered."""
        found: dict[str, set[str]] = {ip: set() for ip in ips}
        for session in self.sessions.values():
            for _, who in session.identities:
                if who.reflexive is not None and who.reflexive.ip in ips and who.node is not None:
                    found[who.reflexive.ip].add(who.node)
        return found

    def change_rate(self, name: str) -> tuple[int, int]:
        """Return how often a session changed, and how many probes it sent from the first of these changes to the last."""
        times = [at_ns for at_ns, _ in self.sessions[name].identities[1:]]
        if not times:  # a record may lack the session's first answer
            return 0, 1
        return len(times), round((times[-1] - times[0]) / max(1, self.interval_ns)) + 1

    def unanswered_for(self, from_ns: int, to_ns: int, for_ns: int) -> set[str]:
        """Return the sessions whose newest run of lost probes lasted at least `for_ns` within these times."""
        spans = ((name, max(s.lost_ns[0], from_ns), min(s.lost_ns[1], to_ns)) for name, s in self.sessions.items())
        return {name for name, start, end in spans if end - start >= for_ns}

    def identities_at(self, at_ns: int) -> dict[str, Identity]:
        """Return who served each session at a time, without the sessions that nobody has answered."""
        served = ((name, session.identity_at(at_ns)) for name, session in self.sessions.items())
        return {name: who for name, who in served if who is not None}

    def endpoints(self, pod: str, from_ns: int, to_ns: int) -> tuple[Endpoint | None, ...]:
        """Return a pod's endpoints over a time, in order; None where the pool did not have it. Empty: not watched."""
        if not self.watched:
            return ()
        times = self._snapshots_ns
        first = max(0, bisect_right(times, from_ns) - 1)
        last = max(first + 1, bisect_right(times, to_ns))
        return tuple(snapshot.of_pod(pod) for snapshot in self._snapshots[first:last])

    def was_empty(self, from_ns: int, to_ns: int) -> bool:
        """True if the pool had no ready endpoint at some time within these."""
        if not self.watched:
            return False
        first = max(0, bisect_right(self._snapshots_ns, from_ns) - 1)
        last = max(first + 1, bisect_right(self._snapshots_ns, to_ns))
        return any(not snapshot.ready_count for snapshot in self._snapshots[first:last])

    def pool_changed(self, from_ns: int, to_ns: int) -> bool:
        """True if the pool may have changed within these times."""
        return self.watched and any(since < to_ns and until >= from_ns for since, until in self._pool_changes_ns)

    def unobserved(self, from_ns: int, to_ns: int) -> bool:
        """True if the pool was not observed for a part of this time."""
        still = self._unobserved_since_ns is not None and self._unobserved_since_ns <= to_ns
        return still or any(start <= to_ns and from_ns <= end for start, end in self._unobserved_spans)

    # --- collecting ---------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take in an event."""
        self.losses.feed(event)
        match event:
            case RunStarted():
                self.started = event
            case SessionStarted():
                session = self._session(event.session)
                session.local, session.target = event.local, event.target
            case FirstAnswer():
                session = self._session(event.session)
                session.first, session.first_seq, session.first_ns = event.identity, event.seq, event.at_ns
                session.identities.append((0, event.identity))
            case ChangeSeen(change=change):
                session = self._session(event.session)
                session.record(change.after)
                session.record_change(change)
            case ChangeRevised(change=change, was=was):
                session = self._session(event.session)
                session.discard(was.after)
                session.record(change.after)
                session.record_change(change)
            case ChangeWithdrawn(change=change):
                self._session(event.session).changes.pop(change.number, None)
            case ProbesLost():
                self._lost(event)
            case BlackoutEnded():
                self.blackouts.append((event.since_ns, event.until_ns))
            case LossDirection():
                self.loss_directions.append(event)
            case LateReply():
                self.late.append(event)
            case CanaryResult():
                self.canaries.append(event)
            case ReferenceResult():
                self.references.append(event)
            case SmallProbeResult():
                self.small_probes.append(event)
            case WrongSource():
                self.wrong_sources.append(event)
            case CrossDelivered():
                self.cross_delivered.append(event)
            case NetworkError():
                self.network_errors.append(event)
            case ClientFault():
                self.client_faults.append(event)
            case ConflictingDuplicate():
                self.duplicates.append(event)
            case StatsTick():
                self.total = event.total
            case RunSummary():
                self.total = event.total
            case SessionSummary():
                self._session(event.session).silent = event.unanswered_ns >= OUTAGE_NS
            case SendingStopped():
                self.stopped_ns = event.at_ns
            case _:
                self._feed_cluster(event)

    def _feed_cluster(self, event: Event) -> None:
        match event:
            case PoolObserved():
                self._observed(event)
            case PoolConfirmed():
                self._unobserved_since_ns = None
            case PoolUnobserved():
                self._unobserved_since_ns = event.since_ns
            case NodeAddresses():
                self.node_names = dict(event.names)
                self.all_node_names |= self.node_names
            case PodAddresses():
                self.pod_names = dict(event.names)
            case ClusterEvent(action=ClusterAction.NODE_PORT_SHARED, detail=detail):
                self.shared_node_ports.append(detail)
            case ClusterEvent():
                self.cluster.append(event)
            case _:
                pass

    def diagnosed(self, from_ns: int, diagnoses: tuple[Diagnosis, ...]) -> None:
        """Record the diagnoses of an incident that began at `from_ns`."""
        if any(d.name == "flow-wipe" and d.certainty is Certainty.LIKELY for d in diagnoses):
            self.flow_wipes_ns.append(from_ns)

    def _session(self, name: str) -> SessionHistory:
        return self.sessions.setdefault(name, SessionHistory())

    def _observed(self, event: PoolObserved) -> None:
        if event.changes:
            self._pool_changes_ns.append((event.since_ns, event.until_ns))
        if self._unobserved_since_ns is not None and event.asked_ns is not None:
            self._unobserved_spans.append((self._unobserved_since_ns, event.until_ns))
            self._unobserved_since_ns = None
        self.pool = event.snapshot
        self._snapshots.append(event.snapshot)
        self._snapshots_ns.append(max([event.until_ns, *self._snapshots_ns[-1:]]))
        del self._snapshots[:-_MAX_SNAPSHOTS], self._snapshots_ns[:-_MAX_SNAPSHOTS]

    def _lost(self, event: ProbesLost) -> None:
        session = self._session(event.session)
        if event.first_seq == session.start_lost:
            session.start_lost += event.count
        goes_on = event.first_seq == session.lost_until
        session.lost_ns = (session.lost_ns[0] if goes_on else event.first_sent_ns, event.last_sent_ns)
        session.lost_until = event.first_seq + event.count
        session.losses.append((event.first_seq, event.count))
        sizes = len(self.sizes)
        if sizes > 1:
            for seq in range(event.first_seq, event.first_seq + min(event.count, sizes * _MAX_EVENTS)):
                self.lost_by_size[seq % sizes] += 1
