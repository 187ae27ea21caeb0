"""What an action and its undoing took away, by the watch, and what left meanwhile by another cause."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.experiment.catalogue import ActionKind, Experiment, MayMove
from affinity_tester.core.experiment.nodes import Nodes
from affinity_tester.core.experiment.observed import Observed
from affinity_tester.core.experiment.pool_history import PoolHistory, Stop
from affinity_tester.units import plural, quoted

_NAMED = 3
"""Pods or nodes that are named in a text."""

_BY_NODES = frozenset({MayMove.REMOVED_NODES, MayMove.NOT_KNOWN})


class TakenAway:
    """Work out once, when all of an experiment's events are known, which pods and ingress nodes went away, and by what."""

    def __init__(self, experiment: Experiment, observed: Observed, begin_ns: int) -> None:
        """Look at what happened since `begin_ns`, when the action began."""
        pool, nodes = observed.pool, observed.nodes
        self._phases, self._may_move = observed.phases, experiment.may_move
        self._undone = experiment.kind is ActionKind.UNDONE
        self._begin_ns = begin_ns
        self.stops: dict[str, list[Stop]] = {}
        """By uid, of pods that left the pool or stopped serving: when they did; also before the action, if for good."""
        for stop in pool.stops:
            if stop.span.to_ns >= begin_ns or stop.back_ns is None:
                self.stops.setdefault(stop.endpoint.uid, []).append(stop)
        left_out = self._left_out(pool, nodes)
        self.left_out = (left_out or set()) | (self._phases.removed_nodes if nodes.behind_balancer else set())
        """Nodes of the cluster that a balancer leaves out, or may: by a policy, or as the action names them."""
        self.nodes = self._nodes_of(nodes) | (left_out or set())
        """Ingress nodes that the action took away."""
        self._went_away = nodes.went_away(begin_ns)
        self.doubtful_nodes = (self._went_away | self.left_out) - self.nodes
        """Those that left by another cause, or that a balancer may have left out."""
        another = self._may_move is not MayMove.NOT_KNOWN
        self.lost_nodes = self._went_away - self.nodes if another else set[str]()
        """Those that surely left by another cause; whatever goes away while a command runs may be its doing."""
        self.unknown_nodes = left_out is None
        """True if a balancer left nodes out, and it is not even known which."""
        self._unlisted = experiment.may_move in _BY_NODES and not nodes.names
        """True if the action may have taken nodes away, and they may not be listed."""

    def is_actions(self, stop: Stop) -> bool:
        """True if the action, or its undoing, took this pod away."""
        rollback_ns = self._phases.rollback_ns
        if stop.span.to_ns < self._begin_ns:
            return False
        if self._undone and rollback_ns is not None and stop.span.to_ns > rollback_ns:
            return True
        match self._may_move:
            case MayMove.NONE | MayMove.REMOVED_INGRESS:
                return False
            case _:  # a command names none
                named = self._phases.removed_pods
                return not named or stop.endpoint.uid in named

    def all_stops(self) -> list[Stop]:
        """Return all stops, of each pod the first."""
        return [stops[0] for stops in self.stops.values()]

    def hides(self, ingress: str | None) -> bool:
        """True if a node went away, or may have, and it is not known through which one a session comes in."""
        return ingress is None and bool(self._unlisted or self.nodes or self.doubtful_nodes)

    def text(self, had_to: int, excused: int) -> str:
        """Return what went away, whether it had sessions, and how many sessions are excused."""
        stops = self.all_stops()
        taken = [
            *_named("pod", (_label(stop) for stop in stops if self.is_actions(stop))),
            *_named("ingress node", self.nodes),
        ]
        others = [
            *_named("pod", (_label(stop) for stop in stops if not self.is_actions(stop))),
            *_named("node", self.doubtful_nodes & self._went_away),
        ]
        left_out = _named("node", self.doubtful_nodes - self._went_away)
        nothing = "no pod" if self._unlisted else "no pod and no ingress node"
        text = f"{' and '.join(taken) or nothing} went away"
        if taken and not had_to:
            text += ", and had none of these sessions"
        aside = [f"by another cause {' and '.join(others)} left too, or may have"] if others else []
        aside += [f"the balancer may have left out {each}" for each in left_out]
        if aside:
            text += f"; {', and '.join(aside)}: {plural(excused, 'session')} excused"
        if self._unlisted:
            text += "; whether a node left is not known: nodes may not be listed"
        return text

    def _nodes_of(self, nodes: Nodes) -> set[str]:
        """Return the nodes that the action, or its undoing, took out of the cluster."""
        if self._may_move in _BY_NODES:
            return nodes.removed(self._begin_ns)
        rollback_ns = self._phases.rollback_ns
        if not self._undone or rollback_ns is None:
            return set()
        return nodes.removed(rollback_ns)

    def _left_out(self, pool: PoolHistory, nodes: Nodes) -> set[str] | None:
        """Return the nodes that a balancer left out as they had no ready pod under policy Local; None: not known which."""
        if self._may_move is not MayMove.REMOVED_INGRESS or not nodes.behind_balancer:
            return set()
        ready = pool.nodes_ready_throughout(self._begin_ns)
        if ready is None:
            return set()
        return set(nodes.names - ready) if nodes.names else None


def _label(stop: Stop) -> str:
    return stop.endpoint.pod or stop.endpoint.address


def _named(noun: str, names: Iterable[str]) -> list[str]:
    """Return `pod "a"`, or `5 pods, such as "a", "b", "c"`; nothing where there is none."""
    found = sorted(set(names))
    if not found:
        return []
    listed = ", ".join(map(quoted, found[:_NAMED]))
    if len(found) == 1:
        return [f"{noun} {listed}"]
    return [f"{noun}s {listed}" if len(found) <= _NAMED else f"{plural(len(found), noun)}, such as {listed}"]
