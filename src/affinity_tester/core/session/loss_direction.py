"""Loss by direction, from RECEIVED-COUNT.

A span is a run of replied probes (in send order) with the same (instance, reflexive address): the server counts the
probes of one span together. Between its first and its last reply, the count grows by the number of probes that reached the
server. The others were lost upstream, and of the lost ones the rest downstream.

That holds only where 0 <= gained <= sent, the parts fit the number lost, no duplicate was seen, and each count was above
the one before it (where it was not, the server forgot the flow, and counts it from 1 again). Else the direction is unknown,
never guessed.

A late reply's probe is lost, and the server counted it, so it is lost downstream. So is a probe whose reply came from a
wrong source, or to another session; but another server may have counted it, so it ends the span.
"""

from __future__ import annotations

from typing import NamedTuple

from affinity_tester.core.events import Losses
from affinity_tester.core.identity import Identity


class Gap(NamedTuple):
    """Lost probes between two replies of one span."""

    first_seq: int
    last_seq: int
    up: int
    down: int


class LossDirections:
    """The losses of one session. Each probe comes in send order, once it and all before it are answered or lost."""

    __slots__ = (
        "_down",
        "_first_count",
        "_first_seq",
        "_identity",
        "_last_count",
        "_last_seq",
        "_lost",
        "_tail",
        "_tainted",
        "_unknown",
        "_up",
    )

    def __init__(self) -> None:
        """Start with no span."""
        self._up = self._down = self._unknown = 0
        self._identity: Identity | None = None
        self._first_seq = self._first_count = 0
        self._last_seq = self._last_count = 0
        self._lost = 0
        """Lost between the span's first and last reply."""
        self._tail = 0
        """Lost since then; they belong to the span if it goes on."""
        self._tainted = False
        """The span's counts tell nothing."""

    def lost(self) -> None:
        """Take the next probe in send order, which is lost."""
        self._tail += 1

    def answered(self, seq: int, identity: Identity, count: int | None) -> Gap | None:
        """Take the next probe in send order, which was answered, with its RECEIVED-COUNT (None: the reply carries none).

        Returns the gap of lost probes that it closes, where the counts tell their direction.
        """
        gap: Gap | None = None
        if count is None or (self._identity is not identity and not self._continues(identity)):
            self._end()
            if count is None or identity.instance is None:
                return None
            self._identity = identity
            self._first_seq, self._first_count = seq, count
            self._tainted = False
        else:
            if count <= self._last_count:
                self._tainted = True
            if self._tail:
                gap = self._gap(seq, count)
                self._lost += self._tail
                self._tail = 0
        self._last_seq, self._last_count = seq, count
        return gap

    def elsewhere(self) -> None:
        """Take the next probe in send order, which is lost: its reply came from a wrong source, or to another session."""
        self._end()
        self._down += 1

    def _continues(self, identity: Identity) -> bool:
        """True if a reply of this identity belongs to the open span."""
        own = self._identity
        return own is not None and own.instance == identity.instance and own.reflexive == identity.reflexive

    def _gap(self, seq: int, count: int) -> Gap | None:
        """Return the lost probes since the span's last reply, by direction; None where the counts do not tell."""
        up = seq - self._last_seq - (count - self._last_count)
        if self._tainted or not 0 <= up <= self._tail:
            return None
        return Gap(self._last_seq + 1, seq - 1, up, self._tail - up)

    def taint(self, seq: int) -> None:
        """Note that a probe got a second reply: the counts of the open span tell nothing any more, if it is in it."""
        if self._identity is not None and seq >= self._first_seq:
            self._tainted = True

    def losses(self) -> Losses:
        """Return all losses so far, by direction; those after the open span's last reply are unknown as yet."""
        up, down, unknown = self._split()
        return Losses(self._up + up, self._down + down, self._unknown + unknown + self._tail)

    def _split(self) -> tuple[int, int, int]:
        """Return the open span's losses as (up, down, unknown)."""
        sent = self._last_seq - self._first_seq
        gained = self._last_count - self._first_count
        up = sent - gained
        if self._lost == 0:
            return 0, 0, 0
        if self._tainted or not 0 <= up <= self._lost:
            return 0, 0, self._lost
        return up, self._lost - up, 0

    def _end(self) -> None:
        """End the open span, if there is one; what was lost after its last reply stays unknown."""
        up, down, unknown = self._split()
        self._up += up
        self._down += down
        self._unknown += unknown + self._tail
        self._lost = self._tail = 0
        self._identity = None
