"""Outages without a final class: what was learnt of each while it lasts, and how many sessions they leave silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from affinity_tester.core.events import Judgement, OutageStarted
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.outage_evidence import ALIVE_NS, OutageEvidence
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool_timeline import Span
from affinity_tester.units import NS_PER_S

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

    def learn(self, evidence: OutageEvidence) -> None:
        """Keep what the evidence shows now: newer answers take its place there."""
        old = self.old
        if old is None:
            return

        lives_ns = self.onset_ns + ALIVE_NS
        if old.reflexive is not None and self.ingress_alive_ns is None:
            answer = evidence.ingress.get(old.reflexive.ip)
            if answer is not None and answer.sent_ns >= lives_ns:
                self.ingress_alive_ns = answer.heard_ns

        pod = evidence.pods.get(old.pod or "")
        if pod is None:
            return

        if self.alive_ns is None:
            answers = [
                pod.newest[i] for i in (pod.newest if old.instance is None else [old.instance]) if i in pod.newest
            ]
            newest = max(answers, default=None)
            if newest is not None and newest.sent_ns >= lives_ns:
                self.alive_ns = newest.heard_ns

        # An instance that answered only after the session's own one had done so for the last time took its place.
        if old.instance is not None and self.replaced is None:
            own = pod.newest.get(old.instance)
            before_ns = max(self.last_ns, 0 if own is None else own.sent_ns)
            later = [
                ns for instance, ns in pod.first_ns.items() if instance not in {old.instance, None} and ns > before_ns
            ]
            if later:
                self.replaced = Span(before_ns, min(later))


class SessionCensus(NamedTuple):
    """How many sessions each (pod, instance) had answered last."""

    sessions: Counter[tuple[str | None, bytes | None]]
    silent: Counter[tuple[str | None, bytes | None]]
    """Those of them that are in an outage."""
    alive: AbstractSet[tuple[str | None, int]]
    """Pods that were seen to live in an outage of one of their sessions, and the second in which it had begun."""


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

    def count_sessions(self, evidence: OutageEvidence) -> SessionCensus:
        """Return the sessions by who had answered them last, and those of them that are silent."""
        silent = {session for session, _ in (*self.open, *self.ended)}
        served_by = {session: (who.pod, who.instance) for session, who in evidence.serving.items()}
        for case in self.all():
            if case.old is not None:  # those that are over have moved on by now
                served_by[case.session] = (case.old.pod, case.old.instance)

        return SessionCensus(
            Counter(served_by.values()),
            Counter(who for session, who in served_by.items() if session in silent),
            {
                (case.old.pod, case.from_ns // NS_PER_S)
                for case in self.all()
                if case.old is not None and case.alive_ns is not None
            },
        )
