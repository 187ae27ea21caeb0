"""Pods that are silent, with their endpoints' news late or never: no affinity keeps a flow on a dead pod.

No session of a silent pod may be called a violation. What real clusters do, and where that is known from, stands with each.
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.deeds import Direction
from affinity_tester.lab.fault import (
    EXPLAINED,
    FOREVER_NS,
    LOST,
    MOVED,
    OUTAGE_NS,
    Bench,
    Deal,
    Effect,
    Family,
    Fault,
    Sign,
    counted,
    marks,
)
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.mangle import Rule
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.lab.parts import Policy
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS, format_duration

SILENT = frozenset({Judgement.POD_SILENT, Judgement.UNKNOWN})
"""What the outages of a pod in the pool that answers nobody are judged."""

GONE = frozenset({Judgement.EXPLAINED, Judgement.POD_SILENT, Judgement.UNKNOWN})
"""The same, of a pod that leaves the pool later."""

LIVES = frozenset({Judgement.EXPLAINED, Judgement.VIOLATION, Judgement.UNKNOWN})
"""The same, of a flow whose pod lives and whose way is dead: a break, unless the pool's change explains it."""

SYNC_NS = 300_000_000
"""From a change of the pool until the proxies have cleaned the entries: 0.3 s or more (docs/failure-modes.md#measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HungPod(Fault):
    """A pod hangs: its socket is open and answers nobody, and its endpoint is ready all the while.

    A readiness probe of another port, or none, does not notice a hung UDP server; no proxy takes the flows from it.
    """

    name = "hung-pod"
    catalogued = "pod-silent"
    expects = "the flows of the pod: an outage, while canaries meet other pods; the same pod again if it recovers"
    control = True

    for_ns: int = parameter(read_time, TIME, "how long; left out: to the end of the run", key="for", default=0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let the pod with the most flows hang."""
        name, flows = busiest_pod(bench)
        bench.path.dead.add(name)
        if self.for_ns:
            bench.stage.play(self._recover(bench, name))
        told = marks(Sign.OUTAGE) if not self.for_ns or self.for_ns > OUTAGE_NS else marks()
        may = LOST | {Sign.OUTAGE}
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"
        return Deal(
            f'pod "{name}" hangs {how_long}, and its endpoint stays ready: {counted(len(flows), "flow")}',
            now_ns + self.for_ns if self.for_ns else FOREVER_NS,
            tuple(Effect(flow, told | {Sign.LOSS_UP}, may, silent=SILENT) for flow in flows),
        )

    async def _recover(self, bench: Bench, name: str) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.dead.discard(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesHeld(Fault):
    """All replies wait, canaries' too, and then they come all at once: late ones, and behind them those in time.

    Pods that are frozen and thawed do so (the cgroup freezer of `docker pause`, a virtual machine that stands still in its
    live migration): the kernel keeps what arrives at the socket; so does a radio link that buffers while it has no signal.
    """

    name = "replies-held"
    expects = (
        "all sessions and canaries unanswered together; then late replies, and the same pods and addresses as before"
    )
    control = True
    also = frozenset({"lb-churn"})

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=8 * 10**9)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Hold back every reply for a time."""
        until_ns = now_ns + self.for_ns
        bench.mangler.add(
            Rule(
                direction=Direction.DOWN,
                flows=None,
                until_ns=until_ns,
                rng=bench.rng(self.name, number),
                hold=True,
                reason="held-back",
            )
        )
        may = marks(Sign.LOSS_UNTOLD, Sign.REORDERING)
        return Deal(
            f"all replies wait for {format_duration(self.for_ns)}, and come at once then",
            until_ns,
            tuple(Effect(flow, marks(Sign.LOSS_DOWN), may) for flow in bench.flows),
            dark_ns=max(0, self.for_ns - DEFAULT_LOSS_THRESHOLD_NS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown(Fault):
    """A node with pods loses its power; the API server notices late, and the balancer in its own time.

    The node controller calls a dead node NotReady only after 40 to 50 s (`--node-monitor-grace-period`), and its pods'
    endpoints lose ready and serving with it; then the proxies of the other nodes clean their entries. The balancer sends to
    the node until its check has failed three times, and to no end of the run again: the check needs long to pass.
    """

    name = "node-down"
    expects = "the flows of its pods and those that enter by it: an outage, then another pod, or another node, or both"
    control = True
    also = frozenset({"pod-silent", "dead-target"})
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "how long the node is off", key="for", default=60 * 10**9)
    notice_ns: int = parameter(
        read_time, TIME, "after which its endpoints are no longer ready", key="notice", default=50 * 10**9
    )
    drain_ns: int = parameter(
        read_time, TIME, "after which the balancer leaves it out", key="drain", default=35 * 10**9
    )

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Take the power from a node with pods: one that is no ingress where there is such a one, else the busiest."""
        path = bench.path
        held = bench.flows_by_pod()
        hosts = {node: [pod.name for pod in path.pods.values() if pod.node == node] for node in path.nodes}
        able = [name for name, pods in hosts.items() if pods]
        outside = [name for name in able if not path.nodes[name].hashed]
        name = max(outside or able, key=lambda node: sum(len(held.get(pod, ())) for pod in hosts[node]))
        pods = hosts[name]
        served = [flow for pod in pods for flow in held.get(pod, ())]
        entering = [flow for flow in bench.flows if path.node_of(flow) == name and flow not in served]
        bench.touch([*served, *entering], Family.WAY)
        path.off.add(name)
        path.dead.update(pods)
        bench.stage.play(self._go_on(bench, name, pods))
        must = marks(Sign.OUTAGE, Sign.LOSS_UP)
        may = MOVED | LOST
        return Deal(
            f'node "{name}" is off for {format_duration(self.for_ns)}: {counted(len(pods), "pod")} with '
            f"{counted(len(served), 'flow')}, and {counted(len(entering), 'flow')} more that enter by it",
            now_ns + self.for_ns,
            (
                *(Effect(flow, must, may, silent=GONE) for flow in served),
                *(Effect(flow, marks(Sign.LOSS_UP), may | {Sign.OUTAGE}, silent=LIVES) for flow in entering),
            ),
        )

    async def _go_on(self, bench: Bench, name: str, pods: list[str]) -> None:
        stage = bench.stage
        for pod in pods:
            await stage.kill_pod(pod)
        steps = sorted(
            [(self.drain_ns, self._drain), (self.notice_ns, self._notice), (self.for_ns, self._come_back)],
            key=lambda step: step[0],
        )
        passed_ns = 0
        for at_ns, step in steps:
            await stage.wait(at_ns - passed_ns)
            passed_ns = at_ns
            await step(bench, name, pods)

    async def _drain(self, bench: Bench, name: str, _pods: list[str]) -> None:
        if bench.path.nodes[name].hashed:
            bench.path.leave_hash(name)

    async def _notice(self, bench: Bench, name: str, pods: list[str]) -> None:
        for pod in pods:
            bench.path.set_conditions(pod, ready=False, serving=False)
        bench.tell("node", name, "not Ready")
        bench.stage.look()
        await bench.stage.wait(SYNC_NS)
        for pod in pods:
            bench.path.flush_pod(pod)

    async def _come_back(self, bench: Bench, name: str, pods: list[str]) -> None:
        for node_pod in pods:
            await bench.stage.restart_pod(node_pod)
            bench.path.set_conditions(node_pod, ready=True, serving=True)
        bench.path.flush_flows(name)
        bench.path.off.discard(name)
        bench.tell("node", name, "Ready")
        bench.stage.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class LateCheck(Fault):
    """Policy Local: a node's last pod leaves, and the balancer sends to the node until its check has failed three times.

    The service's health check node port fails as soon as the node has no ready pod (pkg/proxy/healthcheck); a cloud's
    balancer asks every 10 s or so, and believes the third failure. To a client it looks like a flow entry that has stayed.
    """

    name = "late-check"
    expects = "the flows of the node: an outage until the balancer leaves the node out, then another pod and node"
    control = True
    also = frozenset({"local-policy", "stale-flow"})
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster a node without a pod sends to another's"
    moves_pool = True

    drain_ns: int = parameter(
        read_time, TIME, "after which the balancer leaves the node out", key="drain", default=30 * 10**9
    )

    @property
    def lasts_ns(self) -> int:
        """Until the balancer leaves the node out."""
        return self.drain_ns

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Delete all pods of the node whose pod has the most flows."""
        path = bench.path
        busiest, _ = busiest_pod(bench)
        node = path.pods[busiest].node
        pods = [pod.name for pod in path.pods.values() if pod.node == node]
        flows = [flow for flow in bench.flows if path.node_of(flow) == node]
        bench.touch(flows, Family.WAY)
        for name in pods:
            path.dead.add(name)
            path.remove_pod(name)
        bench.stage.play(self._end(bench, node, pods))
        told = marks(Sign.OUTAGE) if self.drain_ns > OUTAGE_NS else marks()
        must = marks(Sign.LOSS_UP, Kind.POD)
        return Deal(
            f'{counted(len(pods), "pod")} of node "{node}" leave the pool, and the balancer sends '
            f"{counted(len(flows), 'flow')} there for {format_duration(self.drain_ns)}",
            now_ns + self.drain_ns,
            tuple(
                Effect(flow, must | told, MOVED | LOST | {Sign.OUTAGE}, EXPLAINED, frozenset({Judgement.EXPLAINED}))
                for flow in flows
            ),
        )

    async def _end(self, bench: Bench, node: str, pods: list[str]) -> None:
        for name in pods:
            await bench.stage.kill_pod(name)
        await bench.stage.wait(self.drain_ns)
        bench.path.leave_hash(node)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledToZero(Fault):
    """Every pod leaves the pool, and new ones come after a time: there is nothing that could answer.

    The proxies refuse what comes to a Service without endpoints; behind a balancer the client mostly hears nothing.
    """

    name = "scaled-to-zero"
    expects = "all sessions and canaries unanswered together, and then other pods"
    control = True
    also = frozenset({"pod-deleted"})
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "how long no pod is there", key="for", default=8 * 10**9)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Delete every pod."""
        path = bench.path
        flows: tuple[TransportAddress, ...] = bench.flows
        bench.touch(flows, Family.WAY)
        nodes = []
        pods = list(path.pods)
        for name in pods:
            nodes.append(path.pods[name].node)
            path.dead.add(name)
            path.remove_pod(name)
        bench.stage.play(self._refill(bench, pods, nodes))
        return Deal(
            f"all {counted(len(pods), 'pod')} leave the pool, and as many new ones come {format_duration(self.for_ns)} later",
            now_ns + self.for_ns,
            tuple(Effect(flow, marks(Sign.LOSS_UP, Kind.POD), MOVED | LOST, EXPLAINED) for flow in flows),
            dark_ns=self.for_ns,
        )

    async def _refill(self, bench: Bench, pods: list[str], nodes: list[str]) -> None:
        for name in pods:
            await bench.stage.kill_pod(name)
        await bench.stage.wait(self.for_ns)
        for node in nodes:
            await bench.stage.start_pod(node)
