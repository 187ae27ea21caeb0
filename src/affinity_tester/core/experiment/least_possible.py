"""The least that an action may move: which sessions had to move, and which of their moves they need not have made.

A session had to move when the action, or its undoing, took away its pod or the node through which it came in. This is known
from the watch alone, so where the pool was not watched all the time it is not known. By the experiment (`MayMove`):

    NONE             nothing is taken away by the action. What its undoing takes away, such as the pod that scale-up had
                     added, or another that the controller chose in its stead, is.
    REMOVED_PODS     pods that left the pool or stopped serving: those that the action named, or all where it named none, as
                     with a rollout. A session may leave such a pod from `settle` before anything was taken from it on.
    NOT_SERVING      the same, but no session may leave a pod that surely serves: not before the span begins in which it
                     stopped. As a pod's network may be torn down moments before the API knows, a move in the 3 s before that
                     counts only if the pod answered a later probe of another session.
    REMOVED_INGRESS  nodes without a ready pod while the policy was Local: a balancer leaves them out. Without a balancer none
                     is.
    REMOVED_NODES    pods as with REMOVED_PODS, and nodes that left the cluster. A node that the action named and that stays
                     may be left out by a balancer, if there is one: its sessions are excused.
    NOT_KNOWN        every pod and every node that left.

What is taken away permits its sessions to leave it, and not to come back; only where a node is brought back in the rollback
may they move once more, to it. Once a pod has long served again, or a node is back, it must be left no more.
Where a node went away, or the action may have taken one and nodes may not be listed, a session whose ingress node is not
known (an overlay shows an address of its own) may have had to move: of its moves nothing is known. So it is of one that left
a node long before it was told to go: others may know earlier.
What else left meanwhile excuses its sessions: their moves are neither the least nor beyond it. All others are beyond it.
Of one that had to move, and whose ingress node left by another cause, a silence alone is excused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from affinity_tester.core.experiment.catalogue import ActionKind, Experiment, MayMove
from affinity_tester.core.experiment.observed import Observed
from affinity_tester.core.experiment.pool_history import Stop
from affinity_tester.core.experiment.session_moves import Move
from affinity_tester.core.experiment.taken_away import TakenAway
from affinity_tester.units import NS_PER_S

TEARDOWN_NS = 3 * NS_PER_S
"""So late the API may learn that a container ended: the kubelet looks once a second, and tells it after that."""


class Ruling(Enum):
    """What a move was."""

    PERMITTED = auto()
    """The session had to move."""
    EXCUSED = auto()
    """Its pod or ingress node left by another cause, or may have been taken away."""
    UNSURE = auto()
    """It is not known whether it had to: its ingress node is not known or left only later, or its pod is not in the pool."""
    BEYOND = auto()
    """It need not have moved."""


@dataclass(frozen=True, slots=True)
class Least:
    """Which sessions had to move."""

    sessions: tuple[str, ...] | None
    """None: it is not known."""
    reason: str
    """Of what pods or nodes they are, or why they are not known."""
    excused: frozenset[str] = frozenset()
    """Sessions whose pod or ingress node left by another cause, or may have been taken away."""
    unsure: frozenset[str] = frozenset()
    """Sessions of which it is not known through which node they came in, while one went away."""
    cut_off: frozenset[str] = frozenset()
    """Sessions that had to move, and whose ingress node left by another cause, or may have: it may be what silences them."""


class LeastPossible:
    """Work out what an experiment had to move, once all of its events are known."""

    def __init__(self, experiment: Experiment, observed: Observed, begin_ns: int) -> None:
        """Look at what happened since `begin_ns`, when the action began."""
        self._experiment, self._begin_ns = experiment, begin_ns
        self._pool, self._sessions, self._nodes = observed.pool, observed.sessions, observed.nodes
        self._end_ns, self._settle_ns = observed.phases.end_ns, observed.settle_ns
        self._return_ns = observed.phases.rollback_ns if experiment.kind is ActionKind.UNDONE else None
        """When nodes that were taken away may come back; None: they do not."""
        self.taken = TakenAway(experiment, observed, begin_ns)
        self._answered_ns: Mapping[str, int] = {}
        """By the uid of a pod that went away: when the last probe was sent that it answered, of those after which its
        session moved."""

    # --- sessions ------------------------------------------------------------------------------------------------------

    def least(self, names: Sequence[str]) -> Least:
        """Return which of these sessions had to move."""
        unknown = self._why_unknown()
        unknown = unknown or self._why_unnamed({self._sessions.serving(name, self._begin_ns)[0].pod for name in names})
        if unknown:
            return Least(None, f"not known: {unknown}")

        self._answered_ns = self._last_answers(names)
        must = [name for name in names if self._had_to(name)]
        excused = frozenset(name for name in names if self._is_excused(name)).difference(must)
        unsure = frozenset(name for name in names if self.taken.hides(self.ingress(name))).difference(must)
        cut_off = frozenset(name for name in must if self._is_cut_off(name))
        return Least(tuple(must), self.taken.text(len(must), len(excused)), excused, unsure, cut_off)

    def _why_unnamed(self, pods: set[str | None]) -> str:
        """Return why it is not known where in the pool these pods are, that served sessions; empty if it is."""
        if None in pods:
            return "the replies name no pod"
        if any(not self._pool.uids_of(pod, self._begin_ns) for pod in pods):
            return "the watched pool does not name all pods that answered"
        return ""

    def _why_unknown(self) -> str:
        """Return why it is not known what was taken away; empty if it is."""
        pool, end_ns = self._pool, self._end_ns
        if not pool.trusted:
            return "pods answered that were never in the watched pool"
        if not pool.watched:
            return "the pool was not watched"
        if pool.timeline.gap_within(self._begin_ns, end_ns) is not None:
            return "the watch of the pool was down for a time"
        if not pool.timeline.confirmed_after(end_ns):
            return "the pool was not listed again at the end"
        if self.taken.unknown_nodes:
            return "the balancer left out nodes whose addresses are not known"
        return ""

    def _had_to(self, name: str) -> bool:
        stop = self._stop_at(name, self._begin_ns)
        return (stop is not None and self.taken.is_actions(stop)) or self.ingress(name) in self.taken.nodes

    def _is_excused(self, name: str) -> bool:
        return self._stop_at(name, self._begin_ns) is not None or self.ingress(name) in self.taken.doubtful_nodes

    def _is_cut_off(self, name: str) -> bool:
        """True if the node through which a session came in last left by another cause, or may have."""
        lost = self.taken.lost_nodes
        node = self._nodes.ingress(*self._sessions.serving(name, self._end_ns), self._pool)
        return node in lost or (node is None and bool(lost))

    def _stop_at(self, name: str, at_ns: int) -> Stop | None:
        """Return the end of the pod that served a session at a time; None: it did not go away."""
        return next(self._stops_of(self._sessions.serving(name, at_ns)[0].pod, at_ns), None)

    def _stops_of(self, pod: str | None, at_ns: int) -> Iterator[Stop]:
        """Yield when the pod that had a name at a time stopped."""
        for uid in self._pool.uids_of(pod, at_ns):
            yield from self.taken.stops.get(uid, ())

    def ingress(self, name: str) -> str | None:
        """Return the node through which a session came in when the action began; None: not known."""
        return self._nodes.ingress(*self._sessions.serving(name, self._begin_ns), self._pool)

    def _last_answers(self, names: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in names:
            for move in self._sessions.moves(name, self._pool):
                sent_ns = move.change.before.sent_ns
                for stop in self._stops_of(move.before.pod, sent_ns):
                    found[stop.endpoint.uid] = max(sent_ns, found.get(stop.endpoint.uid, 0))
        return found

    # --- moves ---------------------------------------------------------------------------------------------------------

    def rule(self, moves: Sequence[Move]) -> list[Ruling]:
        """Return what each of a session's moves was; they are in order, and all since the action began."""
        rulings = []
        left: dict[str | None, Ruling] = {}
        """By nodes that it left and that may come back: what the move was by which it left."""
        for move in moves:
            node = self._nodes.ingress(move.before, move.since_ns, self._pool)
            by_node = self._by_node(move, node)
            ruling = self._by_pod(move) or by_node
            if by_node is not None:  # where its pod went away with it, too
                left[node] = by_node
            elif ruling is None and self._is_brought_back(move.change.after.sent_ns, 0):
                ruling = self._returned(move, left)
            rulings.append(ruling or Ruling.BEYOND)
        return rulings

    def _by_pod(self, move: Move) -> Ruling | None:
        """Return what a move was if it left a pod that went away, or is not in the pool; None: it did not."""
        if not self._pool.uids_of(move.before.pod, move.change.before.sent_ns):
            return Ruling.UNSURE
        stops = self._stops_of(move.before.pod, move.change.before.sent_ns)
        in_time = [stop for stop in stops if self._is_in_time(move, stop)]
        if not in_time:
            return None
        return Ruling.PERMITTED if any(map(self.taken.is_actions, in_time)) else Ruling.EXCUSED

    def _by_node(self, move: Move, node: str | None) -> Ruling | None:
        """Return what a move was if it left an ingress node that went away, or may have; None: it did not."""
        if node is None:
            return Ruling.UNSURE if self.taken.hides(node) else None
        ruling = Ruling.PERMITTED if node in self.taken.nodes else Ruling.EXCUSED
        if node in self.taken.left_out and not self._is_brought_back(move.since_ns, self._settle_ns):
            return ruling

        # Who came in only after a node was back did not leave it as it went.
        absences = self._nodes.absences(node, self._begin_ns)
        absences = [each for each in absences if each.back_ns is None or move.since_ns <= each.back_ns]
        if any(move.change.seen_ns > each.touched_ns - self._settle_ns for each in absences):
            return ruling
        # A balancer may know long before the API that a node goes, and the API's news of it, which has no date, may be late.
        return Ruling.UNSURE if absences else None

    def _is_brought_back(self, at_ns: int, settle_ns: int) -> bool:
        """True if the rollback had brought back, so long before, what a balancer left out."""
        return self._return_ns is not None and at_ns >= self._return_ns + settle_ns

    def _returned(self, move: Move, left: dict[str | None, Ruling]) -> Ruling | None:
        """Return what a move was if it is the way back to a node that a session had left; None: it is none."""
        node = self._nodes.ingress(move.after, move.change.after.sent_ns, self._pool)
        if node is None and left:
            return left.popitem()[1]
        return left.pop(node if node in left else None, None)

    def _is_in_time(self, move: Move, stop: Stop) -> bool:
        """True if a session did not leave a pod too early, nor when it had long served again."""
        seen_ns = move.change.seen_ns
        if stop.back_ns is not None and move.change.before.sent_ns > stop.back_ns + self._settle_ns:
            return False
        if self._experiment.may_move is not MayMove.NOT_SERVING or not self.taken.is_actions(stop):
            return seen_ns > stop.touched_ns - self._settle_ns
        if seen_ns > stop.span.from_ns:
            return True
        outlived = self._answered_ns[stop.endpoint.uid] > move.change.after.sent_ns
        return seen_ns > stop.span.from_ns - TEARDOWN_NS and not outlived
