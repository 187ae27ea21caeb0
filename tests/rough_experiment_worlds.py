"""Random experiments in rougher clusters, with their truth; see `experiment_worlds`.

Overlays hide ingress nodes behind addresses that no node has. Pods come back under their name. Meanwhile an autoscaler takes
a node with its pods, whose address another node may get; a pod stops serving for a moment; the watch breaks off and lists
anew; or somebody deletes a pod. A drained node comes back, and a balancer gives it some of its flows again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ActionRemoved,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    NodeAddresses,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from experiment_worlds import ROLLBACK, SETTLE, Flow, Pod, S, World

FLAP = 2 * S


@dataclass(slots=True, eq=False)
class NamedPod(Pod):
    """A pod that may have the name of one before it."""

    generation: int = 0

    @property
    def uid(self) -> str:
        return f"uid-{self.name}-{self.generation}"


@dataclass
class RoughWorld(World):
    """One experiment in a rougher cluster."""

    overlay: bool = False
    """Pods see the address of the ingress node's tunnel, which is none of the node's own."""
    stateful: bool = False
    """A pod that was deleted comes back under its name."""
    autoscaler: bool = False
    """A node leaves with its pods, by another cause."""
    readdressed: bool = False
    """Its address is given to a new node."""
    flap: bool = False
    """A pod stops serving for a moment, by another cause."""
    gap: bool = False
    """The watch breaks off, and lists anew."""

    def __post_init__(self) -> None:
        self.broken_off = False
        self.drained = ""
        self.rogues: dict[str, tuple[Flow, Flow]] = {}
        """By session, where it was before and after it moved needlessly."""
        self.hidden: set[str] = set()
        """Sessions that moved needlessly just after another move."""
        self.moved_at: dict[str, int] = {}
        """By session, when it moved last."""
        self.flapped: dict[str, int] = {}
        """By pod's name, when it served again."""
        super().__post_init__()

    # --- the cluster ---------------------------------------------------------------------------------------------------

    def _flow(self, number: int, besides: Pod | None = None) -> Flow:
        flow = super()._flow(number, besides)
        if self.overlay and flow.seen.ip.startswith("10.0.0."):
            flow.seen = TransportAddress(f"10.244.{flow.ingress[1:]}.0", flow.seen.port)
        return flow

    def _join(self, node: str = "n1", name: str = "") -> None:
        if name and name not in self.endpoints:
            pod = NamedPod(name, node, generation=len(self.pods))
            self.pods.append(pod)
            self.endpoints[name] = self._endpoint(pod)
            self._changed()
        else:
            super()._join(node)

    def _seen_by(self, flow: Flow) -> Identity:  # type: ignore[override]
        pod = flow.pod
        return Identity(flow.seen, pod.name, pod.node, pod.uid.encode())

    def _ready(self) -> list[Pod]:
        """Return who is ready; of several pods of a name the newest alone may be."""
        return [pod for pod in super()._ready() if self.endpoints[pod.name].uid == pod.uid]

    @property
    def needless(self) -> set[str]:
        """The sessions that moved needlessly, and that neither left nor came to a pod or node that went away later.

        Of these a lost probe may hide the needless move behind the other.
        """
        return {
            name
            for name, flows in self.rogues.items()
            if all(
                flow.pod.name not in self.leaving and flow.ingress not in self.going | {self.drained} for flow in flows
            )
        } | {name for name in self.moved_needlessly if name not in self.rogues} - self.hidden

    def _move(self, number: int) -> None:
        self.moved_at[self.name_of(number)] = self.now
        super()._move(number)

    # --- what happens --------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        if self.name == "node-drain":
            self._drain()
        else:
            super()._act()
        rng, now = self.rng, self.now
        if self.stateful and self.name in {"pod-delete", "pod-kill"}:
            gone = next(pod for pod in self.pods if pod.name in self.leaving)
            self._later(now + 9 * S, lambda: self._join(gone.node, gone.name))
        if self.autoscaler:
            self._later(rng.randrange(now + S, ROLLBACK - 4 * S), self._scale_node_down)
        if self.flap:
            others = [pod for pod in self.pods if pod.name not in self.leaving]
            if others:
                self._flap(rng.choice(others))
        if self.gap:
            self._later(rng.randrange(now + S, ROLLBACK), self._break_off)

    def _drain(self) -> None:
        node = self.drained = self.rng.choice(self.nodes)
        pods = [pod for pod in self.pods if pod.node == node]
        self._tell_now(ActionRemoved(self.now, tuple(pod.uid for pod in pods), (node,)))
        for number, pod in enumerate(pods):
            self.leaving.add(pod.name)
            self._later(self.now + number * S, lambda pod=pod: self._delete(pod, S))  # type: ignore[misc]
            self._later(
                self.now + number * S + S, lambda: self._join(self.rng.choice([n for n in self.nodes if n != node]))
            )
        if self.via != "load-balancer":
            return
        self.going.add(node)
        self.nodes.remove(node)
        self._move_from(node)
        self._later(ROLLBACK + S, self._uncordon)

    def _uncordon(self) -> None:
        self.nodes.append(self.drained)
        for number, (_, ingress) in enumerate(self.homes):
            if ingress == self.drained and self.rng.random() < 0.5 and not self.flows[number].stuck:
                flow = self.flows[number]
                by_node = TransportAddress(f"10.0.0.{ingress[1:]}", self.rng.randrange(1024, 65536))
                if self.policy == "Cluster":
                    pod = flow.pod if flow.pod in self._ready() else self.rng.choice(self._ready())
                    seen = replace_ip(by_node, f"10.244.{ingress[1:]}.0") if self.overlay else by_node
                    self.flows[number] = Flow(pod, ingress, seen)

    def _move_from(self, node: str) -> None:
        for number, flow in enumerate(self.flows):
            if flow.ingress == node:
                self._move_soon(number)

    def _scale_node_down(self) -> None:
        others = [node for node in self.nodes if node not in self.going and node != self.drained]
        if len(self.nodes) < 3 or not others:
            return
        node = self.rng.choice(others)
        if len({pod.node for pod in self._ready()} - {node}) < 2:
            return
        self.going.add(node)
        for pod in [pod for pod in self._ready() if pod.node == node and pod.name not in self.leaving]:
            self._delete(pod, 0, counts=False)
        self.nodes.remove(node)
        at = max(self.heard, self.now)
        self._tell(ClusterEvent(at, ClusterSubject.NODE, node, ClusterAction.REMOVED))
        self._move_from(node)
        if self.readdressed:
            self._later(self.now + 3 * S, lambda: self._add_node(node))

    def _add_node(self, node: str) -> None:
        names = {f"10.0.0.{each[1:]}": each for each in self.nodes} | {f"10.0.0.{node[1:]}": f"n9{node[1:]}"}
        self.heard = max(self.heard, self.now)
        self._tell(NodeAddresses(self.heard, tuple(sorted(names.items()))))

    def _flap(self, pod: Pod) -> None:
        def stop() -> None:
            self.endpoints[pod.name] = replace(self.endpoints[pod.name], ready=False, serving=False)
            self._changed()
            for number in self.at(pod):
                self._move(number)

        def back() -> None:
            self.endpoints[pod.name] = replace(self.endpoints[pod.name], ready=True, serving=True)
            self.flapped[pod.name] = self.now
            self.going.discard(pod.name)
            self.leaving.discard(pod.name)
            self._changed()

        self.leaving.add(pod.name)
        if self.rng.random() < 0.5:  # long enough for flows to be moved, or not
            self._later(self.now + S, stop)
        else:
            self._later(self.now + S, lambda: None)
        self._later(self.now + S + FLAP, lambda: back() if pod.name in self.endpoints else None)
        self._later(self.now + S + FLAP + SETTLE + 3 * S, lambda: self._leave_needlessly(pod))

    def _leave_needlessly(self, pod: Pod) -> None:
        """Let one session leave a pod that has long served again."""
        for number in self.at(pod)[:1]:
            flow = self.flows[number]
            if self.rogue and flow.ingress not in self.going and pod.name not in self.leaving and not flow.stuck:
                moved_at = self.moved_at.get(self.name_of(number), 0)
                self.moved_needlessly.add(self.name_of(number))
                self._move(number)
                self._note_needless(number, flow, moved_at)

    def _go_rogue(self) -> None:
        before, flows, moved_at = set(self.moved_needlessly), list(self.flows), dict(self.moved_at)
        super()._go_rogue()
        for name in self.moved_needlessly - before:
            number = int(name.removeprefix("CLIENT-"))
            self._note_needless(number, flows[number], moved_at.get(name, 0))

    def _note_needless(self, number: int, before: Flow, moved_at: int) -> None:
        """Note a needless move; lost probes may hide it where the session had moved just before."""
        name = self.name_of(number)
        if self.now - moved_at >= 4 * S:
            self.rogues[name] = before, self.flows[number]
        else:
            self.hidden.add(name)

    def _break_off(self) -> None:
        self.broken_off = self.watched
        since, at = self.asked, max(self.heard, self.now)
        if self.watched:
            self._tell(PoolUnobserved(at, since, "410 Gone"))
            self.heard = at + S
            self._later(self.now + S, self._list_anew)

    def _list_anew(self) -> None:
        self.heard = max(self.heard, self.now)
        snapshot = PoolSnapshot(frozenset(self.endpoints.values()), self._spec())
        self._tell(PoolObserved(self.heard, self.asked, self.heard, snapshot, self.now))

    @staticmethod
    def _endpoint(pod: Pod) -> Endpoint:
        return Endpoint(pod.uid, pod.name, f"10.1.0.{pod.name[1:]}", pod.node)


def replace_ip(address: TransportAddress, ip: str) -> TransportAddress:
    return TransportAddress(ip, address.port)
