"""Where a packet goes between client and pod: the balancer, its nodes and their pods as a pure model, changed by commands.

The rules, after what real kube-proxy was measured to do (`docs/failure-modes.md`):

1. The cloud's balancer hashes each flow over its nodes (`ingress`).
2. A node sends the first packet of a flow to a random pod and remembers it in its flow table; while the entry lives
   every packet goes the same way. An entry dies `idle_ns` after its last packet in either direction, or when it is flushed.
3. Policy Cluster: any ready pod, and the node masquerades: the pod sees a random port of the node's IP, or of its bridge's
   where the pod runs on that node. Policy
   Local: only pods of this node, and the pod sees the client's own address (`source_nat`); without a pod the node drops
   the packet.
4. Affinity ClientIP: the node remembers the pod of each client IP, on its own, and prefers it for new flows.
5. Nodes do not share tables: a flow that moves to another node starts there as new, and finds its old entry when it
   moves back in time.

No socket and no clock: the lab's sockets ask it where each packet goes, and tests do without sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.lab.ingress import Ingress
from affinity_tester.lab.model import Affinity, Entry, Flow, Node, Pod, Policy, SessionLimit
from affinity_tester.lab.packet_log import Direction, Dropped, PacketEvent, Rerouted
from affinity_tester.lab.rendezvous import draw
from affinity_tester.lab.source_nat import STAND_IN_NET, SourceAddresses
from affinity_tester.units import NS_PER_H, NS_PER_S

STREAM_AFTER_NS = 2 * NS_PER_S
"""So long after its first packet an entry with traffic both ways counts as a stream (nf_conntrack_proto_udp.c)."""

_REMAPPED = 1_000_000
"""Flows with a new mapping are numbered from here on, so that no flow has their number."""


class NetworkModel:
    """The balancer, its nodes and their pods."""

    def __init__(
        self,
        *,
        seed: int,
        log: Callable[[PacketEvent], None],
        claim: Callable[[TransportAddress], bool] = lambda _source: True,
        stand_in: bool = True,
        stand_in_net: str = STAND_IN_NET,
        policy: Policy = Policy.CLUSTER,
        affinity: Affinity = Affinity.NONE,
        idle_ns: int = 30 * NS_PER_S,
        stream_ns: int | None = None,
        affinity_ns: int = 3 * NS_PER_H,
    ) -> None:
        """Begin with no node and no pod.

        `log` gets what is done to packets. `claim` takes a source address for the lab and says whether it was free;
        `stand_in`: pods see a stand-in address for the client's own, in `stand_in_net` (`source_nat`). `idle_ns` is
        nf_conntrack_udp_timeout, `stream_ns` nf_conntrack_udp_timeout_stream (None: the same), `affinity_ns` the Service's
        timeoutSeconds; the defaults are those of Linux and Kubernetes, but that streams end as other flows do.
        """
        self.policy = policy
        self.affinity = affinity
        self.flows: dict[TransportAddress, Flow] = {}
        self.ingress = Ingress(seed, self.flows)
        self.nodes = self.ingress.nodes
        self.sources = SourceAddresses(seed, claim, stand_in=stand_in, net=stand_in_net)
        self.pods: dict[str, Pod] = {}
        self.idle_ns = idle_ns
        self.stream_ns = stream_ns
        self.affinity_ns = affinity_ns

        # What faults add.
        self.dead_pods: set[str] = set()
        """Pods that answer nobody, whatever their endpoint says: hung, or their socket is closed."""
        self.full_tables: dict[str, Callable[[], bool]] = {}
        """Nodes without room for a new entry; each says of an attempt whether it is refused."""
        self.stuck_flows: set[TransportAddress] = set()
        """Flows whose stale entry on the way leads nowhere."""
        self.dead_cells: set[tuple[str, str]] = set()
        """(ingress node, pod's node): the ways between two nodes on which every packet is lost."""
        self.mute_cells: set[tuple[str, str]] = set()
        """The same for replies alone."""
        self.dead_below = 0.0
        """The balancer's side hashes source ports over a bundle, and the member with this share of the ports loses all."""
        self.one_packet = False
        """Nodes send each packet to any pod, and know only the replies of the pod that their flow table has."""
        self.limit = SessionLimit()
        """What ends sessions at the nodes, or at the proxies that they stand for."""
        self.shared_sources: set[TransportAddress] = set()
        """Source addresses that two flows have at once."""

        self._seed = seed
        self._log = log
        self._remapped = 0
        self._replies: dict[tuple[TransportAddress, TransportAddress], Entry] = {}
        """By (source, pod address), as conntrack finds the flow of a reply. An entry stays here until it is idle even
        when its node forgot it: replies already on their way arrive, so every loss in the lab is a wanted one."""

    # --- packets -----------------------------------------------------------------------------------------------------

    def forward(self, flow: TransportAddress, now_ns: int) -> Entry | None:
        """Return the way of a packet from this client address; None when it is dropped."""
        state = self.flows.get(flow)
        if state is None:
            state = self.flows[flow] = Flow(len(self.flows) + 1)
        state.packets += 1

        name = self.ingress.next_hop(flow)
        if name is None:
            self._drop(flow, now_ns, "no-node")
            return None
        if name in self.ingress.dead_nodes or name in self.ingress.powered_off:
            self._drop(flow, now_ns, "dead-node")
            return None
        if self.dead_below and self.port_hash(flow) < self.dead_below:
            self._drop(flow, now_ns, "dead-port")
            return None
        if flow in self.stuck_flows:
            self._drop(flow, now_ns, "stale-entry")
            return None

        node = self.nodes[name]
        if name in self.full_tables and flow not in node.entries and self.full_tables[name]():
            self._drop(flow, now_ns, "table-full")
            return None
        entry = self._live_entry(node, flow, state, now_ns)
        if entry is None:
            self._drop(flow, now_ns, "no-pod" if self.policy is Policy.CLUSTER else "no-local-pod")
            return None
        if self.one_packet:
            entry = self._schedule_packet(node, flow, state, entry, now_ns)

        # A packet to a dead pod renews its entry as any other: the node does not know that nobody answers.
        entry.last_ns = now_ns
        entry.packets += 1
        if self.affinity is Affinity.CLIENT_IP:
            node.clients[flow.ip] = (entry.pod.name, now_ns)
        state.entry = entry
        if (name, entry.pod.node) in self.dead_cells:
            self._drop(flow, now_ns, "dead-path")
            return None
        if entry.pod.name in self.dead_pods:
            self._drop(flow, now_ns, "dead-pod")
            return None

        # Only a packet that reaches its pod shows the client another identity.
        if state.identity is not None and state.identity != entry.identity:
            self._log(Rerouted(flow, now_ns, before=state.identity, after=entry.identity))
        state.identity = entry.identity
        return entry

    def reverse(self, source: TransportAddress, sender: TransportAddress, now_ns: int) -> TransportAddress | None:
        """Return the client to which a packet from `sender` to `source` belongs; None when no flow asked for it."""
        entry = self._replies.get((source, sender))
        if entry is None:
            return None
        entry.last_ns, entry.is_replied = max(entry.last_ns, now_ns), True
        return entry.flow

    def loses_reply(self, source: TransportAddress, sender: TransportAddress) -> bool:
        """True if a reply is lost between the pod's node and the flow's ingress node."""
        entry = self._replies.get((source, sender))
        return entry is not None and (self.ingress.node_of(entry.flow), entry.pod.node) in self.mute_cells

    def port_hash(self, flow: TransportAddress) -> float:
        """Return a number in (0, 1) that depends on the flow's source port alone: where a bundle's hash sends it."""
        return draw(self._seed, "bundle", self.flows[flow].number)

    def is_direct(self, source: TransportAddress, sender: TransportAddress) -> bool:
        """True if a reply goes past the node, from the pod's own address: no flow table knows it."""
        entry = self._replies.get((source, sender))
        return entry is not None and entry.direct

    def expire(self, now_ns: int) -> frozenset[TransportAddress]:
        """Forget idle entries; return the source addresses that are still in use."""
        for node in self.nodes.values():
            node.entries = {flow: entry for flow, entry in node.entries.items() if self._is_alive(entry, now_ns)}
        self._replies = {key: entry for key, entry in self._replies.items() if self._is_alive(entry, now_ns)}

        used = frozenset(source for source, _ in self._replies)
        self.sources.keep(used)
        return used

    # --- commands: pods ----------------------------------------------------------------------------------------------

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
        """Start a backend's container again: no entry changes, but another instance answers."""
        pod = self.pods[name] = replace(self.pods[name], instance=instance)
        for node in self.nodes.values():
            for entry in node.entries.values():
                if entry.pod.name == name:
                    entry.pod = pod

    def set_conditions(self, name: str, *, ready: bool, serving: bool, terminating: bool = False) -> None:
        """Change a backend's conditions; only new flows heed them."""
        self.pods[name] = replace(self.pods[name], ready=ready, serving=serving, terminating=terminating)

    def pool(self) -> PoolSnapshot:
        """Return the pool as the API server has it: the endpoints of all pods, and the Service's traffic fields."""
        endpoints = frozenset(
            Endpoint(
                uid=pod.uid or f"uid-{pod.name}",
                pod=pod.name,
                address=pod.address.ip,
                node=pod.node,
                ready=pod.ready,
                serving=pod.serving,
                terminating=pod.terminating,
            )
            for pod in self.pods.values()
        )
        spec = (("externalTrafficPolicy", self.policy.value), ("sessionAffinity", self.affinity.value))
        return PoolSnapshot(endpoints, spec)

    # --- commands: flow tables ---------------------------------------------------------------------------------------

    def flush_flows(self, node: str) -> tuple[TransportAddress, ...]:
        """Empty a node's flow table and return the flows that it held; its ClientIP affinity stays."""
        flows = tuple(self.nodes[node].entries)
        self.nodes[node].entries = {}
        return flows

    @property
    def may_change_ip(self) -> bool:
        """True if a flow shows another IP of its node where it meets another pod: its nodes have two."""
        return any(node.bridge_ip for node in self.nodes.values())

    def entry_of(self, flow: TransportAddress) -> Entry | None:
        """Return the entry of a flow at the node to which its next packet goes."""
        name = self.ingress.node_of(flow)
        return None if name is None else self.nodes[name].entries.get(flow)

    def rewrite_port(self, flow: TransportAddress, now_ns: int) -> bool:
        """Give a flow another source port on its node, and nothing else; False when its node holds no entry of it."""
        entry = self.entry_of(flow)
        return entry is not None and self.rewrite_source(flow, entry.source.ip, now_ns)

    def rewrite_source(self, flow: TransportAddress, ip: str, now_ns: int) -> bool:
        """Give a flow any free port of this address as its source; False when its node holds no entry of it."""
        return self.entry_of(flow) is not None and self.set_source(flow, self.sources.draw(ip), now_ns)

    def remap(self, flow: TransportAddress, ip: str) -> None:
        """Give a flow a new mapping at the client's NAT, a port of this address: to balancer, nodes and pods it is new."""
        state = self.flows[flow]
        self._remapped += 1
        state.number = _REMAPPED + self._remapped  # its hash and its draws are as those of any new source
        state.entry, state.mapped_ip = None, ip
        self.ingress.forget(flow)
        for node in self.nodes.values():
            node.entries.pop(flow, None)

    def set_source(self, flow: TransportAddress, source: TransportAddress, now_ns: int) -> bool:
        """Give a flow this source, which another flow may have too; False when its node holds no entry of it."""
        entry = self.entry_of(flow)
        if entry is None:
            return False
        self._add_entry(self._node(flow), flow, entry.pod, now_ns, source)
        return True

    def send_to(self, flow: TransportAddress, pod: Pod, now_ns: int) -> None:
        """Give a flow a new entry to this pod at its node, as a proxy that hashes over pods does."""
        self._add_entry(self._node(flow), flow, pod, now_ns)

    def share_source(self, taker: TransportAddress, owner: TransportAddress, now_ns: int) -> None:
        """Give `taker` the source address that `owner` has at the same pod and node: replies to both go to the taker.

        Raises `ValueError` unless both have entries there.
        """
        mine, theirs = self.entry_of(taker), self.entry_of(owner)
        same_node = self.ingress.node_of(taker) == self.ingress.node_of(owner)
        if not same_node or mine is None or theirs is None or mine.pod.name != theirs.pod.name:
            raise ValueError("the two flows do not meet at one pod and node")

        self.set_source(taker, theirs.source, now_ns)
        self.shared_sources.add(theirs.source)

    def part_source(self, taker: TransportAddress, owner: TransportAddress, now_ns: int) -> None:
        """End `share_source`: the owner's replies come back to it, and the taker gets a port of its own."""
        theirs = self.entry_of(owner)
        if theirs is not None:
            self.shared_sources.discard(theirs.source)
            self.rewrite_port(taker, now_ns)
            self._replies[theirs.source, theirs.pod.address] = theirs

    # --- inside ------------------------------------------------------------------------------------------------------

    def _node(self, flow: TransportAddress) -> Node:
        name = self.ingress.node_of(flow)
        assert name is not None, "it has an entry, so it has a node"
        return self.nodes[name]

    def _is_masqueraded(self, source: TransportAddress) -> bool:
        return any(source.ip in {node.ip, node.bridge_ip} for node in self.nodes.values())

    def _is_alive(self, entry: Entry, now_ns: int) -> bool:
        """True until an entry is idle for its time, which is a stream's after traffic both ways for two seconds."""
        is_stream = entry.is_replied and entry.last_ns - entry.since_ns > STREAM_AFTER_NS
        idle_ns = self.stream_ns if is_stream and self.stream_ns is not None else self.idle_ns
        return now_ns - entry.last_ns <= idle_ns

    def _drop(self, flow: TransportAddress, now_ns: int, reason: str) -> None:
        self._log(Dropped(flow, now_ns, Direction.UP, reason))

    def _live_entry(self, node: Node, flow: TransportAddress, state: Flow, now_ns: int) -> Entry | None:
        """Return the node's entry of a flow, a new one if it has none that is alive; None without a pod for it."""
        entry = node.entries.get(flow)
        if entry is not None and self._is_alive(entry, now_ns) and not self.limit.ends(entry, now_ns):
            return entry

        pod = self._choose_pod(node, flow, state, now_ns)
        return None if pod is None else self._add_entry(node, flow, pod, now_ns)

    def _backends(self, node: Node) -> list[Pod]:
        """Return where a node may send new flows: ready pods, else those that serve while they terminate (KEP-1669)."""
        pods = [pod for pod in self.pods.values() if self.policy is Policy.CLUSTER or pod.node == node.name]
        return [pod for pod in pods if pod.ready] or [pod for pod in pods if pod.serving and pod.terminating]

    def _choose_pod(self, node: Node, flow: TransportAddress, state: Flow, now_ns: int) -> Pod | None:
        """Choose a pod for a new entry."""
        pods = self._backends(node)
        if not pods:
            return None

        if self.affinity is Affinity.CLIENT_IP and flow.ip in node.clients:
            name, used_ns = node.clients[flow.ip]
            for pod in pods:
                if pod.name == name and now_ns - used_ns <= self.affinity_ns:
                    return pod

        # Drawn by name, not from a sequence: which flow's packet comes first after a fault is the scheduler's whim.
        state.draws += 1
        return pods[int(draw(self._seed, "pod", node.name, state.number, state.draws) * len(pods))]

    def _schedule_packet(self, node: Node, flow: TransportAddress, state: Flow, entry: Entry, now_ns: int) -> Entry:
        """Choose the way of one packet without a flow table: any pod, which sees the source that the flow has."""
        pods = self._backends(node)
        pod = pods[int(draw(self._seed, "packet", state.number, state.packets) * len(pods))] if pods else entry.pod
        if pod.name == entry.pod.name:
            return entry

        key = (entry.source, pod.address)
        if key not in self._replies:
            self._replies[key] = Entry(flow=flow, pod=pod, source=entry.source, last_ns=now_ns, direct=True)
        return self._replies[key]

    def _add_entry(
        self, node: Node, flow: TransportAddress, pod: Pod, now_ns: int, source: TransportAddress | None = None
    ) -> Entry:
        """Enter a flow into a node's table, with a source of its own unless one is given."""
        if source is None and self.policy is Policy.CLUSTER:
            source = self.sources.draw(node.source_ip(pod))
        elif source is None:
            newest, mapped_ip = self.flows[flow].entry, self.flows[flow].mapped_ip
            if newest is None and mapped_ip:
                source = self.sources.draw(mapped_ip)
            else:
                # A source that a masquerade gave it, before the policy changed, is not the client's.
                is_own = newest is not None and not self._is_masqueraded(newest.source)
                source = self.sources.of_client(flow, newest.source if newest is not None and is_own else None)

        entry = Entry(flow=flow, pod=pod, source=source, last_ns=now_ns, since_ns=now_ns)
        node.entries[flow] = entry
        self._replies[source, pod.address] = entry
        return entry
