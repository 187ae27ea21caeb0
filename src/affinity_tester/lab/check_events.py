"""Check what one session saw against what the lab did to its packets, and what the faults declare.

The comparison is exact where the client promises it: changes by kind, value and time, losses by number and direction,
duplicates by number. Only reordering is bounded, not equal: whether a later reply overtook is a matter of timing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Change, SessionSummary
from affinity_tester.core.identity import Kind, differing
from affinity_tester.lab.check_judgements import JudgementCheck, Problem, words
from affinity_tester.lab.evidence import ALERTS, LAG_NS, cause_ns, is_active_at, overlaps
from affinity_tester.lab.fault import counted
from affinity_tester.lab.injection import LOST, Effect, Injection, Observable, Symptom
from affinity_tester.lab.lab_record import LabRecord, SessionRecord
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent, Rerouted
from affinity_tester.units import NS_PER_S

SPAN_NS = NS_PER_S
"""Losses this close to a change cannot be told by direction: the count that would tell ended with the old address."""


class SessionCheck:
    """What is wrong with one session."""

    def __init__(self, record: LabRecord, session: SessionRecord) -> None:
        self._record = record
        self._session = session
        self._packets: Sequence[PacketEvent] = record.packets.get(session.flow, ())
        self._effects = [
            (injection, effect)
            for injection in sorted(record.injections.values(), key=lambda injection: injection.at_ns)
            for effect in (*injection.effects, *_common(injection, session.flow))
            if effect.flow == session.flow
        ]
        """In the order of injection."""
        self._judgements = JudgementCheck(record, session, self._effects)

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with the session."""
        yield from self._changes()
        yield from self._alerts()
        if self._record.verdict is not None:
            yield from self._judgements.outages()
            yield from self._judgements.stray_replies()

        summary = self._session.summary
        if summary is None:
            yield (None, "it has no summary")
            return
        yield from self._losses(summary)
        yield from self._copies(summary)

    def _allowing(self, *what: Observable) -> Iterator[tuple[Injection, Effect]]:
        return ((injection, effect) for injection, effect in self._effects if effect.allowed & set(what))

    def _changes(self) -> Iterator[Problem]:
        reroutes = [packet for packet in self._packets if isinstance(packet, Rerouted)]
        causes = [self._cause(reroute) for reroute in reroutes]

        # Done against injected.
        for reroute, cause in zip(reroutes, causes, strict=True):
            if cause is None:
                yield (None, f"the lab changed its {words(reroute.kinds)} though no fault asked for it")
        for injection, effect in self._effects:
            done = {
                kind
                for reroute, cause in zip(reroutes, causes, strict=True)
                if cause is injection
                for kind in reroute.kinds
            }
            lacking = [kind for kind in Kind if kind in effect.must - done]
            if lacking:
                yield (injection.number, f"the lab did not change its {words(lacking)}")

        # Seen against done: each change stands for one reroute, or for several between two replies.
        position = 0
        for change in sorted(self._session.changes.values(), key=lambda change: change.after.seq):
            end = _end_of_change(reroutes, position, change)
            if end is None:
                yield (None, f"it saw a change of {words(change.kinds)} that was not made, or not like that")
                continue
            mine = [cause for cause in causes[position:end] if cause is not None]
            for cause in mine:
                if not overlaps(change, cause):
                    yield (cause.number, "the change that it saw does not lie around the time of the fault")
            if self._record.verdict is not None:
                yield from self._judgements.change(change, mine)
            position = end
        for reroute, cause in zip(reroutes[position:], causes[position:], strict=True):
            yield (cause.number if cause else None, f"it saw no change of {words(reroute.kinds)}")

    def _cause(self, reroute: Rerouted) -> Injection | None:
        """Return the newest fault that allows this reroute."""
        causes = [
            injection
            for injection, effect in self._effects
            if injection.at_ns <= reroute.at_ns and set(reroute.kinds) <= effect.allowed
        ]
        return causes[-1] if causes else None

    def _alerts(self) -> Iterator[Problem]:
        alerts = [(ALERTS[type(event)], cause_ns(event)) for event in self._session.alerts if type(event) in ALERTS]
        for symptom, at_ns in alerts:
            if not any(is_active_at(injection, at_ns) for injection, _ in self._allowing(symptom)):
                yield (None, f"it told of {symptom.value}, which nothing caused")

        for injection, effect in self._effects:
            told = {symptom for symptom, at_ns in alerts if is_active_at(injection, at_ns)}
            for symptom in ALERTS.values():
                if symptom in effect.must - told:
                    yield (injection.number, f"it told of no {symptom.value}")

    def _losses(self, summary: SessionSummary) -> Iterator[Problem]:
        drops = [packet for packet in self._packets if isinstance(packet, Dropped)]
        up = sum(drop.direction is Direction.UP for drop in drops)
        down = len(drops) - up
        causes = [injection for injection, _ in self._allowing(*LOST)]

        # Where the counts of two spans meet, or a duplicate taints one, the direction may stay unknown.
        blurred = any(self._allowing(Symptom.LOSS_UNTOLD)) or any(
            isinstance(packet, Duplicated)
            or (isinstance(packet, Rerouted) and any(abs(packet.at_ns - drop.at_ns) <= SPAN_NS for drop in drops))
            for packet in self._packets
        )
        seen = summary.losses
        fits = seen.total == len(drops) and seen.up <= up and seen.down <= down and (blurred or not seen.unknown)
        if not fits:
            text = f"it lost {seen.up} up, {seen.down} down, {seen.unknown} unknown; dropped were {up} up, {down} down"
            yield (causes[0].number if causes else None, text)

        for lost in self._session.lost:
            times = (lost.first_sent_ns, lost.last_sent_ns)
            if not any(all(is_active_at(cause, at_ns) for at_ns in times) for cause in causes):
                yield (None, f"it lost {counted(lost.count, 'probe')} at a time when no fault dropped any")

    def _copies(self, summary: SessionSummary) -> Iterator[Problem]:
        duplicated = sum(isinstance(packet, Duplicated) for packet in self._packets)
        delayed = sum(isinstance(packet, Delayed) for packet in self._packets)
        causes = [injection for injection, _ in self._allowing(Symptom.DUPLICATES, Symptom.REORDERING)]
        number = causes[0].number if causes else None
        counts = summary.total
        if counts.duplicate != duplicated:
            yield (number, f"it counted {counted(counts.duplicate, 'duplicate')}; there were {duplicated}")

        # On a busy machine the next packet of a flow that takes another way may overtake the one before.
        turns = sum(isinstance(packet, Rerouted) for packet in self._packets)
        if counts.reordered > delayed + turns:
            yield (number, f"it counted {counts.reordered} reordered; only {delayed} were held back")


def _common(injection: Injection, flow: TransportAddress) -> Iterator[Effect]:
    """Yield what any session may see of a fault that does not choose its flows."""
    if injection.must_somewhere or injection.may:
        may = injection.must_somewhere | injection.may
        yield Effect(flow, frozenset(), may, outages_judged=injection.outages_judged)


def _end_of_change(reroutes: Sequence[Rerouted], start: int, change: Change) -> int | None:
    """Return the end of the reroutes from `start` on that add up to this change; None when no number of them does."""
    for end in range(start + 1, len(reroutes) + 1):
        before, after = reroutes[start].before, reroutes[end - 1].after
        if (
            change.before.sent_ns <= reroutes[start].at_ns
            and reroutes[end - 1].at_ns <= change.seen_ns + LAG_NS
            and change.kinds == differing(before, after)
            and not differing(change.before.identity, before)
            and not differing(change.after.identity, after)
        ):
            return end
    return None
