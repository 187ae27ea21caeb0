"""What a run's sessions are at, told about once a second to whoever watches the run; it is in no record and no log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from affinity_tester.core.events import Counts, GroupCounts
from affinity_tester.core.identity import Identity
from affinity_tester.units import NS_PER_S

RECENT_NS = 5 * NS_PER_S
"""The time that counts as recent."""

MOST_SILENCES = 10
"""So many silent sessions are told by name."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A session that is not answered now."""

    session: str
    since_ns: int
    """When its oldest unanswered probe was sent."""
    served: Identity | None
    """Who answered it last; None if nobody ever did."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """The state of all sessions. With thousands of sessions their counts are up to 10 s old, since each takes its turn."""

    at_ns: int
    total: Counts
    """Since the run began."""
    silent: int
    """Sessions whose oldest unanswered probe was sent at least a loss threshold ago."""
    silences: tuple[Silence, ...]
    """Of these, the longest, at most `MOST_SILENCES`."""
    recent_sent: int
    """Of the last `RECENT_NS`."""
    recent_lost: int
    p99_ns: int | None
    """99 % of the round-trip times of the last `RECENT_NS` were no longer; None where nothing was answered."""
    times: Sequence[int]
    """All answers of the run by length, in the buckets of `core.session.rtt`."""
    rtt_sum_ns: int
    """The sum of all round-trip times of the run."""
    groups: tuple[GroupCounts, ...]
    """The whole run by pod, node and reflexive IP, as of the last statistics."""
