"""Compares two runs.

What is counted is incidents, not changes or sessions: one cause hits many sessions at once, so that these are not
independent of each other. What is measured is blocks of time (`ranks`).
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.comparison.differences import Settings, differences
from affinity_tester.core.comparison.ranks import MIN_BLOCKS, comparable_blocks
from affinity_tester.core.comparison.results import Comparison, Figure, Measure, Row, Side, Unit, Why
from affinity_tester.core.comparison.run_figures import RunFigures
from affinity_tester.core.comparison.weigh import (
    Candidate,
    Of,
    Series,
    mean_figure,
    median_figure,
    not_compared,
    rate_figure,
    rates,
    series,
    share_figure,
    shares,
    told,
    weigh,
)
from affinity_tester.core.judging.verdict import MAX_SELF_INFLICTED, MAX_TIMER_MISSES
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_exact

LOSS_FLOOR = 0.001
"""Shares of loss that differ by less do not matter: 1 probe in 1,000."""

MEDIAN_FLOOR = (NS_PER_MS // 2, 0.1)
"""Medians of round-trip times that differ by less do not matter: this time, or this share of the one before."""

P99_FLOOR = (2 * NS_PER_MS, 0.2)
"""The same of the 99th percentile, which a few probes make."""

_CLIENT_NAMES = frozenset({"self-inflicted", "client-socket", "client-nat"})
"""What the client's machine or its own network does."""

_HOUR_NS = 3_600 * NS_PER_S


def compare_runs(before: RunFigures, after: RunFigures, confidence: float) -> Comparison:
    """Return all of the comparison of two runs, each with its start. Where nothing was answered nothing is compared."""
    pair = _Pair(before, after, confidence)
    found: list[Candidate | Row] = []
    if before.total.answered and after.total.answered:
        found = [*pair.counted(), *pair.measured(), *pair.named()]
    rows, level = weigh([row for row in found if isinstance(row, Candidate)], confidence)
    weighed = iter(rows)
    return Comparison(
        kind="runs",
        confidence=confidence,
        before=_side(before),
        after=_side(after),
        differences=differences(_settings(before), _settings(after)),
        rows=tuple(next(weighed) if isinstance(row, Candidate) else row for row in found),
        level=level,
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    before: RunFigures
    after: RunFigures
    confidence: float

    def _of(self, measure: Measure, name: str = "") -> Of:
        return Of(measure, self.confidence, name=name)

    # --- counts --------------------------------------------------------------------------------------------------------

    def counted(self) -> list[Candidate | Row]:
        """Compare what is counted."""
        before, after = self.before, self.after
        return [
            self._rate(Measure.VIOLATIONS, *((run.violations, _still_hours(run)) for run in (before, after))),
            self._sessions_hit(),
            self._rate(Measure.OUTAGES, (before.outages, _hours(before)), (after.outages, _hours(after))),
            self._rate(Measure.BLACKOUTS, (before.blackouts, _hours(before)), (after.blackouts, _hours(after))),
            *self._dark(),
            *self._avoidable(),
        ]

    def _rate(
        self, measure: Measure, before: tuple[int, float], after: tuple[int, float], *, name: str = ""
    ) -> Candidate | Row:
        of = self._of(measure, name)
        if not before[1] or not after[1]:
            figures = rate_figure(*before, self.confidence), rate_figure(*after, self.confidence)
            return not_compared(of, *figures, why=Why.NO_STILL_TIME)
        return rates(of, before, after)

    def _sessions_hit(self) -> Row:
        before, after = (
            share_figure(len(run.hit), max(len(run.hit), _sessions(run)), Unit.SESSIONS, self.confidence)
            for run in (self.before, self.after)
        )
        return told(self._of(Measure.SESSIONS_HIT), before, after, why=Why.SHARED_CAUSE)

    def _dark(self) -> list[Row]:
        """Tell how long nobody was answered, where that was so."""
        spans = self.before.dark_ns, self.after.dark_ns
        before, after = (
            Figure(Unit.SPAN, span, None, None, span, run.duration_ns)
            for span, run in zip(spans, (self.before, self.after), strict=True)
        )
        return [told(self._of(Measure.DARK), before, after, why=Why.ONE_STRETCH)] if any(spans) else []

    def _avoidable(self) -> list[Candidate | Row]:
        """Compare how many of the pool's changes were avoidable; nothing, where neither pool changed."""
        before, after = ((run.avoidable, run.explained) for run in (self.before, self.after))
        of = self._of(Measure.AVOIDABLE)
        if before[1] and after[1]:
            return [shares(of, Unit.INCIDENTS, before, after)]
        figures = (share_figure(*count, Unit.INCIDENTS, self.confidence) for count in (before, after))
        return [told(of, *figures, why=Why.DEPENDS_ON_ACTION)] if before[1] or after[1] else []

    # --- series --------------------------------------------------------------------------------------------------------

    def measured(self) -> list[Candidate | Row]:
        """Compare loss and round-trip times. Where the median drifts so does the percentile, and its noise may hide it."""
        before, after = self.before, self.after
        middle = self._series(Measure.RTT_MEDIAN, Unit.TIME, before.times(1), after.times(1), MEDIAN_FLOOR)
        p99 = self._series(Measure.RTT_P99, Unit.TIME, before.times(2), after.times(2), P99_FLOOR)
        if isinstance(middle, Row) and isinstance(p99, Candidate):
            p99 = not_compared(self._of(Measure.RTT_P99), p99.row.before, p99.row.after, why=Why.DRIFT)
        loss = self._series(Measure.LOSS, Unit.LOSS, before.losses(), after.losses(), (LOSS_FLOOR, 0.0))
        return [loss, middle, p99]

    def _series(
        self, measure: Measure, unit: Unit, before: list[float], after: list[float], floors: tuple[float, float]
    ) -> Candidate | Row:
        of = self._of(measure)
        figures = self._figure(before, unit), self._figure(after, unit)
        if _is_own(self.before) or _is_own(self.after):
            return not_compared(of, *figures, why=Why.OWN_CLIENT)
        if unit is Unit.TIME and not _alike(self.before.period_ns, self.after.period_ns):
            return not_compared(of, *figures, why=Why.OTHER_PERIODS)
        if min(len(before), len(after)) < MIN_BLOCKS:
            return not_compared(of, *figures, why=Why.TOO_FEW_BLOCKS)

        values = figures[0].value or 0.0, figures[1].value or 0.0
        floor = max(floors[0], floors[1] * values[0])
        # A drift that is small beside the difference does not make it.
        blocks = comparable_blocks(before, after, max(floor / 2, abs(values[1] - values[0]) / 4))
        if blocks is None:
            return not_compared(of, *figures, why=Why.DRIFT)
        return series(of, *map(Series, figures, blocks), floor=floor)

    def _figure(self, values: list[float], unit: Unit) -> Figure:
        """Return a median, but of losses, half of whose blocks mostly have none, the mean."""
        return mean_figure(values, unit) if unit is Unit.LOSS else median_figure(values, unit, self.confidence)

    # --- names ---------------------------------------------------------------------------------------------------------

    def named(self) -> list[Candidate | Row]:
        """Compare how often incidents got each name."""
        before, after = self.before, self.after
        names = sorted(before.named.keys() | after.named.keys())
        found: list[Candidate | Row] = []
        for name in names:
            counts = (before.named[name], _hours(before)), (after.named[name], _hours(after))
            found.append(
                self._told_rate(name, *counts, why=Why.CLIENT_NAME)
                if name in _CLIENT_NAMES
                else self._rate(Measure.NAMED, *counts, name=name)
            )
        for name in sorted(before.run_names ^ after.run_names):
            counts = (int(name in before.run_names), _hours(before)), (int(name in after.run_names), _hours(after))
            found.append(self._told_rate(name, *counts, why=Why.WHOLE_RUN))
        return found

    def _told_rate(self, name: str, before: tuple[int, float], after: tuple[int, float], *, why: Why) -> Row:
        figures = rate_figure(*before, self.confidence), rate_figure(*after, self.confidence)
        return told(self._of(Measure.NAMED, name), *figures, why=why)


def _hours(run: RunFigures) -> float:
    return run.duration_ns / _HOUR_NS


def _still_hours(run: RunFigures) -> float:
    return run.verdict.still_ns / _HOUR_NS if run.verdict else 0.0


def _sessions(run: RunFigures) -> int:
    return run.started.sessions if run.started else 0


def _is_own(run: RunFigures) -> bool:
    """True if this machine itself lost probes, or was too busy, beyond what the verdict allows."""
    total = run.total
    tried = total.sent + total.send_errors
    lost = total.own_losses + total.send_errors > MAX_SELF_INFLICTED * tried
    return lost or total.timer_misses > MAX_TIMER_MISSES * (tried + total.timer_misses)


def _alike(one: int, other: int) -> bool:
    """True if two periods differ by a tenth at the most, which a busy client may make."""
    return abs(one - other) <= max(one, other) / 10


def _side(run: RunFigures) -> Side:
    started = run.started
    assert started is not None
    target, name = str(started.target), started.target_name
    return Side(
        version=started.version,
        started_wall_ns=started.wall_ns,
        sessions=started.sessions,
        lasted_ns=run.duration_ns,
        verdict=run.verdict.outcome.value if run.verdict else "",
        what=target if name in (target, started.target.ip) else f"{name} ({target})",
    )


def _settings(run: RunFigures) -> Settings:
    """Return what a run's figures depend on, as texts."""
    started = run.started
    assert started is not None
    rules, watch = started.rules, run.watch
    return {
        "context": watch.context if watch else "",
        "service": watch.service if watch else "",
        "via": watch.via if watch else "",
        "target": started.target_name,
        "version": started.version,
        "sessions": str(started.sessions),
        "interval": format_exact(started.interval_ns),
        "loss-threshold": format_exact(started.loss_threshold_ns),
        "size": ", ".join(map(str, started.sizes or (started.request_size,))),
        "connected": _yes(started.connected),
        "watched": _yes(run.watched),
        "foreign": _yes(run.foreign),
        "dscp": "" if started.dscp is None else str(started.dscp),
        "addresses": str(max(1, len(started.addresses))),
        "settle": format_exact(rules.settle_ns),
        "affinity-window": format_exact(rules.affinity_window_ns),
        "balancer-check": format_exact(rules.balancer_check_ns),
        "lost-guarantees": "; ".join(started.lost_guarantees),
        "pool-changes": str(run.pool_changes) if run.watched else "",
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
