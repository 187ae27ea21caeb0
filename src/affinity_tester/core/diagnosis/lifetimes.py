"""How long each session kept its address and pod: in probes, and in time. What ends flows by count or age shows there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.session_history import SessionHistory
from affinity_tester.core.events import Change
from affinity_tester.units import NS_PER_MS

_SWEEP_NS = 500 * NS_PER_MS
"""A loss is told at most so long after the loss threshold: the time between two sweeps, and more."""

_BY_CHANCE = 0.1
"""At most this share of a session's addresses are drawn twice: of 32 out of 64,512, one pair in 130 sessions."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A session kept its pod and its address for so long: between bounds, since nobody sees the moment of a change."""

    session: str
    is_first: bool
    """It began with the session's first probe."""
    min_probes: int
    """As few of its probes may have come that far; lost ones may not have."""
    max_probes: int
    min_ns: int
    max_ns: int
    end: Change
    """What ended it."""


def lifetimes(history: RunHistory, now_ns: int) -> Iterator[Lifetime]:
    """Yield the lifetimes that have ended, as far back as is remembered; of the newest it is not told yet what was lost."""
    until_ns = history.known_until_ns(now_ns) - _SWEEP_NS
    for name, session in history.sessions.items():
        changes = session.changes_in_order()
        for position, change in enumerate(changes):
            before = changes[position - 1] if position else None
            if before is None:
                if session.changes_forgotten or session.first is None or session.first_seq > change.before.seq:
                    continue  # what began it is not known
                first_seq, last_first = 0, session.first_seq
                last_ns = change.before.sent_ns - (change.before.seq - session.first_seq) * history.interval_ns
                first_ns = last_ns - session.first_seq * history.interval_ns
            else:
                first_seq, last_first = before.before.seq + 1, before.after.seq
                first_ns, last_ns = before.before.sent_ns, before.after.sent_ns

            lost = session.lost_within(first_seq, change.after.seq)
            if lost is None or change.after.sent_ns > until_ns:
                continue
            yield Lifetime(
                name,
                before is None,
                max(1, change.before.seq - last_first + 1 - lost),
                change.after.seq - first_seq,
                change.before.sent_ns - last_ns,
                change.after.sent_ns - first_ns,
                change,
            )


def age(history: RunHistory, session: SessionHistory, now_ns: int) -> tuple[int, int] | None:
    """Return how many probes a session has surely had answered since its newest change, and since when; None: not known."""
    if session.changes:
        newest = session.changes_in_order()[-1].after
        seq, sent_ns = newest.seq, newest.sent_ns
    elif session.first is not None:
        seq, sent_ns = session.first_seq, history.began_ns + session.first_seq * history.interval_ns
    else:
        return None

    lost = session.lost_within(seq, 1 << 32)
    if lost is None:
        return None
    return max(0, (history.known_until_ns(now_ns) - sent_ns) // max(1, history.interval_ns) - 1 - lost), sent_ns


def gets_old_addresses_back(session: SessionHistory) -> bool:
    """True if a session met again what it had left: its entries there live on. A port drawn twice by chance is none."""
    seen: set[object] = set()
    again = steps = 0
    previous = None
    for _, who in session.identities:
        if who.reflexive != previous:
            steps += 1
            again += who.reflexive in seen
            seen.add(who.reflexive)
            previous = who.reflexive
    return again > _BY_CHANCE * steps
