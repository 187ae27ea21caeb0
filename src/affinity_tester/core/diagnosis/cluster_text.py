"""A cluster event in words, made from its fields: for the evidence of a diagnosis, and for the report's lines."""

from __future__ import annotations

from affinity_tester.core.events import ClusterAction, ClusterEvent

_TEXTS = {
    ClusterAction.READY: "Ready",
    ClusterAction.NOT_READY: "not Ready",
    ClusterAction.ENDPOINTS_CHANGED: "endpoints changed",
}
"""Of the actions whose name is not their text."""

_CONDITIONS = frozenset({ClusterAction.READY, ClusterAction.NOT_READY})
"""What a subject becomes, where others are things that were done to it."""

_CLAUSES = frozenset(
    {ClusterAction.PLACED, ClusterAction.MOVED, ClusterAction.ADDRESS_CHANGED, ClusterAction.ENDPOINTS_CHANGED}
)
"""What stands behind a colon."""


def happened_to(event: ClusterEvent) -> str:
    """Return a clause: `node "n1" became not Ready`, `service "media/turn": load-balancer address changed ...`."""
    subject = f'{event.subject} "{event.name}"' if event.name else event.subject.value
    if event.action in _CLAUSES:
        return f"{subject}: {action_text(event)}"
    verb = "became" if event.action in _CONDITIONS else "was"
    return f"{subject} {verb} {action_text(event)}"


def action_text(event: ClusterEvent) -> str:
    """Return what happened to the subject: `added`, `restarted on node "n1" (its container ended with Error)`."""
    match event.action:
        case ClusterAction.FIELDS_CHANGED:
            return f"changed: {', '.join(event.fields)}"
        case ClusterAction.ADDRESS_CHANGED:
            return f"load-balancer address changed {_listed(event.old)} -> {_listed(event.new)}"
        case ClusterAction.MOVED:
            return f'moved from node "{_listed(event.old)}" to node "{_listed(event.new)}"'

    text = _TEXTS.get(event.action, event.action.value) + (f' on node "{event.node}"' if event.node else "")
    if event.last_end:
        text += f" (its container ended with {event.last_end})"
    if event.old == event.new:
        return text

    image = f"image {_listed(event.old)} -> {_listed(event.new)}"
    return f"{text}: {image}" if event.action is ClusterAction.UPGRADED else f"{text}, upgraded: {image}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
