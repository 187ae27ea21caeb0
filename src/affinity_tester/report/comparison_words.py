"""The words of a comparison: what its keys, figures and reasons are called."""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.core.comparison.results import Comparison, Difference, Direction, Figure, Measure, Row, Unit, Why
from affinity_tester.core.events import Outcome
from affinity_tester.report.text import milliseconds, printable
from affinity_tester.units import NS_PER_S, format_percent, format_span, plural

_TINY = 1e-4
"""A chance below this is as good as none; how many zeros it has tells nobody anything."""

_HOUR_NS = 3_600 * NS_PER_S

LABELS = {
    "context": "cluster (context)",
    "service": "Service",
    "via": "way into the Service",
    "target": "target",
    "version": "affinity-tester",
    "sessions": "sessions",
    "interval": "interval",
    "loss-threshold": "loss threshold",
    "size": "probe size (bytes)",
    "connected": "connected sockets",
    "watched": "pool watched",
    "foreign": "foreign STUN server",
    "dscp": "DSCP",
    "addresses": "addresses probed",
    "settle": "settle time",
    "affinity-window": "affinity window",
    "balancer-check": "balancer check",
    "lost-guarantees": "what the client's platform lacks",
    "pool-changes": "changes of the pool",
    "kubernetes": "Kubernetes",
    "nodes": "nodes",
    "os": "node OS",
    "kernel": "kernel",
    "runtime": "container runtime",
    "kubelet": "kubelet",
    "proxy": "proxy",
    "cni": "CNI",
    "cloud": "cloud",
    "balancer": "balancer",
    "matrix": "matrix",
}
"""What settings are called."""

_UNFAIR = {
    "interval": "a change is seen only between probes, a short blackout hardly",
    "loss-threshold": "a late reply counts as lost in one and not in the other",
    "sessions": "more sessions see more incidents",
    "watched": "without the watch nothing explains a change",
    "size": "size decides what is fragmented",
    "via": "another way into the Service",
    "foreign": "a foreign server names no pod",
    "affinity-window": "it decides which changes are excused",
    "settle": "it decides which changes are explained",
}
"""Why a difference makes a comparison unfair; of others: what was seen depends on it."""

WHYS = {
    Why.NO_STILL_TIME: "the pool never stood still in one of them",
    Why.TOO_FEW_BLOCKS: "too short: 8 periods of 10 s with a still pool are needed in each",
    Why.DRIFT: "it wanders within a run, so that one run says little of another: run for longer",
    Why.OWN_CLIENT: "a client lost probes itself, or was too busy",
    Why.OTHER_PERIODS: "the percentiles are of other periods (--stats-interval)",
    Why.SHARED_CAUSE: "one incident hits many sessions at once",
    Why.DEPENDS_ON_ACTION: "it depends on what was done to the pool",
    Why.NOT_INDEPENDENT: "probes are lost in bursts: sessions' blackouts are compared instead",
    Why.CLIENT_NAME: "the client's own doing",
    Why.LEAST_UNKNOWN: "which sessions had to move is not known",
    Why.UNCLEAR: "of no session is it known whether the cluster moved it",
    Why.NO_SESSIONS: "no session was answered in one of them",
    Why.FEW_LOST: "fewer than 4 sessions lost a probe in one of them",
    Why.ONE_STRETCH: "one stretch or a few, however long: their number is compared",
    Why.WHOLE_RUN: "a diagnosis of a whole run is one observation",
}

_HEADINGS = {
    Direction.WORSE: "worse",
    Direction.BETTER: "better",
    Direction.SAME: "no difference that chance would not make",
    Direction.TOLD: "told, not tested",
    Direction.NOT_COMPARED: "not compared",
}


def heading(direction: Direction) -> str:
    """Return what a group of rows is called."""
    return _HEADINGS[direction]


def difference_text(difference: Difference) -> str:
    """Return `kernel 5.15.0 -> 6.8.0`, and why that is unfair, where it is."""
    label = LABELS.get(difference.key, difference.key)
    before, after = (printable(text) or "not known" for text in (difference.before, difference.after))
    if not difference.unfair:
        return f"{label}: {before} -> {after}"
    return f"{label}: {before} -> {after} (unfair: {_UNFAIR.get(difference.key, 'what is seen depends on it')})"


def subject(row: Row) -> str:
    """Return what a row is about, without its cell."""
    return f'{row.measure} "{printable(row.name)}"' if row.measure is Measure.NAMED else str(row.measure)


def figure_text(figure: Figure) -> str:
    """Return a figure with its interval: `3 of 24 (2.7 % to 32 %)`, `0 in 60 min (under 3 an hour)`."""
    if figure.value is None:
        return "none"
    return _FIGURES[figure.unit](figure)


def detail_text(row: Row) -> str:
    """Return how sure a row is, what else would have shown, or why it is not compared."""
    if row.why is not None:
        return WHYS[row.why]
    assert row.p is not None
    chance = f"chance: {chance_text(row.p)}"
    if row.direction is not Direction.SAME:
        return chance
    if row.is_small:
        return f"too small to matter ({chance})"
    worse = "nothing would have shown" if row.seen_from is None else f"{_least(row)} or more would have shown"
    return worse if row.before.value == row.after.value else f"{chance}; {worse}"


def chance_text(chance: float) -> str:
    """Return a small chance as people read it."""
    if chance < _TINY:
        return f"below {format_percent(_TINY)}"
    return format_percent(round(chance, 4))


def _least(row: Row) -> str:
    value, unit = row.seen_from or 0.0, row.after.unit
    if unit is Unit.TIME:
        return f"{milliseconds(round(value))} ms"
    if unit is Unit.PER_HOUR:
        return _rate(value)
    return format_percent(value)


def _share(figure: Figure) -> str:
    low, high = figure.low or 0.0, figure.high or 0.0
    head = f"{figure.count:,} of {figure.of:,.0f}"
    if figure.count == 0:
        return f"{head} (at most {format_percent(high)})"
    if figure.count == figure.of:
        return f"{head} (at least {format_percent(low)})"
    return f"{head} ({format_percent(low)} to {format_percent(high)})"


def _per_hour(figure: Figure) -> str:
    low, high, span = figure.low or 0.0, figure.high or 0.0, format_span(round(figure.of * _HOUR_NS))
    if figure.count == 0:
        return f"0 in {span} (less than {_rate(high)})"
    return f"{figure.count:,} in {span} ({_rate(low)} to {_rate(high)})"


def _loss(figure: Figure) -> str:
    return format_percent(figure.value or 0.0)


def _time(figure: Figure) -> str:
    head = f"{milliseconds(round(figure.value or 0.0))} ms"
    if figure.low is None or figure.high is None:
        return head
    return f"{head} ({milliseconds(round(figure.low))} to {milliseconds(round(figure.high))})"


def _span(figure: Figure) -> str:
    return f"{format_span(figure.count)} of {format_span(round(figure.of))}"


def _rate(per_hour: float) -> str:
    """Return `1 in 24 min`: rates of short runs by the hour would be guessed, not measured."""
    return f"1 in {format_span(round(_HOUR_NS / per_hour))}"


_FIGURES: dict[Unit, Callable[[Figure], str]] = {
    Unit.SESSIONS: _share,
    Unit.INCIDENTS: _share,
    Unit.PER_HOUR: _per_hour,
    Unit.LOSS: _loss,
    Unit.TIME: _time,
    Unit.SPAN: _span,
}


def result_text(comparison: Comparison) -> str:
    """Return the last line: `WORSE: 2 of 41 comparisons`."""
    rows, tested = comparison.rows, comparison.compared
    worse, better = (sum(row.direction is which for row in rows) for which in (Direction.WORSE, Direction.BETTER))
    if not tested:
        return "NOT COMPARED: there is nothing in both that can be compared"
    if worse:
        told = f"WORSE: {worse} of {plural(tested, 'comparison')}" + (f"; {better} better" if better else "")
    elif better:
        told = f"BETTER: {better} of {plural(tested, 'comparison')}, and none is worse"
    else:
        told = f"NOT WORSE: no difference in {plural(tested, 'comparison')} that chance would not make"
    unfair = [LABELS[difference.key] for difference in comparison.differences if difference.unfair]
    return f"{told} (unfair: they differ in {', '.join(unfair)})" if unfair else told


def verdict_text(comparison: Comparison) -> str:
    """Return what became of a run's verdict, where it is another; empty where not, and of experiments."""
    before, after = (side.verdict or "none" for side in (comparison.before, comparison.after))
    if before == after:
        return ""
    if after == Outcome.FAIL and not comparison.is_worse:
        return f"verdict: {before} -> {after} (AFTER fails; that it is new cannot be told from runs so short)"
    return f"verdict: {before} -> {after}"
