"""Whether the client's own NAT may be what changed a session's reflexive address (docs/judging.md#the-clients-nat).

A new mapping is a new flow to the cluster: balancer, node and proxy choose anew, so that what a client sees of it is what
it sees of a proxy that dropped its flows. What is known of a NAT tells the two apart:

- It maps all flows of one local address. One that kept its reflexive address while others changed theirs excludes it: the
  port that a node, or policy Local, shows is drawn anew with each mapping. Only a session that was answered on both sides
  of that second says so; one that is silent, or began later, says nothing.
- It is between the client and the cluster. It is excluded where pods see the client's own IP, and where that is global.
- A new source port is hashed anew over ingress nodes. Sessions that all kept their two or more ingress addresses, or all
  went to one node where they had not been, were not; chance does so in less than 5 %. A balancer that hashes the IP alone,
  as with affinity ClientIP, would send all of them to one other node.
- It gives a new mapping, and not at once the old one again: flows that go to and fro within a second are the cluster's.

Under policy Local no proxy changes the source, so an address that moves between addresses that are no node's is moved
before the cluster, be it of one session alone. A reference settles what these cannot (core.judging.reference).
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from itertools import islice
from math import comb, exp, factorial, log
from typing import NamedTuple

from affinity_tester.core.events import Change, Event, Judgement
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.address_history import ADDRESS, AddressHistory, SessionAddresses
from affinity_tester.core.judging.chance import DOUBT
from affinity_tester.core.judging.reasons import (
    AddressBeforeCluster,
    ClientNatPossible,
    LocalAddressChanged,
    Reason,
    ReferenceMoved,
    ReferenceStayed,
)
from affinity_tester.core.judging.reference import mapping_over
from affinity_tester.core.judging.together import TOGETHER_NS, Span, most_moved, seconds_kept
from affinity_tester.units import NS_PER_MS

MIN_SESSIONS = 8
"""So many sessions must have changed together: of fewer, all may be one node's by chance."""

ADDRESSES_PER_NODE = 2
"""A node masquerades from its own address, and from its pods' bridge's."""

_MOST_ASKED = 128
"""Sessions of a local address that are looked at: if all of these changed, it is no chance that others did not."""

_GUARD_NS = 500 * NS_PER_MS
"""A client that stood still hears late what came meanwhile: it must have run for so long, and an interval, before."""


class Weighed(NamedTuple):
    """What the client's side has to do with a change."""

    judgement: Judgement | None
    """`client` or `unknown`; None: it is excluded, or nothing says that it is to be thought of."""
    reasons: tuple[Reason, ...] = ()
    """Why; of None: what is to be said beside a violation."""


NOTHING = Weighed(None)
"""The client's side has nothing to do with it."""


class _Found(NamedTuple):
    """What was found for one change; it holds for the other changes of that local address and time."""

    local: str
    from_ns: int
    to_ns: int
    kept: bool
    """A session kept its address in all of that time; else all changed in a second that began within it."""
    weighed: Weighed

    def holds_for(self, local: str, from_ns: int, to_ns: int) -> bool:
        """True if it holds for a change that lies in a second begun within these times."""
        if self.kept:
            return local == self.local and self.from_ns <= from_ns and to_ns + TOGETHER_NS <= self.to_ns
        return local == self.local and self.from_ns <= to_ns and from_ns <= self.to_ns


class ClientNat:
    """Weigh changes by what the run has shown of addresses."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.history = AddressHistory()
        self.pool_trusted = True
        """False: the watched pool is not the one that answers, so its Service's spec says nothing."""
        self._found: _Found | None = None

    def feed(self, event: Event) -> None:
        """Take in an event."""
        self.history.feed(event)

    def due_ns(self, name: str, change: Change) -> int | None:
        """Return when a change can be weighed; None: it needs no weighing."""
        session = self.history.sessions.get(name)
        if session is None or session.local is None or not ADDRESS.intersection(change.kinds):
            return None
        ip = session.local.ip
        needed = (
            self.history.reference is not None
            or self._may_be_together(ip)
            or self._is_before_cluster(session, change)
            or self.history.was_readdressed(ip, change)
        )
        return self.history.decided_ns(change) if needed else None

    @property
    def guard_ns(self) -> int:
        """For how long the client must have run before a change is weighed that is due."""
        return 0 if self.history.stopped_ns is not None else self.history.interval_ns + _GUARD_NS

    def weigh(self, name: str, change: Change, now_ns: int) -> Weighed:
        """Return what the client's side has to do with a change for which `due_ns` has a time."""
        history, session = self.history, self.history.sessions[name]
        assert session.local is not None
        if history.was_readdressed(session.local.ip, change):
            return Weighed(Judgement.CLIENT, (LocalAddressChanged(),))

        before_cluster = self._is_before_cluster(session, change)
        mapping = mapping_over(history, name, change) if history.reference is not None else None
        stayed: tuple[Reason, ...] = ()
        if mapping is not None:
            if mapping.moved:
                judgement = Judgement.UNKNOWN if mapping.partly else Judgement.CLIENT
                return Weighed(judgement, (ReferenceMoved(mapping.old, mapping.new, mapping.partly),))
            stayed = (ReferenceStayed(mapping.old, mapping.independent),)
            if mapping.independent:
                return Weighed(None, stayed)

        # A NAT that maps each destination anew may lose its mappings to the target alone, as where it sends that by another
        # uplink: what stayed at the reference excludes nothing then.
        if before_cluster:
            old, new = change.before.identity.reflexive, change.after.identity.reflexive
            assert old is not None
            assert new is not None
            return Weighed(Judgement.UNKNOWN, (AddressBeforeCluster(old, new), *stayed))
        weighed = self._weigh_together(session.local.ip, change, now_ns)
        return weighed._replace(reasons=(*weighed.reasons, *stayed))

    # --- policy Local --------------------------------------------------------------------------------------------------

    def _is_before_cluster(self, session: SessionAddresses, change: Change) -> bool:
        """True if pods see sources as they reach the cluster, and no node and not the client alone can have changed it."""
        if self._spec("externalTrafficPolicy", change) != "Local":
            return False
        old, new = _ip(change.before.identity), _ip(change.after.identity)
        assert session.local is not None
        own = old == new == session.local.ip
        return not own and not self.history.is_node(old) and not self.history.is_node(new)

    def _spec(self, name: str, change: Change) -> str | None:
        return self.history.spec(name, change.after.sent_ns) if self.pool_trusted else None

    # --- all sessions together -----------------------------------------------------------------------------------------

    def _may_be_together(self, local: str) -> bool:
        """True if there are enough sessions that one NAT may translate, with those of this local address."""
        return not _is_global(local) and len(self._translated_with(local)) >= MIN_SESSIONS

    def _translated_with(self, local: str) -> list[str]:
        """Return the sessions whose changes are compared with those of a local address: its own.

        Where these are too few, those of the client's other addresses speak, too: one NAT may be before all of them.
        """
        history = self.history
        mine = history.by_local[local]
        if len(mine) >= MIN_SESSIONS:
            return mine
        return [name for ip, names in history.by_local.items() if not _is_global(ip) for name in names]

    def _weigh_together(self, local: str, change: Change, now_ns: int) -> Weighed:
        """Return `unknown` if all sessions of this local address changed within a second, and nothing excludes the NAT."""
        if not self._may_be_together(local):
            return NOTHING

        from_ns, to_ns = change.before.sent_ns - TOGETHER_NS, change.after.sent_ns
        found = self._found
        if found is not None and found.holds_for(local, from_ns, to_ns):
            return found.weighed

        found = self._find(local, from_ns, to_ns, change, now_ns)
        if found is None:
            return NOTHING
        self._found = found
        return found.weighed

    def _find(self, local: str, from_ns: int, to_ns: int, change: Change, now_ns: int) -> _Found | None:
        """Look for a second, begun within these times, in which every session that was answered changed its address."""
        history = self.history
        known_ns = history.known_ns(now_ns)
        # A NAT forgets its mappings at once: one that was kept until the run ended was kept, if for less than a second.
        until_ns = to_ns + TOGETHER_NS
        if history.stopped_ns is not None:
            until_ns = max(to_ns, min(until_ns, history.stopped_ns - 2 * history.interval_ns))

        moved: dict[str, list[Span]] = {}
        """By session: when a second would have to begin to hold a change of it."""
        kept: list[Span] = []
        """When one would have to begin that a session kept its address through."""
        undecided = 0

        for other in islice(self._translated_with(local), _MOST_ASKED):
            session = history.sessions[other]
            brackets = [
                (max(from_ns, move.before.sent_ns - TOGETHER_NS), min(to_ns, move.after.sent_ns))
                for move in session.moved_within(from_ns, to_ns + TOGETHER_NS)
            ]
            if brackets:
                moved[other] = brackets
            else:
                around = session.kept_around(change.before.sent_ns, until_ns, known_ns, history.interval_ns)
                if around is not None:
                    return _Found(local, *around, True, NOTHING)
                undecided += session.is_undecided(change, known_ns, history.interval_ns)
            kept += seconds_kept(session, change, until_ns, known_ns, history.interval_ns)

        second, together = most_moved(moved, kept)
        if second is None or len(together) + undecided < MIN_SESSIONS:
            return None
        whole = {other: history.sessions[other].moved_within(second[0], second[1] + TOGETHER_NS) for other in together}
        # Who comes back within a second of its change may do so after the second that was found.
        near = (history.sessions[other].moved_within(from_ns, to_ns + TOGETHER_NS) for other in together)
        excluded = any(map(_went_to_and_fro, near)) or self._is_excluded(whole, change)
        possible = ClientNatPossible(len(together), history.reference is not None)
        weighed = NOTHING if excluded else Weighed(Judgement.UNKNOWN, (possible,))
        return _Found(local, *second, False, weighed)

    def _is_excluded(self, whole: dict[str, list[Change]], change: Change) -> bool:
        """Return whether sessions that all changed together show that no NAT of the client's changed them."""
        ends = {name: (moves[0].before.identity, moves[-1].after.identity) for name, moves in whole.items()}
        return (
            any(self._shows_own_ip(name, old, new) for name, (old, new) in ends.items())
            or self._chance_of_gathering(ends, change) < DOUBT
            or self._chance_of_kept_ingress(ends) < DOUBT
        )

    def _shows_own_ip(self, name: str, old: Identity, new: Identity) -> bool:
        """True if pods see the client's own IP on one side of a change, and it or a node's on the other."""
        local = self.history.sessions[name].local
        seen = {_ip(old), _ip(new)}
        return local is not None and local.ip in seen and all(map(self.history.is_node, seen - {local.ip}))

    def _chance_of_gathering(self, ends: dict[str, tuple[Identity, Identity]], change: Change) -> float:
        """Return the chance that all sessions meet at one node, were they hashed anew; 1: they do not, or it may be no hash.

        Where they were before says how they are hashed: that all go to one of two nodes, or to one where none was, has the
        chance of Fisher's exact test. A balancer that hashes the source's IP alone sends them all to one node, as affinity
        ClientIP makes some do, unless they had been at several.
        """
        if self._spec("externalTrafficPolicy", change) != "Cluster":
            return 1.0
        targets: dict[object, list[tuple[str, str]]] = {}
        for name, (before, after) in ends.items():
            targets.setdefault(self.history.sessions[name].target, []).append((_ip(before), _ip(after)))

        chances = [1.0]
        for moves in targets.values():
            old, new = {ip for ip, _ in moves}, {ip for _, ip in moves}
            hashed = self._spec("sessionAffinity", change) != "ClientIP" or not self._is_one_place(old)
            if hashed and self._is_one_place(new):
                there = sum(
                    ip in new or any(self.history.may_be_one_node(ip, other) for other in new) for ip, _ in moves
                )
                chances.append(comb(there + len(moves), len(moves)) / comb(2 * len(moves), len(moves)))
        return min(chances)

    def _is_one_place(self, ips: set[str]) -> bool:
        """True if these may be the addresses of one node."""
        return len(ips) == 1 or (len(ips) == ADDRESSES_PER_NODE and self.history.may_be_one_node(*ips))

    def _chance_of_kept_ingress(self, ends: dict[str, tuple[Identity, Identity]]) -> float:
        """Return the chance that all sessions keep their ingress nodes, were they hashed anew; 1: not all kept theirs.

        A node has two addresses at most. Which two are one node's is read from the changes themselves where its name does
        not say it, so the chance is that of any such pairs. With a share p of the flows at each node it is at most the
        product of p over the sessions; sessions to another target address say nothing of this one's nodes.
        """
        partner: dict[str, str] = {}
        ips: set[str] = set()
        for before, after in ends.values():
            old, new = _ip(before), _ip(after)
            ips |= {old, new}
            if old == new:
                continue
            is_pair = partner.setdefault(old, new) == new and partner.setdefault(new, old) == old
            if not is_pair or not self.history.may_be_one_node(old, new):
                return 1.0

        if self._is_one_place(ips):
            return 1.0

        at: dict[object, Counter[str]] = {}
        for name, (before, _) in ends.items():
            ip = _ip(before)
            at.setdefault(self.history.sessions[name].target, Counter())[min(ip, partner.get(ip, ip))] += 1
        logs = [n * log(n / nodes.total()) for nodes in at.values() for n in nodes.values()]
        pairs = len(partner) // 2
        ways = comb(len(ips), 2 * pairs) * factorial(2 * pairs) / (factorial(pairs) * 2.0**pairs)
        return ways * exp(sum(logs))


def _went_to_and_fro(moves: list[Change]) -> bool:
    """True if a session came back to an address that it had just left."""
    left = set()
    for move in moves:
        left.add(move.before.identity.reflexive)
        if move.after.identity.reflexive in left:
            return True
    return False


def _is_global(ip: str) -> bool:
    """True if an address is one of the Internet (IANA's special-purpose registries): nobody translates it."""
    return ip_address(ip).is_global


def _ip(who: Identity) -> str:
    """Return the reflexive IP; a change of address has one at both ends."""
    assert who.reflexive is not None
    return who.reflexive.ip
