"""An incident while it happens: its members, how long it lasts, and its figures once it is reported (docs/judging.md)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from affinity_tester.core.events import Change, Cohort, Incident, Judgement, Stray
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.units import NS_PER_MIN, NS_PER_S

NEAR_NS = NS_PER_S
"""Brackets so close belong together; a second of quiet ends an incident."""

CUT_NS = NS_PER_MIN
"""An incident longer than this is reported in parts."""

MAX_MEMBERS = 20_000
"""An incident with more members than this is cut, as one that is too long is: memory is bounded."""


@dataclass(slots=True)
class Member:
    """One session's part in an incident."""

    session: str
    key: tuple[str, int]
    """("change", number), ("outage", since_seq), ("burst", first_seq), or (which stray, when it was heard)."""
    from_ns: int
    to_ns: int
    before: Identity | None
    """Who answered before it; None when nobody had."""
    change: Change | None = None
    lost: int = 0
    judgement: Judgement | None = None
    avoidable: bool = False
    """A change of the pool explains it, and a sound proxy would have avoided it."""
    reasons: tuple[Reason, ...] = ()
    """Why it was judged so."""
    ended: bool = True
    """False: an outage that goes on."""

    @property
    def is_stray(self) -> bool:
        """True for a reply that arrived elsewhere than it should have."""
        return isinstance(self.key[0], Stray)

    @property
    def first_effect_ns(self) -> int:
        """When the first affected probe was sent: a change's Q, the first lost one of an outage or a burst."""
        return self.from_ns if self.change is None else self.change.after.sent_ns


@dataclass(slots=True)
class OpenIncident:
    """An incident while it happens, with all its members."""

    number: int
    from_ns: int
    to_ns: int
    began_ns: int
    """Where its first member's bracket ended: a change over a long pause makes no long incident."""
    join_until_ns: int
    """What begins within a second of this still joins it. An outage that goes on does not move it."""
    members: dict[tuple[str, str, int], Member] = field(default_factory=dict)
    continuing: bool = False
    """It was cut for its length or its members: nothing joins it any more."""
    sessions_by_ip: dict[str, int] = field(default_factory=dict)
    """How many sessions had each reflexive IP when it began."""
    reported: bool = False
    """It was reported as one that goes on."""

    @property
    def judged(self) -> bool:
        """True if every change, outage and stray reply in it is judged."""
        return all(member.judgement is not None or member.key[0] == "burst" for member in self.members.values())

    @property
    def lasts(self) -> bool:
        """True while one of its outages goes on."""
        return any(not member.ended for member in self.members.values())

    @property
    def first_effect_ns(self) -> int:
        """When its first effect was sent; distances to what happened around it count from here.

        The cause lies after P, the last probe that fared as before, and before the first probe that was lost or met the
        new state. P itself is no moment to count from: where a session was idle it lies a whole pause back. A change over
        a burst of loss has its first effect with the burst. Of an outage that was reported before, the end counts.
        """
        return max(self.from_ns, min(member.first_effect_ns for member in self.members.values()))

    def add(self, member: Member) -> tuple[str, str, int]:
        """Add a member, and return its key; the incident keeps its length."""
        key = (member.session, *member.key)
        self.members[key] = member
        self.continuing = self.continuing or len(self.members) >= MAX_MEMBERS
        return key

    def extend(self, to_ns: int) -> None:
        """Let the incident last until `to_ns` at least, and be joined until then."""
        self.to_ns = max(self.to_ns, to_ns)
        self.join_until_ns = max(self.join_until_ns, to_ns)
        self.continuing = self.continuing or self.join_until_ns - self.began_ns >= CUT_NS

    def accepts(self, from_ns: int, to_ns: int) -> bool:
        """True if something with this bracket joins the incident."""
        is_near = from_ns - NEAR_NS <= self.join_until_ns and self.from_ns - NEAR_NS <= to_ns
        return is_near and not self.continuing

    def sessions(self) -> set[str]:
        """Return the names of the sessions in it."""
        return {member.session for member in self.members.values()}

    def summarise(self, total_sessions: int) -> Incident:
        """Return its figures. Others add what happened near it, and its diagnoses."""
        members = self.members.values()
        changes = [member.change for member in members if member.change is not None]
        kinds = Counter(kind for change in changes for kind in change.kinds)

        old_ips: dict[str, set[str]] = {}
        for member in members:
            if member.before is not None and member.before.reflexive is not None:
                old_ips.setdefault(member.before.reflexive.ip, set()).add(member.session)
        # A session may have come to an IP after the incident began, so a cohort has at least its own members.
        cohorts = [
            Cohort(ip, len(names), max(len(names), self.sessions_by_ip.get(ip, 0))) for ip, names in old_ips.items()
        ]

        judgements = Counter(member.judgement for member in members if member.judgement is not None)
        return Incident(
            number=self.number,
            from_ns=self.from_ns,
            to_ns=self.to_ns,
            continuing=self.continuing,
            sessions=len(self.sessions()),
            total_sessions=total_sessions,
            changes=len(changes),
            outages=sum(member.key[0] == "outage" for member in members),
            bursts=sum(member.key[0] == "burst" for member in members),
            strays=sum(member.is_stray for member in members),
            lost=sum(member.lost for member in members),
            kinds=tuple((kind, kinds[kind]) for kind in Kind if kinds[kind]),
            cohorts=tuple(sorted(cohorts, key=lambda cohort: (-cohort.sessions, cohort.ip))),
            context=(),
            judgements=tuple((judgement, judgements[judgement]) for judgement in Judgement if judgements[judgement]),
            diagnoses=(),
            avoidable=sum(member.avoidable for member in members),
        )
