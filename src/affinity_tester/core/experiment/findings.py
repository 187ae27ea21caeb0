"""What an experiment found, in the terms that its requirement is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from affinity_tester.core.events import Change, OutageCase, StrayCase
from affinity_tester.core.experiment.catalogue import Experiment, MayMove
from affinity_tester.core.experiment.least_possible import TEARDOWN_NS, Least, LeastPossible, Ruling
from affinity_tester.core.experiment.observed import Observed
from affinity_tester.core.experiment.phases import INTERRUPTED
from affinity_tester.core.experiment.pool_history import Stop
from affinity_tester.core.experiment.session_moves import Move
from affinity_tester.units import format_duration

_POLICY = "externalTrafficPolicy"

_CHANCE = 2
"""Probes before the action that may be lost by chance, so that a silence which the action makes begins with them."""

_NEEDS_PODS = frozenset({MayMove.REMOVED_PODS, MayMove.NOT_SERVING, MayMove.REMOVED_NODES})
"""Experiments that test nothing where no session was on what they took away."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What an experiment found."""

    blocked: tuple[str, ...]
    """Why the experiment itself came to nothing; empty if it did not."""
    sessions: tuple[str, ...]
    """Those that were answered in the steady state."""
    moves: dict[str, list[Move]]
    """By session, its moves from the action to the end of the rollback; without the sessions that did not move."""
    least: Least
    """The sessions that had to move."""
    beyond: tuple[str, ...]
    """Sessions that surely moved and need not have, or once more than they had to."""
    silent: tuple[str, ...]
    """Sessions that stayed silent though flows could be answered."""
    violations: tuple[str, ...]
    """Sessions with a violation that is neither a move in the experiment nor a silence."""
    excused: tuple[str, ...]
    """Sessions that moved, or may have had to, by another cause."""
    unclear: tuple[str, ...]
    """Sessions that moved needlessly, and it is not known whether the cluster made them."""
    asked_reference: bool
    """A second STUN server was asked, and did not settle that."""
    unsure: tuple[str, ...]
    """Sessions that moved, and it is not known whether they had to, as too little is known of where they were."""
    dead: tuple[str, ...]
    """Sessions that left a pod which answered nobody, and that the watch did not see go away."""
    stranded: tuple[str, ...]
    """Sessions that were silent at the end, whose ingress node had no ready pod, and policy Local sends them nowhere else."""
    untold: tuple[str, ...]
    """Sessions that were silent at the end, and why is not known."""
    aside: tuple[str, ...]
    """Sessions that were silent at the end, or have a violation, for which another cause may be to blame."""
    untested: str
    """Why the action tested nothing; empty if it did."""
    edited: str
    """What of the Service was edited meanwhile, by none of this; empty: nothing."""

    @property
    def had_to(self) -> frozenset[str]:
        """The sessions that had to move; none where it is not known."""
        return frozenset(self.least.sessions or ())

    @property
    def had_to_stay(self) -> int:
        """How many sessions neither had to move, nor are excused."""
        return len(self.sessions) - len(
            self.had_to.union(self.excused, self.unclear, self.unsure, self.dead, self.least.unsure)
        )


class Finder:
    """Look at what is known of an experiment whose run is over and judged, and whose action began."""

    def __init__(self, experiment: Experiment, observed: Observed, begin_ns: int) -> None:
        """Look at what happened since `begin_ns`, when the action began."""
        self._may_move, self._begin_ns = experiment.may_move, begin_ns
        self._observed, self._pool, self._sessions = observed, observed.pool, observed.sessions
        self._possible = LeastPossible(experiment, observed, begin_ns)

    def findings(self, not_steady: str) -> Findings:
        """Return what became of the sessions; `not_steady` says why they were in no steady state before the action."""
        judged = self._observed.judged
        names = self._sessions.answered_before(self._begin_ns)
        least = self._possible.least(names)
        edited = self._edits()
        moves = {name: found for name in names if (found := self._moves(name))}
        excused = set(least.excused)
        own_ips = self._sessions.own_addresses()
        beyond, unclear, unsure, dead = list[str](), list[str](), list[str](), list[str]()
        for name, found in moves.items() if least.sessions is not None else ():
            rulings = self._possible.rule(found)
            needless = [move for move, ruling in zip(found, rulings, strict=True) if ruling is Ruling.BEYOND]
            if Ruling.EXCUSED in rulings:
                excused.add(name)
            if Ruling.UNSURE in rulings:
                unsure.append(name)
            left_dead = [move for move in needless if judged.left_dead_pod(name, move.change)]
            if left_dead:
                dead.append(name)
                needless = [move for move in needless if move not in left_dead]
            translated = self._sessions.local_ip(name) not in own_ips
            if not edited and any(judged.is_clear(name, move.change, translated=translated) for move in needless):
                beyond.append(name)
            elif needless:
                unclear.append(name)

        silent, others, before = self._violations(moves)
        elsewhere = least.unsure if self._possible.taken.doubtful_nodes else frozenset[str]()
        spared = excused.union(unclear, unsure, dead, elsewhere)
        silent_at_end = set(self._observed.blackouts.silent(names))
        untold = [name for name in names if name in silent_at_end - silent - excused]
        stranded = self._stranded(untold)
        aside = (spared & (silent | others)) | (excused & silent_at_end) | (least.cut_off & silent)
        return Findings(
            blocked=tuple(self._blocked(not_steady, before, least)),
            sessions=tuple(names),
            moves=moves,
            least=least,
            beyond=tuple(beyond),
            silent=tuple(name for name in names if name in silent - spared - least.cut_off),
            violations=tuple(name for name in names if name in others - spared),
            excused=tuple(name for name in names if name in excused),
            unclear=tuple(unclear),
            asked_reference=judged.asked_reference,
            unsure=tuple(unsure),
            dead=tuple(dead),
            stranded=tuple(stranded),
            untold=tuple(name for name in untold if name not in stranded),
            aside=tuple(name for name in names if name in aside),
            untested=self._untested(least, moves),
            edited=edited,
        )

    def _stranded(self, names: Sequence[str]) -> list[str]:
        """Return those of these sessions that came in through a node which has no pod for them under policy Local."""
        nodes = self._pool.local_nodes
        if nodes is None:
            return []
        ingress = {name: self._possible.ingress(name) for name in names}
        return [name for name, node in ingress.items() if node is not None and node not in nodes]

    def _moves(self, name: str) -> list[Move]:
        """Return a session's moves from the action to the end of the rollback."""
        moves, end_ns = self._sessions.moves(name, self._pool), self._observed.phases.end_ns
        return [m for m in moves if m.change.after.sent_ns >= self._begin_ns and m.change.before.sent_ns < end_ns]

    def _edits(self) -> str:
        """Return what of the Service was edited since the action began, and not by it; empty: nothing."""
        if self._may_move is MayMove.NOT_KNOWN:
            return ""  # whatever a command does to the Service is its action
        own = _POLICY if self._may_move is MayMove.REMOVED_INGRESS else ""
        edits = [each for each in self._pool.spec_changes if each.span.to_ns > self._begin_ns and each.field != own]
        return ", ".join(f"{each.field} {each.old} -> {each.new}" for each in edits)

    def _violations(self, moves: dict[str, list[Move]]) -> tuple[set[str], set[str], list[str]]:
        """Return the sessions that stayed silent, those with another violation, and those with one before the action."""
        silent, others, before = set[str](), set[str](), list[str]()
        for judged in self._observed.judged.violations:
            name = judged.session
            match judged.case:
                case Change(after=after, number=number):
                    if after.sent_ns < self._begin_ns:
                        before.append(name)
                    elif number not in {move.change.number for move in moves.get(name, ())}:
                        others.add(name)
                case OutageCase(since_ns=since_ns):
                    if since_ns < self._begin_ns - _CHANCE * self._observed.interval_ns:
                        before.append(name)
                    else:
                        silent.add(name)
                case case:
                    assert isinstance(case, StrayCase)
                    if case.heard_ns < self._begin_ns:
                        before.append(name)
                    else:
                        others.add(name)
        return silent, others, before

    def _blocked(self, not_steady: str, before: Sequence[str], least: Least) -> list[str]:
        """Return why the experiment came to nothing."""
        phases = self._observed.phases
        found = [text if text == INTERRUPTED else f"the action failed: {text}" for text in phases.failed]
        if not_steady:
            found.append(f"no steady state before the action: {not_steady}")
        elif before:
            found.append(f"no steady state before the action: a violation ({before[0]})")
        if phases.cut_off_in is not None:
            found.append(f"the record ends in the phase {phases.cut_off_in.value}, before the experiment did")
        elif least.sessions is None:
            found.append(f"what had to move is {least.reason}")
        return found

    def _untested(self, least: Least, moves: dict[str, list[Move]]) -> str:
        """Return why the action tested nothing; empty if it did, or where it came to nothing."""
        may_move, taken = self._may_move, self._possible.taken
        if may_move is MayMove.REMOVED_INGRESS:
            flipped = any(
                each.field == _POLICY and each.span.to_ns > self._begin_ns for each in self._pool.spec_changes
            )
            return "" if flipped else "the watch never showed another policy"
        if may_move not in _NEEDS_PODS:
            return ""

        stops = [stop for stop in taken.all_stops() if taken.is_actions(stop)]
        if not stops and not taken.nodes:
            return "no pod left the pool"
        if may_move is MayMove.NOT_SERVING and not any(stop.endpoint.uid in self._pool.drained for stop in stops):
            return "no endpoint was seen to serve without being ready"
        if may_move is MayMove.NOT_SERVING and self._left_too_soon(stops, moves):
            brief = format_duration(TEARDOWN_NS)
            return (
                f"the pod served on for less than {brief}, too short to tell who left it early (the server's --drain)"
            )
        return "" if least.sessions else "no session was on what was taken away"

    def _left_too_soon(self, stops: Sequence[Stop], moves: dict[str, list[Move]]) -> bool:
        """True if a session left a pod while it served, for so short that its network may have been gone all the while."""
        brief = {stop.endpoint.uid: stop for stop in stops if stop.span.from_ns - stop.touched_ns < TEARDOWN_NS}
        return any(
            uid in brief and move.change.seen_ns <= brief[uid].span.from_ns
            for found in moves.values()
            for move in found
            for uid in self._pool.uids_of(move.before.pod, move.change.before.sent_ns)
        )
