"""The kept probes of one session: when each was sent and what became of it, in five bytes a probe (mostly).

10,000 sessions keep 60 s of probes each, so a probe's record is two array cells, not an object. The send time is kept in
units of 16 ns modulo 2^32 (68.7 s): every kept probe was sent within `SPAN_LIMIT_NS` of the newest, so it is unambiguous.
"""

from __future__ import annotations

from array import array

PENDING = 0
"""Sent, no reply yet, and not lost."""

LOST = 1
"""A flag: declared lost. Alone: no reply. With an identity's code: a late reply came."""

ELSEWHERE = 2
"""A flag: replied to from a wrong source or at another session, and by nobody else as yet. Only with an identity's code."""

CODE_SHIFT = 2
"""Above the flags a cell holds the code of the identity that the reply showed; 0 when there is none."""

_WIDTHS = tuple((array(typecode).itemsize, typecode) for typecode in "HI")
"""Few sessions ever meet more identities than a cell of one byte can tell apart; those that do get two bytes, or four.

Four tell a thousand million apart: more than any memory holds.
"""

UNIT_BITS = 4
"""A send time's unit is 2^4 ns: finer than any clock that stamps packets."""

SPAN_LIMIT_NS = 1 << (32 + UNIT_BITS)
"""About 68.7 s: the oldest kept probe must be younger than this, seen from the newest."""

TIME_MASK = 0xFFFF_FFFF
"""A send time has 32 bits."""

_FEW = 32


class History:
    """A ring over the sequence numbers `base <= seq < next`; `cells[seq % capacity]` is what became of a probe."""

    __slots__ = ("base", "capacity", "cells", "last_sent_ns", "next", "times")

    def __init__(self, usual: int = _FEW) -> None:
        """Start empty; `usual` is how many probes are kept at a time when nothing is late.

        There is room for them from the start: growing would leave holes in memory, in all sessions of a run at one time.
        """
        self.base = 0
        """The oldest kept sequence number."""
        self.next = 0
        """The sequence number that the next probe gets."""
        self.capacity = max(usual, _FEW)
        self.cells = array("B", bytes(self.capacity))
        self.times = array("I", bytes(4 * self.capacity))
        self.last_sent_ns = 0

    def make_room(self, code: int) -> None:
        """See to it that cells can hold this code."""
        for size, typecode in _WIDTHS:
            if self.cells.itemsize < size and code >> (8 * self.cells.itemsize - CODE_SHIFT):
                self.cells = array(typecode, self.cells)

    def append(self, now_ns: int) -> int:
        """Keep a probe sent now and return its sequence number. The caller has forgotten what is out of reach."""
        seq = self.next
        if seq - self.base == self.capacity:
            self._grow()
        slot = seq % self.capacity
        self.times[slot] = (now_ns >> UNIT_BITS) & TIME_MASK
        self.cells[slot] = PENDING
        self.last_sent_ns = now_ns
        self.next = seq + 1
        return seq

    def sent_ns(self, seq: int) -> int:
        """When a kept probe was sent, to within 16 ns below."""
        units = self.last_sent_ns >> UNIT_BITS
        return (units - ((units - self.times[seq % self.capacity]) & TIME_MASK)) << UNIT_BITS

    def cell(self, seq: int) -> int:
        """What became of a kept probe."""
        return self.cells[seq % self.capacity]

    def is_pending(self, seq: int) -> bool:
        """Whether a kept probe is neither answered nor lost."""
        cell = self.cells[seq % self.capacity]
        return cell == PENDING or cell & (LOST | ELSEWHERE) == ELSEWHERE

    def is_answered(self, seq: int) -> bool:
        """Whether a kept probe was replied to in time and from where it went to."""
        cell = self.cells[seq % self.capacity]
        return cell > LOST and not cell & (LOST | ELSEWHERE)

    def first_after(self, horizon_ns: int) -> int:
        """The oldest kept probe that was sent after `horizon_ns`; `next` when none was."""
        low, high = self.base, self.next
        while low < high:
            middle = (low + high) // 2
            if self.sent_ns(middle) <= horizon_ns:
                low = middle + 1
            else:
                high = middle
        return low

    def alike(self, first: int, end: int) -> int | None:
        """The cell that the kept probes first..end-1 (at least one) have in common; None when they differ."""
        cell, capacity = self.cell(first), self.capacity
        begin, stop = first % capacity, end % capacity
        if begin < stop:
            same = self.cells[begin:stop].count(cell)
        else:
            same = self.cells[begin:].count(cell) + self.cells[:stop].count(cell)
        return cell if same == end - first else None

    def _grow(self) -> None:
        capacity = self.capacity + self.capacity // 3
        cells = array(self.cells.typecode, bytes(self.cells.itemsize * capacity))
        times = array("I", bytes(4 * capacity))
        seq = self.base
        while seq < self.next:  # whole stretches, up to where either ring turns
            old, new = seq % self.capacity, seq % capacity
            count = min(self.next - seq, self.capacity - old, capacity - new)
            cells[new : new + count] = self.cells[old : old + count]
            times[new : new + count] = self.times[old : old + count]
            seq += count
        self.capacity, self.cells, self.times = capacity, cells, times
