"""Where a packet goes between client and pod: the balancer and its nodes as a pure model, changed by commands.

The rules, after what real kube-proxy was measured to do (`failure-modes.md`):

1. The cloud's balancer hashes each flow (a client source address) over its nodes. It keeps no state: only a change of
   its nodes moves a flow.
2. A node sends the first packet of a flow to a random pod and remembers it in its flow table; while the entry lives
   every packet goes the same way. An entry dies `idle_ns` after its last packet in either direction, or when it is flushed.
3. Policy Cluster: any ready pod, and the node masquerades: the pod sees the node's IP and a random port of it. Policy
   Local: only pods of this node, and the pod sees the client's own address; without one the packet is dropped.
4. Affinity ClientIP: the node remembers the pod of each client IP, on its own, and prefers it for new flows.
5. Nodes do not share tables: a flow that moves to another node starts there as new, and finds its old entry when it
   moves back in time.

Two liberties. The kernel draws the client's ports anew in every run, so hashes take the flow's number in order of first
appearance in place of its address: a seed repeats a run. And no process without root sends from a foreign address, so
under policy Local each client is given a stand-in address in 127.3.0.0/16 with the same port: it stays with the client
whichever node its packets pass, as the client's own address would, and stands for it in everything a pod reports.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.lab.deeds import Deed, Direction, Dropped, Rerouted
from affinity_tester.lab.rendezvous import draw, weight_to_win, winner

STAND_IN_NET = "127.3"
"""The first two octets of the addresses that stand for the clients' own under policy Local."""

SNAT_PORTS = range(1024, 65536)
"""What a masquerade with `random-fully` draws from (net/netfilter/nf_nat_core.c)."""

MAX_DRAWS = 1000
"""Ports tried before a node counts as out of them: a lab uses a few hundred of 64,512."""


class Policy(StrEnum):
    """The Service's externalTrafficPolicy."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Affinity(StrEnum):
    """The Service's sessionAffinity."""

    NONE = "None"
    CLIENT_IP = "ClientIP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A backend and its endpoint's conditions."""

    name: str
    node: str
    """The name of the node that it runs on."""
    address: TransportAddress
    """Where it listens."""
    instance: bytes
    """Its INSTANCE-ID."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False


@dataclass(slots=True, kw_only=True)
class Entry:
    """One line of a node's flow table: the flow's pod and the source address that the pod sees."""

    flow: TransportAddress
    pod: Pod
    source: TransportAddress
    last_ns: int
    """When a packet last used it, in either direction."""

    @property
    def identity(self) -> Identity:
        """What replies to packets that go this way say."""
        return Identity(reflexive=self.source, pod=self.pod.name, node=self.pod.node, instance=self.pod.instance)


@dataclass(slots=True, kw_only=True)
class Node:
    """A node: the address that it masquerades with, and its tables."""

    name: str
    ip: str
    weight: float = 1.0
    """In the balancer's hash."""
    entries: dict[TransportAddress, Entry] = field(default_factory=dict)
    """By flow."""
    clients: dict[str, tuple[str, int]] = field(default_factory=dict)
    """ClientIP affinity: client IP -> the name of its pod, and when it was last used."""


@dataclass(slots=True)
class Flow:
    """What the lab itself knows of a flow; no node does."""

    number: int
    """In order of first appearance, from 1."""
    entry: Entry | None = None
    """The way of its newest packet."""
    draws: int = 0
    """How often a pod was drawn for it."""


class NetworkPath:
    """The balancer, its nodes and their pods."""

    def __init__(
        self,
        *,
        seed: int,
        record: Callable[[Deed], None],
        claim: Callable[[TransportAddress], bool] = lambda _source: True,
        policy: Policy = Policy.CLUSTER,
        affinity: Affinity = Affinity.NONE,
        idle_ns: int = 30_000_000_000,
        affinity_ns: int = 10_800_000_000_000,
    ) -> None:
        """Begin with no node and no pod.

        `claim` takes a source address for the lab and says whether it was free. `idle_ns` is nf_conntrack_udp_timeout,
        `affinity_ns` the Service's timeoutSeconds; the defaults are those of Linux and Kubernetes.
        """
        self.policy = policy
        self.affinity = affinity
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}
        self.flows: dict[TransportAddress, Flow] = {}
        self._seed = seed
        self._record = record
        self._claim = claim
        self._idle_ns = idle_ns
        self._affinity_ns = affinity_ns
        self._ports = random.Random(f"{seed}/ports")  # noqa: S311 - repeatable, not secret
        self._winners: dict[TransportAddress, str | None] = {}
        """The hash's outcome by flow, kept while the nodes stay."""
        self._sources: set[TransportAddress] = set()
        self._replies: dict[tuple[TransportAddress, TransportAddress], Entry] = {}
        """By (source, pod address), as conntrack finds the flow of a reply. An entry stays here until it is idle even
        when its node forgot it: replies already on their way arrive, so every loss in the lab is a wanted one."""

    # --- packets -----------------------------------------------------------------------------------------------------

    def forward(self, flow: TransportAddress, now_ns: int) -> Entry | None:
        """The way of a packet from this client address; None when it is dropped."""
        state = self.flows.get(flow)
        if state is None:
            state = self.flows[flow] = Flow(len(self.flows) + 1)
        name = self.node_of(flow)
        if name is None:
            self._drop(flow, now_ns, "no-node")
            return None
        node = self.nodes[name]
        entry = node.entries.get(flow)
        if entry is None or now_ns - entry.last_ns > self._idle_ns:
            pod = self._choose_pod(node, flow, state, now_ns)
            if pod is None:
                self._drop(flow, now_ns, "no-pod" if self.policy is Policy.CLUSTER else "no-local-pod")
                return None
            entry = self._enter(node, flow, pod, now_ns)
        entry.last_ns = now_ns
        if self.affinity is Affinity.CLIENT_IP:
            node.clients[flow.ip] = (entry.pod.name, now_ns)
        if state.entry is not None and state.entry is not entry and state.entry.identity != entry.identity:
            self._record(Rerouted(flow, now_ns, before=state.entry.identity, after=entry.identity))
        state.entry = entry
        return entry

    def reverse(self, source: TransportAddress, sender: TransportAddress, now_ns: int) -> TransportAddress | None:
        """The client to which a packet from `sender` to `source` belongs; None when no flow asked for it."""
        entry = self._replies.get((source, sender))
        if entry is None:
            return None
        entry.last_ns = max(entry.last_ns, now_ns)
        return entry.flow

    def expire(self, now_ns: int) -> frozenset[TransportAddress]:
        """Forget what is idle; return the source addresses that are still in use."""
        for node in self.nodes.values():
            node.entries = {flow: entry for flow, entry in node.entries.items() if self._alive(entry, now_ns)}
        self._replies = {key: entry for key, entry in self._replies.items() if self._alive(entry, now_ns)}
        self._sources = {source for source, _ in self._replies}
        return frozenset(self._sources)

    # --- commands ----------------------------------------------------------------------------------------------------

    def add_node(self, name: str, ip: str, weight: float = 1.0) -> None:
        """Let a node join the balancer's hash."""
        if name in self.nodes:
            raise ValueError(f"node {name!r} is there already")
        self.nodes[name] = Node(name=name, ip=ip, weight=weight)
        self._winners.clear()

    def weight_to_move(self, name: str, count: int) -> float:
        """The weight with which a node of this name would take exactly `count` of the present flows, when it joins."""
        return weight_to_win(name, self._weights, self._seed, (flow.number for flow in self.flows.values()), count)

    def node_of(self, flow: TransportAddress) -> str | None:
        """The node to which the balancer sends this flow's next packet."""
        if flow not in self._winners:
            self._winners[flow] = winner(self._weights, self._seed, self.flows[flow].number)
        return self._winners[flow]

    def remove_node(self, name: str) -> None:
        """Take a node out of the balancer's hash, with its tables."""
        del self.nodes[name]
        self._winners.clear()

    def add_pod(self, pod: Pod) -> None:
        """Add a backend; no present flow moves."""
        if pod.name in self.pods:
            raise ValueError(f"pod {pod.name!r} is there already")
        self.pods[pod.name] = pod

    def remove_pod(self, name: str, *, flush: bool = True) -> None:
        """Remove a backend. The proxies delete its entries (`flush`), or leave them stale."""
        del self.pods[name]
        if flush:
            for node in self.nodes.values():
                node.entries = {flow: entry for flow, entry in node.entries.items() if entry.pod.name != name}

    def set_conditions(self, name: str, *, ready: bool, serving: bool, terminating: bool = False) -> None:
        """Change a backend's conditions; only new flows heed them."""
        self.pods[name] = replace(self.pods[name], ready=ready, serving=serving, terminating=terminating)

    def flush_flows(self, node: str) -> tuple[TransportAddress, ...]:
        """Empty a node's flow table; its ClientIP affinity stays. Returns the flows that it held."""
        flows = tuple(self.nodes[node].entries)
        self.nodes[node].entries = {}
        return flows

    def rewrite_port(self, flow: TransportAddress, now_ns: int) -> bool:
        """Give a flow another source port on its node, and nothing else; False when its node holds no entry of it."""
        name = self.node_of(flow)
        node = self.nodes[name] if name is not None else None
        entry = node.entries.get(flow) if node is not None else None
        if node is None or entry is None:
            return False
        self._enter(node, flow, entry.pod, now_ns, source=self._draw_source(entry.source.ip))
        return True

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _weights(self) -> dict[str, float]:
        return {node.name: node.weight for node in self.nodes.values()}

    def _alive(self, entry: Entry, now_ns: int) -> bool:
        return now_ns - entry.last_ns <= self._idle_ns

    def _drop(self, flow: TransportAddress, now_ns: int, reason: str) -> None:
        self._record(Dropped(flow, now_ns, Direction.UP, reason))

    def _choose_pod(self, node: Node, flow: TransportAddress, state: Flow, now_ns: int) -> Pod | None:
        """A pod for a new entry: ready ones, else those that still serve while they terminate (KEP-1669)."""
        pods = [pod for pod in self.pods.values() if self.policy is Policy.CLUSTER or pod.node == node.name]
        pods = [pod for pod in pods if pod.ready] or [pod for pod in pods if pod.serving and pod.terminating]
        if not pods:
            return None
        if self.affinity is Affinity.CLIENT_IP and flow.ip in node.clients:
            name, used_ns = node.clients[flow.ip]
            for pod in pods:
                if pod.name == name and now_ns - used_ns <= self._affinity_ns:
                    return pod
        state.draws += 1
        # Drawn by name, not from a sequence: which flow's packet comes first after a fault is the scheduler's whim.
        return pods[int(draw(self._seed, "pod", node.name, state.number, state.draws) * len(pods))]

    def _enter(
        self, node: Node, flow: TransportAddress, pod: Pod, now_ns: int, source: TransportAddress | None = None
    ) -> Entry:
        if source is None:
            source = self._draw_source(node.ip) if self.policy is Policy.CLUSTER else self._stand_in(flow)
        entry = Entry(flow=flow, pod=pod, source=source, last_ns=now_ns)
        node.entries[flow] = entry
        self._replies[source, pod.address] = entry
        return entry

    def _draw_source(self, ip: str) -> TransportAddress:
        """A port of this address that nobody uses."""
        for _ in range(MAX_DRAWS):
            source = TransportAddress(ip, self._ports.choice(SNAT_PORTS))
            if self._take(source):
                return source
        raise RuntimeError(f"no free port on {ip} in {MAX_DRAWS} draws")

    def _stand_in(self, flow: TransportAddress) -> TransportAddress:
        """The address that stands for the client's own; the one it has already, else its port, else any other."""
        entry = self.flows[flow].entry
        if entry is not None and entry.source in self._sources:
            return entry.source
        ip = ".".join((STAND_IN_NET, *flow.ip.split(".")[2:]))
        source = TransportAddress(ip, flow.port)
        return source if self._take(source) else self._draw_source(ip)

    def _take(self, source: TransportAddress) -> bool:
        if source in self._sources or not self._claim(source):
            return False
        self._sources.add(source)
        return True
