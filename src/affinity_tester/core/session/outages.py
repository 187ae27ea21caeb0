"""Which sessions are in an outage, and whether all are silent together (docs/judging.md#silence).

An outage is a session unanswered for 5 s, from sequence 0 too, while other sessions or a canary are answered. A blackout is
all sessions and the canary unanswered for 5 s.

One lost packet is no outage, and neither is the order in which sessions fall silent, or are answered again, together. So an
outage needs three moments within the session's silence: the path to the target worked at x and again at z (a probe of
another session or a canary was answered) without a break in between, and between the two the session sent a probe that has
had its time and no answer. The time in which this client itself stood still is no silence of the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    Event,
    IngressSample,
    PathsAnswered,
    PodSample,
)
from affinity_tester.core.session.tracker import SessionTracker
from affinity_tester.units import NS_PER_MS, NS_PER_S

OUTAGE_NS = 5 * NS_PER_S
"""Unanswered for so long (docs/judging.md#silence): several loss thresholds, and less than a caller's patience."""

OUTAGE_PROBES = 5
"""At least so many unanswered probes: at 5 % loss five in a row are lost once in three million."""

SAMPLE_NS = NS_PER_S
"""How often it is told who answers while an outage lasts."""

_PATIENCE_NS = 2 * NS_PER_S
"""A probe unanswered for so long has had its time; less where the loss threshold is lower."""

_MIN_BREAK_NS = 750 * NS_PER_MS
"""Without an answer for longer than this, three sweeps, the path had a break, however many sessions are answered."""

_MAX_BREAK_NS = 2_500 * NS_PER_MS
"""The same where nobody but canaries is answered, which are sent each 2 s."""

_KEPT = 256
"""Moments remembered at which the path worked: a minute of sweeps."""

Canaries = Sequence[tuple[int, int]]
"""Answered ones as (sent_ns, answered_ns), in order."""


class OutageDetector:
    """Finds outages and blackouts. The client calls `sweep` four times a second."""

    def __init__(self, interval_ns: int, loss_threshold_ns: int, emit: Callable[[Event], None]) -> None:
        """Sessions send once each interval. Blackouts and samples go to `emit`; an outage's events come from its tracker."""
        self._interval_ns = interval_ns
        self._patience_ns = min(loss_threshold_ns, _PATIENCE_NS)
        self._emit = emit
        self._others_answered: deque[int] = deque(maxlen=_KEPT)
        """When answered probes of sessions were sent, in order: the newest at each sweep."""
        self._in_outage: list[SessionTracker] = []
        """The sessions in an outage, as of the last sweep."""
        self._sampled_ns = 0
        self._blackout: _Blackout | None = None

    def sweep(
        self,
        now_ns: int,
        trackers: Sequence[SessionTracker],
        unanswered: Iterable[SessionTracker],
        *,
        canaries: Canaries = (),
        unanswered_canaries: Sequence[int] = (),
        resumed_ns: int = 0,
        own_drops: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Start and end outages and blackouts, as is due now.

        `unanswered` are the sessions whose newest probe is not replied to; `unanswered_canaries` are those that nobody has
        answered, by when they were sent; `resumed_ns` is when this client last went on after it had stood still;
        `own_drops` has, by session, how many replies its full socket buffer dropped in its silence.
        """
        silent = _silent(now_ns, unanswered, resumed_ns)
        self._in_outage = [tracker for tracker in self._in_outage if tracker.in_outage]

        if silent or self._blackout is not None:
            newest_ns = max((ns for tracker in trackers if (ns := tracker.reached_ns) is not None), default=None)
            if newest_ns is not None and (not self._others_answered or newest_ns > self._others_answered[-1]):
                self._others_answered.append(newest_ns)
            answered_ns = max([newest_ns or 0, *(sent_ns for sent_ns, _ in canaries)])

            if self._blackout is not None and answered_ns >= self._blackout.since_ns:
                self._end_blackout(self._blackout, now_ns, trackers, canaries, unanswered_canaries)

            spans = self._working_spans(canaries, len(trackers) - len(silent) - len(self._in_outage))
            self._start_outages(now_ns, silent, newest_ns, spans, own_drops)

            if self._blackout is None and newest_ns is not None:
                self._start_blackout(now_ns, trackers, answered_ns, unanswered_canaries, resumed_ns)

        if self._in_outage and now_ns - self._sampled_ns >= SAMPLE_NS:
            self._sampled_ns = now_ns
            self._emit(_sample(now_ns, trackers))

    # --- outages -------------------------------------------------------------------------------------------------------

    def _start_outages(
        self,
        now_ns: int,
        silent: Sequence[_Silent],
        newest_ns: int | None,
        working_spans: Sequence[_WorkingSpan],
        own_drops: Mapping[str, int],
    ) -> None:
        probes_of_all = sum(each.probes for each in silent)
        for each in silent:
            if now_ns - each.counted_ns < OUTAGE_NS:
                continue
            # Where no session is answered any more, chance does not explain it, however seldom each of them sends.
            together = newest_ns is not None and newest_ns < each.since_ns and probes_of_all >= OUTAGE_PROBES
            if (together or each.probes >= OUTAGE_PROBES) and self._path_works(each, now_ns, working_spans):
                others = newest_ns is not None and newest_ns > each.since_ns
                drops = own_drops.get(each.tracker.session, 0)
                each.tracker.start_outage(now_ns, own_drops=drops, others_answered=others)
                self._in_outage.append(each.tracker)
                self._sampled_ns = 0  # who answers meanwhile is told at once

    def _working_spans(self, canaries: Canaries, answered_sessions: int) -> list[_WorkingSpan]:
        """Return the spans of time in which the path worked without a break, the newest first.

        Between two moments at which it worked it may have been dead, unless they are as close as such moments come: a
        sweep sees one each quarter second, where that many sessions are answered in each interval.
        """
        moments = sorted([*((ns, ns) for ns in self._others_answered), *canaries])
        break_ns = _MAX_BREAK_NS
        if answered_sessions:
            break_ns = min(break_ns, max(_MIN_BREAK_NS, 3 * self._interval_ns // answered_sessions))

        spans: list[_WorkingSpan] = []
        for sent_ns, answered_ns in moments:
            if spans and sent_ns - spans[-1].to_ns <= break_ns:
                spans[-1].answered_ns.append(answered_ns)
                spans[-1].to_ns = sent_ns
            else:
                spans.append(_WorkingSpan([answered_ns], sent_ns))
        return spans[::-1]

    def _path_works(self, silent: _Silent, now_ns: int, working_spans: Sequence[_WorkingSpan]) -> bool:
        """True if, within the silence, the path worked without a break around an unanswered probe that has had its time."""
        for span in working_spans:
            begin_ns = next((ns for ns in span.answered_ns if ns >= silent.since_ns), None)
            if begin_ns is None:
                break  # the older ones end before the silence, too
            between_ns = silent.tracker.sent_before_ns(min(span.to_ns, now_ns - self._patience_ns))
            if between_ns is not None and between_ns >= begin_ns:
                return True
        return False

    # --- blackouts -----------------------------------------------------------------------------------------------------

    def _start_blackout(
        self,
        now_ns: int,
        trackers: Sequence[SessionTracker],
        answered_ns: int,
        unanswered_canaries: Sequence[int],
        resumed_ns: int,
    ) -> None:
        firsts = [first for t in trackers if (first := t.unanswered()) is not None and first[1] > answered_ns]
        if not firsts:
            return
        since_ns = min(sent_ns for _, sent_ns in firsts)
        if now_ns - max(since_ns, resumed_ns) < OUTAGE_NS:
            return

        # Old flows may all be dead while the target lives: a canary must fail too, or the silence last twice as long.
        canary_failed = any(
            sent_ns >= since_ns and now_ns - sent_ns >= self._patience_ns for sent_ns in unanswered_canaries
        )
        probes = [t.sent_between(since_ns, now_ns + 1) for t in trackers]
        if sum(probes) < OUTAGE_PROBES or not (canary_failed or now_ns - since_ns >= 2 * OUTAGE_NS):
            return

        self._blackout = _Blackout(since_ns, sum(probes), sum(t.sent_count for t in trackers))
        self._emit(BlackoutStarted(now_ns, since_ns, sum(count > 0 for count in probes)))

    def _end_blackout(
        self,
        blackout: _Blackout,
        now_ns: int,
        trackers: Sequence[SessionTracker],
        canaries: Canaries,
        unanswered_canaries: Sequence[int],
    ) -> None:
        since_ns = blackout.since_ns
        again = [t.answered_again_ns() if (t.reached_ns or 0) >= since_ns else None for t in trackers]
        answered = [*(ns for ns in again if ns is not None), *(ns for ns, _ in canaries if ns >= since_ns)]
        until_ns = max(since_ns, min(answered, default=now_ns))  # a loss threshold may be longer than the silence was

        # What each session sent since is unanswered, but for what it sent once it was answered again.
        probes = blackout.probes + sum(t.sent_count for t in trackers) - blackout.sent_count
        for tracker, again_ns in zip(trackers, again, strict=True):
            probes -= tracker.sent_between(until_ns if again_ns is None else again_ns, now_ns + 1)

        canaries_lost = sum(since_ns <= sent_ns < until_ns for sent_ns in unanswered_canaries)
        self._blackout = None
        self._emit(BlackoutEnded(now_ns, since_ns, until_ns, max(0, probes), canaries_lost))


@dataclass(slots=True)
class _WorkingSpan:
    """A span of time in which the path worked without a break."""

    answered_ns: list[int]
    """When answers came, in order."""
    to_ns: int
    """When the last answered probe was sent."""


class _Silent(NamedTuple):
    """A session that is unanswered for a while."""

    tracker: SessionTracker
    since_ns: int
    """When its first unanswered probe was sent."""
    counted_ns: int
    """From when its silence counts: this client may have stood still."""
    probes: int
    """Unanswered probes so far."""


class _Blackout(NamedTuple):
    """A blackout that goes on."""

    since_ns: int
    probes: int
    """Sent in it when it was told."""
    sent_count: int
    """Sent by all sessions in the whole run when it was told."""


def _silent(now_ns: int, unanswered: Iterable[SessionTracker], resumed_ns: int) -> list[_Silent]:
    """Return the sessions that are unanswered for longer than a probe's time, and in no outage."""
    found = []
    for tracker in unanswered:
        first = None if tracker.in_outage else tracker.unanswered()
        if first is not None and now_ns - first[1] >= _PATIENCE_NS:
            seq, sent_ns = first
            found.append(_Silent(tracker, sent_ns, max(sent_ns, resumed_ns), tracker.sent_count - seq))
    return found


def _sample(now_ns: int, trackers: Iterable[SessionTracker]) -> PathsAnswered:
    """Return who answers the sessions that are in no outage, and through which addresses."""
    pods: dict[tuple[str, bytes | None], int] = {}
    ingress: dict[str, int] = {}
    for tracker in trackers:
        who, sent_ns = tracker.serving, tracker.reached_ns
        if tracker.in_outage or who is None or sent_ns is None:
            continue
        # Of each pod and address the newest answered probe counts.
        if who.pod is not None:
            key = (who.pod, who.instance)
            pods[key] = max(sent_ns, pods.get(key, 0))
        if who.reflexive is not None:
            ingress[who.reflexive.ip] = max(sent_ns, ingress.get(who.reflexive.ip, 0))
    return PathsAnswered(
        now_ns,
        tuple(PodSample(*key, sent_ns) for key, sent_ns in pods.items()),
        tuple(IngressSample(ip, sent_ns) for ip, sent_ns in ingress.items()),
    )
