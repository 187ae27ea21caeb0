"""How many changes, outages and stray replies of a run have each class, each counted once."""

from __future__ import annotations

from collections import Counter, OrderedDict

from affinity_tester.core.events import ChangeJudged, ChangeWithdrawn, Judgement, OutageJudged, Stray, StrayJudged

AnyJudged = ChangeJudged | OutageJudged | StrayJudged

REVISABLE = 50_000
"""Judgements kept one by one, as a later one of the same case replaces the earlier: no storm makes so many within the 60 s
in which a late reply still revises a change. Of older ones the counts stay."""

_CHANGE, _OUTAGE = "change", "outage"

_Key = tuple[str, str, int]
"""What is judged, the session, and the case's number: a change's, an outage's first probe, or when a reply was heard."""


class Tally:
    """Counts judgements by class, in bounded memory."""

    def __init__(self, limit: int = REVISABLE) -> None:
        """Keep the newest `limit` judgements, which a later one of the same case may replace."""
        self._limit = limit
        self._newest: OrderedDict[_Key, AnyJudged] = OrderedDict()
        self._counts: Counter[tuple[str, Judgement]] = Counter()
        self.avoidable = 0
        """Explained cases whose old pod was still serving."""

    def add(self, judged: AnyJudged) -> None:
        """Count a judgement in place of an earlier one of the same case."""
        key = judged_key(judged)
        self._forget(key)
        self._counts[key[0], judged.judgement] += 1
        self.avoidable += _is_avoidable(judged)
        self._newest[key] = judged
        if len(self._newest) > self._limit:
            self._newest.popitem(last=False)

    def withdraw(self, event: ChangeWithdrawn) -> None:
        """Count this change no more: another one tells it."""
        self._forget((_CHANGE, event.session, event.change.number))

    def changes(self, judgement: Judgement) -> int:
        """Return how many changes are of this class."""
        return self._counts[_CHANGE, judgement]

    def outages(self, judgement: Judgement) -> int:
        """Return how many outages are of this class."""
        return self._counts[_OUTAGE, judgement]

    def strays(self, judgement: Judgement) -> int:
        """Return how many replies that arrived elsewhere are of this class."""
        return sum(self._counts[stray, judgement] for stray in Stray)

    def cases(self, judgement: Judgement) -> int:
        """Return how many cases of any kind are of this class."""
        return self.changes(judgement) + self.outages(judgement) + self.strays(judgement)

    def _forget(self, key: _Key) -> None:
        replaced = self._newest.pop(key, None)
        if replaced is not None:
            self._counts[key[0], replaced.judgement] -= 1
            self.avoidable -= _is_avoidable(replaced)


def judged_key(judged: AnyJudged) -> _Key:
    """Return what a judgement is about, the same for a later judgement of the same case."""
    match judged:
        case ChangeJudged():
            return _CHANGE, judged.session, judged.change.number
        case OutageJudged():
            return _OUTAGE, judged.session, judged.since_seq
        case _:
            return judged.stray, judged.session, judged.heard_ns


def _is_avoidable(judged: AnyJudged) -> bool:
    return not isinstance(judged, StrayJudged) and judged.avoidable is True
