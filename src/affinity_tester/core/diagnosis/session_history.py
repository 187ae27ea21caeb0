"""What is remembered of one session of a run, in bounded memory: who served it when, its changes, its losses."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from operator import itemgetter

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Change, RepliedProbe
from affinity_tester.core.identity import Identity

_MAX_IDENTITIES = 32
"""Identities remembered per session, as many as one incident may need; of a session that changes more often the oldest go."""

_MAX_LOSSES = 128
"""Runs of lost probes remembered per session."""


@dataclass(slots=True)
class SessionHistory:
    """The history of one session."""

    local: TransportAddress | None = None
    target: TransportAddress | None = None
    """Where its probes go; None: to the run's one target."""
    first: Identity | None = None
    """What its first reply said."""
    first_seq: int = 0
    """The probe of its first reply."""
    first_ns: int = 0
    """When its first reply was received."""
    start_lost: int = 0
    """How many of its first probes were lost in a row, from sequence 0 on."""
    silent: bool = False
    """It was unanswered when the run ended."""
    lost_ns: tuple[int, int] = (0, 0)
    """When the first and the last probe of its newest run of lost ones were sent."""
    lost_until: int = 0
    """The sequence number after that run."""
    identities: list[tuple[int, Identity]] = field(default_factory=list)
    """Who served it from which send time on, in order."""
    changes: dict[int, Change] = field(default_factory=dict)
    """Its newest changes by number."""
    changes_forgotten: bool = False
    """It had more of them."""
    losses: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_MAX_LOSSES))
    """Its newest runs of lost probes: the first one's number, and how many."""

    def identity_at(self, at_ns: int) -> Identity | None:
        """Return who answered the newest replied probe sent until then, as far back as is remembered; None: nobody yet."""
        position = bisect_right(self.identities, at_ns, key=itemgetter(0))
        return self.identities[max(0, position - 1)][1] if self.identities else None

    def lost_within(self, from_seq: int, to_seq: int) -> int | None:
        """Return how many of these probes were lost (the last one is not among them); None: not remembered."""
        if len(self.losses) == _MAX_LOSSES and self.losses[0][0] > from_seq:
            return None
        spans = ((max(first, from_seq), min(first + count, to_seq)) for first, count in self.losses)
        return sum(max(0, end - start) for start, end in spans)

    def record_change(self, change: Change) -> None:
        """Record a change, or what became of it."""
        self.changes[change.number] = change
        if len(self.changes) > _MAX_IDENTITIES:
            del self.changes[min(self.changes)]
            self.changes_forgotten = True

    def changes_in_order(self) -> list[Change]:
        """Return its newest changes in send order."""
        return sorted(self.changes.values(), key=lambda change: change.after.seq)

    def record(self, probe: RepliedProbe) -> None:
        """Record a new identity from this probe on; what its reply does not carry stays as it was."""
        before = self.identity_at(probe.sent_ns)
        who = probe.identity
        if before is not None:
            who = before._replace(**{name: value for name, value in who._asdict().items() if value is not None})
        insort(self.identities, (probe.sent_ns, who), key=itemgetter(0))
        del self.identities[:-_MAX_IDENTITIES]

    def discard(self, probe: RepliedProbe) -> None:
        """Discard the identity that began at this probe: the change there was revised."""
        self.identities = [
            entry for entry in self.identities if entry[0] != probe.sent_ns or entry is self.identities[0]
        ]
