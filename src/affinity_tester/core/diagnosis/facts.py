"""What rules need beyond one incident's own members, gathered from the run's event stream.

Memory is bounded: per session a short history of who served it, per run a fixed number of facts of each sort.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from operator import itemgetter

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    Certainty,
    ChangeRevised,
    ChangeSeen,
    ClientFault,
    ClusterEvent,
    Counts,
    CrossDelivered,
    Diagnosis,
    DuplicateDiffers,
    Event,
    FirstAnswer,
    LossDirected,
    NetworkError,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    ProbesLost,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    SessionSummary,
    Sighting,
    StatsTick,
    WrongSource,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.outages import OUTAGE_NS
from affinity_tester.core.pool import Endpoint, PoolSnapshot

_HISTORY = 32
"""Identities remembered per session: an incident's worth; who changes more often is not asked where he was before."""

_KEPT = 10_000
"""Facts remembered of each sort that happens to single sessions."""

_SNAPSHOTS = 1_000
"""Snapshots of the pool remembered."""


@dataclass(slots=True)
class SessionFacts:
    """One session's."""

    local: TransportAddress | None = None
    target: TransportAddress | None = None
    """Where its probes go; None: to the run's one target."""
    first: Identity | None = None
    """What its first reply said."""
    first_seq: int = 0
    """The probe of its first reply."""
    start_lost: int = 0
    """How many of its first probes were lost in a row, from sequence 0 on."""
    silent: bool = False
    """It was unanswered when the run ended."""
    lost_ns: tuple[int, int] = (0, 0)
    """When the first and the last probe of its newest run of lost ones were sent."""
    lost_until: int = 0
    """The sequence number after that run."""
    history: list[tuple[int, Identity]] = field(default_factory=list)
    """Who served it from which send time on, in order."""

    def served(self, at_ns: int) -> Identity | None:
        """Who answered the newest replied probe sent until then, as far back as is remembered; None: nobody yet."""
        position = bisect_right(self.history, at_ns, key=itemgetter(0))
        return self.history[max(0, position - 1)][1] if self.history else None

    def note(self, sighting: Sighting) -> None:
        """From this probe on it is served so; what the reply does not say is as it was."""
        before = self.served(sighting.sent_ns)
        who = sighting.identity
        if before is not None:
            who = before._replace(**{name: value for name, value in who._asdict().items() if value is not None})
        insort(self.history, (sighting.sent_ns, who), key=itemgetter(0))
        del self.history[:-_HISTORY]

    def forget(self, sighting: Sighting) -> None:
        """This probe is no longer where a change begins."""
        self.history = [entry for entry in self.history if entry[0] != sighting.sent_ns or entry is self.history[0]]


class Facts:
    """Fed with every observed event, in order."""

    def __init__(self, settle_ns: int) -> None:
        """`settle_ns`: how near a change of the pool or the cluster must be to count as near."""
        self.settle_ns = settle_ns
        self.started: RunStarted | None = None
        self.stopped_ns: int | None = None
        self.total = Counts()
        """Of the run, as of the newest statistics."""
        self.sessions: dict[str, SessionFacts] = {}
        self.node_names: dict[str, str] | None = None
        """Node name by IP; None: the nodes are not known."""
        self.pool: PoolSnapshot | None = None
        """The newest snapshot; None: the pool is not watched."""
        self._snapshots: list[PoolSnapshot] = []
        self._snapshots_ns: list[int] = []
        self._pool_changes_ns: deque[tuple[int, int]] = deque(maxlen=_SNAPSHOTS)
        self.pool_counts = True
        """False: the watched pool is not the one that answers."""
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_SNAPSHOTS)
        self._blind_ns: int | None = None
        """Since when the pool is not observed."""
        self.cluster: deque[ClusterEvent] = deque(maxlen=_SNAPSHOTS)
        self.canaries: deque[CanaryResult] = deque(maxlen=_KEPT)
        self.directed: deque[LossDirected] = deque(maxlen=_KEPT)
        self.wrong_sources: deque[WrongSource] = deque(maxlen=_KEPT)
        self.cross_delivered: deque[CrossDelivered] = deque(maxlen=_KEPT)
        self.network_errors: deque[NetworkError] = deque(maxlen=_KEPT)
        self.client_faults: deque[ClientFault] = deque(maxlen=_KEPT)
        self.duplicates: deque[DuplicateDiffers] = deque(maxlen=_KEPT)
        self.lost_by_size: Counter[int] = Counter()
        """Lost probes by position in `sizes`."""
        self.wipes_ns: deque[int] = deque(maxlen=_SNAPSHOTS)
        """When incidents began that were named flow-wipe: a period shows in their distances."""

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def interval_ns(self) -> int:
        """Time between two probes of a session."""
        return self.started.interval_ns if self.started else 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the probes, by sequence number in turn."""
        if self.started is None:
            return ()
        return self.started.sizes or (self.started.request_size,)

    @property
    def watched(self) -> bool:
        """Whether the pool is watched, and the right one."""
        return self.pool is not None and self.pool_counts

    def spec(self, name: str) -> str | None:
        """A field of the Service's spec; None: not known."""
        return dict(self.pool.spec).get(name) if self.pool is not None and self.pool_counts else None

    def served(self, name: str, at_ns: int) -> Identity | None:
        """Who served a session at a time; None: nobody has answered it."""
        session = self.sessions.get(name)
        return None if session is None else session.served(at_ns)

    def was_at(self, name: str, key: Callable[[Identity], str | None], places: Set[str], before_ns: int) -> bool:
        """Whether a session had been at one of these, as far back as is remembered, before it was where it was at a time."""
        session = self.sessions.get(name)
        past = [] if session is None else [who for at_ns, who in session.history if at_ns <= before_ns]
        return not places.isdisjoint(map(key, past[:-1]))

    def behind(self, ips: Set[str]) -> dict[str, set[str]]:
        """The nodes of all pods that sessions reached through each of these reflexive IPs, as far as is remembered."""
        found: dict[str, set[str]] = {ip: set() for ip in ips}
        for session in self.sessions.values():
            for _, who in session.history:
                if who.reflexive is not None and who.reflexive.ip in ips and who.node is not None:
                    found[who.reflexive.ip].add(who.node)
        return found

    def change_rate(self, name: str) -> tuple[int, int]:
        """How often a session changed, and how many probes it sent from the first of these changes to the last."""
        times = [at_ns for at_ns, _ in self.sessions[name].history[1:]]
        return len(times), round((times[-1] - times[0]) / max(1, self.interval_ns)) + 1

    def silent(self, from_ns: int, to_ns: int, for_ns: int) -> set[str]:
        """The sessions whose newest run of lost probes lasted so long within these times."""
        spans = ((name, max(s.lost_ns[0], from_ns), min(s.lost_ns[1], to_ns)) for name, s in self.sessions.items())
        return {name for name, start, end in spans if end - start >= for_ns}

    def homes(self, at_ns: int) -> dict[str, Identity]:
        """Who served each session at a time; sessions that nobody has answered are left out."""
        served = ((name, session.served(at_ns)) for name, session in self.sessions.items())
        return {name: who for name, who in served if who is not None}

    def endpoints(self, pod: str, from_ns: int, to_ns: int) -> tuple[Endpoint | None, ...]:
        """What the pool said of a pod over a time, in order; None where it was not in it. Empty: not watched."""
        if not self.watched:
            return ()
        times = self._snapshots_ns
        first = max(0, bisect_right(times, from_ns) - 1)
        last = max(first + 1, bisect_right(times, to_ns))
        return tuple(snapshot.of_pod(pod) for snapshot in self._snapshots[first:last])

    def pool_changed(self, from_ns: int, to_ns: int) -> bool:
        """Whether a change of the pool lies perhaps within these times."""
        return self.watched and any(since < to_ns and until >= from_ns for since, until in self._pool_changes_ns)

    def blind(self, from_ns: int, to_ns: int) -> bool:
        """Whether the pool was not observed at some of these times."""
        still = self._blind_ns is not None and self._blind_ns <= to_ns
        return still or any(start <= to_ns and from_ns <= end for start, end in self._gaps)

    # --- gathering ---------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted():
                self.started = event
            case SessionStarted():
                session = self._session(event.session)
                session.local, session.target = event.local, event.target
            case FirstAnswer():
                session = self._session(event.session)
                session.first, session.first_seq = event.identity, event.seq
                session.history.append((0, event.identity))
            case ChangeSeen(change=change):
                self._session(event.session).note(change.after)
            case ChangeRevised(change=change, was=was):
                session = self._session(event.session)
                session.forget(was.after)
                session.note(change.after)
            case ProbesLost():
                self._lost(event)
            case LossDirected():
                self.directed.append(event)
            case CanaryResult():
                self.canaries.append(event)
            case WrongSource():
                self.wrong_sources.append(event)
            case CrossDelivered():
                self.cross_delivered.append(event)
            case NetworkError():
                self.network_errors.append(event)
            case ClientFault():
                self.client_faults.append(event)
            case DuplicateDiffers():
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
                self._blind_ns = None
            case PoolUnobserved():
                self._blind_ns = event.since_ns
            case NodeAddresses():
                self.node_names = dict(event.names)
            case ClusterEvent():
                self.cluster.append(event)
            case _:
                pass

    def diagnosed(self, from_ns: int, diagnoses: tuple[Diagnosis, ...]) -> None:
        """An incident that began at `from_ns` was named."""
        if any(d.name == "flow-wipe" and d.certainty is Certainty.LIKELY for d in diagnoses):
            self.wipes_ns.append(from_ns)

    def _session(self, name: str) -> SessionFacts:
        return self.sessions.setdefault(name, SessionFacts())

    def _observed(self, event: PoolObserved) -> None:
        if event.changes:
            self._pool_changes_ns.append((event.since_ns, event.until_ns))
        if self._blind_ns is not None and event.asked_ns is not None:
            self._gaps.append((self._blind_ns, event.until_ns))
            self._blind_ns = None
        self.pool = event.snapshot
        self._snapshots.append(event.snapshot)
        self._snapshots_ns.append(max([event.until_ns, *self._snapshots_ns[-1:]]))
        del self._snapshots[:-_SNAPSHOTS], self._snapshots_ns[:-_SNAPSHOTS]

    def _lost(self, event: ProbesLost) -> None:
        session = self._session(event.session)
        if event.first_seq == session.start_lost:
            session.start_lost += event.count
        goes_on = event.first_seq == session.lost_until
        session.lost_ns = (session.lost_ns[0] if goes_on else event.first_sent_ns, event.last_sent_ns)
        session.lost_until = event.first_seq + event.count
        sizes = len(self.sizes)
        if sizes > 1:
            for seq in range(event.first_seq, event.first_seq + min(event.count, sizes * _KEPT)):
                self.lost_by_size[seq % sizes] += 1
