"""Faults and ordinary life of pods: deleted, terminating, restarted, added, rolled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import (
    AVOIDABLE,
    BROKEN,
    EXPLAINED,
    FOREVER_NS,
    LOST,
    MOVED,
    UNAVOIDABLE,
    Bench,
    Deal,
    Effect,
    Family,
    Fault,
    Judged,
    Sign,
    counted,
    marks,
)
from affinity_tester.lab.parameter import (
    COUNT,
    SHARE_OR_0,
    TIME,
    YES,
    parameter,
    read_count,
    read_share_or_0,
    read_time,
    read_yes,
)
from affinity_tester.settings import format_duration

SHORTEST_SYNC_NS, LONGEST_SYNC_NS = 300_000_000, 1_600_000_000
"""From an endpoint's leaving until a node's proxy has cleaned its entries, as measured."""


def busiest_pod(bench: Bench) -> tuple[str, list[TransportAddress]]:
    """The pod with the most flows, and these."""
    held = bench.flows_by_pod()
    name = max(bench.path.pods, key=lambda name: len(held.get(name, ())))
    flows = held.get(name, [])
    bench.touch(flows, Family.WAY)
    return name, flows


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleFlow(Fault):
    """A pod is deleted, and the proxies keep the entries of its flows.

    The change of the pool explains their silence for the settle time, and not for ever.
    """

    name = "stale-flow"
    expects = "the flows of the deleted pod: all probes lost from then on, while a fresh source port is answered"
    moves_pool = True

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Delete the pod with the most flows, and flush nothing."""
        name, flows = busiest_pod(bench)
        bench.path.remove_pod(name, flush=False)
        bench.stage.play(bench.stage.kill_pod(name))
        bench.path.dead.add(name)
        return Deal(
            f'pod "{name}" is deleted, and the entries of {counted(len(flows), "flow")} stay',
            FOREVER_NS,
            tuple(Effect(flow, marks(Sign.OUTAGE, Sign.LOSS_UP), LOST, silent=BROKEN) for flow in flows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminatingBackend(Fault):
    """A pod terminates and closes its socket, and traffic goes on to it until it leaves the pool."""

    name = "terminating-backend"
    expects = "the flows of the terminating pod: upstream loss until it leaves the pool, then another pod"
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "from the closed socket to the removal", key="for", default=3_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let the pod with the most flows terminate."""
        name, flows = busiest_pod(bench)
        bench.path.set_conditions(name, ready=False, serving=True, terminating=True)
        bench.path.dead.add(name)
        bench.stage.play(self._end(bench, name))
        must = marks(Sign.LOSS_UP, Kind.POD)
        return Deal(
            f'pod "{name}" terminates and closes its socket {format_duration(self.for_ns)} before it leaves the pool: '
            f"{counted(len(flows), 'flow')}",
            now_ns + self.for_ns,
            tuple(
                Effect(flow, must, MOVED | LOST | {Sign.OUTAGE}, EXPLAINED, frozenset({Judgement.EXPLAINED}))
                for flow in flows
            ),
        )

    async def _end(self, bench: Bench, name: str) -> None:
        await bench.stage.kill_pod(name)
        await bench.stage.wait(self.for_ns)
        bench.path.remove_pod(name)
        bench.stage.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyFlush(Fault):
    """Flows are taken from a pod that terminates and still serves."""

    name = "early-flush"
    expects = "the flows of the terminating pod: another pod at once, though it still serves; no loss"
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "how long the pod still serves", key="for", default=5_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let the pod with the most flows terminate, and flush its entries."""
        name, flows = busiest_pod(bench)
        bench.path.set_conditions(name, ready=False, serving=True, terminating=True)
        bench.path.flush_pod(name)
        bench.stage.play(self._end(bench, name))
        return Deal(
            f'pod "{name}" terminates, still serving, and {counted(len(flows), "flow")} are taken from it',
            now_ns,
            tuple(Effect(flow, marks(Kind.POD), MOVED, AVOIDABLE) for flow in flows),
        )

    async def _end(self, bench: Bench, name: str) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.remove_pod(name)
        bench.stage.look()
        await bench.stage.kill_pod(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRestart(Fault):
    """A pod's container ends and starts again under the same name and address."""

    name = "pod-restart"
    expects = "the flows of the pod: some loss, then the same pod with a new instance"

    gap_ns: int = parameter(read_time, TIME, "how long its socket is closed", key="gap", default=500_000_000)

    @property
    def lasts_ns(self) -> int:
        """Until it answers again."""
        return self.gap_ns

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Restart the pod with the most flows."""
        name, flows = busiest_pod(bench)
        bench.path.dead.add(name)
        bench.stage.play(self._again(bench, name))
        judged = Judged(Judgement.POD_RESTART)
        return Deal(
            f'the container of pod "{name}" restarts within {format_duration(self.gap_ns)}: {counted(len(flows), "flow")}',
            now_ns + self.gap_ns,
            tuple(Effect(flow, marks(Kind.INSTANCE, Sign.LOSS_UP), LOST, judged) for flow in flows),
        )

    async def _again(self, bench: Bench, name: str) -> None:
        stage = bench.stage
        await stage.kill_pod(name)
        await stage.wait(self.gap_ns)
        await stage.restart_pod(name)
        bench.tell("pod", name, f'restarted on node "{bench.path.pods[name].node}"')
        stage.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAdded(Fault):
    """A pod joins the pool; a proxy that hashes over pods (as IPVS or Maglev do) moves a share of the flows to it."""

    name = "pod-added"
    expects = "the moved flows: the new pod (kube-proxy moves none); no loss"
    control = True
    moves_pool = True

    fraction: float = parameter(read_share_or_0, SHARE_OR_0, "share of the flows that move to it", default=0.0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Start a pod, and move flows to it when it is there."""
        count = math.floor(self.fraction * len(bench.flows) + 0.5)
        flows = bench.choose(count, Family.WAY, self.name, number) if count else ()
        hosts = [pod.node for pod in bench.path.pods.values()]
        node = min((node.name for node in bench.path.nodes.values() if node.hashed), key=hosts.count)
        bench.stage.play(self._join(bench, node, flows))
        must = marks(Kind.POD, Kind.INSTANCE)
        return Deal(
            f'a pod joins the pool on node "{node}", and {counted(len(flows), "flow")} move to it',
            now_ns,
            tuple(Effect(flow, must, MOVED, AVOIDABLE) for flow in flows),
            quiet=not flows,
        )

    async def _join(self, bench: Bench, node: str, flows: tuple[TransportAddress, ...]) -> None:
        pod = await bench.stage.start_pod(node)
        for flow in flows:
            bench.path.send_to(flow, pod, bench.now_ns())


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDeleted(Fault):
    """A pod is deleted: it terminates and leaves the pool, and its flows move, after the loss that real proxies cause."""

    name = "pod-deleted"
    expects = "the flows of the pod: some loss, then another pod"
    control = True
    also = frozenset({"terminating-backend"})
    moves_pool = True

    gap_ns: int = parameter(
        read_time, TIME, "from the closed socket until its flows move", key="gap", default=1_200_000_000
    )

    @property
    def lasts_ns(self) -> int:
        """Until its flows move."""
        return self.gap_ns

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Delete the pod with the most flows."""
        name, flows = busiest_pod(bench)
        bench.path.set_conditions(name, ready=False, serving=False, terminating=True)
        bench.path.dead.add(name)
        bench.stage.play(self._end(bench, name))
        return Deal(
            f'pod "{name}" is deleted, and {counted(len(flows), "flow")} move {format_duration(self.gap_ns)} later',
            now_ns + self.gap_ns,
            tuple(Effect(flow, marks(Kind.POD), MOVED | LOST, UNAVOIDABLE) for flow in flows),
        )

    async def _end(self, bench: Bench, name: str) -> None:
        await bench.stage.kill_pod(name)
        await bench.stage.wait(self.gap_ns)
        bench.path.remove_pod(name)
        bench.stage.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingUpdate(Fault):
    """Every pod is replaced, one after the other: a new one joins, then an old one drains and leaves.

    Flows on a terminating pod stay until its endpoint leaves, and then lose 0.3 to 1.6 s, until the proxy of their node has
    cleaned its entries (docs/failure-modes.md#measured).
    """

    name = "rolling-update"
    expects = "every flow: other pods, as old ones leave; no loss, or some until the proxies have followed"
    control = True
    also = frozenset({"terminating-backend"})
    moves_pool = True

    every_ns: int = parameter(read_time, TIME, "from one pod to the next", key="every", default=1_000_000_000)
    pods: int = parameter(read_count, COUNT, "how many pods the plan has", default=3)
    lossy: bool = parameter(read_yes, YES, "whether each proxy takes its time to follow, 0.3 to 1.6 s", default=False)

    @property
    def lasts_ns(self) -> int:
        """Until the last old pod left, and the last proxy followed."""
        return self.every_ns * self.pods + (LONGEST_SYNC_NS if self.lossy else 0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Begin to roll."""
        names = list(bench.path.pods)
        bench.stage.play(self._roll(bench, names, number))
        losses = LOST if self.lossy else marks()
        return Deal(
            f"{counted(len(names), 'pod')} are replaced, one every {format_duration(self.every_ns)}"
            + (", and each proxy follows after 0.3 to 1.6 s" if self.lossy else ""),
            now_ns + self.lasts_ns,
            tuple(Effect(flow, marks(Kind.POD), MOVED | losses, EXPLAINED) for flow in bench.flows),
        )

    async def _roll(self, bench: Bench, names: list[str], number: int) -> None:
        stage = bench.stage
        for name in names:
            await stage.start_pod(bench.path.pods[name].node)
            bench.path.set_conditions(name, ready=False, serving=True, terminating=True)
            stage.look()
            await stage.wait(self.every_ns)
            if self.lossy:
                bench.path.dead.add(name)
            bench.path.remove_pod(name, flush=not self.lossy)
            stage.look()
            await stage.kill_pod(name)
            if self.lossy:
                rng = bench.rng(self.name, number, name)
                for node in bench.path.nodes:
                    stage.play(self._follow(bench, node, name, rng.randint(SHORTEST_SYNC_NS, LONGEST_SYNC_NS)))

    async def _follow(self, bench: Bench, node: str, name: str, after_ns: int) -> None:
        await bench.stage.wait(after_ns)
        bench.path.flush_pod(name, at=node)
