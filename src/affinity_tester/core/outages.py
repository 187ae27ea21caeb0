"""Which sessions are in an outage, and whether all are silent together (docs/judging.md#silence).

An outage is a session unanswered for 5 s, from sequence 0 too, while other sessions or a canary are answered. A blackout is
all sessions and the canary unanswered for 5 s.

What must be shown for an outage, so that it is neither one lost packet nor the order in which sessions fall silent, or are
answered again, together: the path to the target lived at x and again at z (an answered probe of another session, or an
answered canary) without a break, and a probe that the session sent between the two has had its time, and no answer. All
three lie in its silence. The time in which this client itself stood still is no silence of the network.
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
from affinity_tester.core.tracker import SessionTracker

OUTAGE_NS = 5_000_000_000
"""Unanswered for so long (docs/judging.md#silence): several loss thresholds, and less than a caller's patience."""

OUTAGE_PROBES = 5
"""At least so many unanswered probes: at 5 % loss five in a row are lost once in three million."""

SAMPLE_NS = 1_000_000_000
"""How often it is told who answers while an outage lasts."""

_PATIENCE_NS = 2_000_000_000
"""A probe unanswered for so long has had its time; less where the loss threshold is lower."""

_LOOKS_APART_NS = 750_000_000
"""Moments at which the path lived are so close where many sessions are answered: three looks."""

_MOST_APART_NS = 2_500_000_000
"""Where nobody but canaries is answered, which are sent each 2 s."""

_KEPT = 256
"""Moments remembered at which the path lived: a minute of looks."""

Canaries = Sequence[tuple[int, int]]
"""Answered ones as (sent_ns, answered_ns), in order."""


class OutageDetector:
    """Looks at all sessions four times a second."""

    def __init__(self, interval_ns: int, loss_threshold_ns: int, emit: Callable[[Event], None]) -> None:
        """Sessions send once each interval. Events of all of them together go to `emit`; an outage its tracker tells."""
        self._interval_ns = interval_ns
        self._patience_ns = min(loss_threshold_ns, _PATIENCE_NS)
        self._emit = emit
        self._lived: deque[int] = deque(maxlen=_KEPT)
        """When probes of sessions were sent that were answered, in order: one for each look at most."""
        self._out: list[SessionTracker] = []
        """Those in an outage, as far as it is known."""
        self._sampled_ns = 0
        self._blackout: _Blackout | None = None

    def sweep(
        self,
        now_ns: int,
        trackers: Sequence[SessionTracker],
        behind: Iterable[SessionTracker],
        *,
        canaries: Canaries = (),
        unanswered_canaries: Sequence[int] = (),
        resumed_ns: int = 0,
        own_drops: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Tell what is due.

        `behind` are the sessions whose newest probe is not replied to; `unanswered_canaries` are those that nobody has
        answered, by when they were sent; `resumed_ns` is when this client last went on after it had stood still;
        `own_drops` has, by session, how many replies its full socket buffer dropped in its silence.
        """
        silent = _silent(now_ns, behind, resumed_ns)
        self._out = [tracker for tracker in self._out if tracker.in_outage]
        if silent or self._blackout is not None:
            newest_ns = max((ns for tracker in trackers if (ns := tracker.reached_ns) is not None), default=None)
            if newest_ns is not None and (not self._lived or newest_ns > self._lived[-1]):
                self._lived.append(newest_ns)
            alive_ns = max([newest_ns or 0, *(sent_ns for sent_ns, _ in canaries)])
            if self._blackout is not None and alive_ns >= self._blackout.since_ns:
                self._end_blackout(self._blackout, now_ns, trackers, canaries, unanswered_canaries)
            stretches = self._stretches(canaries, len(trackers) - len(silent) - len(self._out))
            self._start_outages(now_ns, silent, newest_ns, stretches, own_drops)
            if self._blackout is None and newest_ns is not None:
                self._start_blackout(now_ns, trackers, alive_ns, unanswered_canaries, resumed_ns)
        if self._out and now_ns - self._sampled_ns >= SAMPLE_NS:
            self._sampled_ns = now_ns
            self._emit(_sample(now_ns, trackers))

    # --- outages -------------------------------------------------------------------------------------------------------

    def _start_outages(
        self,
        now_ns: int,
        silent: Sequence[_Silent],
        newest_ns: int | None,
        stretches: Sequence[_Stretch],
        own_drops: Mapping[str, int],
    ) -> None:
        unanswered = sum(each.probes for each in silent)
        for each in silent:
            if now_ns - each.counted_ns < OUTAGE_NS:
                continue
            # Where nobody is answered any more, the silence of all is no chance, however seldom each of them sends.
            together = newest_ns is not None and newest_ns < each.since_ns and unanswered >= OUTAGE_PROBES
            if (together or each.probes >= OUTAGE_PROBES) and self._is_alone(each, now_ns, stretches):
                others = newest_ns is not None and newest_ns > each.since_ns
                drops = own_drops.get(each.tracker.session, 0)
                each.tracker.start_outage(now_ns, own_drops=drops, others_answered=others)
                self._out.append(each.tracker)
                self._sampled_ns = 0  # who answers meanwhile is told at once

    def _stretches(self, canaries: Canaries, alive: int) -> list[_Stretch]:
        """The times for which the path lived without a break, the newest first.

        Between two moments at which it lived it may have been dead, unless they are as close as such moments come: with
        `alive` sessions answered there are some in each interval, and a look at them every quarter second.
        """
        moments = sorted([*((ns, ns) for ns in self._lived), *canaries])
        closest_ns = _MOST_APART_NS
        if alive:
            closest_ns = min(closest_ns, max(_LOOKS_APART_NS, 3 * self._interval_ns // alive))
        stretches: list[_Stretch] = []
        for sent_ns, answered_ns in moments:
            if stretches and sent_ns - stretches[-1].to_ns <= closest_ns:
                stretches[-1].answered_ns.append(answered_ns)
                stretches[-1].to_ns = max(sent_ns, stretches[-1].to_ns)
            else:
                stretches.append(_Stretch([answered_ns], sent_ns))
        return stretches[::-1]

    def _is_alone(self, silent: _Silent, now_ns: int, stretches: Sequence[_Stretch]) -> bool:
        """Whether the path lived without a break around a probe of the session's that has had its time, in its silence."""
        for stretch in stretches:
            begin_ns = next((ns for ns in stretch.answered_ns if ns >= silent.since_ns), None)
            if begin_ns is None:
                break  # the older ones are over before it, too
            between_ns = silent.tracker.sent_before_ns(min(stretch.to_ns, now_ns - self._patience_ns))
            if between_ns is not None and between_ns >= begin_ns:
                return True
        return False

    # --- blackouts -----------------------------------------------------------------------------------------------------

    def _start_blackout(
        self,
        now_ns: int,
        trackers: Sequence[SessionTracker],
        alive_ns: int,
        unanswered_canaries: Sequence[int],
        resumed_ns: int,
    ) -> None:
        firsts = [first for t in trackers if (first := t.unanswered()) is not None and first[1] > alive_ns]
        if not firsts:
            return
        since_ns = min(sent_ns for _, sent_ns in firsts)
        if now_ns - max(since_ns, resumed_ns) < OUTAGE_NS:
            return
        tried = any(sent_ns >= since_ns and now_ns - sent_ns >= self._patience_ns for sent_ns in unanswered_canaries)
        probes = [t.sent_between(since_ns, now_ns + 1) for t in trackers]
        if sum(probes) < OUTAGE_PROBES or not (tried or now_ns - since_ns >= 2 * OUTAGE_NS):
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
        probes = blackout.probes + sum(t.sent_count for t in trackers) - blackout.sent_count
        for tracker, again_ns in zip(trackers, again, strict=True):
            probes -= tracker.sent_between(until_ns if again_ns is None else again_ns, now_ns + 1)
        unanswered = sum(since_ns <= sent_ns < until_ns for sent_ns in unanswered_canaries)
        self._blackout = None
        self._emit(BlackoutEnded(now_ns, since_ns, until_ns, max(0, probes), unanswered))


@dataclass(slots=True)
class _Stretch:
    """A time for which the path lived without a break."""

    answered_ns: list[int]
    """When answers came, in order..."""
    to_ns: int
    """...and when the last probe of it was sent."""


class _Silent(NamedTuple):
    """A session that is unanswered for a while."""

    tracker: SessionTracker
    since_ns: int
    """When its first unanswered probe was sent."""
    counted_ns: int
    """From when its silence counts: this client may have stood still."""
    probes: int
    """Unanswered so far."""


class _Blackout(NamedTuple):
    """A blackout that was told."""

    since_ns: int
    probes: int
    """Sent in it up to its telling..."""
    sent_count: int
    """...when all sessions had sent so many."""


def _silent(now_ns: int, behind: Iterable[SessionTracker], resumed_ns: int) -> list[_Silent]:
    """The sessions that are unanswered for longer than a probe's time, and in no outage."""
    found = []
    for tracker in behind:
        first = None if tracker.in_outage else tracker.unanswered()
        if first is not None and now_ns - first[1] >= _PATIENCE_NS:
            seq, sent_ns = first
            found.append(_Silent(tracker, sent_ns, max(sent_ns, resumed_ns), tracker.sent_count - seq))
    return found


def _sample(now_ns: int, trackers: Iterable[SessionTracker]) -> PathsAnswered:
    """Who answers the sessions that are in no outage, and behind which addresses."""
    pods: dict[tuple[str, bytes | None], int] = {}
    ingress: dict[str, int] = {}
    for tracker in trackers:
        who, sent_ns = tracker.serving, tracker.reached_ns
        if tracker.in_outage or who is None or sent_ns is None:
            continue
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
