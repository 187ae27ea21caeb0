"""Where a packet goes between client and pod: the balancer and its nodes as a pure model, changed by commands.

The rules, after what real kube-proxy was measured to do (docs/failure-modes.md#measured):

1. The cloud's balancer hashes each flow (a client source address) over its nodes. It keeps no state: only a change of
   its nodes moves a flow.
2. A node sends the first packet of a flow to a random pod and remembers it in its flow table; while the entry lives
   every packet goes the same way. An entry dies `idle_ns` after its last packet in either direction, or when it is flushed.
3. Policy Cluster: any ready pod, and the node masquerades: the pod sees the node's IP and a random port of it. Policy
   Local: only pods of this node, and the pod sees the client's own address; without one the packet is dropped.
4. Affinity ClientIP: the node remembers the pod of each client IP, on its own, and prefers it for new flows.
5. Nodes do not share tables: a flow that moves to another node starts there as new, and finds its old entry when it
   moves back in time.

What faults add to them: `dead` pods swallow what still goes to them, and so do `unhealthy` nodes (the balancer sends new
flows elsewhere) and nodes that are `off` (it does not know yet); `stuck` flows have a stale entry that leads nowhere; a `vip`
is one node that takes everything, `spray` has no hash at all, `one_packet` no flow table; and `shared` is a source address
that two flows have at once.

Two liberties. The kernel draws the client's ports anew in every run, so hashes take the flow's number in order of first
appearance in place of its address: a seed repeats a run. And no process without root sends from a foreign address, so
under policy Local each client is given a stand-in address in 127.3.0.0/16 with the same port: it stays with the client
whichever node its packets pass, as the client's own address would, and stands for it in everything a pod reports.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.deeds import Deed, Direction, Dropped, Rerouted
from affinity_tester.lab.parts import Affinity, Entry, Flow, Node, Pod, Policy
from affinity_tester.lab.rendezvous import draw, weight_to_win, winner

STAND_IN_NET = "127.3"
"""The first two octets of the addresses that stand for the clients' own under policy Local."""

SNAT_PORTS = range(1024, 65536)
"""What a masquerade with `random-fully` draws from (net/netfilter/nf_nat_core.c)."""

MAX_DRAWS = 1000
"""Ports tried before a node counts as out of them: a lab uses a few hundred of 64,512."""


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
        self.idle_ns = idle_ns
        self.dead: set[str] = set()
        """Pods that answer nobody, whatever their endpoint says: hung, or their socket is closed."""
        self.unhealthy: set[str] = set()
        """Nodes that swallow the flows which the balancer still pins to them."""
        self.off: set[str] = set()
        """Nodes without power, which the balancer sends to as before, new flows too, until its check has failed."""
        self.stuck: set[TransportAddress] = set()
        """Flows that a stale entry on the way leads nowhere."""
        self.vip: str | None = None
        """The node that holds the service's address; None: the balancer hashes."""
        self.spray = False
        """The balancer sends each packet to any node."""
        self.one_packet = False
        """Nodes send each packet to any pod, and know only the replies of the pod that their flow table has."""
        self.rewrites_ports = False
        """Policy Local: something on the way gives new flows any port in place of the client's."""
        self.shared: set[TransportAddress] = set()
        """Source addresses that two flows have at once."""
        self._seed = seed
        self._record = record
        self._claim = claim
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
        state.packets += 1
        name = self._next_hop(flow, state)
        if name is None:
            self._drop(flow, now_ns, "no-node")
            return None
        if name in self.unhealthy or name in self.off:
            self._drop(flow, now_ns, "dead-node")
            return None
        if flow in self.stuck:
            self._drop(flow, now_ns, "stale-entry")
            return None
        node = self.nodes[name]
        entry = node.entries.get(flow)
        if entry is None or now_ns - entry.last_ns > self.idle_ns:
            pod = self._choose_pod(node, flow, state, now_ns)
            if pod is None:
                self._drop(flow, now_ns, "no-pod" if self.policy is Policy.CLUSTER else "no-local-pod")
                return None
            entry = self._enter(node, flow, pod, now_ns)
        if self.one_packet:
            entry = self._schedule(node, flow, state, entry, now_ns)
        entry.last_ns = now_ns
        if self.affinity is Affinity.CLIENT_IP:
            node.clients[flow.ip] = (entry.pod.name, now_ns)
        state.entry = entry
        if entry.pod.name in self.dead:
            self._drop(flow, now_ns, "dead-pod")
            return None
        if state.identity is not None and state.identity != entry.identity:
            self._record(Rerouted(flow, now_ns, before=state.identity, after=entry.identity))
        state.identity = entry.identity
        return entry

    def reverse(self, source: TransportAddress, sender: TransportAddress, now_ns: int) -> TransportAddress | None:
        """The client to which a packet from `sender` to `source` belongs; None when no flow asked for it."""
        entry = self._replies.get((source, sender))
        if entry is None:
            return None
        entry.last_ns = max(entry.last_ns, now_ns)
        return entry.flow

    def is_direct(self, source: TransportAddress, sender: TransportAddress) -> bool:
        """Whether a reply goes past the node, from the pod's own address: no flow table knows it."""
        entry = self._replies.get((source, sender))
        return entry is not None and entry.direct

    def expire(self, now_ns: int) -> frozenset[TransportAddress]:
        """Forget what is idle; return the source addresses that are still in use."""
        for node in self.nodes.values():
            node.entries = {flow: entry for flow, entry in node.entries.items() if self._alive(entry, now_ns)}
        self._replies = {key: entry for key, entry in self._replies.items() if self._alive(entry, now_ns)}
        self._sources = {source for source, _ in self._replies}
        return frozenset(self._sources)

    # --- commands ----------------------------------------------------------------------------------------------------

    def add_node(self, name: str, ip: str, weight: float = 1.0, *, hashed: bool = True) -> None:
        """Add a node; it joins the balancer's hash unless `hashed` is False."""
        if name in self.nodes:
            raise ValueError(f"node {name!r} is there already")
        self.nodes[name] = Node(name=name, ip=ip, weight=weight, hashed=hashed)
        self._winners.clear()

    def join_hash(self, name: str, weight: float) -> None:
        """Let a node that is there join the balancer's hash."""
        self.nodes[name].weight, self.nodes[name].hashed = weight, True
        self._winners.clear()

    def leave_hash(self, name: str) -> None:
        """The balancer's check of a node has failed: its flows are hashed over the others; its tables stay."""
        self.nodes[name].hashed = False
        self._winners.clear()

    def weight_to_move(self, name: str, count: int, flows: Collection[TransportAddress] | None = None) -> float:
        """The weight with which a node of this name would take exactly `count` of these flows (all), when it joins."""
        numbers = (self.flows[flow].number for flow in (self.flows if flows is None else flows))
        return weight_to_win(name, self._weights, self._seed, numbers, count)

    def node_of(self, flow: TransportAddress) -> str | None:
        """The node to which the balancer sends this flow's next packet."""
        if self.vip is not None:
            return self.vip
        if flow not in self._winners:
            self._winners[flow] = winner(self._weights, self._seed, self.flows[flow].number)
        return self._winners[flow]

    def remove_node(self, name: str) -> None:
        """Take a node out of the balancer's hash, with its tables."""
        del self.nodes[name]
        self.unhealthy.discard(name)
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
            self.flush_pod(name)

    def flush_pod(self, name: str, at: str | None = None) -> None:
        """Delete the entries of a backend from the flow table of the node `at`, or of every node."""
        for node in self.nodes.values() if at is None else [self.nodes[at]]:
            node.entries = {flow: entry for flow, entry in node.entries.items() if entry.pod.name != name}

    def restart_pod(self, name: str, instance: bytes) -> None:
        """A backend's container was started again: no entry changes, but another instance answers."""
        pod = self.pods[name] = replace(self.pods[name], instance=instance)
        for node in self.nodes.values():
            for entry in node.entries.values():
                if entry.pod.name == name:
                    entry.pod = pod

    def set_conditions(self, name: str, *, ready: bool, serving: bool, terminating: bool = False) -> None:
        """Change a backend's conditions; only new flows heed them."""
        self.pods[name] = replace(self.pods[name], ready=ready, serving=serving, terminating=terminating)

    def flush_flows(self, node: str) -> tuple[TransportAddress, ...]:
        """Empty a node's flow table; its ClientIP affinity stays. Returns the flows that it held."""
        flows = tuple(self.nodes[node].entries)
        self.nodes[node].entries = {}
        return flows

    def entry_of(self, flow: TransportAddress) -> Entry | None:
        """The entry of a flow at the node to which its next packet goes."""
        name = self.node_of(flow)
        return None if name is None else self.nodes[name].entries.get(flow)

    def rewrite_port(self, flow: TransportAddress, now_ns: int) -> bool:
        """Give a flow another source port on its node, and nothing else; False when its node holds no entry of it."""
        entry = self.entry_of(flow)
        return entry is not None and self.rewrite_source(flow, entry.source.ip, now_ns)

    def rewrite_source(self, flow: TransportAddress, ip: str, now_ns: int) -> bool:
        """Give a flow any free port of this address as its source; False when its node holds no entry of it."""
        entry = self.entry_of(flow)
        if entry is None:
            return False
        self._enter(self._node(flow), flow, entry.pod, now_ns, source=self._draw_source(ip))
        return True

    def send_to(self, flow: TransportAddress, pod: Pod, now_ns: int) -> None:
        """Give a flow a new entry to this pod at its node, as a proxy that hashes over pods does."""
        self._enter(self._node(flow), flow, pod, now_ns)

    def share_source(self, thief: TransportAddress, victim: TransportAddress, now_ns: int) -> None:
        """Give `thief` the source address that `victim` has at the same pod and node: replies to both go to the thief.

        Raises `ValueError` unless both have entries there.
        """
        mine, theirs = self.entry_of(thief), self.entry_of(victim)
        same_node = self.node_of(thief) == self.node_of(victim)
        if not same_node or mine is None or theirs is None or mine.pod.name != theirs.pod.name:
            raise ValueError("the two flows do not meet at one pod and node")
        self._enter(self._node(thief), thief, mine.pod, now_ns, source=theirs.source)
        self.shared.add(theirs.source)

    def part_source(self, thief: TransportAddress, victim: TransportAddress, now_ns: int) -> None:
        """End `share_source`: the victim's replies come back to it, and the thief gets a port of its own."""
        theirs = self.entry_of(victim)
        if theirs is not None:
            self.shared.discard(theirs.source)
            self.rewrite_port(thief, now_ns)
            self._replies[theirs.source, theirs.pod.address] = theirs

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _weights(self) -> dict[str, float]:
        return {
            node.name: node.weight for node in self.nodes.values() if node.hashed and node.name not in self.unhealthy
        }

    def _node(self, flow: TransportAddress) -> Node:
        name = self.node_of(flow)
        assert name is not None, "it has an entry, so it has a node"
        return self.nodes[name]

    def _next_hop(self, flow: TransportAddress, state: Flow) -> str | None:
        if not self.spray:
            return self.node_of(flow)
        names = list(self._weights)
        return names[int(draw(self._seed, "spray", state.number, state.packets) * len(names))] if names else None

    def _alive(self, entry: Entry, now_ns: int) -> bool:
        return now_ns - entry.last_ns <= self.idle_ns

    def _drop(self, flow: TransportAddress, now_ns: int, reason: str) -> None:
        self._record(Dropped(flow, now_ns, Direction.UP, reason))

    def _backends(self, node: Node) -> list[Pod]:
        """Where a node may send new flows: ready pods, else those that still serve while they terminate (KEP-1669)."""
        pods = [pod for pod in self.pods.values() if self.policy is Policy.CLUSTER or pod.node == node.name]
        return [pod for pod in pods if pod.ready] or [pod for pod in pods if pod.serving and pod.terminating]

    def _choose_pod(self, node: Node, flow: TransportAddress, state: Flow, now_ns: int) -> Pod | None:
        """A pod for a new entry."""
        pods = self._backends(node)
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

    def _schedule(self, node: Node, flow: TransportAddress, state: Flow, entry: Entry, now_ns: int) -> Entry:
        """The way of one packet without a flow table: any pod, which sees the source that the flow has."""
        pods = self._backends(node)
        pod = pods[int(draw(self._seed, "packet", state.number, state.packets) * len(pods))] if pods else entry.pod
        if pod.name == entry.pod.name:
            return entry
        key = (entry.source, pod.address)
        if key not in self._replies:
            self._replies[key] = Entry(flow=flow, pod=pod, source=entry.source, last_ns=now_ns, direct=True)
        return self._replies[key]

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
        if self.rewrites_ports:
            return self._draw_source(flow.ip)
        ip = ".".join((STAND_IN_NET, *flow.ip.split(".")[2:]))
        source = TransportAddress(ip, flow.port)
        return source if self._take(source) else self._draw_source(ip)

    def _take(self, source: TransportAddress) -> bool:
        if source in self._sources or not self._claim(source):
            return False
        self._sources.add(source)
        return True
