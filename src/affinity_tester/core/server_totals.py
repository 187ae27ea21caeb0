"""What a server counted, for its log, its metrics, and the sum over its workers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerTotals:
    """A server's counters. `received == answered + refused + dropped`, summed over all reasons."""

    received: int = 0
    """Datagrams read."""
    answered: int = 0
    """Success responses."""
    refused: int = 0
    """420 error responses: an unknown comprehension-required attribute."""
    dropped: tuple[tuple[str, int], ...] = ()
    """(reason, datagrams) for each reason with at least one datagram, sorted by reason."""
    flows: int = 0
    """(session token, reflexive address) pairs that are known now."""
    evicted: int = 0
    """Flows removed for newer ones when `--max-flows` was reached. If one returns, its count starts again from 1."""
    send_errors: int = 0
    """Replies counted above that the machine then refused to send."""
    delayed: int = 0
    """Second replies that were sent after the delay that their requests asked for (core.delayed_replies)."""
    not_delayed: tuple[tuple[str, int], ...] = ()
    """(reason, requests) whose second reply was refused, or could not be sent, sorted by reason."""

    def since(self, earlier: ServerTotals) -> ServerTotals:
        """Return what was counted after `earlier`; `flows` is the present number."""
        return ServerTotals(
            received=self.received - earlier.received,
            answered=self.answered - earlier.answered,
            refused=self.refused - earlier.refused,
            dropped=_without(self.dropped, earlier.dropped),
            flows=self.flows,
            evicted=self.evicted - earlier.evicted,
            send_errors=self.send_errors - earlier.send_errors,
            delayed=self.delayed - earlier.delayed,
            not_delayed=_without(self.not_delayed, earlier.not_delayed),
        )

    def __add__(self, other: ServerTotals) -> ServerTotals:
        """Return the totals of two workers of one server together."""
        return ServerTotals(
            received=self.received + other.received,
            answered=self.answered + other.answered,
            refused=self.refused + other.refused,
            dropped=_together(self.dropped, other.dropped),
            flows=self.flows + other.flows,
            evicted=self.evicted + other.evicted,
            send_errors=self.send_errors + other.send_errors,
            delayed=self.delayed + other.delayed,
            not_delayed=_together(self.not_delayed, other.not_delayed),
        )


_Reasons = tuple[tuple[str, int], ...]


def _without(counts: _Reasons, earlier: _Reasons) -> _Reasons:
    """Return what was counted by reason after `earlier`."""
    before = dict(earlier)
    rest = ((reason, count - before.get(reason, 0)) for reason, count in counts)
    return tuple((reason, count) for reason, count in rest if count)


def _together(one: _Reasons, other: _Reasons) -> _Reasons:
    """Return the sums by reason, sorted."""
    return tuple(sorted((Counter(dict(one)) + Counter(dict(other))).items()))
