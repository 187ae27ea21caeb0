"""Sessions whose packets are spread: their changes follow each other within few probes, at moments of each session's own."""

from __future__ import annotations

from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.lifetimes import gets_old_addresses_back
from affinity_tester.core.diagnosis.masquerade import MIN_PATTERN
from affinity_tester.units import NS_PER_S

_CHANGES = 4
"""Changes of one session from which on their rate means something."""

_RATE = 0.25
"""Changes per probe: spread at random over two places, every second probe shows a change; a flip-flop is far slower."""

_REACH = round(_CHANGES / _RATE)
"""Probes: an incident so near to such changes of a session is one of them."""

_SLOW_NS = 2 * NS_PER_S
"""Probes so far apart show one change of a session before its incident ends."""

_MIN_POOLED = 8
"""Changes of all sessions together from which on their rate means something."""


def alternating(view: IncidentView) -> set[str]:
    """Return the sessions that alternate in the incident or just beside it: of a slow run, incidents are fragments."""
    near_ns = _REACH * view.history.interval_ns
    from_ns, to_ns = view.from_ns - near_ns, view.to_ns + near_ns
    found = set()
    for name, session in view.history.sessions.items():
        if len(session.changes) < _CHANGES:
            continue
        changes = session.changes_in_order()
        for first, last in zip(changes, changes[_CHANGES - 1 :], strict=False):
            often = _RATE * (last.after.seq - first.before.seq) <= _CHANGES
            if often and first.before.sent_ns <= to_ns and last.after.sent_ns >= from_ns:
                found.add(name)
                break
    return found


def may_alternate(view: IncidentView) -> bool:
    """True if few sessions changed, or at several moments, within so few probes that spread packets may be why.

    Where probes are seconds apart, one moment is in all changes, and few probes have shown since whether sessions stay.
    """
    together = len(view.moves) >= MIN_PATTERN and _at_one_moment(view.moves) and view.history.interval_ns < _SLOW_NS
    return bool(view.moves) and not together and _is_often(view)


def alternate_together(view: IncidentView) -> bool:
    """True if so many of the sessions' probes show changes that they are spread, though of each there are few yet.

    Most come back to addresses that they had left, which no table does that was wiped, and not all in one moment, as
    where an address of the Service's moves to and fro.
    """
    again = [move for move in view.moves if len(move.changes) > 1]
    changes = sum(len(move.changes) for move in view.moves)
    if changes < _MIN_POOLED or 2 * len(again) < len(view.moves) or _at_one_moment(view.moves):
        return False

    back = sum(gets_old_addresses_back(view.history.sessions[move.session]) for move in again)
    return _is_often(view) and 2 * back >= len(again)


def alternates_throughout(view: IncidentView) -> bool:
    """True if the run's sessions change as often as spread packets do since their first change, and come back again."""
    history = view.history
    until_ns = history.known_until_ns(view.now_ns)
    changes = probes = back = 0
    for session in history.sessions.values():
        mine = session.changes_in_order()
        if mine:
            changes += len(mine)
            probes += (until_ns - mine[0].before.sent_ns) // max(1, history.interval_ns)
            back += gets_old_addresses_back(session)
    return changes >= max(_MIN_POOLED, _RATE * probes) and 2 * back >= len(history.sessions)


def _is_often(view: IncidentView) -> bool:
    """True if so many of the probes sent since each session's first change show one."""
    until_ns, interval_ns = view.history.known_until_ns(view.now_ns), max(1, view.history.interval_ns)
    probes = sum((until_ns - move.changes[0].before.sent_ns) // interval_ns for move in view.moves)
    return sum(len(move.changes) for move in view.moves) >= _RATE * probes


def _at_one_moment(moves: tuple[SessionChange, ...]) -> bool:
    """True if one moment lies in the first change of each."""
    firsts = [move.changes[0] for move in moves]
    return max(change.before.sent_ns for change in firsts) <= min(change.after.sent_ns for change in firsts)
