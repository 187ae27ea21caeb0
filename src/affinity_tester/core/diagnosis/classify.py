"""What kind of change each session of an incident shows: each is in one group, and each rule looks at its own groups."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import without_new_ingress
from affinity_tester.core.identity import Kind
from affinity_tester.units import NS_PER_S

_SPRAY_CHANGES = 4
"""Changes of one session in one incident from which on its rate of change means something."""

_SPRAY_RATE = 0.25
"""Changes per probe: spread at random over two places, every second probe shows a change; a flip-flop is far slower."""

_PAUSE_NS = 2 * NS_PER_S
"""A pause this long may end a flow's entry: no timeout on a real path is shorter, and a stall of the client is."""

_PAUSE_INTERVALS = 5
"""A pause is also at least so many intervals long."""


@dataclass(frozen=True, slots=True)
class ChangeGroups:
    """The sessions that changed, each in one group."""

    sprayed: tuple[SessionChange, ...]
    """They change from packet to packet."""
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
    for move in view.moves:
        groups.setdefault(_group_of(view, move), []).append(move)
    sprayed = tuple(groups.get("sprayed", ()))
    if sprayed and 2 * len(sprayed) >= len(view.moves):
        # Some sessions meet the same pod for a while by chance: theirs is no fault of its own.
        sprayed, groups = view.moves, {}

    # A node masquerades from two addresses, so a new IP need not be another node's.
    stayed = (*groups.get("to_other_pod", ()), *groups.get("port_alone", ()))
    within = without_new_ingress(view, tuple(groups.get("to_other_ip", ())), stayed)

    sizes = len(view.history.sizes)
    return ChangeGroups(
        sprayed=sprayed,
        by_size=sizes > 1 and bool(sprayed) and all(_by_size(move, sizes) for move in sprayed),
        restarted=tuple(groups.get("restarted", ())),
        after_pause=tuple(groups.get("after_pause", ())),
        to_other_ip=tuple(move for move in groups.get("to_other_ip", ()) if move not in within),
        to_other_pod=(*groups.get("to_other_pod", ()), *within),
        port_alone=tuple(groups.get("port_alone", ())),
    )


def _group_of(view: IncidentView, move: SessionChange) -> str:
    if move.idle or move.pause_ns >= max(_PAUSE_NS, _PAUSE_INTERVALS * view.history.interval_ns):
        return "after_pause"

    probes = move.changes[-1].after.seq - move.changes[0].before.seq
    if len(move.changes) >= _SPRAY_CHANGES and len(move.changes) >= _SPRAY_RATE * probes:
        return "sprayed"

    kinds = move.kinds
    if Kind.INSTANCE in kinds and Kind.POD not in kinds and move.old.pod is not None:
        return "restarted"
    if Kind.REFLEXIVE_IP in kinds:
        return "to_other_ip"
    return "port_alone" if kinds == {Kind.REFLEXIVE_PORT} else "to_other_pod"


def _by_size(move: SessionChange, sizes: int) -> bool:
    """True if probes of one size always show the same pod and address."""
    seen = {(probe.seq % sizes, probe.identity) for c in move.changes for probe in (c.before, c.after)}
    return len({size for size, _ in seen}) == len(seen)
