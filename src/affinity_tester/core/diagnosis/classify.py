"""Which movers of a case show what: each session's move goes to one group, and the rules look at their own groups."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import within_nodes
from affinity_tester.core.identity import Kind

_SPRAY_CHANGES = 4
"""Changes of one session in one incident from which on its rate of change means something."""

_SPRAY_RATE = 0.25
"""Changes per probe: spread at random over two places, every second probe shows a change; a flip-flop is far slower."""

_SILENT_NS = 2_000_000_000
"""No timeout on a real path is shorter; a stall of the client is."""

_SILENT_SLOTS = 5
"""...and a silence is several intervals long."""


@dataclass(frozen=True, slots=True)
class ChangeGroups:
    """The movers of a case, each in one group."""

    sprayed: tuple[SessionChange, ...]
    """They change from packet to packet."""
    by_size: bool
    """...and who answers the sprayed ones depends on the probe's size alone."""
    restarted: tuple[SessionChange, ...]
    """The same pod with a new instance."""
    after_silence: tuple[SessionChange, ...]
    """They changed only at the first probe after a silence."""
    to_other_ip: tuple[SessionChange, ...]
    """A new reflexive IP, of another node as far as can be told."""
    to_other_pod: tuple[SessionChange, ...]
    """A new pod, the same reflexive IP or the other one of the same node."""
    port_alone: tuple[SessionChange, ...]
    """A new reflexive port, the same IP and pod."""


def classify(view: IncidentView) -> ChangeGroups:
    """Sort the movers."""
    groups: dict[str, list[SessionChange]] = {}
    for move in view.moves:
        groups.setdefault(_group(view, move), []).append(move)
    sprayed = tuple(groups.get("sprayed", ()))
    if sprayed and 2 * len(sprayed) >= len(view.moves):
        # Chance spares some sessions for a while; they are no story of their own.
        sprayed, groups = view.moves, {}
    stayed = (*groups.get("to_other_pod", ()), *groups.get("port_alone", ()))
    within = within_nodes(view, tuple(groups.get("to_other_ip", ())), stayed)
    sizes = len(view.history.sizes)
    return ChangeGroups(
        sprayed=sprayed,
        by_size=sizes > 1 and bool(sprayed) and all(_by_size(move, sizes) for move in sprayed),
        restarted=tuple(groups.get("restarted", ())),
        after_silence=tuple(groups.get("after_silence", ())),
        to_other_ip=tuple(move for move in groups.get("to_other_ip", ()) if move not in within),
        to_other_pod=(*groups.get("to_other_pod", ()), *within),
        port_alone=tuple(groups.get("port_alone", ())),
    )


def _group(view: IncidentView, move: SessionChange) -> str:
    if move.idle or move.pause_ns >= max(_SILENT_NS, _SILENT_SLOTS * view.history.interval_ns):
        return "after_silence"
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
    """Whether probes of one size always show the same pod and address."""
    seen = {(sighting.seq % sizes, sighting.identity) for c in move.changes for sighting in (c.before, c.after)}
    return len({size for size, _ in seen}) == len(seen)
