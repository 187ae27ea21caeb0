"""What kind of change each session of an incident shows: each is in one group, and each rule looks at its own groups."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from affinity_tester.core.diagnosis.alternation import alternate_together, alternates_throughout, alternating
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.lifetimes import gets_old_addresses_back
from affinity_tester.core.diagnosis.masquerade import without_new_ingress
from affinity_tester.core.identity import Kind
from affinity_tester.units import NS_PER_S

PAUSE_NS = 2 * NS_PER_S
"""A pause this long may end a flow's entry: no timeout on a real path is shorter, and a stall of the client is."""

_MIN_EXPIRED = 2
"""Changes of one session that show that each of its pauses ends in one."""

_EXPIRY_RATE = 0.6
"""Of probes so far apart, at least this share shows a change where a timeout is shorter; one near the interval varies."""

_PAUSE_INTERVALS = 5
"""A pause is also at least so many intervals long."""


@dataclass(frozen=True, slots=True)
class ChangeGroups:
    """The sessions that changed, each in one group."""

    sprayed: tuple[SessionChange, ...]
    """They change from packet to packet."""
    spread: int
    """How many sessions do so, those beside the incident too."""
    by_size: bool
    """Which pod answers the sprayed ones depends on the probe's size alone."""
    restarted: tuple[SessionChange, ...]
    """Their pod has a new instance."""
    after_pause: tuple[SessionChange, ...]
    """They changed only at the first probe after a pause."""
    to_other_ip: tuple[SessionChange, ...]
    """They have a new reflexive IP, as far as is known another node's."""
    to_other_pod: tuple[SessionChange, ...]
    """They have a new pod, and the same reflexive IP or the other one of the same node."""
    port_alone: tuple[SessionChange, ...]
    """They have a new reflexive port, and the same IP and pod."""


def classify(view: IncidentView) -> ChangeGroups:
    """Put each session that changed into its group."""
    groups: dict[str, list[SessionChange]] = {}
    spread = alternating(view)
    for move in view.moves:
        groups.setdefault(_group_of(view, move, spread), []).append(move)
    sprayed = tuple(groups.get("sprayed", ()))
    throughout = not groups.keys() & {"after_pause", "port_alone"} and (
        alternates_throughout(view) or 0 < len(view.identities) <= 2 * len(spread)
    )
    if (sprayed and 2 * len(sprayed) >= len(view.moves)) or throughout or alternate_together(view):
        # Some sessions meet the same pod for a while by chance: theirs is no fault of its own.
        sprayed, groups = view.moves, {}

    # A node masquerades from two addresses, so a new IP need not be another node's.
    stayed = (*groups.get("to_other_pod", ()), *groups.get("port_alone", ()))
    within = without_new_ingress(view, tuple(groups.get("to_other_ip", ())), stayed)

    sizes = len(view.history.sizes)
    return ChangeGroups(
        spread=len(view.identities) if throughout else len(spread),
        sprayed=sprayed,
        by_size=sizes > 1 and bool(sprayed) and all(_by_size(move, sizes) for move in sprayed),
        restarted=tuple(groups.get("restarted", ())),
        after_pause=tuple(groups.get("after_pause", ())),
        to_other_ip=tuple(move for move in groups.get("to_other_ip", ()) if move not in within),
        to_other_pod=(*groups.get("to_other_pod", ()), *within),
        port_alone=tuple(groups.get("port_alone", ())),
    )


def _group_of(view: IncidentView, move: SessionChange, spread: Set[str]) -> str:
    interval_ns = view.history.interval_ns
    if move.idle or move.pause_ns >= max(PAUSE_NS, _PAUSE_INTERVALS * interval_ns) or _expires(view, move):
        return "after_pause"

    if move.session in spread and (Kind.POD in move.kinds or move.old.pod is None):
        return "sprayed"

    kinds = move.kinds
    if Kind.INSTANCE in kinds and Kind.POD not in kinds and move.old.pod is not None and not _made_anew(view, move):
        return "restarted"
    if Kind.REFLEXIVE_IP in kinds:
        return "to_other_ip"
    return "port_alone" if kinds == {Kind.REFLEXIVE_PORT} else "to_other_pod"


def _expires(view: IncidentView, move: SessionChange) -> bool:
    """True if each probe comes after a pause that a timeout may be shorter than, and nearly each shows a change.

    Then nothing that the session had left lives on: where it meets an address again, or another node while pods see the
    client's own address, its packets are spread.
    """
    history = view.history
    changes = history.sessions[move.session].changes_in_order()
    if move.pause_ns < PAUSE_NS or len(changes) < _MIN_EXPIRED:
        return False
    if view.source_ip_preserved:
        if any(Kind.NODE in change.kinds for change in changes):
            return False
    elif gets_old_addresses_back(history.sessions[move.session]):
        return False

    probes = changes[-1].after.seq - changes[0].after.seq
    still = max(0, history.known_until_ns(view.now_ns) - changes[-1].after.sent_ns) // history.interval_ns
    return len(changes) - 1 >= _EXPIRY_RATE * (probes + still)


def _made_anew(view: IncidentView, move: SessionChange) -> bool:
    """True if the pod of this name is another one now: on another node, or with another uid in the pool."""
    if Kind.NODE in move.kinds:
        return True
    pod = move.old.pod
    first, last = move.changes[0].before, move.changes[-1].after
    known = view.history.endpoints(pod, first.sent_ns, last.sent_ns + NS_PER_S) if pod is not None else ()
    return len({endpoint.uid for endpoint in known if endpoint is not None}) > 1


def _by_size(move: SessionChange, sizes: int) -> bool:
    """True if probes of one size always show the same pod and address."""
    seen = {(probe.seq % sizes, probe.identity) for c in move.changes for probe in (c.before, c.after)}
    return len({size for size, _ in seen}) == len(seen)
