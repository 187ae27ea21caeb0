"""Through which node each session came in, and which nodes went away."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.events import (
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    NodeAddresses,
    PoolWatchStarted,
)
from affinity_tester.core.experiment.pool_history import PoolHistory
from affinity_tester.core.identity import Identity

_WITHOUT_BALANCER = frozenset({"node-port", "cluster-ip"})
"""Ways into a Service on which no balancer chooses a node."""


_BRINGS_BACK = frozenset({ClusterAction.UNCORDONED, ClusterAction.READY, ClusterAction.ADDED})


@dataclass(slots=True)
class Absence:
    """A node left the cluster, or was told to be Ready no more: a balancer leaves it out."""

    removed: bool
    """True if it left the cluster."""
    at_ns: int
    """When that was heard."""
    touched_ns: int
    """When it was heard to be cordoned, or not Ready, before that: a balancer may have left it out since."""
    back_ns: int | None = None
    """When it was heard to be back; None: it is not."""


class Nodes:
    """Take in what is told of nodes. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with none known."""
        self._names: dict[str, list[tuple[int, str]]] = {}
        """By IP: from when on which node was told to have it. Another may have it once the first is removed."""
        self._absences: dict[str, list[Absence]] = {}
        """By node, in order."""
        self._touched_ns: dict[str, int] = {}
        """By node, when it was first told of what may take it away, and nothing has taken that back."""
        self.via = ""
        """The way into the Service; empty: not known."""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case NodeAddresses(names=names, at_ns=at_ns):
                for ip, name in names:
                    owners = self._names.setdefault(ip, [])
                    if not owners or owners[-1][1] != name:
                        owners.append((at_ns, name))
            case PoolWatchStarted(via=via):
                self.via = via
            case ClusterEvent(subject=ClusterSubject.NODE, action=action, name=name, at_ns=at_ns):
                self._note(name, action, at_ns)
            case _:
                pass

    def _note(self, name: str, action: ClusterAction, at_ns: int) -> None:
        """Note what happened to a node: it is back, or it was cordoned, is Ready no more, or left."""
        absences = self._absences.setdefault(name, [])
        if action in _BRINGS_BACK:
            self._touched_ns.pop(name, None)
            for absence in absences:
                if absence.back_ns is None and (action is ClusterAction.ADDED or not absence.removed):
                    absence.back_ns = at_ns
        else:
            touched_ns = self._touched_ns.setdefault(name, at_ns)
            if action is not ClusterAction.CORDONED:
                absences.append(Absence(action is ClusterAction.REMOVED, at_ns, touched_ns))

    @property
    def names(self) -> frozenset[str]:
        """The nodes whose addresses are known."""
        return frozenset(name for owners in self._names.values() for _, name in owners)

    def absences(self, node: str, since_ns: int) -> list[Absence]:
        """Return when a node went away, as it was heard at this time or later."""
        return [absence for absence in self._absences.get(node, ()) if absence.at_ns >= since_ns]

    def removed(self, since_ns: int) -> set[str]:
        """Return the nodes that left the cluster, as it was heard at this time or later."""
        return {name for name in self._absences if any(each.removed for each in self.absences(name, since_ns))}

    def went_away(self, since_ns: int) -> set[str]:
        """Return these, and the nodes that were told to be Ready no more."""
        return {name for name in self._absences if self.absences(name, since_ns)}

    @property
    def behind_balancer(self) -> bool:
        """True if a balancer may choose the node through which a session comes in."""
        return self.via not in _WITHOUT_BALANCER

    def ingress(self, serving: Identity, since_ns: int, pool: PoolHistory) -> str | None:
        """Return the node through which a session comes in that is served so since a time; None: not known.

        It is the one whose address the pod sees. A flow made under policy Local shows the client's own address, whatever the
        policy became since; there a node hands packets to its own pods alone.
        """
        ip = serving.reflexive.ip if serving.reflexive is not None else ""
        owners = self._names.get(ip)
        if owners:
            return next((name for at_ns, name in reversed(owners) if at_ns <= since_ns), owners[0][1])
        local = pool.spec_at("externalTrafficPolicy", since_ns) == "Local"
        return serving.node or pool.node_of(serving.pod) if local else None
