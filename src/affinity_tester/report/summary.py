"""The end of a run in text: tables, the client's own health, the judgements and the verdict, on 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from affinity_tester.core import events as ev
from affinity_tester.core.identity import Kind
from affinity_tester.core.judging.tally import Tally
from affinity_tester.core.session.outages import OUTAGE_NS
from affinity_tester.report.groups import group_tables
from affinity_tester.report.logging import Colour
from affinity_tester.report.results import RunResults
from affinity_tester.report.table import Table, aligned
from affinity_tester.report.text import judgement_count, milliseconds, percent
from affinity_tester.units import format_duration, plural

MOST_ROWS = 10
"""So many sessions have a row: of those that lost, changed or fell silent, the worst."""

_PROBES = ("", "sent", "answered", "lost", "up", "down", "unknown", "late", "duplicate", "reordered")
_CHANGES = ("", "changes", "ip", "port", "pod", "node", "instance", "software", "longest gap")

_TIMES = ("", "answers", "min", "mean", "p50", "p90", "p99", "max", "jitter")

_OUTCOME_COLOURS = {
    ev.Outcome.PASS: Colour.GOOD,
    ev.Outcome.INCONCLUSIVE: Colour.DOUBTFUL,
    ev.Outcome.FAIL: Colour.VIOLATION,
}

_JUDGEMENT_ORDER = (
    ev.Judgement.VIOLATION,
    ev.Judgement.UNKNOWN,
    ev.Judgement.POD_SILENT,
    ev.Judgement.CLIENT,
    ev.Judgement.IDLE,
    ev.Judgement.EXPLAINED,
    ev.Judgement.POD_RESTART,
    ev.Judgement.INFORMATION,
)

Ended = ev.SessionSummary | ev.RunSummary
"""What a row is made of."""

SummaryLine = tuple[str, Colour | None]


def summary(results: RunResults, width: int | None = None) -> list[SummaryLine]:
    """Return the lines of the summary with their colours: the verdict, what it rests on, and the tables.

    `width` is how many columns there are; None: as many as it takes.
    """
    lines: list[SummaryLine] = [("", None), *verdict_lines(results.verdict), *judgements(results.tally)]
    if results.run is not None:
        lines += health(results.run.total)
        lines += reference_line(results)
        for table in tables(results, results.run):
            lines += [("", None), (table.caption, None), *((line, None) for line in aligned(table, width))]
    return lines


def verdict_lines(verdict: ev.Verdict | None) -> list[SummaryLine]:
    """Return `PASS: …`, and below it the other reasons."""
    if verdict is None:
        return [("no verdict: the run was cut short before it was judged (report --rejudge does it)", Colour.DOUBTFUL)]
    told = ((verdict.strength,) if verdict.strength else ()) + verdict.reasons
    colour = _OUTCOME_COLOURS[verdict.outcome]
    indent = " " * (len(verdict.outcome) + 2)
    return [
        (f"{verdict.outcome}: {told[0] if told else ''}", colour),
        *((f"{indent}{text}", colour) for text in told[1:]),
    ]


def verdict_again(lines: Sequence[SummaryLine], verdict: ev.Verdict | None, height: int | None) -> list[SummaryLine]:
    """Return the verdict to be written below these lines, where a terminal of this height has not the rows for them all."""
    if height is None or len(lines) + 1 < height:
        return []
    return [("", None), verdict_lines(verdict)[0]]


def tables(results: RunResults, run: ev.RunSummary) -> list[Table]:
    """Return tables of probes, times and changes, a row for each bad session and one for all; then by who served."""
    bad = [session for session in results.worst(MOST_ROWS) if is_bad(session)]
    count = sum(map(is_bad, results.sessions.values()))
    which = f"the {MOST_ROWS} worst of {count:,} sessions" if count > len(bad) else plural(count, "session")
    caption = f"probes ({which} with losses, changes or silence at the end, and all)" if bad else "probes"

    told = [
        Table(caption, _PROBES, _rows(_probes_row, bad, run), spare=("answered", "late")),
        Table("round-trip times in ms", _TIMES, _rows(_times_row, bad, run), spare=("min", "p90", "mean")),
    ]

    if run.total.changes:
        told.append(Table("changes by kind", _CHANGES, _rows(_changes_row, bad, run), spare=("software", "instance")))
    return told + group_tables(run.groups, results.nodes)


def is_bad(session: ev.SessionSummary) -> bool:
    """True if a session lost probes, changed, or was silent at its end."""
    return bool(session.total.lost or session.total.changes or session.unanswered_ns >= OUTAGE_NS)


def _rows(
    row: Callable[[Ended], list[str]], sessions: Iterable[ev.SessionSummary], run: ev.RunSummary
) -> list[list[str]]:
    return [*([session.session, *row(session)] for session in sessions), ["all", *row(run)]]


def _probes_row(ended: Ended) -> list[str]:
    total, losses = ended.total, ended.losses
    probes = (total.sent, total.answered, total.lost, losses.up, losses.down, losses.unknown)
    replies = (total.late, total.duplicate, total.reordered)
    return [*map(str, probes), *map(str, replies)]


def _times_row(ended: Ended) -> list[str]:
    rtt = ended.rtt
    times = (rtt.min_ns, rtt.mean_ns, rtt.p50_ns, rtt.p90_ns, rtt.p99_ns, rtt.max_ns, rtt.jitter_ns)
    return [str(rtt.count), *map(milliseconds, times)]


def _changes_row(ended: Ended) -> list[str]:
    kinds = dict(ended.kinds)
    gap = format_duration(ended.longest_gap_ns) if ended.total.changes else "-"
    return [str(ended.total.changes), *(str(kinds.get(kind, 0)) for kind in Kind), gap]


def health(total: ev.Counts, *, ended: bool = True) -> list[SummaryLine]:
    """Return the client's own part, as shares: of slots for skipped probes, of probes for the others.

    `ended`: the run is over, so that a probe without an answer or a loss is worth telling.
    """
    slots = total.sent + total.timer_misses
    own = (
        f"{plural(total.timer_misses, 'probe skipped', 'probes skipped')} ({percent(total.timer_misses, slots)})",
        f"{plural(total.send_errors, 'send error')} ({percent(total.send_errors, total.sent)})",
        f"{plural(total.socket_drops, 'socket drop')} ({percent(total.own_losses, total.sent)})",
    )

    ill = total.timer_misses or total.send_errors or total.socket_drops
    lines: list[SummaryLine] = [("this client: " + ", ".join(own), Colour.WARNING if ill else None)]

    if total.pending and ended:
        lines.append((f"neither answered nor lost yet at the end: {plural(total.pending, 'probe')}", None))

    odd = (
        (total.wrong_source, "from a wrong source"),
        (total.cross_delivered, "cross-delivered"),
        (total.network_errors, "ICMP error" if total.network_errors == 1 else "ICMP errors"),
        (total.stale, "after the record"),
        (total.undecodable, "not STUN"),
    )
    heard = ", ".join(f"{count:,} {word}" for count, word in odd if count)
    return [*lines, (f"also: {heard}", Colour.WARNING)] if heard else lines


def reference_line(results: RunResults) -> list[SummaryLine]:
    """Return `reference 192.0.2.1:3478: 90 of 90 requests answered, no mapped address changed`; nothing without one."""
    address = results.started and results.started.reference
    if not address:
        return []

    told = results.reference
    if not told.answered:
        why = told.silence and told.silence.reason
        return [(f"reference {address}: gave no address{f' ({why})' if why else ''}", Colour.WARNING)]
    changed = plural(told.changes, "mapped address changed", "mapped addresses changed")
    moved = changed if told.changes else "no mapped address changed"
    answered = f"{told.answered:,} of {plural(told.asked, 'request')} answered"
    return [(f"reference {address}: {answered}, {moved}", None)]


def judgements(tally: Tally) -> list[SummaryLine]:
    """Return `changes judged: 2 violations, 3 explained`, and the same of outages and stray replies, where there are any."""
    lines: list[SummaryLine] = []
    kinds = (("changes", tally.changes), ("outages", tally.outages), ("replies from elsewhere", tally.strays))
    for what, count_of in kinds:
        told = ", ".join(judgement_count(count_of(j), j) for j in _JUDGEMENT_ORDER if count_of(j))
        if told:
            colour = Colour.VIOLATION if count_of(ev.Judgement.VIOLATION) else None
            lines.append((f"{what} judged: {told}", colour))

    if tally.avoidable:
        lines.append((f"avoidable (the old pod was still ready): {tally.avoidable:,}", None))
    return lines
