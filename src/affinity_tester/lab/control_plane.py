"""What the cluster's API server would tell of the lab, as the same events that the cluster watch makes."""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.core.events import (
    ClusterEvent,
    Event,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.lab.path import NetworkPath


class ControlPlane:
    """Looks at the path when told to, and tells what differs from the look before."""

    def __init__(self, path: NetworkPath, emit: Callable[[Event], None]) -> None:
        """Nothing is told before the first look."""
        self._path = path
        self._emit = emit
        self._pool: PoolSnapshot | None = None
        self._looked_ns = 0
        self._nodes: tuple[tuple[str, str], ...] = ()
        self._news: list[tuple[str, str, str]] = []
        self._gone = False

    def tell(self, subject: str, name: str, what: str) -> None:
        """Something happened in the cluster; the next look tells it."""
        self._news.append((subject, name, what))

    def look(self, now_ns: int) -> None:
        """Tell everything that is new: cluster events, the nodes' addresses, the pool. An API server that is gone cannot."""
        if self._gone:
            return
        for subject, name, what in self._news:
            self._emit(ClusterEvent(now_ns, subject, name, what))
        self._news.clear()
        nodes = tuple(sorted((node.ip, node.name) for node in self._path.nodes.values()))
        if nodes != self._nodes:
            self._nodes = nodes
            self._emit(NodeAddresses(now_ns, nodes))
        pool = self._snapshot()
        if pool != self._pool:
            self._pool = pool
            self._emit(PoolObserved(now_ns, now_ns, pool, listed=True))
        self._looked_ns = now_ns

    def confirm(self, now_ns: int) -> None:
        """A consistent list shows the pool as known; what is new is told first."""
        self.look(now_ns)
        if not self._gone:
            self._emit(PoolConfirmed(now_ns))

    def leave(self, now_ns: int) -> None:
        """The API server is gone: the watch breaks."""
        self._gone = True
        self._emit(PoolUnobserved(now_ns, self._looked_ns, "the API server does not answer"))

    def come_back(self, now_ns: int) -> None:
        """The API server is back; a new list shows the pool, which may have changed unseen."""
        self._gone = False
        self._news.clear()
        self._pool = self._snapshot()
        self._emit(PoolObserved(now_ns, self._looked_ns, self._pool, listed=True))
        self.look(now_ns)

    def _snapshot(self) -> PoolSnapshot:
        endpoints = frozenset(
            Endpoint(
                uid=f"uid-{pod.name}",
                pod=pod.name,
                address=pod.address.ip,
                node=pod.node,
                ready=pod.ready,
                serving=pod.serving,
                terminating=pod.terminating,
            )
            for pod in self._path.pods.values()
        )
        spec = (
            ("externalTrafficPolicy", self._path.policy.value),
            ("sessionAffinity", self._path.affinity.value),
        )
        return PoolSnapshot(endpoints, spec)
