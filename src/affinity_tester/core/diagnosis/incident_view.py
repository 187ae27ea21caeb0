"""An incident as the rules look at it: which sessions changed, which were unanswered, and what was known around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from affinity_tester.core.diagnosis.cluster_text import happened_to
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import listed, pods, was
from affinity_tester.core.events import CanaryResult, Change, ClusterSubject, Judgement
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.incidents import BURST
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.open_incident import NEAR_NS, Member, OpenIncident
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_offset, format_seconds, plural

NODE_REACH_NS = 60 * NS_PER_S
"""A node's event so long before is near: balancers take a new node in after several health checks."""

_SWEEP_NS = 500 * NS_PER_MS
"""A loss is told at most so long after the loss threshold: the time between two sweeps, and more."""

_NEARLY_ALL = 0.9
"""A share that counts as all: one session more or less makes no difference."""


@dataclass(frozen=True, slots=True)
class SessionChange:
    """All changes of one session in the incident, as one step."""

    session: str
    changes: tuple[Change, ...]
    """In send order."""
    idle: bool
    """Each of them was judged idle: the pause before it is longer than the affinity window."""
    shares_name: bool = False
    """A new instance alone was judged to be no restart: the old one still answered."""

    @property
    def old(self) -> Identity:
        """Who answered before."""
        return self.changes[0].before.identity

    @property
    def new(self) -> Identity:
        """Who answered after."""
        return self.changes[-1].after.identity

    @property
    def kinds(self) -> frozenset[Kind]:
        """What changed in any of them."""
        return frozenset(kind for change in self.changes for kind in change.kinds)

    @property
    def lost(self) -> int:
        """Probes without a reply between the pairs' ends."""
        return sum(change.after.seq - change.before.seq - 1 for change in self.changes)

    @property
    def longest(self) -> Change:
        """The change with the most probes without a reply."""
        return max(self.changes, key=lambda change: change.after.seq - change.before.seq)

    @property
    def longest_loss(self) -> int:
        """The most probes without a reply in one of its changes."""
        return self.longest.after.seq - self.longest.before.seq - 1

    @property
    def pause_ns(self) -> int:
        """The shortest of its changes' longest pauses between two sends."""
        return min(change.longest_pause_ns for change in self.changes)


@dataclass(frozen=True, slots=True)
class UnansweredSpan:
    """A session's probes went unanswered for a while."""

    session: str
    first_seq: int
    from_ns: int
    to_ns: int
    lost: int
    ended: bool | None
    """Whether it is over; None: not known, since its probes were lost until shortly before the incident was reported."""
    old: Identity | None
    """Who answered before; None: nobody ever."""
    change: Change | None
    """The change at its end; None: it goes on, or the same pod and address answered again."""


class IncidentView:
    """Some members of an incident, with the history of the run."""

    def __init__(self, members: Iterable[Member], incident: OpenIncident, now_ns: int, history: RunHistory) -> None:
        """View these members of an incident that is reported at `now_ns`."""
        self.from_ns = incident.from_ns
        self.to_ns = incident.to_ns
        self.first_effect_ns = incident.first_effect_ns
        """When its first effect was sent: its cause came before."""
        self.now_ns = now_ns
        self.history = history
        self.identities = history.identities_at(incident.from_ns)
        """Who served each session when it began."""

        changed: dict[str, list[Member]] = {}
        silent: dict[str, list[Member]] = {}
        self.stray_sessions: set[str] = set()
        """Sessions that got replies from elsewhere, or replies to another session."""
        self.reasons: list[Reason] = []
        """Why its members were judged as they were."""
        self.has_unjudged = False
        """True if a member could not be judged."""

        for member in members:
            self.reasons += member.reasons
            self.has_unjudged |= member.judgement is Judgement.UNKNOWN
            if member.is_stray:
                self.stray_sessions.add(member.session)
            else:
                (silent if member.change is None else changed).setdefault(member.session, []).append(member)

        self.moves = tuple(_session_change(session, mine) for session, mine in sorted(changed.items()))
        """Sessions that changed, by name."""
        self.unanswered_spans = tuple(self._find_unanswered_spans(silent))
        """Sessions that were unanswered, by name; one that a change ended too, though its burst is in an earlier incident."""

    def _find_unanswered_spans(self, silent: dict[str, list[Member]]) -> Iterator[UnansweredSpan]:
        long = {move.session: move.longest for move in self.moves if move.longest_loss >= BURST}
        for session in sorted(silent.keys() | long.keys()):
            mine = silent.get(session)
            if mine is None:
                yield _span_before(session, long[session])
                continue

            outage = next((member for member in mine if member.key[0] == "outage"), None)
            first = min(mine, key=lambda member: member.key[1])
            seq, last_ns = first.key[1], max(member.to_ns if member.ended else self.to_ns for member in mine)

            change = long.get(session)
            if change is not None and not change.before.seq < seq <= change.after.seq:
                change = None

            newest = max(mine, key=lambda member: member.key[1])
            ended = change is not None or (self._is_over(newest) if outage is None else outage.ended)
            lost = max(member.lost for member in mine)
            # The member's own `before` is as of when the loss was told: a change may have come in between.
            old = self.history.identity_at(session, first.from_ns) if seq else None
            yield UnansweredSpan(session, seq, first.from_ns, last_ns, lost, ended, old, change)

    def _is_over(self, burst: Member) -> bool | None:
        """Return whether a burst is over: a reply closed it, or no further loss was told in time. None: not known."""
        started, interval_ns, stopped_ns = (
            self.history.started,
            self.history.interval_ns,
            self.history.stopped_ns,
        )
        if stopped_ns is not None and burst.to_ns >= stopped_ns - 2 * interval_ns:
            return False
        told_ns = burst.to_ns + interval_ns + (started.loss_threshold_ns if started else 0) + _SWEEP_NS
        mine = (gap for gap in self.history.loss_directions if gap.session == burst.session)
        closed = any(gap.first_seq <= burst.key[1] <= gap.last_seq for gap in mine)
        return True if closed or self.now_ns >= told_ns else None

    # --- as text ---------------------------------------------------------------------------------------------------

    def share(self, sessions: Iterable[str]) -> str:
        """Return `11 of 16 sessions`."""
        number = len(set(sessions))
        of = max(number, len(self.identities))
        return f"{number:,} of {plural(of, 'session')}"

    def cluster_events_near(self, *subjects: ClusterSubject) -> list[str]:
        """Return the cluster events of these subjects around it as text, the nearest first."""
        found = []
        for event in self.history.cluster:
            reach_ns = NODE_REACH_NS if event.subject is ClusterSubject.NODE else self.history.settle_ns
            if (
                event.subject in subjects
                and self.from_ns - reach_ns <= event.at_ns <= self.to_ns + self.history.settle_ns
            ):
                sentence = f"{happened_to(event)} {format_offset(event.at_ns - self.first_effect_ns)}"
                found.append((abs(event.at_ns - self.first_effect_ns), sentence))
        return [sentence for _, sentence in sorted(found)[:3]]

    def loss_text(self, lost: int) -> str:
        """Return `no probe lost`, or how many."""
        return f"{plural(lost, 'probe')} lost" if lost else "no probe lost"

    def canary_text(self, canaries: Iterable[CanaryResult]) -> list[str]:
        """Say how many canaries were answered meanwhile, and by which pods."""
        canaries = list(canaries)
        answered = [c for c in canaries if c.identity is not None]
        said = []
        if answered:
            names = {c.identity.pod for c in answered if c.identity is not None and c.identity.pod is not None}
            by = f" by {pods(names)}" if names else ""
            longest_ns = max(c.at_ns - c.sent_ns for c in answered)
            said.append(
                f"{_test_probes(len(answered))} {was(len(answered))} answered{by} within {format_seconds(longest_ns)}"
            )

        silent = len(canaries) - len(answered)
        if silent:
            said.append(f"{_test_probes(silent)} got no answer")
        return said

    def icmp_text(self, sessions: Iterable[str]) -> list[str]:
        """Return the ICMP errors heard by these sessions meanwhile, as text."""
        sessions = set(sessions)
        heard = {
            f"ICMP error {event.error}" + (f" heard from {event.offender}" if event.offender else " heard")
            for event in self.history.network_errors
            if event.session in sessions and self.during(event.at_ns)
        }
        return sorted(heard)[:2]

    # --- what is known -------------------------------------------------------------------------------------------------

    def during(self, at_ns: int) -> bool:
        """True if an event of this time may belong to it: losses are told a loss threshold later."""
        started = self.history.started
        slack_ns = NEAR_NS + (started.loss_threshold_ns if started else 0)
        return self.from_ns - NEAR_NS <= at_ns <= self.to_ns + slack_ns

    def nearly_all(self, number: int) -> bool:
        """True if so many sessions count as all that were answered before; from a single one nothing follows."""
        return number >= 2 and number >= _NEARLY_ALL * len(self.identities)  # noqa: PLR2004 - "all" needs two

    @cached_property
    def canaries(self) -> list[CanaryResult]:
        """The canaries that were sent in it."""
        return [c for c in self.history.canaries if self.from_ns <= c.sent_ns <= self.to_ns + self.history.interval_ns]

    @cached_property
    def address_holders(self) -> dict[tuple[object, ...], list[tuple[str, int, int]]]:
        """Which sessions had each (pod, instance, reflexive address), from when to when."""
        found: dict[tuple[object, ...], list[tuple[str, int, int]]] = {}
        end_ns = self.to_ns + 60 * NS_PER_S
        for name, session in self.history.sessions.items():
            starts = [at_ns for at_ns, _ in session.identities[1:]]
            for (at_ns, who), until_ns in zip(session.identities, [*starts, end_ns], strict=False):
                if until_ns > self.from_ns and who.reflexive is not None:
                    found.setdefault((who.pod, who.instance, who.reflexive), []).append((name, at_ns, until_ns))
        return found

    @cached_property
    def source_ip_preserved(self) -> bool | None:
        """Return whether pods see the client's own address (policy Local, or no masquerade); None: not known."""
        policy = self.history.spec("externalTrafficPolicy", self.from_ns)
        if policy is not None:
            return policy == "Local"

        if self.sees_own_ip:
            return True

        # Several addresses, or a node's, are no client's own: the nodes masquerade.
        ips = {who.reflexive.ip for who in self.identities.values() if who.reflexive is not None}
        return False if len(ips) > 1 or any(self.is_node(ip) for ip in ips) else None

    @cached_property
    def sees_own_ip(self) -> bool:
        """Return whether the reflexive IP of every session was its own IP, so that nothing on the way translates it."""
        sessions = self.history.sessions.items()
        own = [
            (session.local, self.identities[name].reflexive) for name, session in sessions if name in self.identities
        ]
        known = [local is not None and local.ip == seen.ip for local, seen in own if seen is not None]
        return bool(known) and all(known)

    def ingress(self, who: Identity) -> str | None:
        """Return the node that a session comes in through, as far as the client can see it."""
        if self.source_ip_preserved:
            return who.node
        return who.reflexive.ip if who.reflexive is not None else None

    def is_node(self, ip: str) -> bool:
        """True if an address is known to be a node's."""
        return ip in (self.history.node_names or {})

    def place(self, ip: str) -> str:
        """Return an address, with its node's name where that is known."""
        name = (self.history.node_names or {}).get(ip)
        return f'{ip} (node "{name}")' if name else ip

    def cohorts(self, sessions: Iterable[str], key: Callable[[Identity], str | None]) -> dict[str, tuple[int, int]]:
        """Return for each old value of `key` how many of these sessions had it, and how many of all."""
        sessions = set(sessions)
        found: dict[str, tuple[int, int]] = {}
        for session, who in self.identities.items():
            value = key(who)
            if value is not None:
                mine, all_ = found.get(value, (0, 0))
                found[value] = (mine + (session in sessions), all_ + 1)
        return {value: (mine, all_) for value, (mine, all_) in sorted(found.items()) if mine}

    def cohort_text(self, sessions: Iterable[str]) -> str:
        """Say how the sessions are spread over old reflexive IPs."""
        cohorts = self.cohorts(sessions, lambda who: who.reflexive.ip if who.reflexive is not None else None)
        if not cohorts:
            return "their old reflexive IPs are not known"
        parts = [f"{self.place(ip)}: {mine} of its {all_}" for ip, (mine, all_) in cohorts.items()]
        if len(cohorts) == 1:
            ((ip, (_, all_)),) = cohorts.items()
            return f"all with old reflexive IP {self.place(ip)}, which had {plural(all_, 'session')}"
        return f"by old reflexive IP {listed(parts)}"


def _session_change(session: str, members: list[Member]) -> SessionChange:
    changes = sorted((m.change for m in members if m.change is not None), key=lambda change: change.after.seq)
    alone = {m.judgement for m in members if m.change is not None and m.change.kinds == (Kind.INSTANCE,)}
    shares_name = not alone <= {None, Judgement.POD_RESTART}
    return SessionChange(session, tuple(changes), all(m.judgement is Judgement.IDLE for m in members), shares_name)


def _span_before(session: str, change: Change) -> UnansweredSpan:
    """Return the unanswered span before a change, where its burst belongs to an earlier incident."""
    before, after = change.before, change.after
    lost = after.seq - before.seq - 1
    return UnansweredSpan(
        session, before.seq + 1, before.sent_ns, after.sent_ns, lost, ended=True, old=before.identity, change=change
    )


def _test_probes(number: int) -> str:
    """Return `1 test probe from a new port` or `2 test probes from new ports`."""
    return f"{plural(number, 'test probe')} from {'a new port' if number == 1 else 'new ports'}"
