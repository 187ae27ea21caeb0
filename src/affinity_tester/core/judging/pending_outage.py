"""An outage that is judged, what was learnt while it lasts, and those that have no final class yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from affinity_tester.core.events import Judgement, OutageStarted
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool_timeline import Span

ToldClass = tuple[Judgement, bool | None]
"""A class, and whether the outage was avoidable."""

OutageClass = tuple[Judgement, bool | None, tuple[Reason, ...]]
"""A class, whether the outage was avoidable, and why it has the class."""

OutageKey = tuple[str, int]
"""A session, and the sequence number of the outage's first probe."""


@dataclass(slots=True)
class PendingOutage:
    """An outage, and what was learnt while it lasts."""

    outage: OutageStarted
    onset_ns: int
    """f, or the end of the blackout that it began in."""
    ended_ns: int | None = None
    alive_ns: int | None = None
    """When it was known that the session's pod had answered a probe of others that was sent in the silence."""
    ingress_alive_ns: int | None = None
    """When it was known that one was answered behind the session's reflexive IP."""
    pod_silent: Reason | None = None
    """What showed that its pod answers nobody; None: nothing yet. A pod that comes back does not undo it."""
    replaced: Span | None = None
    """When another instance under the pod's name took its place, without a word of the pool's."""
    told: ToldClass | None = None
    """The class that was told last; None: none yet."""
    reasons: tuple[Reason, ...] = ()
    """Its reasons."""
    all_told: set[ToldClass] = field(default_factory=set)
    """Every class that was told."""

    @property
    def session(self) -> str:
        """The session that is silent."""
        return self.outage.session

    @property
    def from_ns(self) -> int:
        """When its first silent probe was sent: f of the table."""
        return self.outage.since_ns

    @property
    def last_ns(self) -> int:
        """When the session's last probe was sent that was answered; f where there was none."""
        return self.from_ns if self.outage.last is None else self.outage.last.sent_ns

    @property
    def old(self) -> Identity | None:
        """Who answered the session last; None where nobody ever did."""
        return None if self.outage.last is None else self.outage.last.identity


class PendingOutages:
    """The outages that have no final class."""

    def __init__(self) -> None:
        """Start with none."""
        self.open: dict[OutageKey, PendingOutage] = {}
        self.ended: dict[OutageKey, PendingOutage] = {}
        """Those that are over and wait for a list of the pool."""
        self.never_answered: set[str] = set()
        """Sessions in an outage from sequence 0."""

    def all(self) -> Iterator[PendingOutage]:
        """Return every case, those that are over first."""
        yield from self.ended.values()
        yield from self.open.values()
