"""The log for machines: each event as JSON objects with stable, dotted names and units that people use.

Next to `time` (RFC 3339, UTC), `level`, `event`, `message` (the same in words, for people) and `run` (the run's id, for all
lines of a run), an object has all fields of the event, under these rules:

- a moment (`sent_ns`, `since_ns`, ...) becomes an RFC 3339 time without the suffix (`sent`, `since`);
- a duration becomes a number of seconds (`interval_s`), the short ones of milliseconds (`p50_ms`, `delay_ms`);
- an address is its text, bytes are hex, kinds and classes their names;
- a judgement's reasons are in words, and so is what lies near an incident;
- what happened in the cluster is told by `action`, by those fields that belong to the action, and in words by `what`;
- `level` is for alerts: `error` is a violation, an incident with one, or a verdict of FAIL; `warn` is what a person should
  look at, such as a change or an outage that is not judged yet, or one that nobody can explain; `debug` is what each
  session tells at its start, and what comes all the time as evidence (lists that show no change of the pool, who answers
  meanwhile, the reference's answers); `info` is everything else, also a change that was explained and what the cluster did;
- what a run is judged by has an object of its own, `run.rules`, right after `run.started`;
- what an event tells per kind of change is one object each: `session.pod_changed` and `session.x_address_changed` of
  the same pair carry the same `change`, with `from` and `to` of their own kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.report.clock import RunClock
from affinity_tester.report.cluster_text import near_text, what_text
from affinity_tester.report.in_short import is_silence
from affinity_tester.report.lines import JUDGED
from affinity_tester.report.logging import Level, Log, StatsMode
from affinity_tester.report.messages import Messages
from affinity_tester.report.reason_text import reason_text
from affinity_tester.report.summary import SummaryLine, is_bad
from affinity_tester.report.text import X_ADDRESS, is_restart
from affinity_tester.units import NS_PER_MS, NS_PER_S

NAMES: dict[type[ev.Event], tuple[str, Level]] = {
    ev.RunStarted: ("run.started", "info"),
    ev.ForeignServer: ("run.foreign_server", "warn"),
    ev.NoReplies: ("run.nothing_answered", "warn"),
    ev.NoReferenceReplies: ("run.reference_silent", "warn"),
    ev.SendingStopped: ("run.sending_stopped", "info"),
    ev.Settling: ("run.settling", "info"),
    ev.RunEnded: ("run.ended", "info"),
    ev.StatsTick: ("run.stats", "info"),
    ev.RunDiagnosed: ("run.diagnosed", "info"),
    ev.RunSummary: ("run.summary", "info"),
    ev.Verdict: ("run.verdict", "info"),
    ev.SessionStarted: ("session.started", "debug"),
    ev.FirstAnswer: ("session.first_answer", "debug"),
    ev.IncidentClosed: ("run.incident", "info"),
    ev.ChangeRevised: ("session.change_revised", "info"),
    ev.ProbesLost: ("session.probes_lost", "info"),
    ev.LossDirection: ("session.loss_directed", "info"),
    ev.CanaryResult: ("session.canary_result", "info"),
    ev.ReferenceResult: ("session.reference_result", "debug"),
    ev.SmallProbeResult: ("session.small_probe_result", "info"),
    ev.NodeAddresses: ("cluster.node_addresses", "info"),
    ev.PodAddresses: ("cluster.pod_addresses", "info"),
    ev.LateReply: ("session.late_reply", "info"),
    ev.ConflictingDuplicate: ("session.duplicate_differs", "warn"),
    ev.WrongSource: ("session.wrong_source", "warn"),
    ev.NetworkError: ("session.network_error", "warn"),
    ev.ClientFault: ("session.client_fault", "warn"),
    ev.OutageStarted: ("session.outage_started", "warn"),
    ev.OutageEnded: ("session.outage_ended", "warn"),
    ev.CrossDelivered: ("session.cross_delivered", "warn"),
    ev.BlackoutStarted: ("run.blackout_started", "warn"),
    ev.BlackoutEnded: ("run.blackout_ended", "warn"),
    ev.PathsAnswered: ("run.paths_answered", "debug"),
    ev.IncidentOngoing: ("run.incident_ongoing", "info"),
    ev.ApiServerAnswered: ("cluster.api_answered", "debug"),
    ev.SessionStats: ("session.stats", "info"),
    ev.SessionSummary: ("session.summary", "info"),
    ev.ChangeWithdrawn: ("session.change_withdrawn", "info"),
    ev.PoolWatchStarted: ("pool.watched", "info"),
    ev.PoolNotWatched: ("pool.not_watched", "info"),
    ev.PoolObserved: ("pool.observed", "info"),
    ev.PoolConfirmed: ("pool.confirmed", "debug"),
    ev.PoolUnobserved: ("pool.unobserved", "info"),
    ev.WrongPool: ("pool.wrong", "warn"),
    ev.ClusterEvent: ("cluster.event", "info"),
    ev.FaultInjected: ("lab.injected", "info"),
    ev.ExperimentStarted: ("experiment.started", "info"),
    ev.PhaseStarted: ("experiment.phase", "info"),
    ev.ActionStep: ("experiment.step", "info"),
    ev.ActionRemoved: ("experiment.removed", "info"),
}
"""Every event but `ChangeSeen`, which has a name for each kind, and `CaseJudged`, which has one for each sort of case."""

_ENDS = frozenset(NAMES[kind][0] for kind in (ev.RunSummary, ev.Verdict))
"""What is told however quiet the log is."""

RULES = "run.rules"
"""The name of what a run is judged by, which is told right after its start."""

JUDGED_NAMES: dict[type[ev.Case], str] = {
    ev.Change: "session.change_judged",
    ev.OutageCase: "session.outage_judged",
    ev.StrayCase: "session.stray_judged",
}
"""The names under which a case's judgement is told."""

EXHAUSTED = "session.exhausted"
"""The name of a `ClientFault` that ends its session."""

MOMENTS = frozenset(
    {
        "at_ns",
        "sent_ns",
        "seen_ns",
        "settled_ns",
        "since_ns",
        "first_sent_ns",
        "last_sent_ns",
        "from_ns",
        "to_ns",
        "until_ns",
        "asked_ns",
        "heard_ns",
        "addressed_ns",
    }
)
MILLISECONDS = frozenset(
    {"delay_ns", "longest_pause_ns", "longest_gap_ns", "pause_ns", "unanswered_ns"}
    | {f"{what}_ns" for what in ("min", "mean", "p50", "p90", "p99", "max", "jitter")}
)
SECONDS = frozenset(
    {
        "after_ns",
        "interval_ns",
        "loss_threshold_ns",
        "waited_ns",
        "duration_ns",
        "still_ns",
        "up_to_ns",
        "settle_ns",
        "steady_ns",
        "affinity_window_ns",
        "balancer_check_ns",
    }
)

_AS_IT_IS = frozenset({int, str, bool, float, type(None)})
"""Types that JSON has, too."""


class JsonReport:
    """Writes a run's events as JSON objects, all of them unless less is asked for.

    `RunStarted` must come first; another event before it raises `ValueError`. Every call may raise `OutputClosed`.
    """

    def __init__(self, log: Log, *, stats: StatsMode = "auto", quiet: bool = False) -> None:
        """`stats` is `total`: no statistics of single sessions, but at the end of those that are bad.

        `quiet`: only errors, and how the run ended.
        """
        self._quiet = quiet
        self._log = log
        self._stats = stats
        self._clock: RunClock | None = None
        self._messages: Messages | None = None
        self._last_at_ns = 0

    def emit(self, event: ev.Event) -> None:
        """Write this event."""
        if isinstance(event, ev.RunStarted):
            self._clock = RunClock.of(event)
            self._log = self._log.bind(self._clock, run=event.run_id)
            self._messages = Messages(self._clock)

        if self._clock is None or self._messages is None:
            raise ValueError(f"{type(event).__name__} came before RunStarted")
        if self._stats == "total" and _is_of_a_session(event):
            return

        self._last_at_ns = event.at_ns
        for name, level, message, data in objects(event, self._clock, self._messages):
            if self._quiet and level != "error" and name not in _ENDS:
                continue
            self._log.line(level, name, at_ns=event.at_ns, message=message, **data)
        self._log.flush()

    @property
    def width(self) -> None:
        """Return that lines may have any width."""

    def show_progress(self, lines: list[SummaryLine], now_ns: int) -> None:
        """Write `run.progress`: how the run stands at this time, in words."""
        if self._clock is not None:
            texts = [text for text, _ in lines]
            self._log.line("info", "run.progress", at_ns=now_ns, message=texts[0], lines=texts)
            self._log.flush()

    def warn(self, text: str) -> None:
        """Write `report.warning`, about the report itself, at the time of the last event."""
        if self._clock is not None:
            self._log.line("warn", "report.warning", at_ns=self._last_at_ns, message=text, text=text)
            self._log.flush()

    def advance(self, now_ns: int) -> None:
        """Do nothing: every event is written at once."""

    def close(self) -> None:
        """Do nothing: every event is written at once."""


def _is_of_a_session(event: ev.Event) -> bool:
    """Return whether it is statistics of a single session, at the end of one to which nothing happened too."""
    return isinstance(event, ev.SessionStats) or (isinstance(event, ev.SessionSummary) and not is_bad(event))


def objects(event: ev.Event, clock: RunClock, messages: Messages) -> Iterator[tuple[str, Level, str, dict[str, Any]]]:
    """Yield the event's objects: name, level, message, and data without its time."""
    data = _object(event, clock)
    del data["at"]
    if isinstance(event, ev.ChangeSeen):
        before, after = event.change.before.identity, event.change.after.identity
        for name, level, value in _changes(event.change):
            told = {"session": data["session"], "from": value(before), "to": value(after), "change": data["change"]}
            yield name, level, messages.of_change(event, name), told
        return

    if isinstance(event, ev.CaseJudged):
        name = JUDGED_NAMES[type(event.case)]
        yield name, JUDGED[event.judgement][0], messages.of(event, name), _judged(event, clock)
        return

    name, level = NAMES[type(event)]
    match event:
        case ev.RunStarted():
            del data["run_id"]  # which is `run`, here as everywhere
        case ev.ClusterEvent():
            data = {key: value for key, value in data.items() if value not in ("", [])}
            data |= {"name": event.name, "what": what_text(event)}
        case ev.ClientFault(fault=ev.ClientFaultKind.EXHAUSTED):
            name, data = EXHAUSTED, {"session": event.session}
        case ev.IncidentClosed(incident=incident) | ev.IncidentOngoing(incident=incident):
            level = _incident_level(incident)
        case ev.Verdict(outcome=ev.Outcome.FAIL):
            level = "error"
        case ev.Verdict(outcome=ev.Outcome.INCONCLUSIVE):
            level = "warn"
        case ev.PoolConfirmed() if messages.pool_is_unobserved:
            level = "info"

    yield name, level, messages.of(event, name), data
    if isinstance(event, ev.RunStarted):
        yield RULES, "info", messages.of_rules(event.rules), _object(event.rules, clock)


def _incident_level(incident: ev.Incident) -> Level:
    """Return the highest level of what the incident holds, as each of its judgements has it."""
    levels = {JUDGED[judgement][0] for judgement, _ in incident.judgements}
    if "error" in levels:
        return "error"
    return "warn" if "warn" in levels or is_silence(incident) else "info"


def _judged(event: ev.CaseJudged, clock: RunClock) -> dict[str, Any]:
    """Return a judgement's data: the case's own beside it, and what applies to cases of its sort."""
    case = _object(event.case, clock)
    data = {
        "session": event.session,
        **({"change": case} if isinstance(event.case, ev.Change) else case),
        "judgement": event.judgement,
        "avoidable": event.avoidable,
        "reasons": plain(event.reasons, clock),
    }
    if isinstance(event.case, ev.OutageCase):
        data["lasts"] = event.lasts
    if isinstance(event.case, ev.StrayCase):
        del data["avoidable"]
    return data


def plain(value: Any, clock: RunClock) -> Any:
    """Return a value of an event as JSON has it, by the rules above."""
    if type(value) in _AS_IT_IS:  # first, since most of what a line of statistics has is a number
        return value
    if isinstance(value, TransportAddress):
        return str(value)
    if isinstance(value, ev.NearFact):
        return near_text(value)
    if isinstance(value, Reason):
        return reason_text(value)
    if is_dataclass(value) or hasattr(value, "_fields"):
        return _object(value, clock)
    if isinstance(value, frozenset):
        return [plain(item, clock) for item in sorted(value)]
    if isinstance(value, tuple):
        if value and all(type(item) is tuple and len(item) == 2 and isinstance(item[0], str) for item in value):  # noqa: PLR2004
            return {str(key): plain(item, clock) for key, item in value}
        return [plain(item, clock) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def _object(value: Any, clock: RunClock) -> dict[str, Any]:
    cls: Any = type(value)
    data = {}
    for name, key, kind in _keys(cls):
        item = getattr(value, name)
        if kind == "plain" or item is None:
            data[key] = plain(item, clock)
        elif kind == "moment":
            data[key] = clock.rfc3339(item)
        else:
            data[key] = item / (NS_PER_MS if kind == "ms" else NS_PER_S)
    return data


@cache
def _keys(cls: Any) -> tuple[tuple[str, str, str], ...]:
    """Return for each field its name, its key in JSON, and the form of its value."""
    names = [field.name for field in fields(cls)] if is_dataclass(cls) else list(cls._fields)
    # `wall_ns` is the same moment as `at_ns`, and a run's rules have an object of their own.
    return tuple(
        (name, *_PINNED_KEYS.get((cls, name), _key(name))) for name in names if name not in {"wall_ns", "rules"}
    )


_PINNED_KEYS = {
    (ev.Incident, "total_sessions"): ("of", "plain"),
    (ev.Incident, "context"): ("near", "plain"),
    (ev.Cohort, "total"): ("of", "plain"),
}
"""Keys that stay as they are in the JSON log, whatever the fields are called."""


def _key(name: str) -> tuple[str, str]:
    base = name.removesuffix("_ns")
    if name in MOMENTS:
        return base, "moment"
    if name in MILLISECONDS:
        return f"{base}_ms", "ms"
    if name in SECONDS:
        return f"{base}_s", "s"
    return name, "plain"


def _changes(change: ev.Change) -> Iterator[tuple[str, Level, Callable[[Identity], Any]]]:
    """Yield the names under which a change is told, each with its level and a getter of the value that changed."""
    if X_ADDRESS.intersection(change.kinds):
        yield "session.x_address_changed", "warn", lambda identity: str(identity.reflexive)
    if Kind.POD in change.kinds:
        yield "session.pod_changed", "warn", lambda identity: identity.pod
    if Kind.NODE in change.kinds:
        yield "session.node_changed", "warn", lambda identity: identity.node
    if Kind.SOFTWARE in change.kinds:
        yield "session.software_changed", "warn", lambda identity: identity.software
    if is_restart(change):
        yield "session.pod_restarted", "warn", lambda identity: _hex(identity.instance)


def _hex(instance: bytes | None) -> str | None:
    return None if instance is None else instance.hex()
