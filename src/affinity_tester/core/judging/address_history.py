"""What is known of the sessions' addresses over a run: the facts from which `client_nat` tells a NAT from a cluster.

A fact has the time at which a probe was *sent*, never that at which it was told. Memory is bounded per session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from affinity_tester.core.address import LOCAL_CHECK_NS, TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    ClientFaultKind,
    Event,
    FirstAnswer,
    NodeAddresses,
    PoolObserved,
    ProbesLost,
    ReferenceResult,
    RunStarted,
    SendingStopped,
    SessionStarted,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.outages import OUTAGE_PROBES
from affinity_tester.units import NS_PER_MS, NS_PER_S

ADDRESS = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT})
"""What makes a change one of the reflexive address."""

SWEEP_NS = 500 * NS_PER_MS
"""A loss is told at most so long after the loss threshold: the time between two sweeps, and more."""

_MAX_MOVES = 64
"""Changes of address remembered per session: one that has more of them within a few seconds is sprayed, not renewed."""

_MAX_LOSSES = 16
"""Runs of lost probes remembered per session."""

_MAX_RESULTS = 128
"""Answers of the reference remembered per session: each is asked every 0.8 s."""

_MAX_READDRESSED = 64
"""Times remembered at which this machine's own address changed."""

_MAX_PLACES = 4_096
"""Reflexive IPs of which it is remembered which nodes' pods answer behind them."""

_MAX_SPECS = 1_000
"""Specs of the Service remembered."""


_LOST_NEAR = 3
"""Probes that a session may lose by chance when others change."""


class KeptSpan(NamedTuple):
    """A time in which a session kept its address."""

    from_ns: int
    to_ns: int
    since_move: bool
    """It begins with the answer that showed a change; else with the first answer."""
    until_move: bool
    """It ends with the last answer before a change; else with the newest answer."""


class LossRun(NamedTuple):
    """Probes lost in a row."""

    first_ns: int
    last_ns: int
    next_seq: int


@dataclass(slots=True)
class SessionAddresses:
    """The addresses of one session."""

    local: TransportAddress | None = None
    """The socket's own address; None: a record may lack the session's start."""
    target: TransportAddress | None = None
    """Where its probes go; None: to the run's one target."""
    started_ns: int = 0
    """When it began."""
    first_ns: int | None = None
    """A probe sent by this time was answered; None: nobody has answered it."""
    first: TransportAddress | None = None
    """The reflexive address in its first answer."""
    moves: dict[int, Change] = field(default_factory=dict)
    """Its newest changes of the reflexive address, by number."""
    losses: deque[LossRun] = field(default_factory=lambda: deque(maxlen=_MAX_LOSSES))
    results: deque[ReferenceResult] = field(default_factory=lambda: deque(maxlen=_MAX_RESULTS))
    """What the reference answered it, in the order in which it was told."""

    def moved_within(self, from_ns: int, to_ns: int) -> list[Change]:
        """Return its changes of address whose brackets touch these times, in send order."""
        touching = (m for m in self.moves.values() if m.before.sent_ns <= to_ns and m.after.sent_ns >= from_ns)
        return sorted(touching, key=lambda change: change.after.seq)

    def reflexive_at(self, at_ns: int) -> TransportAddress | None:
        """Return the address in the newest answer to a probe sent until then; None: not known."""
        seen = self.first
        for move in sorted(self.moves.values(), key=lambda change: change.after.seq):
            if move.after.sent_ns <= at_ns:
                seen = move.after.identity.reflexive
        return seen

    def kept_around(self, from_ns: int, to_ns: int, known_ns: int, interval_ns: int) -> tuple[int, int] | None:
        """Return the times around these in which it kept its address, with an answer at either end; None: not shown.

        It is not asked for times in which it changed.
        """
        until_ns = self._answered_until(known_ns, interval_ns)
        if self.first_ns is None or self.first_ns > from_ns or until_ns < to_ns:
            return None
        earlier = [move.after.sent_ns for move in self.moves.values() if move.after.sent_ns <= from_ns]
        later = [move.before.sent_ns for move in self.moves.values() if move.before.sent_ns >= to_ns]
        return max([self.first_ns, *earlier]), min([until_ns, *later])

    def spans_kept(self, known_ns: int, interval_ns: int) -> Iterator[KeptSpan]:
        """Yield the times in which it kept its address, with an answer at either end."""
        if self.first_ns is None:
            return
        from_ns, since_move = self.first_ns, False
        for move in sorted(self.moves.values(), key=lambda change: change.after.seq):
            yield KeptSpan(from_ns, move.before.sent_ns, since_move, until_move=True)
            from_ns, since_move = move.after.sent_ns, True
        yield KeptSpan(from_ns, self._answered_until(known_ns, interval_ns), since_move, until_move=False)

    def is_undecided(self, change: Change, known_ns: int, interval_ns: int) -> bool:
        """True if it had too few probes before another session's change, or after it, to show whether it changed, too.

        It was answered first, or last, within so few probes of that as make no outage. One that is silent for longer says
        nothing, and may be silent for a reason of its own.
        """
        if self.first_ns is None:
            return False
        if self.first_ns > change.before.sent_ns:
            return self.first_ns <= self.started_ns + (OUTAGE_PROBES + 1) * interval_ns
        answered_ns = self._answered_until(known_ns, interval_ns)
        silent_ns = (OUTAGE_PROBES + 2) * interval_ns
        return answered_ns >= max(change.before.sent_ns - (_LOST_NEAR + 2) * interval_ns, known_ns - silent_ns)

    def _answered_until(self, known_ns: int, interval_ns: int) -> int:
        """Return a time at or after which it sent a probe that was answered.

        The fate of every probe sent until `known_ns` is known: what is not told as lost was answered. In two intervals a
        session sends at least once.
        """
        end_ns = known_ns
        for run in reversed(self.losses):
            if run.first_ns <= end_ns and run.last_ns >= end_ns - 2 * interval_ns:
                end_ns = run.first_ns
        seen_ns = [end_ns - 2 * interval_ns, *(move.before.sent_ns for move in self.moves.values())]
        return max(seen_ns)


class AddressHistory:
    """Take in every observed event; the sessions' addresses, the nodes', and the Service's spec at any time."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.sessions: dict[str, SessionAddresses] = {}
        self.by_local: dict[str, list[str]] = {}
        """The sessions of each of the client's own IPs, in the order of their start."""
        self.interval_ns = 0
        self.threshold_ns = 0
        self.reference: TransportAddress | None = None
        self.asked: dict[str, SessionAddresses] = {}
        """The sessions from whose sockets the reference is asked, by name."""
        self._readdressed_ns: dict[str, deque[int]] = {}
        """By local IP, when this machine said that the address had changed or was gone."""
        self.stopped_ns: int | None = None
        self.node_names: dict[str, str] | None = None
        """Every IP that was ever a node's, with its name; None: the nodes are not known."""
        self._behind: dict[str, set[str]] = {}
        self._specs: deque[tuple[int, dict[str, str]]] = deque(maxlen=_MAX_SPECS)

    # --- what is known -------------------------------------------------------------------------------------------------

    def spec(self, name: str, at_ns: int) -> str | None:
        """Return a field of the Service's spec as it was at a time; None: not known."""
        then: dict[str, str] = {}
        for known_ns, spec in self._specs:
            if known_ns > at_ns and then:
                break
            then = spec
        return then.get(name)

    def is_node(self, ip: str) -> bool:
        """True if an address is known to be, or to have been, a node's."""
        return ip in (self.node_names or {})

    def may_be_one_node(self, one: str, other: str) -> bool:
        """True if two reflexive IPs may be one node's: its own, and that of its pods' bridge.

        Behind the bridge's are pods of this node alone, and behind its own none of them (core.diagnosis.masquerade).
        """
        names = self.node_names
        known = {names[ip] for ip in (one, other) if ip in names} if names is not None else None
        if known is not None and len([ip for ip in (one, other) if self.is_node(ip)]) != 1:
            return False
        ours, theirs = self._behind.get(one, set()), self._behind.get(other, set())
        if not ours or not theirs or ours & theirs:
            return False
        return any(len(nodes) == 1 and known in (None, nodes) for nodes in (ours, theirs))

    def was_readdressed(self, local: str, change: Change) -> bool:
        """True if this machine said, at about the time of a change, that this address of its own had changed."""
        from_ns, to_ns = change.before.sent_ns - LOCAL_CHECK_NS, change.seen_ns + 2 * LOCAL_CHECK_NS
        return any(from_ns <= at_ns <= to_ns for at_ns in self._readdressed_ns.get(local, ()))

    def decided_ns(self, change: Change) -> int:
        """Return when it is known which sessions changed within a second of a change: their probes have had their time."""
        known_ns = change.after.sent_ns + NS_PER_S + 2 * self.interval_ns + (NS_PER_S if self.reference else 0)
        if self.stopped_ns is not None:
            known_ns = min(known_ns, self.stopped_ns)
        return max(known_ns, change.after.sent_ns) + self.threshold_ns + SWEEP_NS

    def known_ns(self, now_ns: int) -> int:
        """Return up to when the fate of every probe that was sent is known."""
        known_ns = now_ns - self.threshold_ns - SWEEP_NS
        return known_ns if self.stopped_ns is None else min(known_ns, self.stopped_ns)

    # --- collecting ----------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted():
                self.interval_ns, self.threshold_ns = event.interval_ns, event.loss_threshold_ns
                self.reference = event.reference
            case SessionStarted():
                session = self._session(event.session)
                session.local, session.target, session.started_ns = event.local, event.target, event.at_ns
                self.by_local.setdefault(event.local.ip, []).append(event.session)
            case FirstAnswer(identity=who):
                self._note_place(who)
                session = self._session(event.session)
                session.first_ns, session.first = event.at_ns, who.reflexive
            case ChangeSeen(change=change) | ChangeRevised(change=change):
                self._note_move(event.session, change)
            case ChangeWithdrawn(change=change):
                self._session(event.session).moves.pop(change.number, None)
            case ProbesLost():
                self._note_loss(event)
            case ReferenceResult():
                session = self.asked[event.session] = self._session(event.session)
                session.results.append(event)
            case ClientFault(fault=ClientFaultKind.LOCAL_ADDRESS):
                local = self._session(event.session).local
                told = self._readdressed_ns.setdefault(local.ip if local else "", deque(maxlen=_MAX_READDRESSED))
                told.append(event.at_ns)
            case SendingStopped():
                self.stopped_ns = event.at_ns
            case NodeAddresses(names=names):
                self.node_names = (self.node_names or {}) | dict(names)
            case PoolObserved(until_ns=until_ns, snapshot=snapshot):
                self._note_spec(until_ns, dict(snapshot.spec))
            case _:
                pass

    def _session(self, name: str) -> SessionAddresses:
        return self.sessions.setdefault(name, SessionAddresses())

    def _note_move(self, name: str, change: Change) -> None:
        for probe in (change.before, change.after):
            self._note_place(probe.identity)
        session = self._session(name)
        if not ADDRESS.intersection(change.kinds):
            session.moves.pop(change.number, None)  # a revision may leave the address out
            return
        session.moves[change.number] = change
        if len(session.moves) > _MAX_MOVES:
            del session.moves[min(session.moves)]

    def _note_loss(self, event: ProbesLost) -> None:
        session = self._session(event.session)
        first_ns = event.first_sent_ns
        if session.losses and session.losses[-1].next_seq == event.first_seq:
            first_ns = session.losses.pop().first_ns
        session.losses.append(LossRun(first_ns, event.last_sent_ns, event.first_seq + event.count))

    def _note_place(self, who: Identity) -> None:
        if who.reflexive is not None and who.node is not None:
            self._behind.setdefault(who.reflexive.ip, set()).add(who.node)
            if len(self._behind) > _MAX_PLACES:
                del self._behind[next(iter(self._behind))]

    def _note_spec(self, known_ns: int, spec: dict[str, str]) -> None:
        if not self._specs or self._specs[-1][1] != spec:
            self._specs.append((known_ns, spec))
