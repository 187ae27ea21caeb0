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

    __slots__ = ("_answered", "_answered_ns")

    def __init__(self) -> None:
        """Start with nothing answered."""
        self._answered = 0
        self._answered_ns: int | None = None

    def sweep(self, now_ns: int, answered: int, behind: Iterable[SessionTracker], canary_ns: int | None = None) -> None:
        """Start the outages that are due.

        `answered` counts the answers of all sessions so far; `behind` are those whose newest probe is not replied to;
        `canary_ns` is when a canary was last answered.
        """
        if answered != self._answered:
            self._answered, self._answered_ns = answered, now_ns
        newest_ns = max((at for at in (self._answered_ns, canary_ns) if at is not None), default=None)
        if newest_ns is None:
            return
        for tracker in behind:
            since = None if tracker.in_outage else tracker.unanswered()
            if since is None:
                continue
            seq, sent_ns = since
            # Others were answered after this session fell silent, and lately.
            others = newest_ns > sent_ns and now_ns - newest_ns < OUTAGE_NS
            if now_ns - sent_ns >= OUTAGE_NS and tracker.sent_count - seq >= OUTAGE_PROBES and others:
                tracker.start_outage(now_ns)
