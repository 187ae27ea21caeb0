"""What a client can see of an entry that was made anew, by the way into the Service and its settings.

    masqueraded (policy Cluster)   a new entry has a new port: nodes draw it at random (`masquerade fully-random`), so the
                                   port tells. The pod is drawn anew as well, unless ClientIP keeps it.
    not masqueraded (Local, or     the pod sees the client's own address, so a new entry looks alike but for its pod. That
    the cluster IP)                is drawn anew without ClientIP, and is the old one by chance: 1 of the node's pods (of
                                   all, where there is no policy Local). With ClientIP, or with one pod, nothing can be
                                   seen; what changes all the same is a NAT's before the cluster.

Which it is shows in the replies: the reflexive port is the socket's own one, or it is not. Only under policy Local does a
translated port mean a NAT before the cluster. Where no Service is known, nothing hides anything on purpose: what looks kept
counts as kept, and is said to be so as far as can be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from affinity_tester.core.idle.model import Direction, Property, SampleResult
from affinity_tester.core.pool import PoolSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PathView:
    """What is known of the way, for all samples of a measurement."""

    policy: str = ""
    """externalTrafficPolicy; empty: not known."""
    affinity: str = ""
    """sessionAffinity; empty: not known."""
    via: str = ""
    """The way into the Service: `load-balancer`, `node-port`, `cluster-ip` or `external-ip`; empty: not known."""
    is_cluster_ip: bool = False
    """That is the cluster IP, inside the cluster: it is not masqueraded, and any node's pods may answer."""
    pods_by_node: tuple[tuple[str, int], ...] = ()
    """How many pods take new flows, by their node; of the samples' replies where the pool is not watched."""
    translated: bool = False
    """The reflexive port is another one than the socket's own."""

    @classmethod
    def of(
        cls,
        results: Iterable[SampleResult],
        pool: PoolSnapshot | None,
        *,
        policy: str,
        affinity: str,
        via: str,
        is_cluster_ip: bool = False,
    ) -> Self:
        """Return the view of these samples, with what the watch knows; empty texts and None for what it does not."""
        pods: dict[str, set[str]] = defaultdict(set)
        is_translated = False
        for result in results:
            for identity in filter(None, (result.before, result.after)):
                if identity.pod is not None:
                    pods[identity.node or ""].add(identity.pod)
                if identity.reflexive is not None and result.local_port:
                    is_translated |= identity.reflexive.port != result.local_port
        if pool is not None and pool.ready_count:
            pods = defaultdict(set)
            for endpoint in pool.endpoints:
                if endpoint.ready:
                    pods[endpoint.node].add(endpoint.pod)
        counts = tuple(sorted((node, len(names)) for node, names in pods.items()))
        return cls(
            policy=policy,
            affinity=affinity,
            via=via,
            is_cluster_ip=is_cluster_ip,
            pods_by_node=counts,
            translated=is_translated,
        )

    @property
    def is_local(self) -> bool:
        """True if nodes give flows to pods of their own alone, and pods see the client's own address."""
        return self.policy == "Local" and not self.is_cluster_ip

    @property
    def port_tells(self) -> bool:
        """True if a new entry at a node has another port."""
        return self.translated and not self.is_local

    @property
    def pod_tells(self) -> bool:
        """True if a new entry at a node may have another pod."""
        return self.affinity != "ClientIP" and any(self._choices(node) > 1 for node, _ in self.pods_by_node)

    @property
    def hides(self) -> bool:
        """True if an entry at a node that was made anew looks as the one before it, to whoever speaks first from outside."""
        return not self.port_tells and not self.pod_tells

    @property
    def pods(self) -> int:
        """How many pods there are in all."""
        return sum(count for _, count in self.pods_by_node)

    def chance_alike(self, result: SampleResult, wanted: Property) -> float:
        """Return the chance that an entry made anew would look alike in this; 1: it always would, and says nothing."""
        by_pod = 1.0
        if self.affinity != "ClientIP" and result.before is not None and result.before.pod is not None:
            by_pod = 1 / max(1, self._choices(result.before.node or ""))
        match wanted:
            case Property.POD:
                return 0.0 if self.affinity == "ClientIP" and self.pods > 1 else by_pod
            case Property.PORT:
                return 0.0 if self.translated else 1.0
            case Property.ADDRESS:
                return 0.0
            case _:  # Property.FLOW
                # Without its entry the pod's own packet does not find the way back, whatever the settings are.
                told = self.port_tells or result.step.direction is Direction.POD
                nobody_hides = not self.policy and by_pod == 1
                return 0.0 if told or nobody_hides else by_pod

    def _choices(self, node: str) -> int:
        """Return among how many pods a new flow is drawn that met a pod of this node before."""
        return dict(self.pods_by_node).get(node, 1) if self.is_local else self.pods
