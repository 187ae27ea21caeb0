"""What is remembered of a session's forgotten probes: the newest reply of each kind, and the pauses since.

So a change over a silence longer than the kept history is still found, and its longest pause is known.
"""

from __future__ import annotations

from typing import NamedTuple

from affinity_tester.core.events import RepliedProbe
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, ProbeRing

KINDS = tuple(Kind)


class LastKnown(NamedTuple):
    """The newest forgotten reply that carries a kind."""

    probe: RepliedProbe
    pause_ns: int
    """The longest pause between sends from it up to the oldest kept probe."""


LastReplies = tuple[LastKnown | None, ...]
"""By kind, in their order; then the newest forgotten reply from the right source."""

NO_REPLIES: LastReplies = (None,) * (len(KINDS) + 1)


def forget(known: LastReplies, ring: ProbeRing, end: int, after_ns: int) -> LastReplies:
    """Return what is remembered without the ring's probes below `end`, of which there is at least one.

    The probe `end`, or the present, comes at `after_ns`.
    """
    state = ring.uniform_state(ring.base, end)
    identity = None if state is None or state & ELSEWHERE else ring.identities[state >> CODE_SHIFT]
    if state is None or identity is None or not _carries_all(identity, known):
        return _forget_each(known, ring, end, after_ns)

    # As nearly always: all were answered alike, so the last of them stands for all that is forgotten.
    sent_ns = ring.sent_ns(end - 1)
    return _remember(known, state, RepliedProbe(end - 1, sent_ns, identity), after_ns - sent_ns, 0)


def _carries_all(identity: Identity, known: LastReplies) -> bool:
    """True if a reply of this identity carries every kind that is remembered of older ones."""
    last = known[-1]
    if last is not None and last.probe.identity is identity and known.count(last) + known.count(None) == len(known):
        return True  # nothing else is remembered
    remembered = (kind for kind, each in zip(KINDS, known, strict=False) if each is not None)
    return all(identity.value(kind) is not None for kind in remembered)


def _forget_each(known: LastReplies, ring: ProbeRing, end: int, after_ns: int) -> LastReplies:
    """Forget the probes below `end` one by one."""
    sent_ns = ring.sent_ns(ring.base)
    newest: RepliedProbe | None = None
    newest_state = 0
    pause_ns = longest_ns = 0
    for seq in range(ring.base, end):
        next_ns = ring.sent_ns(seq + 1) if seq + 1 < end else after_ns
        state = ring.state(seq)
        if state > LOST:
            if (state ^ newest_state) & ~LOST:
                # Another identity, or another way to hear of it: the one so far may be the last that carries a kind.
                known = _remember(known, newest_state, newest, pause_ns, longest_ns)
                longest_ns = 0
            newest_state, pause_ns = state, 0
            newest = ring.replied_probe(seq)
        pause_ns = max(pause_ns, next_ns - sent_ns)
        longest_ns = max(longest_ns, next_ns - sent_ns)
        sent_ns = next_ns
    return _remember(known, newest_state, newest, pause_ns, longest_ns)


def _remember(
    known: LastReplies, state: int, newest: RepliedProbe | None, pause_ns: int, longest_ns: int
) -> LastReplies:
    """Remember a forgotten reply for the kinds that it carries; the pause since all others may have grown."""
    last, carried = None, [False] * len(known)
    if newest is not None:
        last = LastKnown(newest, pause_ns)
        carried = [*(newest.identity.value(kind) is not None for kind in KINDS), not state & ELSEWHERE]
    return tuple(
        last if is_carried else old and old._replace(pause_ns=max(old.pause_ns, longest_ns))
        for is_carried, old in zip(carried, known, strict=True)
    )
