"""How many changes, outages and stray replies of a run have each class, each counted once."""

from __future__ import annotations

from collections import Counter, OrderedDict

from affinity_tester.core.events import (
    Case,
    CaseJudged,
    Change,
    ChangeWithdrawn,
    Judgement,
    OutageCase,
    Stray,
    StrayCase,
)
from affinity_tester.core.judging.reasons import AddressBeforeCluster, ClientNatPossible

REVISABLE = 50_000
"""Judgements kept one by one, as a later one of the same case replaces the earlier: no storm makes so many within the 60 s
in which a late reply still revises a change. Of older ones the counts stay."""

_CHANGE, _OUTAGE = "change", "outage"

CaseKey = tuple[str, str, int]
"""The session, the sort of case, and its number: a change's, an outage's first probe, or when a stray reply was heard."""


class Tally:
    """Counts judgements by class, in bounded memory."""

    def __init__(self, limit: int = REVISABLE) -> None:
        """Keep the newest `limit` judgements, which a later one of the same case may replace."""
        self._limit = limit
        self._newest: OrderedDict[CaseKey, CaseJudged] = OrderedDict()
        self._counts: Counter[tuple[str, Judgement]] = Counter()
        self.avoidable = 0
        """Explained cases whose old pod was still serving."""
        self.perhaps_client_nat = 0
        """Unknown changes that the client's own NAT may have made."""

    def add(self, judged: CaseJudged) -> None:
        """Count a judgement in place of an earlier one of the same case."""
        key = case_key(judged.session, judged.case)
        self._forget(key)
        self._counts[key[1], judged.judgement] += 1
        self.avoidable += judged.avoidable is True
        self.perhaps_client_nat += _is_perhaps_client_nat(judged)
        self._newest[key] = judged
        if len(self._newest) > self._limit:
            self._newest.popitem(last=False)

    def withdraw(self, event: ChangeWithdrawn) -> None:
        """Count this change no more: another one tells it."""
        self._forget(case_key(event.session, event.change))

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

    def _forget(self, key: CaseKey) -> None:
        replaced = self._newest.pop(key, None)
        if replaced is not None:
            self._counts[key[1], replaced.judgement] -= 1
            self.avoidable -= replaced.avoidable is True
            self.perhaps_client_nat -= _is_perhaps_client_nat(replaced)


def _is_perhaps_client_nat(judged: CaseJudged) -> bool:
    return any(isinstance(reason, ClientNatPossible | AddressBeforeCluster) for reason in judged.reasons)


def case_key(session: str, case: Case) -> CaseKey:
    """Return what names a case in its run: a change keeps its key when it is revised."""
    match case:
        case Change(number=number):
            return session, _CHANGE, number
        case OutageCase(since_seq=since_seq):
            return session, _OUTAGE, since_seq
        case _:
            assert isinstance(case, StrayCase)
            return session, case.stray, case.heard_ns
