"""The cloud's load balancer: to which node it sends each packet, changed by commands.

It hashes each flow (a client source address) over its nodes and keeps no state, so only a change of its nodes moves a flow.
A flow's hash takes the flow's number in order of first appearance in place of its address: the kernel draws the client's
ports anew in every run, and a seed must repeat a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.model import Flow, Node
from affinity_tester.lab.rendezvous import draw, weight_to_win, winner


class Ingress:
    """The balancer's nodes, and how it chooses among them."""

    def __init__(self, seed: int, flows: Mapping[TransportAddress, Flow]) -> None:
        """Begin with no node. `flows` are those that the network has seen; they may grow later."""
        self.nodes: dict[str, Node] = {}
        self.vip: str | None = None
        """The node that holds the service's address and takes everything; None: the balancer hashes."""
        self.pinned: dict[TransportAddress, str] = {}
        """Flows that go to a certain node, whatever their hash says."""
        self.spray = False
        """Send each packet to any node: there is no hash at all."""
        self.dead_nodes: set[str] = set()
        """Nodes that drop the flows which the balancer still sends them; it sends new flows elsewhere."""
        self.powered_off: set[str] = set()
        """Nodes that drop everything, and get new flows too: the balancer's health check has not failed yet."""
        self._seed = seed
        self._flows = flows
        self._winners: dict[TransportAddress, str | None] = {}
        """The hash's outcome by flow, kept while the nodes stay."""

    def add_node(
        self,
        name: str,
        ip: str,
        weight: float = 1.0,
        *,
        hashed: bool = True,
        bridge_ip: str = "",
        is_proxy: bool = False,
    ) -> None:
        """Add a node, or a proxy; it joins the hash unless `hashed` is False. Pods on it see `bridge_ip` if it has one."""
        if name in self.nodes:
            raise ValueError(f"node {name!r} is there already")

        self.nodes[name] = Node(name=name, ip=ip, bridge_ip=bridge_ip, is_proxy=is_proxy, weight=weight, hashed=hashed)
        self._winners.clear()

    def remove_node(self, name: str) -> None:
        """Remove a node from the hash, with its tables."""
        del self.nodes[name]
        self.dead_nodes.discard(name)
        self._winners.clear()

    def join_hash(self, name: str, weight: float) -> None:
        """Let a present node join the hash."""
        self.nodes[name].weight, self.nodes[name].hashed = weight, True
        self._winners.clear()

    def leave_hash(self, name: str) -> None:
        """Hash a node's flows over the others, since its health check has failed; its tables stay."""
        self.nodes[name].hashed = False
        self._winners.clear()

    def forget(self, flow: TransportAddress) -> None:
        """Hash a flow anew, whose number has changed."""
        self.pinned.pop(flow, None)
        self._winners.pop(flow, None)

    def weight_to_move(self, name: str, count: int, flows: Collection[TransportAddress] | None = None) -> float:
        """Return the weight with which a joining node of this name takes exactly `count` of these flows (None: of all)."""
        numbers = (self._flows[flow].number for flow in (self._flows if flows is None else flows))
        return weight_to_win(name, self._weights, self._seed, numbers, count)

    def node_of(self, flow: TransportAddress) -> str | None:
        """Return the node to which this flow's next packet goes; None without a node."""
        if self.vip is not None:
            return self.vip
        if flow in self.pinned:
            return self.pinned[flow]

        if flow not in self._winners:
            self._winners[flow] = winner(self._weights, self._seed, self._flows[flow].number)
        return self._winners[flow]

    def next_hop(self, flow: TransportAddress) -> str | None:
        """Return the node to which this packet of a flow goes; None without a node."""
        if not self.spray or flow in self.pinned:
            return self.node_of(flow)

        names, state = list(self._weights), self._flows[flow]
        return names[int(draw(self._seed, "spray", state.number, state.packets) * len(names))] if names else None

    @property
    def _weights(self) -> dict[str, float]:
        return {
            node.name: node.weight for node in self.nodes.values() if node.hashed and node.name not in self.dead_nodes
        }
