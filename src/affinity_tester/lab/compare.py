"""Compare the ledger's accounts: injected, done and seen must agree, session by session.

1. *Injected*: each fault declares, flow by flow, what must and what may be seen of it.
2. *Done*: the lab's deeds, packet by packet. Each must be allowed by a fault, and each fault must have done its part.
3. *Seen*: the client's events. Each deed must be seen by its session, with the right values and at the right time, and
   nothing may be seen that was not done.
4. *Judged*, where the run was: each change, outage and stray reply as its fault declares (`judged`).

The comparison is exact where the client promises it: changes by kind, value and time, losses by number and direction,
duplicates by number. Only reordering is bounded, not equal: whether a later reply overtook is a matter of timing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Change, SessionSummary
from affinity_tester.core.identity import Kind
from affinity_tester.lab.check_judgements import JudgementCheck, Problem, of_run, words
from affinity_tester.lab.evidence import ALERTS, LAG_NS, cause_ns, describe, is_active_at, missing_effects, overlaps
from affinity_tester.lab.fault import LOST, Effect, Injection, Symptom, counted
from affinity_tester.lab.lab_record import LabRecord, SessionRecord
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent, Rerouted, differing
from affinity_tester.settings import NS_PER_S

SPAN_NS = NS_PER_S
"""Losses this close to a change cannot be told by direction: the count that would tell ended with the old address."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table injected / seen."""

    number: int
    fault: str
    injected: str
    """What was done, in words."""
    expected: str
    """What the client must see, in words."""
    seen: str
    """What its sessions saw, in words."""
    problems: tuple[str, ...]
    """What is missing or wrong; empty: the fault was seen by the right sessions, and only as it should."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The outcome of a lab run."""

    rows: tuple[Row, ...]
    """One for each fault of the plan."""
    unexpected: tuple[str, ...]
    """What was seen though nobody did it, and whatever else makes the run worthless."""

    @property
    def passed(self) -> bool:
        """Whether every fault was seen, each by the right sessions, and nothing else turned red."""
        return not self.unexpected and not any(row.problems for row in self.rows)


def compare(record: LabRecord) -> Findings:
    """Compare the accounts; for after the client's last event."""
    problems: defaultdict[int, list[str]] = defaultdict(list)
    unexpected = list(record.invalid_reasons)
    for session in record.sessions.values():
        for number, text in _Check(record, session).problems():
            (unexpected if number is None else problems[number]).append(f"{session.name}: {text}")
    for number, text in of_run(record):
        (unexpected if number is None else problems[number]).append(text)
    rows = []
    for number, fault in enumerate(record.planned, 1):
        injection = record.injections.get(number)
        if injection is None:
            rows.append(Row(number, fault.name, "nothing", fault.expects, "nothing", ("it was not injected",)))
            continue
        found = (*problems[number], *missing_effects(record, injection))
        rows.append(Row(number, fault.name, injection.text, fault.expects, describe(record, injection), found))
    return Findings(tuple(rows), tuple(unexpected))


class _Check:
    """The comparison for one session."""

    def __init__(self, record: LabRecord, session: SessionRecord) -> None:
        self._record = record
        self._session = session
        self._deeds: Sequence[PacketEvent] = record.packets.get(session.flow, ())
        self._effects = [
            (injection, effect)
            for injection in sorted(record.injections.values(), key=lambda injection: injection.at_ns)
            for effect in (*injection.effects, *_common(injection, session.flow))
            if effect.flow == session.flow
        ]
        """In the order of injection."""
        self._judgements = JudgementCheck(record, session, self._effects)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with it."""
        yield from self._changes()
        yield from self._reds()
        if self._record.verdict is not None:
            yield from self._judgements.outages()
            yield from self._judgements.stray_replies()
        summary = self._session.summary
        if summary is None:
            yield (None, "it has no summary")
            return
        yield from self._losses(summary)
        yield from self._copies(summary)

    def _allowing(self, *what: Kind | Symptom) -> Iterator[tuple[Injection, Effect]]:
        return ((injection, effect) for injection, effect in self._effects if effect.allowed & set(what))

    def _changes(self) -> Iterator[Problem]:
        moves = [packet for packet in self._deeds if isinstance(packet, Rerouted)]
        causes = [self._cause(move) for move in moves]
        for move, cause in zip(moves, causes, strict=True):
            if cause is None:
                yield (None, f"the lab changed its {words(move.kinds)} though no fault asked for it")
        for injection, effect in self._effects:
            done = {
                kind for move, cause in zip(moves, causes, strict=True) if cause is injection for kind in move.kinds
            }
            lacking = [kind for kind in Kind if kind in effect.must - done]
            if lacking:
                yield (injection.number, f"the lab did not change its {words(lacking)}")
        position = 0
        for change in sorted(self._session.changes.values(), key=lambda change: change.after.seq):
            end = _explaining(moves, position, change)
            if end is None:
                yield (None, f"it saw a change of {words(change.kinds)} that was not made, or not like that")
                continue
            for cause in causes[position:end]:
                if cause is not None and not overlaps(change, cause):
                    yield (cause.number, "the change that it saw does not lie around the time of the fault")
            if self._record.verdict is not None:
                yield from self._judgements.change(
                    change, [cause for cause in causes[position:end] if cause is not None]
                )
            position = end
        for move, cause in zip(moves[position:], causes[position:], strict=True):
            yield (cause.number if cause else None, f"it saw no change of {words(move.kinds)}")

    def _cause(self, move: Rerouted) -> Injection | None:
        """The newest fault that allows this move."""
        causes = [
            injection
            for injection, effect in self._effects
            if injection.at_ns <= move.at_ns and set(move.kinds) <= effect.allowed
        ]
        return causes[-1] if causes else None

    def _reds(self) -> Iterator[Problem]:
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
        drops = [packet for packet in self._deeds if isinstance(packet, Dropped)]
        up = sum(drop.direction is Direction.UP for drop in drops)
        down = len(drops) - up
        causes = [injection for injection, _ in self._allowing(*LOST)]
        seen = summary.losses
        blurred = any(
            isinstance(packet, Duplicated)
            or (isinstance(packet, Rerouted) and any(abs(packet.at_ns - drop.at_ns) <= SPAN_NS for drop in drops))
            for packet in self._deeds
        )
        blurred = blurred or any(self._allowing(Symptom.LOSS_UNTOLD))
        fits = seen.total == len(drops) and seen.up <= up and seen.down <= down and (blurred or not seen.unknown)
        if not fits:
            text = f"it lost {seen.up} up, {seen.down} down, {seen.unknown} unknown; dropped were {up} up, {down} down"
            yield (causes[0].number if causes else None, text)
        for lost in self._session.lost:
            if not any(
                is_active_at(cause, lost.first_sent_ns) and is_active_at(cause, lost.last_sent_ns) for cause in causes
            ):
                yield (None, f"it lost {counted(lost.count, 'probe')} at a time when no fault dropped any")

    def _copies(self, summary: SessionSummary) -> Iterator[Problem]:
        duplicated = sum(isinstance(packet, Duplicated) for packet in self._deeds)
        delayed = sum(isinstance(packet, Delayed) for packet in self._deeds)
        causes = [injection for injection, _ in self._allowing(Symptom.DUPLICATES, Symptom.REORDERING)]
        number = causes[0].number if causes else None
        counts = summary.total
        if counts.duplicate != duplicated:
            yield (number, f"it counted {counted(counts.duplicate, 'duplicate')}; there were {duplicated}")
        # On a busy machine the next packet of a flow that takes another way may overtake the one before.
        turns = sum(isinstance(packet, Rerouted) for packet in self._deeds)
        if counts.reordered > delayed + turns:
            yield (number, f"it counted {counts.reordered} reordered; only {delayed} were held back")


def _common(injection: Injection, flow: TransportAddress) -> Iterator[Effect]:
    """What any session may see of a fault that hits whom it hits."""
    if injection.must_somewhere or injection.may:
        yield Effect(
            flow,
            frozenset(),
            injection.must_somewhere | injection.may,
            injection.changes_judged,
            injection.outages_judged,
        )


def _explaining(moves: Sequence[Rerouted], start: int, change: Change) -> int | None:
    """The end of the moves from `start` on whose sum is this change; None when no number of them is."""
    for end in range(start + 1, len(moves) + 1):
        before, after = moves[start].before, moves[end - 1].after
        if (
            change.before.sent_ns <= moves[start].at_ns
            and moves[end - 1].at_ns <= change.seen_ns + LAG_NS
            and change.kinds == differing(before, after)
            and not differing(change.before.identity, before)
            and not differing(change.after.identity, after)
        ):
            return end
    return None
