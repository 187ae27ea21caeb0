"""Through which node each session came in, and which nodes went away."""

from __future__ import annotations

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


class Nodes:
    """Take in what is told of nodes. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with none known."""
        self._names: dict[str, str] = {}
        """Names by IP, with those of nodes that were removed: flows may still go there."""
        self.removed: list[tuple[int, str]] = []
        """When nodes left the cluster, as it was heard."""
        self.not_ready: list[tuple[int, str]] = []
        """When nodes were told to be Ready no more: a balancer leaves them out."""
        self.via = ""
        """The way into the Service; empty: not known."""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case NodeAddresses(names=names):
                self._names |= dict(names)
            case PoolWatchStarted(via=via):
                self.via = via
            case ClusterEvent(subject=ClusterSubject.NODE, action=ClusterAction.REMOVED, name=name, at_ns=at_ns):
                self.removed.append((at_ns, name))
            case ClusterEvent(subject=ClusterSubject.NODE, action=ClusterAction.NOT_READY, name=name, at_ns=at_ns):
                self.not_ready.append((at_ns, name))
            case _:
                pass

    @property
    def names(self) -> frozenset[str]:
        """The nodes whose addresses are known."""
        return frozenset(self._names.values())

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
        if ip in self._names:
            return self._names[ip]
        local = pool.spec_at("externalTrafficPolicy", since_ns) == "Local"
        return serving.node or pool.node_of(serving.pod) if local else None
