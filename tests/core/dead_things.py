"""One thing dies in a network that hashes flows over ingress nodes, ports and pods on nodes: what is right to call it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from diagnosing import Action, World

from affinity_tester.core.events import Certainty, ClusterAction, ClusterSubject

LIKELY, POSSIBLE = Certainty.LIKELY, Certainty.POSSIBLE


@dataclass(frozen=True)
class Death:
    """A thing that dies, and what is right to call it."""

    right: frozenset[str]
    """One of these, or all."""
    kill: Callable[[World, random.Random], None]
    from_start: bool = False
    """It is dead before the first probe."""


def _some_entries(w: World, rng: random.Random) -> None:
    w.block(*rng.sample(range(w.sessions), rng.randint(1, w.sessions // 2)))


def _entries_of_a_node(w: World, rng: random.Random) -> None:
    """Only the node's present flows: as after a takeover with stale state."""
    node = rng.randint(1, w.nodes)
    w.block(*(s for s in range(w.sessions) if w.node_of(s) == node))


def _bucket(w: World, rng: random.Random) -> None:
    """One member of a bundle, that has one session at least."""
    lowest = min(w.network.port_hash(w.flow(session)) for session in range(w.sessions))
    shares = [share for share in (1 / 2, 1 / 3, 1 / 4, 1 / 8) if share > lowest]
    w.network.dead_below = rng.choice(shares or [lowest + 1e-9])


def _cell(w: World, rng: random.Random) -> tuple[str, str]:
    """Any way between two nodes that has flows."""
    used = {
        (w.network.ingress.node_of(w.flow(s)), e.pod.node)
        for s in range(w.sessions)
        if (e := w.network.entry_of(w.flow(s)))
    }
    ingress, home = rng.choice(sorted((str(a), b) for a, b in used if a != b))
    return ingress, home


def _ingress(w: World, rng: random.Random) -> None:
    w.network.ingress.powered_off.add(f"n{rng.randint(1, w.nodes)}")


def _ingress_avoided(w: World, rng: random.Random) -> None:
    w.network.ingress.dead_nodes.add(f"n{rng.randint(1, w.nodes)}")


def _pod(w: World, rng: random.Random) -> None:
    w.network.dead_pods.add(_a_pod(w, rng))


def _a_pod(w: World, rng: random.Random) -> str:
    """A pod that serves a session."""
    served = {e.pod.name for s in range(w.sessions) if (e := w.network.entry_of(w.flow(s)))}
    return rng.choice(sorted(served))


def _pod_removed(w: World, rng: random.Random) -> None:
    name = _a_pod(w, rng)
    w.network.dead_pods.add(name)
    w.network.remove_pod(name, flush=False)
    w.look()


def _node(w: World, rng: random.Random) -> None:
    node = w.network.pods[_a_pod(w, rng)].node
    w.network.ingress.powered_off.add(node)
    w.network.dead_pods.update(pod.name for pod in w.network.pods.values() if pod.node == node)


def _node_told(w: World, rng: random.Random) -> None:
    _node(w, rng)
    (node,) = w.network.ingress.powered_off
    w.tell(ClusterSubject.NODE, node, ClusterAction.NOT_READY)


def _one(name: str) -> frozenset[str]:
    return frozenset({name})


_BOTH = frozenset({"dead-target", "pod-silent"})

DEATHS = {
    "some entries": Death(_one("stale-flow"), _some_entries),
    "the entries of a node": Death(_one("stale-flow"), _entries_of_a_node),
    "the entries of a pod that is gone": Death(_one("stale-flow"), _pod_removed),
    "a bucket of ports": Death(_one("lossy-path"), _bucket),
    "a way between nodes": Death(_one("node-path"), lambda w, rng: w.network.dead_cells.add(_cell(w, rng))),
    "the replies between nodes": Death(_one("node-path"), lambda w, rng: w.network.mute_cells.add(_cell(w, rng))),
    "an ingress node": Death(_one("dead-target"), _ingress),
    "an ingress node that new flows avoid": Death(_one("dead-target"), _ingress_avoided),
    "a pod": Death(_one("pod-silent"), _pod),
    "a node": Death(_BOTH, _node),
    "a node, NotReady": Death(_BOTH, _node_told),
    "some entries from the start": Death(_one("stale-flow"), _some_entries, from_start=True),
    "a bucket from the start": Death(_one("lossy-path"), _bucket, from_start=True),
    "an ingress from the start": Death(_one("dead-ingress"), _ingress, from_start=True),
    "a way from the start": Death(
        _one("node-path"), lambda w, rng: w.network.dead_cells.add(_cell(w, rng)), from_start=True
    ),
    "a pod from the start": Death(_one("pod-silent"), _pod, from_start=True),
    "a node from the start": Death(_BOTH | {"dead-ingress"}, _node, from_start=True),
}


def kill(death: Death, seed: int, *, watched: bool) -> World:
    """Return a run of a network drawn by the seed, in which this dies."""
    rng = random.Random(seed)
    at = 0.0 if death.from_start else 3.0
    action: Action = lambda w: death.kill(w, rng)  # noqa: E731 - an action like the others
    nodes = rng.randint(2, 5)
    return World(
        seed=seed,
        sessions=rng.choice([6, 12, 24, 40]),
        nodes=nodes,
        pods=rng.randint(2, 8),
        bridges=rng.random() < 0.5,
        interval=200_000_000,
        seconds=16,
        watched=watched,
        actions=[(at, action)],
    )
