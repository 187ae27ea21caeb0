"""The kept probes of one session: when each was sent and what became of it, in five bytes a probe (mostly).

10,000 sessions keep 60 s of probes each, so a probe's record is two array cells, not an object. The send time is kept in
units of 16 ns modulo 2^32 (68.7 s): every kept probe was sent within `SPAN_LIMIT_NS` of the newest, so it is unambiguous.
Which identity replied is kept as a small number, the identity's code.
"""

from __future__ import annotations

from array import array

from affinity_tester.core.events import RepliedProbe
from affinity_tester.core.identity import Identity

PENDING = 0
"""Sent, no reply yet, and not lost."""

LOST = 1
"""A flag: declared lost. Alone: no reply. With an identity's code: a late reply came."""

ELSEWHERE = 2
"""A flag: replied to from a wrong source or at another session, and not properly so far. Only with an identity's code."""

CODE_SHIFT = 2
"""A state has the code of the identity in the reply above its flags; 0 when there is none."""

_WIDTHS = tuple((array(typecode).itemsize, typecode) for typecode in "HI")
"""Few sessions ever meet more identities than one byte a state can tell apart; those that do get two bytes, or four.

Four tell a thousand million apart: more than any memory holds.
"""

_FEW_CODES = 8
"""Most sessions meet one or two identities; a dictionary for each session would be a tenth of its memory."""

UNIT_BITS = 4
"""A send time's unit is 2^4 ns: finer than any clock that stamps packets."""

SPAN_LIMIT_NS = 1 << (32 + UNIT_BITS)
"""About 68.7 s: the oldest kept probe must be younger than this, seen from the newest."""

TIME_MASK = 0xFFFF_FFFF
"""A send time has 32 bits."""

_FEW = 32


class ProbeRing:
    """A ring over the sequence numbers `base <= seq < next`; `states[seq % capacity]` is what became of a probe."""

    __slots__ = ("base", "capacity", "codes", "identities", "last_sent_ns", "next", "states", "times")

    def __init__(self, usual: int = _FEW) -> None:
        """Start empty; `usual` is how many probes are kept at a time when nothing is late.

        There is room for them from the start: growing would leave holes in memory, in all sessions of a run at one time.
        """
        self.base = 0
        """The oldest kept sequence number."""
        self.next = 0
        """The sequence number that the next probe gets."""
        self.capacity = max(usual, _FEW)
        self.states = array("B", bytes(self.capacity))
        self.times = array("I", bytes(4 * self.capacity))
        self.last_sent_ns = 0
        self.identities: tuple[Identity | None, ...] | list[Identity | None] = (None,)
        """By code; 0 is none. A list once there are many."""
        self.codes: dict[Identity, int] | None = None
        """Codes by identity, once there are more than a few to look through."""

    # --- probes ------------------------------------------------------------------------------------------------------

    def append(self, now_ns: int) -> int:
        """Keep a probe sent now and return its sequence number. The caller has forgotten what is out of reach."""
        seq = self.next
        if seq - self.base == self.capacity:
            self._grow()
        slot = seq % self.capacity
        self.times[slot] = (now_ns >> UNIT_BITS) & TIME_MASK
        self.states[slot] = PENDING
        self.last_sent_ns = now_ns
        self.next = seq + 1
        return seq

    def sent_ns(self, seq: int) -> int:
        """Return when a kept probe was sent, to within 16 ns below."""
        units = self.last_sent_ns >> UNIT_BITS
        return (units - ((units - self.times[seq % self.capacity]) & TIME_MASK)) << UNIT_BITS

    def state(self, seq: int) -> int:
        """Return what became of a kept probe."""
        return self.states[seq % self.capacity]

    def is_pending(self, seq: int) -> bool:
        """True if a kept probe is neither answered nor lost."""
        state = self.states[seq % self.capacity]
        return state == PENDING or state & (LOST | ELSEWHERE) == ELSEWHERE

    def is_answered(self, seq: int) -> bool:
        """True if a kept probe was replied to in time and from the right source."""
        state = self.states[seq % self.capacity]
        return state > LOST and not state & (LOST | ELSEWHERE)

    def first_after(self, horizon_ns: int) -> int:
        """Return the oldest kept probe that was sent after `horizon_ns`; `next` when none was."""
        low, high = self.base, self.next
        while low < high:
            middle = (low + high) // 2
            if self.sent_ns(middle) <= horizon_ns:
                low = middle + 1
            else:
                high = middle
        return low

    def uniform_state(self, first: int, end: int) -> int | None:
        """Return the state that the kept probes first..end-1 (at least one) have in common; None when they differ."""
        state, capacity = self.state(first), self.capacity
        begin, stop = first % capacity, end % capacity
        if begin < stop:
            same = self.states[begin:stop].count(state)
        else:
            same = self.states[begin:].count(state) + self.states[:stop].count(state)
        return state if same == end - first else None

    def _grow(self) -> None:
        capacity = self.capacity + self.capacity // 3
        states = array(self.states.typecode, bytes(self.states.itemsize * capacity))
        times = array("I", bytes(4 * capacity))
        seq = self.base
        while seq < self.next:  # whole stretches, up to where either ring turns
            old, new = seq % self.capacity, seq % capacity
            count = min(self.next - seq, self.capacity - old, capacity - new)
            states[new : new + count] = self.states[old : old + count]
            times[new : new + count] = self.times[old : old + count]
            seq += count
        self.capacity, self.states, self.times = capacity, states, times

    # --- replies -----------------------------------------------------------------------------------------------------

    def identity(self, state: int) -> Identity:
        """Return the identity that a replied probe's state has the code of."""
        identity = self.identities[state >> CODE_SHIFT]
        assert identity is not None
        return identity

    def replied_probe(self, seq: int) -> RepliedProbe:
        """Return a kept probe that was replied to."""
        return RepliedProbe(seq, self.sent_ns(seq), self.identity(self.state(seq)))

    def is_between(self, seq: int, code: int) -> bool:
        """True if the nearest replied probes before and after `seq` both have this code: then nothing changed there."""
        for neighbours in (range(seq - 1, self.base - 1, -1), range(seq + 1, self.next)):
            nearest = next((c for each in neighbours if (c := self.state(each) >> CODE_SHIFT)), 0)
            if nearest != code:
                return False
        return True

    # --- codes -------------------------------------------------------------------------------------------------------

    def code_of(self, identity: Identity) -> int:
        """Return the code of an identity; 0 if it has none yet."""
        if self.codes is not None:
            return self.codes.get(identity, 0)
        return self.identities.index(identity) if identity in self.identities else 0

    @property
    def has_unused_codes(self) -> bool:
        """True if there are so many more codes than kept probes that `compact` is worth its time."""
        return len(self.identities) > 2 * (self.next - self.base) + _FEW_CODES

    def add_identity(self, identity: Identity) -> int:
        """Give an identity that has none a code, and return it."""
        code = len(self.identities)
        self.widen(code)
        if isinstance(self.identities, list) and self.codes is not None:
            self.identities.append(identity)
            self.codes[identity] = code
        else:
            self._keep_identities((*self.identities, identity))
        return code

    def compact(self, pinned: int) -> dict[int, int]:
        """Free the codes that no kept probe uses, but for `pinned`; return the new code of each old one that is left."""
        used = {self.state(seq) >> CODE_SHIFT for seq in range(self.base, self.next)}
        kept = sorted(used | {pinned, 0})
        new = {code: index for index, code in enumerate(kept)}
        self._keep_identities(tuple(self.identities[code] for code in kept))
        for seq in range(self.base, self.next):
            slot = seq % self.capacity
            state = self.states[slot]
            self.states[slot] = state & (LOST | ELSEWHERE) | new[state >> CODE_SHIFT] << CODE_SHIFT
        return new

    def widen(self, code: int) -> None:
        """Make the states wide enough for this code."""
        for size, typecode in _WIDTHS:
            if self.states.itemsize < size and code >> (8 * self.states.itemsize - CODE_SHIFT):
                self.states = array(typecode, self.states)

    def _keep_identities(self, identities: tuple[Identity | None, ...]) -> None:
        """Keep these, in the order of their codes. Once there are many, adding one costs the same however many there are."""
        if len(identities) <= _FEW_CODES:
            self.identities, self.codes = identities, None
        else:
            self.identities = list(identities)
            self.codes = {identity: code for code, identity in enumerate(identities) if identity is not None}
