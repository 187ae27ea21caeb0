"""Incidents: what happened to many sessions at about the same time is one story (docs/judging.md#incidents).

Members are changes, outages, loss bursts and replies that arrived elsewhere. They join when their [sent P, sent Q] brackets
lie within a second of each other. An incident closes after the loss threshold plus a second of quiet, when every member is
judged, and never while an outage of its lasts: what is learnt meanwhile is its evidence. What joins it is cut at 60 s.
Sessions that a common blackout left dead are an incident of their own, which begins where the blackout ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from affinity_tester.core.events import (
    BlackoutEnded,
    Change,
    ChangeJudged,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    Cohort,
    CrossDelivered,
    Event,
    FirstAnswer,
    Incident,
    Judgement,
    OutageEnded,
    OutageJudged,
    OutageStarted,
    ProbesLost,
    RunStarted,
    SendingStopped,
    StrayJudged,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind

NEAR_NS = 1_000_000_000
"""Brackets so close belong together; a second of quiet ends an incident."""

CUT_NS = 60 * 1_000_000_000
"""A story longer than this is told in parts."""

ONGOING_NS = 30 * 1_000_000_000
"""An incident that lasts so long is told as one that goes on, though not all of it is judged."""

BURST = 4
"""So many probes lost in a row are a burst: at 5 % random loss it takes 160,000 probes to see one."""

MAX_MEMBERS = 20_000
"""A storm beyond this is cut, as one that is too long is: memory is bounded."""


@dataclass(slots=True)
class Member:
    """One session's part in an incident."""

    session: str
    key: tuple[str, int]
    """("change", number), ("outage", since_seq), ("burst", first_seq), or ("stray", when it was heard)."""
    from_ns: int
    to_ns: int
    before: Identity | None
    """Who answered before it; None when nobody had."""
    change: Change | None = None
    lost: int = 0
    judgement: Judgement | None = None
    ended: bool = True
    """False: an outage that goes on."""

    @property
    def shown_ns(self) -> int:
        """When the first probe was sent that fared otherwise: a change's Q, the first lost one of an outage or a burst."""
        return self.from_ns if self.change is None else self.change.after.sent_ns


@dataclass(slots=True)
class Story:
    """An incident while it happens, with all its members."""

    number: int
    from_ns: int
    to_ns: int
    began_ns: int
    """Where its first member's bracket ended: a change over a long silence is no long story."""
    joins_ns: int
    """What begins within a second of this still belongs to it; an outage that goes on does not hold the door open."""
    members: dict[tuple[str, str, int], Member] = field(default_factory=dict)
    continuing: bool = False
    homes: dict[str, int] = field(default_factory=dict)
    """How many sessions had each reflexive IP when it began."""
    told: bool = False
    """It was told as one that goes on."""

    @property
    def judged(self) -> bool:
        """Whether every change and outage in it is."""
        return all(member.judgement is not None or member.key[0] == "burst" for member in self.members.values())

    @property
    def lasts(self) -> bool:
        """Whether an outage of its goes on."""
        return any(not member.ended for member in self.members.values())

    @property
    def shown_ns(self) -> int:
        """When it first showed; what is told of its surroundings counts from here.

        What made it happen came before the first probe that was lost or met the new state, and after the one before, P.
        P is no moment to count from: it says only how long ago all was well, and lies a whole pause back where a session
        was idle. A change over a burst of loss shows with the burst. Of an outage that was told before, the end shows.
        """
        return max(self.from_ns, min(member.shown_ns for member in self.members.values()))

    def sessions(self) -> set[str]:
        """The sessions in it."""
        return {member.session for member in self.members.values()}

    def tell(self, of: int) -> Incident:
        """Its figures; what is near it and what it may be are others' to add."""
        members = self.members.values()
        changes = [member.change for member in members if member.change is not None]
        kinds = Counter(kind for change in changes for kind in change.kinds)
        old_ips: dict[str, set[str]] = {}
        for member in members:
            if member.before is not None and member.before.reflexive is not None:
                old_ips.setdefault(member.before.reflexive.ip, set()).add(member.session)
        cohorts = [Cohort(ip, len(names), max(len(names), self.homes.get(ip, 0))) for ip, names in old_ips.items()]
        judgements = Counter(member.judgement for member in members if member.judgement is not None)
        return Incident(
            number=self.number,
            from_ns=self.from_ns,
            to_ns=self.to_ns,
            continuing=self.continuing,
            sessions=len(self.sessions()),
            of=of,
            changes=len(changes),
            outages=sum(member.key[0] == "outage" for member in members),
            bursts=sum(member.key[0] == "burst" for member in members),
            strays=sum(member.key[0] == "stray" for member in members),
            lost=sum(member.lost for member in members),
            kinds=tuple((kind, kinds[kind]) for kind in Kind if kinds[kind]),
            cohorts=tuple(sorted(cohorts, key=lambda cohort: (-cohort.sessions, cohort.ip))),
            near=(),
            judgements=tuple((judgement, judgements[judgement]) for judgement in Judgement if judgements[judgement]),
            diagnoses=(),
        )


class _Run:
    """Probes of one session lost in a row."""

    __slots__ = ("first_ns", "first_seq", "last_ns", "next_seq", "told")

    def __init__(self, event: ProbesLost) -> None:
        self.first_seq = event.first_seq
        self.first_ns = event.first_sent_ns
        self.told = False
        self.go_on(event)

    @property
    def lost(self) -> int:
        return self.next_seq - self.first_seq

    def go_on(self, event: ProbesLost) -> None:
        self.next_seq = event.first_seq + event.count
        self.last_ns = event.last_sent_ns


class Incidents:
    """Sorts members into stories as events come in."""

    def __init__(self) -> None:
        """Start with none."""
        self._quiet_ns = NEAR_NS
        self._count = 0
        self._open: list[Story] = []
        self._whose: dict[tuple[str, str, int], Story] = {}
        self._runs: dict[str, _Run] = {}
        self.serving: dict[str, Identity] = {}
        """Who answers each session, as of its newest event."""
        self._newest_change: dict[str, Change] = {}
        self._outages: dict[str, Member] = {}
        """By session, the outage it is in."""
        self._ended_seq: dict[str, int] = {}
        """By session, the probe whose reply ended its newest outage."""
        self._last_outage_story: dict[str, Story] = {}
        """By session, the story of its newest outage that is over."""
        self._blackout: BlackoutEnded | None = None
        """The newest."""
        self._left_dead: Story | None = None
        """The story of those that it left dead."""
        self._stopped_ns: int | None = None
        self.of = 0
        """Sessions of the run."""

    @property
    def open_count(self) -> int:
        """Stories that are not told yet."""
        return len(self._open)

    def feed(self, event: Event) -> None:
        """Take in what a session went through, or how it was judged."""
        match event:
            case RunStarted():
                self._quiet_ns = event.loss_threshold_ns + NEAR_NS
                self.of = event.sessions
            case FirstAnswer():
                self.serving[event.session] = event.identity
            case ChangeSeen(change=change):
                self._change(event.session, change)
                self.serving[event.session] = change.after.identity
                self._newest_change[event.session] = change
            case ChangeRevised(change=change):
                self._revise(event.session, change)
            case ChangeWithdrawn(change=change):
                self._leave((event.session, "change", change.number))
            case OutageStarted():
                self._start_outage(event)
            case OutageEnded():
                self._end_outage(event)
            case ProbesLost():
                self._lose(event)
            case ChangeJudged():
                self._judged((event.session, "change", event.change.number), event.judgement)
            case OutageJudged():
                self._judged((event.session, "outage", event.since_seq), event.judgement)
            case WrongSource() | CrossDelivered():
                self._stray(event)
            case StrayJudged():
                self._judged((event.session, "stray", event.heard_ns), event.judgement)
            case BlackoutEnded():
                self._blackout, self._left_dead = event, None
            case SendingStopped():
                self._stopped_ns = event.at_ns
            case _:
                pass

    def close(self, now_ns: int, *, last: bool = False) -> list[Story]:
        """The stories that are over now; `last`: all of them."""
        over = []
        for story in list(self._open):
            if story.lasts:
                self._go_on(story, now_ns)
            if last or story.continuing or now_ns - story.to_ns > self._quiet_ns:
                if not (last or (story.judged and not story.lasts)):
                    continue
                self._open.remove(story)
                for key in story.members:
                    self._whose.pop(key, None)
                    if self._last_outage_story.get(key[0]) is story:
                        del self._last_outage_story[key[0]]
                if story.members:
                    over.append(story)
        return over

    def ongoing(self, now_ns: int) -> list[Story]:
        """The stories that go on for an outage's sake, once each, when all of it is judged or it has been quiet for long."""
        found = []
        for story in self._open:
            quiet_ns = now_ns - story.joins_ns
            if not story.told and story.lasts and quiet_ns > (self._quiet_ns if story.judged else ONGOING_NS):
                story.told = True
                found.append(story)
        return found

    def _go_on(self, story: Story, now_ns: int) -> None:
        """An outage in it lasts until now, or until the last probe was sent."""
        story.to_ns = max(story.to_ns, now_ns if self._stopped_ns is None else min(now_ns, self._stopped_ns))

    def _join(self, member: Member, from_ns: int | None = None) -> None:
        """Put a member into the story that is near it, or into a new one; it counts as beginning at `from_ns`."""
        from_ns = member.from_ns if from_ns is None else from_ns
        story = next((s for s in self._open if not s.continuing and _near(s, from_ns, member.to_ns)), None)
        self._put(story or self._new_story(from_ns, member.to_ns), member, from_ns)

    def _new_story(self, from_ns: int, to_ns: int) -> Story:
        self._count += 1
        homes = Counter(who.reflexive.ip for who in self.serving.values() if who.reflexive is not None)
        story = Story(self._count, from_ns, to_ns, to_ns, to_ns, homes=dict(homes))
        self._open.append(story)
        return story

    def _put(self, story: Story, member: Member, from_ns: int) -> None:
        self._add(story, member)
        story.from_ns = min(story.from_ns, from_ns)
        self._lengthen(story, member.to_ns)

    def _add(self, story: Story, member: Member) -> None:
        key = (member.session, *member.key)
        story.members[key] = member
        self._whose[key] = story
        story.continuing = story.continuing or len(story.members) >= MAX_MEMBERS

    def _change(self, session: str, change: Change) -> None:
        """A change over an outage, which its first reply shows, belongs to the outage's story."""
        member = _changed(session, change)
        ended_seq = self._ended_seq.get(session)
        story = self._last_outage_story.get(session)
        if story in self._open and change.before.seq < (ended_seq or 0) <= change.after.seq:
            # As the outage's end, it makes the story last, and holds no door open: a long silence is no storm to be cut.
            self._add(story, member)
            story.to_ns = max(story.to_ns, member.to_ns)
        else:
            self._join(member)

    def _revise(self, session: str, change: Change) -> None:
        key = (session, "change", change.number)
        story = self._whose.get(key)
        if story is not None:
            story.members[key] = _changed(session, change)

    def _leave(self, key: tuple[str, str, int]) -> None:
        story = self._whose.pop(key, None)
        if story is not None:
            del story.members[key]

    def _judged(self, key: tuple[str, str, int], judgement: Judgement) -> None:
        story = self._whose.get(key)
        if story is not None:
            story.members[key].judgement = judgement

    def _start_outage(self, event: OutageStarted) -> None:
        """An outage takes the place of the burst that it began as: its probes are counted once."""
        before = None if event.last is None else event.last.identity
        member = Member(event.session, ("outage", event.since_seq), event.since_ns, event.at_ns, before, ended=False)
        run = self._runs.pop(event.session, None)
        if run is not None and run.first_seq >= event.since_seq:
            member.lost = run.lost
            self._leave((event.session, "burst", run.first_seq))
        self._outages[event.session] = member
        dark = self._blackout
        if dark is None or not dark.since_ns - NEAR_NS <= event.since_ns <= dark.until_ns:
            self._join(member)
            return
        if self._left_dead is None or self._left_dead not in self._open:
            self._left_dead = self._new_story(dark.until_ns, event.at_ns)
        self._put(self._left_dead, member, dark.until_ns)

    def _end_outage(self, event: OutageEnded) -> None:
        member = self._outages.pop(event.session, None)
        if member is None:
            return
        self._ended_seq[event.session] = event.first.seq
        self._last_outage_story[event.session] = self._whose[event.session, *member.key]
        member.ended, member.lost, member.to_ns = True, event.probes, event.first.sent_ns
        story = self._whose[event.session, *member.key]
        story.to_ns = max(story.to_ns, member.to_ns)

    def _lose(self, event: ProbesLost) -> None:
        outage = self._outages.get(event.session)
        if outage is not None:  # what goes on does not keep the story open: it is told while it lasts
            outage.lost += event.count
            return
        if event.first_seq < self._ended_seq.get(event.session, 0):
            return  # the tail of an outage, declared lost after its end; its probes are counted
        run = self._runs.get(event.session)
        if run is None or run.next_seq != event.first_seq:
            run = self._runs[event.session] = _Run(event)
        else:
            run.go_on(event)
        key = (event.session, "burst", run.first_seq)
        story = self._whose.get(key)
        if story is not None:
            member = story.members[key]
            member.lost, member.to_ns = run.lost, run.last_ns
            self._lengthen(story, run.last_ns)
            return
        if run.told:  # its story was cut or told: what goes on is another
            run = self._runs[event.session] = _Run(event)
        if run.lost >= BURST:
            run.told = True
            before = self._served_at(event.session, run.first_seq)
            burst = ("burst", run.first_seq)
            self._join(Member(event.session, burst, run.first_ns, run.last_ns, before, lost=run.lost))

    def _stray(self, event: WrongSource | CrossDelivered) -> None:
        key = ("stray", event.at_ns)
        self._join(Member(event.session, key, event.sent_ns, event.at_ns, self.serving.get(event.session)))

    def _served_at(self, session: str, seq: int) -> Identity | None:
        """Who served a session when probe `seq` was sent: a loss is told later, when it may have moved on."""
        change = self._newest_change.get(session)
        if change is not None and change.before.seq <= seq < change.after.seq:
            return change.before.identity
        return self.serving.get(session)

    def _lengthen(self, story: Story, to_ns: int) -> None:
        story.to_ns = max(story.to_ns, to_ns)
        story.joins_ns = max(story.joins_ns, to_ns)
        story.continuing = story.continuing or story.joins_ns - story.began_ns >= CUT_NS


def _near(story: Story, from_ns: int, to_ns: int) -> bool:
    return from_ns - NEAR_NS <= story.joins_ns and story.from_ns - NEAR_NS <= to_ns


def _changed(session: str, change: Change) -> Member:
    key = ("change", change.number)
    return Member(session, key, change.before.sent_ns, change.after.sent_ns, change.before.identity, change)
