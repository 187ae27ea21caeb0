"""Where each session was, and how it moved: by its replies in send order, as far as they are known by now.

A change that is revised or withdrawn counts as what it became. What a reply does not carry stays as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    Event,
    FirstAnswer,
    SessionStarted,
)
from affinity_tester.core.experiment.pool_history import PoolHistory
from affinity_tester.core.identity import Identity, Kind

_MOST_CHANGES = 256
"""Changes of a session that are remembered: one that changes with every packet is known for it by far fewer."""

_ADDRESS = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT})


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a session, with all that is known of who served it before and after."""

    change: Change
    before: Identity
    after: Identity
    since_ns: int
    """When it was first seen to be served as before the move."""
    new_pod: bool
    """Another pod serves it since, if under the same name; a container that only restarted is the same pod."""

    @property
    def new_address(self) -> bool:
        """True if pods see the session at another reflexive address since."""
        return not _ADDRESS.isdisjoint(self.change.kinds)


@dataclass(slots=True)
class _Session:
    """What is known of one session."""

    local: TransportAddress | None = None
    first: Identity | None = None
    answered_ns: int = 0
    changes: dict[int, Change] = field(default_factory=dict)

    def path(self) -> Iterator[tuple[Change, Identity, Identity]]:
        """Yield its changes in send order, with who served it before and after each."""
        serving = self.first or Identity()
        for change in sorted(self.changes.values(), key=lambda change: change.after.seq):
            before = _merged(serving, change.before.identity)
            serving = _merged(before, change.after.identity)
            yield change, before, serving


class SessionMoves:
    """Take in what is told of sessions' replies. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with no session."""
        self._sessions: dict[str, _Session] = {}

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case SessionStarted(session=name, local=local):
                self._of(name).local = local
            case FirstAnswer(session=name):
                session = self._of(name)
                session.first, session.answered_ns = event.identity, event.at_ns
            case ChangeSeen(session=name, change=change) | ChangeRevised(session=name, change=change):
                changes = self._of(name).changes
                if change.number in changes or len(changes) < _MOST_CHANGES:
                    changes[change.number] = change
            case ChangeWithdrawn(session=name, change=change):
                self._of(name).changes.pop(change.number, None)
            case _:
                pass

    def _of(self, name: str) -> _Session:
        return self._sessions.setdefault(name, _Session())

    def answered_before(self, at_ns: int) -> list[str]:
        """Return the sessions that were answered by then, in the order of their start."""
        return [name for name, each in self._sessions.items() if each.first is not None and each.answered_ns <= at_ns]

    @property
    def changed(self) -> int:
        """How many sessions changed so far."""
        return sum(bool(each.changes) for each in self._sessions.values())

    def by_pod(self) -> Counter[str]:
        """Return how many sessions each pod serves now, by its name; those whose server names no pod count nowhere."""
        newest = (list(each.path())[-1][2] if each.changes else each.first for each in self._sessions.values())
        return Counter(who.pod for who in newest if who is not None and who.pod is not None)

    def serving(self, name: str, at_ns: int) -> tuple[Identity, int]:
        """Return who answered the newest replied probe that this session had sent by then, and since when it is served so.

        Of an earlier time than its first answer's, that is returned.
        """
        session = self._sessions[name]
        serving, since_ns = session.first or Identity(), session.answered_ns
        for change, before, after in session.path():
            if change.after.sent_ns > at_ns:
                return before, since_ns
            serving, since_ns = after, change.after.sent_ns
        return serving, since_ns

    def moves(self, name: str, pool: PoolHistory) -> list[Move]:
        """Return the changes of a session that are moves, in send order, over the whole run."""
        found = []
        since_ns = self._sessions[name].answered_ns
        for change, before, after in self._sessions[name].path():
            new_pod = Kind.POD in change.kinds
            if Kind.INSTANCE in change.kinds and not new_pod:
                new_pod = pool.was_replaced(before.pod, change.before.sent_ns, change.seen_ns)
            move = Move(change, before, after, since_ns, new_pod)
            if new_pod or move.new_address:
                found.append(move)
                since_ns = change.after.sent_ns
        return found

    def own_addresses(self) -> set[str]:
        """Return the client's own IPs that pods have seen as they are: no NAT translates them."""
        seen = set()
        for session in self._sessions.values():
            if session.local is not None:
                identities = [session.first, *(after for _, _, after in session.path())]
                if any(who and who.reflexive and who.reflexive.ip == session.local.ip for who in identities):
                    seen.add(session.local.ip)
        return seen

    def local_ip(self, name: str) -> str | None:
        """Return the IP of a session's socket; None: not told."""
        local = self._sessions[name].local
        return local.ip if local is not None else None


def _merged(before: Identity, reply: Identity) -> Identity:
    """Return a reply's identity; what it does not carry is as it was before."""
    return before._replace(**{name: value for name, value in reply._asdict().items() if value is not None})
