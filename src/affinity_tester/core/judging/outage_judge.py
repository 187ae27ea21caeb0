"""Each outage is told with its class, which is looked at again until the silence ends (core.judging.outage_table)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from affinity_tester.core.events import (
    CaseJudged,
    Change,
    Event,
    Judgement,
    OutageCase,
    OutageEnded,
    OutageStarted,
)
from affinity_tester.core.judging.outage_evidence import OutageEvidence
from affinity_tester.core.judging.outage_table import OutageTable
from affinity_tester.core.judging.pending_outage import OutageClass, OutageKey, PendingOutage, PendingOutages, ToldClass
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool_timeline import PoolTimeline
from affinity_tester.units import NS_PER_S

AT_A_TIME = 500
"""Outages looked at in one round: with thousands open, looking at all of them would hold up the probes."""

_FINAL: ToldClass = (Judgement.VIOLATION, None)


class OutageJudge:
    """Hold the outages whose class is not final, and tell each class that is new."""

    def __init__(self, timeline: PoolTimeline, settle_ns: int, affinity_window_ns: int, balancer_check_ns: int) -> None:
        """Judge by this timeline, which the caller keeps feeding; times are in nanoseconds."""
        self._timeline = timeline
        self._settle_ns = settle_ns
        self._evidence = OutageEvidence()
        self._cases = PendingOutages()
        self._table = OutageTable(
            timeline,
            self._evidence,
            self._cases,
            settle_ns=settle_ns,
            affinity_window_ns=affinity_window_ns,
            balancer_check_ns=balancer_check_ns,
        )
        self._newest: dict[str, PendingOutage] = {}
        """By session, its newest outage that is over: a change that ended it is judged by it, too."""
        self._turn: deque[OutageKey] = deque()
        """The outages that last, in the order in which they are looked at."""
        self._looked: tuple[int, int] | None = None
        """The timeline's revision when those that are over were last looked at, and the time of it."""

    def distrust_pool(self) -> None:
        """Count the pool as not watched: replies came from pods that were never in it."""
        self._table.pool_trusted = False

    @property
    def open_count(self) -> int:
        """Outages without a final class, of which only a list of the pool can tell more."""
        lasting = 0
        if self._evidence.stopped_ns is not None and self._table.watched:
            lasting = sum(
                case.told != _FINAL and not self._timeline.confirmed_after(case.onset_ns + self._settle_ns)
                for case in self._cases.open.values()
            )
        return len(self._cases.ended) + lasting

    @property
    def next_list_after_ns(self) -> int | None:
        """A list of the pool asked for later than this would bring an outage nearer to its class; None: none is wanted."""
        if not self._table.watched:
            return None

        wanted = [
            after_ns
            for case in self._cases.all()
            if not self._timeline.confirmed_after(after_ns := max(case.onset_ns + self._settle_ns, case.ended_ns or 0))
        ]
        return min(wanted, default=None)

    # --- what is heard -------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take in what bears on outages."""
        match event:
            case OutageStarted():
                self._start(event)
            case OutageEnded():
                self._end(event)
            case _:
                pass
        self._evidence.feed(event)  # last: what ends an outage is no evidence of what was so during it

    def _start(self, outage: OutageStarted) -> None:
        key = (outage.session, outage.since_seq)
        self._cases.open[key] = PendingOutage(outage, self._evidence.onset_ns(outage.since_ns))
        self._turn.append(key)
        if outage.last is None:
            self._cases.never_answered.add(outage.session)

    def _end(self, event: OutageEnded) -> None:
        key = (event.session, event.since_seq)
        self._cases.never_answered.discard(event.session)
        case = self._cases.open.pop(key, None)
        if case is None:
            return

        case.learn(self._evidence)
        # Where replies that come late end it, all of them waited somewhere: it lasted until they came.
        is_late = event.at_ns - event.first.sent_ns > self._evidence.threshold_ns
        case.ended_ns = event.at_ns if is_late else event.first.sent_ns
        self._cases.ended[key] = case
        self._newest[event.session] = case

    # --- judging -------------------------------------------------------------------------------------------------------

    def judge(self, now_ns: int, *, last: bool) -> Iterator[CaseJudged]:
        """Yield each class that is new; `last`: the final one of every outage."""
        self._table.start_round()
        for key, case in self._due(now_ns, last=last):
            found = self._table.evaluate(case, now_ns, last=last)
            if found is not None:
                del self._cases.ended[key]
                yield from self._report_if_new(case, found, now_ns)

        for _ in range(len(self._turn) if last else min(AT_A_TIME, len(self._turn))):
            key = self._turn.popleft()
            lasting = self._cases.open.get(key)
            if lasting is None:
                continue  # it ended

            found = self._table.evaluate(lasting, now_ns, last=last)
            if found is not None and (last or found[0] is not Judgement.UNKNOWN):
                yield from self._report_if_new(lasting, found, now_ns)
            if not last and lasting.told != _FINAL:
                self._turn.append(key)

    def over(self, session: str, change: Change, now_ns: int) -> tuple[Judgement, tuple[Reason, ...]] | None:
        """Return the class, as of now, of the outage that a change ended; None: there was none, or it has no class yet."""
        case = self._newest.get(session)
        if case is None or not change.before.seq < case.outage.since_seq <= change.after.seq:
            return None

        if (session, case.outage.since_seq) not in self._cases.ended:
            return None if case.told is None else (case.told[0], case.reasons)
        found = self._table.evaluate(case, now_ns, last=False)
        return None if found is None else (found[0], found[2])

    def _due(self, now_ns: int, *, last: bool) -> list[tuple[OutageKey, PendingOutage]]:
        """Return the outages that are over, if more may be certain now: the timeline has changed, or a second has passed."""
        revision = self._timeline.revision
        if (
            not last
            and self._looked is not None
            and self._looked[0] == revision
            and now_ns - self._looked[1] < NS_PER_S
        ):
            return []
        self._looked = (revision, now_ns)
        return list(self._cases.ended.items())

    def _report_if_new(self, case: PendingOutage, found: OutageClass, now_ns: int) -> Iterator[CaseJudged]:
        """Yield the class if it is new, and keep it as told."""
        judgement, avoidable, reasons = found
        final = case.ended_ns is not None or self._evidence.stopped_ns is not None
        # A class that comes and goes is told once while the outage lasts; the final one is always told.
        if case.told != (judgement, avoidable) and (final or (judgement, avoidable) not in case.all_told):
            case.told, case.reasons = (judgement, avoidable), reasons
            case.all_told.add((judgement, avoidable))
            outage = case.outage
            lasts = not final and judgement is not Judgement.VIOLATION
            judged = OutageCase(outage.since_seq, outage.since_ns)
            yield CaseJudged(now_ns, case.session, judged, judgement, avoidable, reasons, lasts)
