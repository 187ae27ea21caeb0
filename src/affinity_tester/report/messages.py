"""A sentence for each object of the JSON log: what a person would read in the console's form."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core import events as ev
from affinity_tester.core.judging.rules import Rules
from affinity_tester.report.clock import RunClock
from affinity_tester.report.detail_lines import detail_lines
from affinity_tester.report.in_short import in_short
from affinity_tester.report.incident import incident_text
from affinity_tester.report.lines import (
    Line,
    blackout_line,
    change_lines,
    fault_line,
    judged_lines,
    pool_lines,
    run_lines,
    seen_again_line,
    session_line,
    session_lines,
    total_line,
)
from affinity_tester.report.summary import verdict_lines
from affinity_tester.report.text import change_facts, is_restart, percent
from affinity_tester.units import format_duration, plural, quoted


class Messages:
    """Says events in words. It knows of earlier ones what the words need: names of nodes, and when the watch was lost."""

    def __init__(self, clock: RunClock) -> None:
        """Tell moments by this clock."""
        self._clock = clock
        self._nodes: dict[str, str] = {}
        self._pool_known = False
        self._blind_ns: int | None = None

    @property
    def pool_is_unobserved(self) -> bool:
        """Return whether the next event of the pool says that it is observed again."""
        return self._blind_ns is not None

    def of(self, event: ev.Event, name: str) -> str:
        """Return the sentence of an event; `name` is that of its object, which has to do where there are no words."""
        return _joined(self._lines(event)) or fallback(event, name)

    def of_change(self, event: ev.ChangeSeen, name: str) -> str:
        """Return the sentence of one of the objects of a change."""
        identities = event.change.before.identity, event.change.after.identity
        facts = change_facts(event.change, self._nodes)
        if name == "session.pod_restarted" and is_restart(event.change):
            return f"{event.session} {facts[-1]}"
        if name == "session.node_changed":
            old, new = (quoted(identity.node) for identity in identities)
            return f"{event.session} node_name changed {old} -> {new}"
        begins = {"session.x_address_changed": "x_address ", "session.pod_changed": "pod_name "}.get(name, "software ")
        return f"{event.session} {next(fact for fact in facts if fact.startswith(begins))}"

    @staticmethod
    def of_rules(rules: Rules) -> str:
        """Return what a run is judged by."""
        times = (
            (rules.settle_ns, "settle time"),
            (rules.affinity_window_ns, "affinity window"),
            (rules.balancer_check_ns, "balancer check"),
        )
        return "judged by: " + ", ".join(f"{what} {format_duration(ns)}" for ns, what in times)

    def _lines(self, event: ev.Event) -> list[Line]:
        match event:
            case ev.NodeAddresses(names=names):
                self._nodes = dict(names)
                return [Line(f"addresses of {plural(len(set(self._nodes.values())), 'node')} are known")]
            case ev.PodAddresses(names=names):
                return [Line(f"known of proxies that run as pods: {plural(len(names), 'address', 'addresses')}")]
            case ev.PoolUnobserved(at_ns=at_ns):
                self._blind_ns = at_ns
            case ev.PoolObserved() | ev.PoolConfirmed():
                return self._pool(event)
            case ev.SessionStats():
                return [Line(session_line(event))]
            case ev.StatsTick():
                return [Line(total_line(event, []))]
            case ev.BlackoutEnded():
                return [blackout_line(event, None)]
            case ev.ChangeRevised() | ev.ChangeWithdrawn():
                return change_lines(event, self._nodes)
            case ev.ClientFault(fault=fault) if fault is not ev.ClientFaultKind.EXHAUSTED:
                return [fault_line([event])]
            case ev.CaseJudged():
                return judged_lines(event, self._clock)
            case ev.SessionSummary():
                return [Line(f"{event.session} {_totals(event.total)}")]
            case ev.ReferenceResult(mapped=mapped):
                says = "did not answer" if mapped is None else f"sees it as {mapped}"
                return [Line(f"{event.session} the reference {says}")]
            case ev.SessionEvent():
                return session_lines(event, self._clock) or detail_lines(event)
            case ev.IncidentClosed(incident=incident) | ev.IncidentOngoing(incident=incident):
                ongoing = isinstance(event, ev.IncidentOngoing)
                sentence = in_short(incident)
                head = Line(incident_text(incident, self._clock, ongoing=ongoing)[0])
                return [head] if sentence is None else [head, Line(sentence)]
            case ev.RunSummary():
                return [Line(f"{_totals(event.total)} in {format_duration(event.duration_ns)}")]
            case ev.Verdict():
                return [Line(text) for text, _ in verdict_lines(event)]
            case ev.ApiServerAnswered():
                return [Line("the API server answers")]
            case ev.PathsAnswered(pods=pods, ingress=ingress):
                behind = plural(len(ingress), "reflexive IP")
                return [Line(f"the sessions in no outage are answered by {plural(len(pods), 'pod')}, behind {behind}")]
            case ev.RunEnded(aborted=False):
                return [Line("the run is over")]
        return run_lines(event, self._clock)

    def _pool(self, event: ev.PoolObserved | ev.PoolConfirmed) -> list[Line]:
        blind_ns, self._blind_ns = self._blind_ns, None
        lines = [] if blind_ns is None else [seen_again_line(event, blind_ns)]
        if isinstance(event, ev.PoolObserved):
            first, self._pool_known = not self._pool_known, True
            lines += pool_lines(event, first=first)
        return lines or [Line("a new list shows no change of the pool")]


def fallback(event: ev.Event, name: str) -> str:
    """Return the words of an object's name: `CLIENT-7 change judged`."""
    words = name.partition(".")[2].replace("_", " ")
    return f"{event.session} {words}" if isinstance(event, ev.SessionEvent) else f"{name.partition('.')[0]}: {words}"


def _joined(lines: Iterable[Line]) -> str:
    return "; ".join(line.text.strip() for line in lines)


def _totals(total: ev.Counts) -> str:
    lost = f"{total.lost:,} lost ({percent(total.lost, total.sent)})"
    return f"sent {plural(total.sent, 'probe')}, {total.answered:,} answered, {lost}"
