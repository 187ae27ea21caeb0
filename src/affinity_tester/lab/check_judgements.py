"""Check what was judged against what each fault declares, and against the truth of when the pool changed.

The lab knows both. A change is explained exactly where the pool changed in truth within the settle time around it, or the
client could not know that; an outage is explained no longer than a proxy may take. Only where what the client could know
was not enough, `unknown` is right as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from affinity_tester.core.events import (
    Change,
    CrossDelivered,
    Judgement,
    OutageCase,
    OutageStarted,
    Stray,
    StrayCase,
    WrongSource,
)
from affinity_tester.core.identity import Kind
from affinity_tester.lab.evidence import LAG_NS, is_active
from affinity_tester.lab.injection import OUTAGE_NS, Effect, Injection, Judged, Symptom
from affinity_tester.lab.lab_record import LabRecord, SessionRecord
from affinity_tester.units import NS_PER_S

Problem = tuple[int | None, str]
"""What is wrong, with the number of the fault to which it belongs (None: to no fault)."""

TOLD_NS = OUTAGE_NS
"""How long after its first unanswered probe a silence is reported, at the latest (docs/judging.md#outages)."""

MAYBE_NS = 4 * NS_PER_S
"""A silence of all that is shorter is not reported as a blackout, however busy the machine is."""

UNPROVED_NS = 9 * NS_PER_S
"""A silence that is shorter may end unproved: canaries tell who lives only once it is reported, and each needs 2 s."""

PROVED_NS = 13 * NS_PER_S
"""How long after an explanation's end a dead flow is proved, at the latest: an outage and three answered canaries."""


class JudgementCheck:
    """What is wrong with the judgements of one session's changes, outages and stray replies, in a run that was judged."""

    def __init__(self, record: LabRecord, session: SessionRecord, effects: Sequence[tuple[Injection, Effect]]) -> None:
        """`effects` are what faults declare of the session, in the order of injection."""
        self._record = record
        self._session = session
        self._effects = effects

    def change(self, change: Change, causes: Sequence[Injection]) -> Iterator[Problem]:
        """Yield what is wrong with a change that these faults caused."""
        expected = {
            effect.changes_judged
            for injection, effect in self._effects
            if effect.changes_judged is not None and any(injection is cause for cause in causes)
        }
        given = self._session.changes_judged.get(change.number)
        number = causes[-1].number if causes else None
        if given is None:
            yield number, f"its change of {words(change.kinds)} was not judged"
            return

        # The pool's truth excuses what the fault does not declare, and convicts what the client made of it.
        reach = (change.before.sent_ns - self._record.settle_ns, change.seen_ns + self._record.settle_ns)
        changed = self._changed_within(*reach)
        agrees = any(_agrees(each, given.judgement, given.avoidable) for each in expected)
        excused = given.judgement is Judgement.UNKNOWN and self._is_doubtful(*reach)
        if expected and not agrees and not excused and not (changed and given.judgement is Judgement.EXPLAINED):
            said = Judged(given.judgement, given.avoidable)
            yield number, f"its change was judged {said}, not {' or '.join(sorted(map(str, expected)))}"
        elif given.judgement is Judgement.EXPLAINED and not changed:
            yield number, "its change was judged explained, though the pool did not change near it"
        elif given.judgement is Judgement.VIOLATION and changed:
            yield number, "its change was judged violation, though the pool changed near it"

    def outages(self) -> Iterator[Problem]:
        """Yield what is wrong with the outages: reported too late, or not judged as the faults that caused them declare."""
        for event in self._session.alerts:
            if not isinstance(event, OutageStarted):
                continue

            cause, effect = self._cause(Symptom.OUTAGE, event.since_ns, event.at_ns)
            number = cause.number if cause else None
            if event.at_ns - self._single_ns(event) > TOLD_NS + LAG_NS:
                yield number, f"its outage was told {(event.at_ns - event.since_ns) / NS_PER_S:.1f} s after it began"
            given = self._session.outages_judged.get(OutageCase(event.since_seq, event.since_ns))
            if given is None:
                yield number, "its outage was not judged"
                continue
            expected = frozenset() if effect is None else effect.outages_judged
            if expected and given.judgement not in expected and not self._is_excused(event, given.judgement):
                yield number, f"its outage was judged {given.judgement.value}, not {_either(expected)}"

    def stray_replies(self) -> Iterator[Problem]:
        """Yield what is wrong with the judgements of replies from elsewhere, or for another session."""
        for event in self._session.alerts:
            match event:
                case WrongSource():
                    stray, symptom = Stray.WRONG_SOURCE, Symptom.WRONG_SOURCE
                case CrossDelivered():
                    stray, symptom = Stray.CROSS_DELIVERED, Symptom.CROSS_DELIVERED
                case _:
                    continue

            cause, effect = self._cause(symptom, event.at_ns, event.at_ns)
            number = cause.number if cause else None
            given = self._session.strays_judged.get(StrayCase(stray, event.seq, event.at_ns))
            reach = (event.sent_ns - self._record.settle_ns, event.at_ns + self._record.settle_ns)
            if given is None:
                yield number, f"its {stray.value} reply was not judged"
                continue
            excused = (given.judgement is Judgement.EXPLAINED and self._changed_within(*reach)) or (
                given.judgement is Judgement.UNKNOWN and self._is_doubtful(*reach)
            )
            expected = frozenset() if effect is None else effect.strays_judged
            if expected and given.judgement not in expected and not excused:
                yield number, f"its {stray.value} reply was judged {given.judgement.value}, not {_either(expected)}"

    # --- inside ------------------------------------------------------------------------------------------------------

    def _cause(self, symptom: Symptom, from_ns: int, to_ns: int) -> tuple[Injection | None, Effect | None]:
        """Return the newest fault that allows this symptom and whose cause lasted at some time between these."""
        for injection, effect in reversed(self._effects):
            if symptom in effect.allowed and is_active(injection, from_ns, to_ns):
                return injection, effect
        return None, None

    def _single_ns(self, event: OutageStarted) -> int:
        """Return since when the session was silent while others were not: the silence of all is a blackout."""
        ends = [
            injection.at_ns + injection.blackout_ns
            for injection in self._record.injections.values()
            if injection.blackout_ns and injection.at_ns - LAG_NS <= event.since_ns
        ]
        return max(event.since_ns, *(end_ns for end_ns in ends if end_ns <= event.at_ns), 0)

    def _changed_within(self, from_ns: int, to_ns: int) -> bool:
        return any(from_ns <= at_ns <= to_ns for at_ns in self._record.pool_ns)

    def _is_doubtful(self, from_ns: int, to_ns: int) -> bool:
        """True if the client could not know whether the pool changed within these times.

        It does not know the pool before the run; and who aborts a run does not wait for its judgements.
        """
        record = self._record
        unobserved = any(begin_ns <= to_ns and from_ns <= end_ns for begin_ns, end_ns in record.unobserved_ns)
        perhaps = any(
            since_ns < to_ns and from_ns <= until_ns and not (from_ns <= since_ns and until_ns <= to_ns)
            for since_ns, until_ns in record.observed_ns[1:]
        )
        first_ns = min((until_ns for _, until_ns in record.observed_ns), default=to_ns)
        return record.aborted or unobserved or perhaps or from_ns < first_ns

    def _is_excused(self, event: OutageStarted, judgement: Judgement) -> bool:
        """True if an outage may also be judged so, for what else happened to the pool, or is not known of it."""
        record = self._record
        around = (event.since_ns - record.settle_ns, event.since_ns + record.settle_ns)
        end_ns = self._session.outage_ends.get(event.since_seq, record.stopped_ns or event.at_ns)
        if judgement is Judgement.UNKNOWN:
            short = end_ns - self._single_ns(event) < UNPROVED_NS
            return short or (event.since_seq > 0 and self._is_doubtful(*around))
        if judgement is not Judgement.EXPLAINED:
            return False
        return any(around[0] <= at_ns <= end_ns <= at_ns + record.move_ns + PROVED_NS for at_ns in record.pool_ns)


def run_problems(record: LabRecord) -> Iterator[Problem]:
    """Yield what is wrong with the blackouts that were reported, and with the verdict."""
    told = {blackout.since_ns: blackout for blackout in record.blackouts}
    for number, injection in sorted(record.injections.items()):
        blackout_ns = injection.blackout_ns
        mine = [since_ns for since_ns in told if blackout_ns >= MAYBE_NS and abs(since_ns - injection.at_ns) <= LAG_NS]
        if blackout_ns > TOLD_NS and not mine:
            yield number, "no blackout was told"
        for since_ns in mine:
            blackout = told.pop(since_ns)
            if blackout.at_ns - since_ns > TOLD_NS + LAG_NS:
                yield number, f"the blackout was told {(blackout.at_ns - since_ns) / NS_PER_S:.1f} s after it began"

            end_ns = injection.at_ns + blackout_ns
            until_ns = record.blackout_ends.get(since_ns)
            if until_ns is None:
                if end_ns + LAG_NS < (record.stopped_ns or 0):
                    yield number, "the end of the blackout was not told"
            elif abs(until_ns - end_ns) > LAG_NS:
                yield (
                    number,
                    f"the blackout ended by what was told {(until_ns - end_ns) / NS_PER_S:+.1f} s after its end",
                )

    for since_ns in told:
        started_ns = min((injection.at_ns for injection in record.injections.values()), default=since_ns)
        after_s = (since_ns - started_ns) / NS_PER_S
        yield None, f"a blackout was told, {after_s:.1f} s after the first fault, which nothing caused"

    if record.verdict is not None and record.verdict.outcome not in record.expected_outcomes:
        yield (
            None,
            f"the client's verdict was {record.verdict.outcome}, not {' or '.join(sorted(record.expected_outcomes))}",
        )


def _agrees(expected: Judged, judgement: Judgement, avoidable: bool | None) -> bool:
    return expected.judgement is judgement and (expected.avoidable is None or expected.avoidable is avoidable)


def _either(judgements: Iterable[Judgement]) -> str:
    return " or ".join(sorted(each.value for each in judgements))


def words(kinds: Iterable[Kind]) -> str:
    """Return kinds in words."""
    return ", ".join(kind.value for kind in kinds)
