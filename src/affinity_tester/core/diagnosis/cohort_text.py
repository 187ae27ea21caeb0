"""Which way sessions went, by cohort: what is left to say where no fault explains it."""

from __future__ import annotations

from collections import Counter

from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import pods
from affinity_tester.core.identity import Identity
from affinity_tester.units import noun_form

_MOST = 5
"""Ways that are told; of the others only the number of sessions is given."""


def ways_text(view: IncidentView) -> list[str]:
    """Return for each old and new reflexive IP how many sessions went from the one to the other, and from pod to pod."""
    ways = Counter((_ip(move.old), _ip(move.new)) for move in view.moves)
    of = Counter(_ip(who) for who in view.identities.values())
    lines = []
    for (old, new), count in ways.most_common(_MOST):
        way = f"at {_place(view, old)}" if old == new else f"{_place(view, old)} -> {_place(view, new)}"
        total = max(count, of[old])
        lines.append(f"{way}: {count:,} of its {total:,} {noun_form(total, 'session')}{_ports(view, old, new)}")

    rest = ways.total() - sum(count for _, count in ways.most_common(_MOST))
    if rest:
        lines.append(f"other ways: {rest:,} {noun_form(rest, 'session')}")

    left = {move.old.pod for move in view.moves if move.old.pod is not None and move.old.pod != move.new.pod}
    met = {move.new.pod for move in view.moves if move.new.pod is not None and move.old.pod != move.new.pod}
    if left and met:
        lines.append(f"from {pods(left)} to {pods(met)}")
    return lines


def _ip(who: Identity) -> str | None:
    return None if who.reflexive is None else who.reflexive.ip


def _place(view: IncidentView, ip: str | None) -> str:
    return "an address that no reply told" if ip is None else view.place(ip)


def _ports(view: IncidentView, old: str | None, new: str | None) -> str:
    """Return how many of the sessions that kept their IP have a new port."""
    if old is None or old != new:
        return ""
    ports = sum(
        _ip(move.old) == _ip(move.new) == old and move.old.reflexive != move.new.reflexive for move in view.moves
    )
    return f", {ports:,} with a new port" if ports else ", with the same port"
