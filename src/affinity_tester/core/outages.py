"""Which sessions are in an outage: unanswered for 5 s, from sequence 0 too, while others are answered."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.tracker import SessionTracker

OUTAGE_NS = 5_000_000_000
"""Unanswered for so long (design, section 3): several loss thresholds, and less than a caller's patience."""

OUTAGE_PROBES = 5
"""At least so many unanswered probes: at long intervals 5 s would be one lost packet."""


class OutageWatch:
    """Looks at all sessions now and then; silence of all at once is no outage of one (the verdict speaks of it)."""

    __slots__ = ("_answered", "_answered_ns", "_flowing_ns", "_round_ns")

    def __init__(self, round_ns: int) -> None:
        """`round_ns`: within so long every session that lives has sent a probe and had its answer."""
        self._round_ns = round_ns
        self._answered = 0
        self._answered_ns: int | None = None
        self._flowing_ns = 0
        """Since when some session or other is answered all the time."""

    def sweep(self, now_ns: int, answered: int, behind: Iterable[SessionTracker], canary_ns: int | None = None) -> None:
        """Start the outages that are due.

        `answered` counts the answers of all sessions so far; `behind` are those whose newest probe is not replied to;
        `canary_ns` is when a canary was last answered.
        """
        if answered != self._answered:
            if self._answered_ns is None or now_ns - self._answered_ns > self._round_ns:
                self._flowing_ns = now_ns
            self._answered, self._answered_ns = answered, now_ns
        for tracker in behind:
            since = None if tracker.in_outage else tracker.unanswered()
            if since is None:
                continue
            seq, sent_ns = since
            long = now_ns - sent_ns >= OUTAGE_NS and tracker.sent_count - seq >= OUTAGE_PROBES
            if long and (self._others_lived(now_ns, sent_ns) or self._path_lives(now_ns, sent_ns, canary_ns)):
                tracker.start_outage(now_ns)

    def _others_lived(self, now_ns: int, sent_ns: int) -> bool:
        """Whether others were answered lately, and for a whole round of this silence.

        Less may be only the order in which sessions fall silent together, or in which they are answered again.
        """
        newest_ns = self._answered_ns
        if newest_ns is None or now_ns - newest_ns >= OUTAGE_NS:
            return False
        return newest_ns - max(sent_ns, self._flowing_ns) >= self._round_ns

    def _path_lives(self, now_ns: int, sent_ns: int, canary_ns: int | None) -> bool:
        """Whether a canary was answered in this silence, lately but a whole round ago: what comes back does so for all."""
        return canary_ns is not None and canary_ns > sent_ns and self._round_ns <= now_ns - canary_ns < 2 * OUTAGE_NS
