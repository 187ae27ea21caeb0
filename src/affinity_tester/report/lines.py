"""Single events as lines: text, level and colour. Nothing here remembers anything."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from affinity_tester.core import events as ev
from affinity_tester.core.diagnosis.icmp import IcmpMeaning, icmp_meaning
from affinity_tester.report.clock import RunClock
from affinity_tester.report.cluster_text import event_text
from affinity_tester.report.experiment_steps import step_text
from affinity_tester.report.fold import folded_judgements
from affinity_tester.report.groups import bad_groups_text
from affinity_tester.report.in_short import is_silence
from affinity_tester.report.incident import EVIDENCE_INDENT, incident_text, is_violation, run_text
from affinity_tester.report.logging import Colour, Level
from affinity_tester.report.reason_text import endpoint_change_text
from affinity_tester.report.text import change_facts, irregular_counts, is_restart, judgement_text, served_by
from affinity_tester.settings import REFERENCE_INTERVAL_NS, REFERENCE_SESSIONS, WORST_SESSIONS
from affinity_tester.units import format_duration, format_seconds, plural, quoted

_WHEN_SILENT = (
    "check the address and the port, that the Service has ready endpoints, that firewalls let UDP pass both ways, "
    "and that AFFINITY_KEY is the same on both sides"
)

_WHEN_REFERENCE_SILENT = (
    "check its address and port, and that firewalls let UDP pass both ways; without it a change of this side's own NAT "
    "cannot be told from one of the cluster"
)

_ICMP = {
    "ECONNREFUSED": "port unreachable: nothing listens there",
    "EHOSTUNREACH": "host unreachable",
    "ENETUNREACH": "network unreachable",
    "EMSGSIZE": "packet too big",
    "EACCES": "administratively prohibited",
}

JUDGED: dict[ev.Judgement, tuple[Level, Colour, str]] = {
    ev.Judgement.VIOLATION: ("error", Colour.VIOLATION, "red lines"),
    ev.Judgement.UNKNOWN: ("warn", Colour.WARNING, "judgements"),
    ev.Judgement.IDLE: ("info", Colour.QUIET, "judgements"),
    ev.Judgement.EXPLAINED: ("info", Colour.QUIET, "judgements"),
    ev.Judgement.POD_RESTART: ("info", Colour.QUIET, "judgements"),
    ev.Judgement.CLIENT: ("warn", Colour.WARNING, "judgements"),
    ev.Judgement.POD_SILENT: ("warn", Colour.WARNING, "judgements"),
    ev.Judgement.INFORMATION: ("info", Colour.QUIET, "judgements"),
}
"""Level, colour, and what it is counted as when there are too many."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log before it has a time."""

    text: str
    level: Level = "info"
    colour: Colour = Colour.STATISTICS
    category: str | None = None
    """What it is counted as when there are too many in one second; a line without one is always shown."""


def _red(text: str) -> Line:
    return Line(text, "error", Colour.CHANGE, "red lines")


def _quiet(text: str) -> Line:
    return Line(text, colour=Colour.QUIET, category="judgements")


def _cluster(text: str) -> Line:
    return Line(text, "event", Colour.CLUSTER, "cluster events")


def warning(text: str) -> Line:
    """Return a yellow line."""
    return Line(text, "warn", Colour.WARNING, "warnings")


def session_line(event: ev.SessionStats) -> str:
    """Return the line of one session: its counts since its previous line."""
    delta, serving = event.delta, event.serving
    if serving is None:
        answered = "no answer yet"
    elif delta.answered == 0:
        answered = f"no answer, last served by {served_by(serving)}"
    else:
        answered = f"served by {served_by(serving)}"
    return (
        f"{event.session} sent {delta.sent} messages of which {delta.lost} message(s) lost, "
        f"{answered}{irregular_counts(delta)}"
    )


def total_line(tick: ev.StatsTick, period: list[ev.SessionStats]) -> str:
    """Return one line for all sessions of a period, with the worst of pods (nodes, reflexive IPs) and sessions named.

    `period` has all sessions or, where there are many, only the worst.
    """
    delta = tick.delta
    pods = sum(group.kind is ev.GroupKind.POD and group.name is not None for group in tick.groups)
    parts = [f"{plural(tick.sessions, 'session')} sent {delta.sent:,} messages of which {delta.lost:,} message(s) lost"]
    if pods:
        parts.append(f"served by {plural(pods, 'pod')}")
    if tick.silent:
        parts.append(f"{plural(tick.silent, 'session')} without an answer")
    if delta.changes:
        parts.append(f"{delta.changes:,} change(s)")

    bad = [session for session in period if session.delta.lost or session.delta.changes]
    worst = heapq.nlargest(WORST_SESSIONS, bad, key=lambda session: (session.delta.lost, session.delta.changes))
    named = ", ".join(f"{s.session} ({s.delta.lost:,} lost, {s.delta.changes:,} change(s))" for s in worst)
    worst_groups = bad_groups_text(tick.groups)
    return (
        ", ".join(parts)
        + irregular_counts(delta)
        + (f"; {worst_groups}" if worst_groups else "")
        + (f"; worst: {named}" if named else "")
    )


STRAYS = {ev.Stray.WRONG_SOURCE: "from a wrong source", ev.Stray.CROSS_DELIVERED: "meant for another session"}


def change_lines(event: ev.ChangeSeen | ev.ChangeRevised | ev.ChangeWithdrawn, nodes: Mapping[str, str]) -> list[Line]:
    """Return a line for each kind of change; a dim one where a later reply shows that the change was another."""
    facts = change_facts(event.change, nodes)
    match event:
        case ev.ChangeSeen():
            lines = [_red(f"{event.session} {fact}") for fact in facts]
            if is_restart(event.change):
                lines[-1] = warning(f"{event.session} {facts[-1]}")
            return lines
        case ev.ChangeRevised():
            if facts == change_facts(event.was, nodes):
                return []  # only nearer to the moment: nothing that a reader would act upon
            return [_quiet(f"    revised: {'; '.join(facts)} ({event.session}, a later reply came between)")]
        case ev.ChangeWithdrawn():
            told = "a later reply made it part of another change"
            return [_quiet(f"    withdrawn: {'; '.join(facts)} ({event.session}, {told})")]


def judged_lines(event: ev.CaseJudged, clock: RunClock) -> list[Line]:
    """Return the judgement, its reasons, and what it is about, since it comes some seconds after the red line."""
    if event.judgement is ev.Judgement.POD_RESTART and not event.reasons:
        return []  # the line of the restart said it
    level, colour, category = JUDGED[event.judgement]
    match event.case:
        case ev.Change(seen_ns=seen_ns):
            when = f"changed {clock.time_of_day(seen_ns)}"
        case ev.OutageCase(since_ns=since_ns):
            when = f"unanswered since {clock.time_of_day(since_ns)}"
        case case:
            assert isinstance(case, ev.StrayCase)
            when = f"a reply {STRAYS[case.stray]} at {clock.time_of_day(case.heard_ns)}"
    return [Line(f"    {judgement_text(event)} ({event.session}, {when})", level, colour, category)]


def alike_lines(events: Sequence[ev.CaseJudged], clock: RunClock) -> list[Line]:
    """Return the line of judgements that are alike, one for all of them."""
    if len(events) == 1:
        return judged_lines(events[0], clock)
    level, colour, category = JUDGED[events[0].judgement]
    return [Line(f"    {folded_judgements(events, clock)}", level, colour, category)]


def session_lines(event: ev.SessionEvent, clock: RunClock) -> list[Line]:
    """Return the lines of any other event of a session; many have none."""
    name = event.session
    match event:
        case ev.OutageStarted(at_ns=at_ns, since_ns=since_ns, last=None):
            return [_red(f"{name} never answered, for {format_duration(at_ns - since_ns)} now, while {_others(event)}")]
        case ev.OutageStarted(at_ns=at_ns, since_ns=since_ns, last=ev.RepliedProbe(identity=identity)):
            silent = f"unanswered since {clock.time_of_day(since_ns)} ({format_duration(at_ns - since_ns)})"
            return [_red(f"{name} {silent}, while {_others(event)}; last served by {served_by(identity)}")]
        case ev.OutageEnded():
            gap = format_duration(event.at_ns - event.since_ns)
            probes = plural(event.probes, "probe")
            return [_red(f"{name} answered again after {gap} ({probes}), by {served_by(event.first.identity)}")]
        case ev.WrongSource():
            who = served_by(event.identity) + (", which listens on a wildcard" if event.wildcard else "")
            return [
                _red(f"{name} answered from the wrong source {event.source} ({who}), probes go to {event.expected}")
            ]
        case ev.CrossDelivered():
            sender = f"{event.source} ({served_by(event.identity)})"
            return [_red(f"{name} got a reply that was meant for {event.owner}, from {sender}")]
        case ev.ConflictingDuplicate():
            first, second = served_by(event.first), served_by(event.second)
            if first == second:
                first, second = f"x_address {event.first.reflexive}", f"x_address {event.second.reflexive}"
            return [warning(f"{name} probe {event.seq} was answered twice and differently: {first}, then {second}")]
        case ev.NetworkError():
            known = icmp_meaning(event)
            meaning = f" ({_ICMP[event.error]})" if event.error in _ICMP else ""
            if known in {IcmpMeaning.PROHIBITED, IcmpMeaning.TIME_EXCEEDED}:
                meaning = f" ({known})"
            sender = f" from {event.offender}" if event.offender is not None else ""
            return [warning(f"{name} heard ICMP error {event.error}{meaning}{sender}")]
        case ev.CanaryResult(identity=identity):
            answer = "is not answered" if identity is None else f"is answered by {served_by(identity)}"
            port = f"the same port after {format_seconds(event.pause_ns)}" if event.pause_ns else "a new port"
            return [Line(f"    a test probe from {port} {answer} ({name})", colour=Colour.QUIET, category="canaries")]
        case ev.SmallProbeResult(identity=identity, size=size):
            answer = "is not answered" if identity is None else f"is answered by {served_by(identity)}"
            text = f"    a test probe of only {size:,} bytes from a new port {answer} ({name})"
            return [Line(text, colour=Colour.QUIET, category="canaries")]
        case ev.ClientFault(fault=ev.ClientFaultKind.EXHAUSTED):
            return [warning(f"{name} ended: it sent all the 4,294,967,296 probes that a session has numbers for")]
    return []


def _others(outage: ev.OutageStarted) -> str:
    return "others are answered" if outage.others_answered else "new flows are answered and no session is"


def fault_line(faults: Sequence[ev.ClientFault]) -> Line:
    """Return the line of a fault of this machine, with the session that met it, or with how many did."""
    first = faults[0]
    sessions = len({fault.session for fault in faults})
    who = first.session if sessions == 1 else plural(sessions, "session")
    more = " (and the like)" if any(fault.detail != first.detail for fault in faults) else ""
    who += ":" if sessions > 1 else ""
    return warning(f"{who} local problem: {first.fault}: {first.detail}{more}")


def run_lines(event: ev.Event, clock: RunClock) -> list[Line]:
    """Return the lines of an event of the run or of the cluster; many have none."""
    match event:
        case ev.RunStarted():
            return _started(event, clock)
        case ev.ForeignServer():
            who = quoted(event.software) if event.software is not None else "a server"
            return [warning(f"answered by {who}, which names no pod: only x_address and SOFTWARE are tracked")]
        case ev.NoReplies(waited_ns=waited_ns, reason=reason):
            return [warning(f"no session is answered after {format_duration(waited_ns)}: {reason or _WHEN_SILENT}")]
        case ev.NoReferenceReplies(waited_ns=waited_ns, reason=reason):
            silent = f"the reference has given no address after {format_duration(waited_ns)}"
            return [warning(f"{silent}: {reason or _WHEN_REFERENCE_SILENT}")]
        case ev.PoolWatchStarted(context=context, service=service, via=via):
            way = f", by its {via}" if via else ""
            return [Line(f"watching Service {quoted(service)} in context {quoted(context)}{way}")]
        case ev.PoolNotWatched(reason=reason):
            return [Line(f"cluster not watched ({reason}): a change counts as a violation unless the client was idle")]
        case ev.FaultInjected():
            return [Line(f"injected: {event.text}", "event", Colour.CLUSTER)]
        case ev.ActionStep(failed=True):
            return [Line(step_text(event), "warn", Colour.WARNING)]
        case ev.ExperimentStarted() | ev.PhaseStarted() | ev.ActionStep():
            return [Line(step_text(event), "event", Colour.CLUSTER)]
        case ev.SendingStopped():
            return [Line("sending stopped; the last replies may still come, then the last judgements")]
        case ev.PoolUnobserved(reason=reason):
            return [_cluster(f"the pool is not observed any more: {reason}")]
        case ev.WrongPool(pod=pod):
            told = "which was never in the watched pool: wrong cluster or Service; the pool counts as not watched"
            return [warning(f"pod {quoted(pod)} answers, {told}")]
        case ev.ClusterEvent():
            return [_cluster(event_text(event))]
        case ev.BlackoutStarted(since_ns=since_ns, sessions=sessions):
            return [_red(f"ALL {plural(sessions, 'session')} unanswered since {clock.time_of_day(since_ns)}")]
        case ev.IncidentClosed(incident=incident):
            return _incident_lines(incident, incident_text(incident, clock))
        case ev.IncidentOngoing(incident=incident):
            return _incident_lines(incident, incident_text(incident, clock, ongoing=True))
        case ev.RunDiagnosed(diagnoses=diagnoses):
            return [Line(text, category="incident lines") for text in run_text(diagnoses)]
        case ev.Settling(open_count=count, up_to_ns=up_to_ns):
            waits = f"{plural(count, 'judgement')} still to come, in at most {format_duration(up_to_ns)}"
            return [Line(f"{waits} (Ctrl-C: leave them unknown)", colour=Colour.QUIET)]
        case ev.RunEnded(aborted=True):
            return [warning("stopped at once: judgements still open are unknown")]
    return []


def blackout_line(event: ev.BlackoutEnded, api_answered: bool | None) -> Line:
    """Return the line of a blackout's end; `api_answered` is None where the API server was not asked."""
    lasted = format_duration(event.until_ns - event.since_ns)
    canaries = f", {plural(event.canaries, 'test probe')} from new ports got no answer" if event.canaries else ""
    api = {
        True: "; the API server was answered meanwhile",
        False: "; the API server was not answered either: it may be this machine's own link",
        None: "",
    }[api_answered]
    lost = plural(event.probes, "probe")
    return _red(f"answered again after {lasted} in which nobody was: {lost} lost{canaries}{api}")


def _incident_lines(incident: ev.Incident, texts: list[str]) -> list[Line]:
    """Return an incident's lines: the evidence is in the terminal's own colour, so that what it comes to stands out."""
    level: Level = "error" if is_violation(incident) else "warn" if is_silence(incident) else "info"
    colour = {"error": Colour.VIOLATION, "warn": Colour.WARNING, "info": Colour.QUIET}[level]
    evidence = colour if level == "info" else Colour.STATISTICS
    return [
        Line(text, level, evidence if text.startswith(EVIDENCE_INDENT) else colour, "incident lines") for text in texts
    ]


def seen_again_line(event: ev.PoolObserved | ev.PoolConfirmed, blind_ns: int) -> Line:
    """Return the line of a watch that is back; `blind_ns` is when its loss was told.

    A list that another watch asked for before may be what brings it back: then there is no pause to tell.
    """
    pause = f" after {format_duration(event.at_ns - blind_ns)}" if event.at_ns > blind_ns else ""
    missed = "" if isinstance(event, ev.PoolObserved) else ", and nothing was missed"
    return _cluster(f"the pool is observed again{pause}{missed}")


def pool_lines(event: ev.PoolObserved, *, first: bool) -> list[Line]:
    """Return what became different in the pool, a line each; of the first snapshot how many endpoints there are."""
    if first:
        after = event.snapshot
        ready = f"{after.ready_count:,} of {plural(len(after.endpoints), 'endpoint')} ready"
        return [_cluster(f"the pool is watched: {ready}")]
    return [_cluster(endpoint_change_text(change)) for change in event.changes]


def _sizes(event: ev.RunStarted) -> str:
    return "/".join(map(str, event.sizes or (event.request_size,)))


def _targets(event: ev.RunStarted) -> str:
    """Return where probes go, and which addresses of the name get none."""
    address, name = str(event.target), event.target_name
    if not event.addresses and not event.unprobed:
        return address if name in (address, event.target.ip) else f"{address} ({name})"
    probed = event.addresses or (event.target,)
    count = f"{len(probed)} of " if event.unprobed else ""
    named = plural(len(probed) + len(event.unprobed), "address", "addresses")
    left = f"; not to {', '.join(map(str, event.unprobed))}" if event.unprobed else ""
    return f"{count}{named} of {name} ({', '.join(map(str, probed))}{left})"


def _reference(event: ev.RunStarted) -> str:
    """Return what is asked of the reference, and from where."""
    address, name = event.reference, event.reference_name
    assert address is not None
    named = "" if name in (str(address), address.ip) else f" ({name})"
    sockets = plural(min(event.sessions, REFERENCE_SESSIONS), "session")
    every = format_duration(REFERENCE_INTERVAL_NS)
    return f"reference {address}{named}: asked from the sockets of {sockets}, every {every} each"


def _started(event: ev.RunStarted, clock: RunClock) -> list[Line]:
    sockets = ", on connected sockets" if event.connected else ""
    marked = "" if event.dscp is None else f", marked with DSCP {event.dscp}"
    probes = (
        f"{plural(event.sessions, 'session')} to {_targets(event)}: "
        f"a probe of {_sizes(event)} bytes every {format_duration(event.interval_ns)} each{sockets}{marked}, "
        f"lost after {format_duration(event.loss_threshold_ns)}"
    )
    opening = f"{clock.date(event.at_ns)} {clock.utc_offset}, affinity-tester {event.version}"
    reference = [Line(_reference(event))] if event.reference is not None else []
    guarantees = [warning(f"not on this platform: {lost}") for lost in event.lost_guarantees]
    return [Line(opening), Line(probes), *reference, *guarantees]
