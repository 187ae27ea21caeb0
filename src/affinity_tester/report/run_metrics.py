"""A run as Prometheus metrics (docs/metrics.md): customary names, base units, and no label that grows.

No session and no client address is a label. Of pods, nodes and ingress addresses as many have figures of their own as
`core.session.breakdown` keeps apart, and one that serves nobody any more is left out after ten minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from affinity_tester import __version__
from affinity_tester.core import events as ev
from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.pulse import Pulse
from affinity_tester.core.session.rtt import bucket_of
from affinity_tester.report.metric_families import INFO, PREFIX, Described, family
from affinity_tester.units import NS_PER_MIN, NS_PER_S

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

KEPT_NS = 10 * NS_PER_MIN
"""How long a pod, node or ingress address that serves nobody any more is still told."""

RTT_BOUNDS_US = tuple(1 << power for power in range(6, 22))
"""Upper bounds of the histogram, 64 us to 2.1 s: powers of two, where buckets of ours begin. Later is lost by default."""

_GROUPS = {ev.GroupKind.POD: "pod", ev.GroupKind.NODE: "node", ev.GroupKind.REFLEXIVE_IP: "ingress"}
"""The label of each kind, which is a part of its metrics' names too."""

_CASES: dict[type[ev.Case], str] = {ev.Change: "change", ev.OutageCase: "outage", ev.StrayCase: "stray"}


SESSIONS = Described("sessions", "gauge", "Sessions of this client.")
SILENT = Described("sessions_silent", "gauge", "Sessions without an answer for at least a loss threshold.")
IN_OUTAGE = Described("sessions_in_outage", "gauge", "Sessions unanswered for 5 s while others are answered.")
BLACKOUT = Described("blackout", "gauge", "1 while no session and no test probe is answered.")
WATCHED = Described("pool_watched", "gauge", "1 while the Service's endpoints are watched and seen.")
READY = Described("pool_ready_endpoints", "gauge", "Endpoints that are ready; only where the pool is watched.")
VIOLATIONS = Described("violations", "counter", "Changes, outages and stray replies judged to be violations.")
JUDGED = Described("judged", "counter", "Cases judged for good, by what they are and by class.", ("case", "judgement"))
INCIDENTS = Described("incidents", "counter", "Incidents by their first diagnosis.", ("name", "certainty"))
LAST_VIOLATION = Described(
    "last_violation_timestamp_seconds", "gauge", "When the last violation was judged (Unix time); 0: never."
)
CHANGES = Described("changes", "counter", "Changes seen, before any is judged, by what differs.", ("kind",))
RTT = Described("rtt_seconds", "histogram", "Round-trip times of answered probes.")
_COUNTED = {
    "sent": Described("probes_sent", "counter", "Probes sent."),
    "answered": Described("probes_answered", "counter", "Probes answered in time."),
    "lost": Described("probes_lost", "counter", "Probes whose reply had not come within the loss threshold."),
    "late": Described("replies_late", "counter", "Replies to probes that were lost."),
    "duplicate": Described("replies_duplicate", "counter", "Second replies to a probe."),
    "reordered": Described("replies_reordered", "counter", "Replies that came after one to a later probe."),
    "timer_misses": Described("probes_skipped", "counter", "Probes not sent since the client was too busy."),
    "send_errors": Described("send_errors", "counter", "Probes that this machine refused to send."),
    "socket_drops": Described("socket_drops", "counter", "Replies that this machine dropped at a full buffer."),
    "network_errors": Described("network_errors", "counter", "ICMP errors heard."),
}
_GROUPED = (
    ("sessions", "gauge", "Sessions {where}."),
    ("probes_sent", "counter", "Probes that sessions {where} sent."),
    ("probes_answered", "counter", "Probes answered of those that sessions {where} sent."),
    ("probes_lost", "counter", "Probes lost of those that sessions {where} sent."),
    ("changes", "counter", "Changes of sessions {where}, by which they left it."),
    ("rtt_p99_seconds", "gauge", "99 % of the round-trip times of the run were no longer."),
)
_GROUP_VALUES: dict[str, Callable[[ev.GroupCounts], float | None]] = {
    "sessions": lambda group: group.sessions,
    "probes_sent": lambda group: group.sent,
    "probes_answered": lambda group: group.answered,
    "probes_lost": lambda group: group.lost,
    "changes": lambda group: group.changes,
    "rtt_p99_seconds": lambda group: None if group.p99_ns is None else group.p99_ns / NS_PER_S,
}
_WHERE = {
    "pod": "at this pod",
    "node": "at pods of this node",
    "ingress": "with this reflexive IP (mostly the node that they come in through)",
}
GROUPED = {
    (label, name): Described(f"{label}_{name}", kind, text.format(where=_WHERE[label]), (label,))
    for label in _GROUPS.values()
    for name, kind, text in _GROUPED
}

RUN_METRICS: tuple[Described, ...] = (
    INFO, SESSIONS, SILENT, IN_OUTAGE, BLACKOUT, WATCHED, READY, VIOLATIONS, JUDGED, INCIDENTS, LAST_VIOLATION, CHANGES,
    RTT, *_COUNTED.values(), *GROUPED.values(),
)  # fmt: skip
"""What a client tells."""


@dataclass(slots=True)
class RunMetrics:
    """Takes every event and every pulse of a run; `exposition` is what a scrape gets."""

    _started: ev.RunStarted | None = None
    _pulse: Pulse | None = None
    _violations: int = 0
    _last_violation_ns: int | None = None
    _lasting: set[tuple[str, int]] = field(default_factory=set)
    """Outages, as (session, first probe), that have a class and last: only a violation counts before their end."""
    _final: Counter[tuple[str, str]] = field(default_factory=Counter)
    _incidents: Counter[tuple[str, str]] = field(default_factory=Counter)
    _changes: Counter[str] = field(default_factory=Counter)
    _outages: set[str] = field(default_factory=set)
    _blackout: bool = False
    _watched: bool = False
    _ready: int | None = None
    _served_ns: dict[tuple[ev.GroupKind, str | None], int] = field(default_factory=dict)
    """When each pod, node and ingress address was last seen to serve a session."""

    def emit(self, event: ev.Event) -> None:
        """Take in an event."""
        match event:
            case ev.RunStarted():
                self._started = event
            case ev.ChangeSeen(change=change):
                self._changes.update(kind.value for kind in change.kinds)
            case ev.CaseJudged():
                self._judge(event)
            case ev.IncidentClosed(incident=incident):
                first = incident.diagnoses[0] if incident.diagnoses else None
                self._incidents[_name(first), first.certainty.value if first else "none"] += 1
            case ev.OutageStarted(session=session):
                self._outages.add(session)
            case ev.OutageEnded(session=session):
                self._outages.discard(session)
            case ev.BlackoutStarted():
                self._blackout = True
            case ev.BlackoutEnded():
                self._blackout = False
            case ev.PoolObserved(snapshot=snapshot):
                self._watched, self._ready = True, snapshot.ready_count
            case ev.PoolConfirmed():
                self._watched = True
            case ev.PoolUnobserved() | ev.WrongPool():
                self._watched = False

    def beat(self, pulse: Pulse) -> None:
        """Take in a pulse."""
        self._pulse = pulse
        for group in pulse.groups:
            key = (group.kind, group.name)
            if group.sessions or key not in self._served_ns:
                self._served_ns[key] = pulse.at_ns
        for key in self._served_ns.keys() - {(group.kind, group.name) for group in pulse.groups}:
            del self._served_ns[key]

    def _judge(self, event: ev.CaseJudged) -> None:
        """Count a case once: a violation at once, since that is final, any other class when it is over."""
        if event.lasts and event.judgement is not ev.Judgement.VIOLATION:
            return
        if isinstance(event.case, ev.OutageCase):
            key = (event.session, event.case.since_seq)
            if key in self._lasting:
                if not event.lasts:
                    self._lasting.discard(key)
                return
            if event.lasts:
                self._lasting.add(key)
        self._final[_CASES[type(event.case)], event.judgement.value] += 1
        if event.judgement is ev.Judgement.VIOLATION:
            self._violations += 1
            self._last_violation_ns = event.at_ns

    def families(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield family(INFO, [((__version__,), 1)])
        pulse, started = self._pulse, self._started
        yield family(SESSIONS, [((), started.sessions if started else 0)])
        yield family(SILENT, [((), pulse.silent if pulse else 0)])
        yield family(IN_OUTAGE, [((), len(self._outages))])
        yield family(BLACKOUT, [((), int(self._blackout))])
        yield family(WATCHED, [((), int(self._watched))])
        if self._ready is not None:
            yield family(READY, [((), self._ready)])
        yield family(VIOLATIONS, [((), self._violations)])
        yield family(JUDGED, sorted(self._final.items()))
        yield family(INCIDENTS, sorted(self._incidents.items()))
        yield family(LAST_VIOLATION, [((), self._wall_s(self._last_violation_ns))])
        yield family(CHANGES, [((kind,), count) for kind, count in sorted(self._changes.items())])
        if pulse is not None:
            yield _histogram(RTT, pulse)
            for name, described in _COUNTED.items():
                yield family(described, [((), getattr(pulse.total, name))])
            yield from self._groups(pulse)

    def _groups(self, pulse: Pulse) -> Iterator[Metric]:
        for kind, label in _GROUPS.items():
            shown = [
                group
                for group in pulse.groups
                if group.kind is kind and pulse.at_ns - self._served_ns[kind, group.name] < KEPT_NS
            ]
            for name, value in _GROUP_VALUES.items():
                samples = (((group.name or "",), value(group)) for group in shown)
                yield family(GROUPED[label, name], [(labels, told) for labels, told in samples if told is not None])

    def _wall_s(self, at_ns: int | None) -> float:
        if at_ns is None or self._started is None:
            return 0.0
        return (self._started.wall_ns + at_ns - self._started.at_ns) / NS_PER_S


def _name(diagnosis: ev.Diagnosis | None) -> str:
    """Return a name of the catalogue: a label's values are as many as that has."""
    return diagnosis.name if diagnosis is not None and diagnosis.name in CATALOGUE else "unknown"


def _histogram(described: Described, pulse: Pulse) -> Metric:
    """Return the answers by length."""
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 - as above

    buckets = [(str(us / 1_000_000), float(sum(pulse.times[: bucket_of(us)]))) for us in RTT_BOUNDS_US]
    buckets.append(("+Inf", float(sum(pulse.times))))
    name = PREFIX + described.name
    return HistogramMetricFamily(name, described.help, buckets=buckets, sum_value=pulse.rtt_sum_ns / NS_PER_S)
