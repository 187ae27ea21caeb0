"""What the reference, a second STUN server asked from the same sockets, says of a change (docs/judging.md#the-clients-nat).

It is not in the cluster, so what moves there is the client's side. What stays there while the cluster sees another address
is the cluster's doing only where the NAT maps a socket to the same address whatever it sends to (RFC 4787: endpoint-
independent mapping); and that shows where the cluster's pods see the very address that the reference sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Change, ReferenceResult
from affinity_tester.core.judging.address_history import AddressHistory, SessionAddresses
from affinity_tester.units import NS_PER_S

_NEAR_NS = NS_PER_S
"""What the reference sees change within a second of a change is the same event, as with incidents."""

_MAX_BRACKET_NS = 5 * NS_PER_S
"""Of a mapping that changed between two answers farther apart than this it is not known when."""

_MIN_SILENT = 3
"""So many requests of a blackout that the reference left unanswered, and no answered one, are no chance."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """What became of the mapped address over a change."""

    old: TransportAddress
    new: TransportAddress
    independent: bool = False
    """It stayed, and the NAT maps endpoint-independently: pods had seen this very address."""

    @property
    def moved(self) -> bool:
        """True if it is another one since."""
        return self.old != self.new


def mapping_over(history: AddressHistory, name: str, change: Change) -> Mapping | None:
    """Return what the reference saw of a session's change, by its own socket or else by its siblings'; None: nothing sure.

    Siblings speak for a session that is not asked itself where all of them say the same.
    """
    session = history.sessions[name]
    if session.results:
        return _mapping(session, change)

    assert session.local is not None
    siblings = (history.sessions[other] for other in history.by_local[session.local.ip])
    found = [mapping for sibling in siblings if (mapping := _mapping(sibling, change)) is not None]
    if not found or len({mapping.moved for mapping in found}) > 1:
        return None
    return next((mapping for mapping in found if not mapping.independent), found[0])


def _mapping(session: SessionAddresses, change: Change) -> Mapping | None:
    """Return what became of one session's mapped address from before P to after Q; None: it was not answered then."""
    from_ns, to_ns = change.before.sent_ns, change.after.sent_ns
    answers = sorted((r.sent_ns, r.mapped) for r in session.results if r.mapped is not None)
    before = [answer for answer in answers if answer[0] <= from_ns - _NEAR_NS][-1:]
    during = [answer for answer in answers if from_ns - _NEAR_NS < answer[0] <= to_ns + _NEAR_NS]
    after = [answer for answer in answers if answer[0] > to_ns + _NEAR_NS][:1]
    seen = [*before, *during, *after]

    for (sent_ns, old), (next_ns, new) in pairwise(seen):
        if old != new:
            return Mapping(old, new) if next_ns - sent_ns <= _MAX_BRACKET_NS else None
    if not seen or seen[0][0] > from_ns or seen[-1][0] < to_ns:
        return None

    # A sibling may have changed in the same event a little before this session's P.
    mapped = seen[0][1]
    pods_saw = (session.reflexive_at(from_ns), session.reflexive_at(from_ns - _NEAR_NS))
    return Mapping(mapped, mapped, independent=mapped in pods_saw)


def was_silent(results: Iterable[ReferenceResult], from_ns: int, to_ns: int) -> bool:
    """Return whether the reference answered nothing that it was asked within these times, too: the client's own link."""
    asked = [result for result in results if from_ns <= result.sent_ns <= to_ns - _NEAR_NS]
    return len(asked) >= _MIN_SILENT and all(result.mapped is None for result in asked)
