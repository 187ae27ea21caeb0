"""Incidents: what happened to many sessions at about the same time is one incident (docs/judging.md).

Members are changes, outages, loss bursts and replies that arrived elsewhere. They join when their [sent P, sent Q] brackets
lie within a second of each other. An incident closes after the loss threshold plus a second of quiet, when every member is
judged, and never while one of its outages goes on: what is learnt meanwhile is its evidence. An incident is cut at 60 s.
Sessions that are still dead after a blackout of all are an incident of their own, which begins where the blackout ends.
"""

from __future__ import annotations

from collections import Counter

from affinity_tester.core.events import (
    BlackoutEnded,
    CaseJudged,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    CrossDelivered,
    Event,
    FirstAnswer,
    OutageEnded,
    OutageStarted,
    ProbesLost,
    RunStarted,
    SendingStopped,
    Stray,
    WrongSource,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.tally import CaseKey, case_key
from affinity_tester.core.open_incident import NEAR_NS, Member, OpenIncident
from affinity_tester.units import NS_PER_S

ONGOING_NS = 30 * NS_PER_S
"""An incident that lasts so long is reported as one that goes on, though not all of it is judged."""

BURST = 4
"""So many probes lost in a row are a burst: at 5 % random loss it takes 160,000 probes to see one."""


class _LossRun:
    """Probes of one session lost in a row."""

    __slots__ = ("first_ns", "first_seq", "is_member", "last_ns", "next_seq")

    def __init__(self, event: ProbesLost) -> None:
        self.first_seq = event.first_seq
        self.first_ns = event.first_sent_ns
        self.is_member = False
        """It is, or was, a burst in an incident."""
        self.extend(event)

    @property
    def lost(self) -> int:
        return self.next_seq - self.first_seq

    def extend(self, event: ProbesLost) -> None:
        self.next_seq = event.first_seq + event.count
        self.last_ns = event.last_sent_ns


class Incidents:
    """Collects members into incidents as events come in."""

    def __init__(self) -> None:
        """Start with none."""
        self._quiet_ns = NEAR_NS
        """An incident is over after so long without a new member."""
        self._count = 0
        self._open: list[OpenIncident] = []
        self._incident_of: dict[CaseKey, OpenIncident] = {}
        """By member key, for the members of open incidents."""
        self._loss_runs: dict[str, _LossRun] = {}
        """By session, the newest."""
        self.serving: dict[str, Identity] = {}
        """Who answers each session, as of its newest event."""
        self._newest_change: dict[str, Change] = {}
        self._outages: dict[str, Member] = {}
        """By session, the outage it is in."""
        self._ended_seq: dict[str, int] = {}
        """By session, the probe whose reply ended its newest outage."""
        self._last_outage_incident: dict[str, OpenIncident] = {}
        """By session, the incident of its newest outage that is over."""
        self._blackout: BlackoutEnded | None = None
        """The newest."""
        self._after_blackout: OpenIncident | None = None
        """The incident of the sessions that it left dead."""
        self._stopped_ns: int | None = None
        self.total_sessions = 0
        """Sessions of the run."""

    @property
    def open_count(self) -> int:
        """How many incidents are not closed yet."""
        return len(self._open)

    def feed(self, event: Event) -> None:
        """Take in what a session went through, or how it was judged."""
        match event:
            case RunStarted():
                self._quiet_ns = event.loss_threshold_ns + NEAR_NS
                self.total_sessions = event.sessions
            case FirstAnswer():
                self.serving[event.session] = event.identity
            case ChangeSeen(change=change):
                self._add_change(event.session, change)
                self.serving[event.session] = change.after.identity
                self._newest_change[event.session] = change
            case ChangeRevised(change=change):
                self._revise_change(event.session, change)
            case ChangeWithdrawn(change=change):
                self._remove(case_key(event.session, change))
            case OutageStarted():
                self._start_outage(event)
            case OutageEnded():
                self._end_outage(event)
            case ProbesLost():
                self._add_loss(event)
            case WrongSource() | CrossDelivered():
                self._add_stray(event)
            case CaseJudged():
                self._judge(case_key(event.session, event.case), event)
            case BlackoutEnded():
                self._blackout, self._after_blackout = event, None
            case SendingStopped():
                self._stopped_ns = event.at_ns
            case _:
                pass

    # --- what is over, and what goes on ------------------------------------------------------------------------------

    def close(self, now_ns: int, *, last: bool = False) -> list[OpenIncident]:
        """Close and return the incidents that are over now; with `last`, all of them."""
        over = []
        for incident in list(self._open):
            if incident.lasts:
                # An outage lasts until now, or until the last probe was sent.
                lasts_ns = now_ns if self._stopped_ns is None else min(now_ns, self._stopped_ns)
                incident.to_ns = max(incident.to_ns, lasts_ns)

            is_quiet = incident.continuing or now_ns - incident.to_ns > self._quiet_ns
            if not (last or (is_quiet and incident.judged and not incident.lasts)):
                continue

            self._open.remove(incident)
            for key in incident.members:
                self._incident_of.pop(key, None)
                if self._last_outage_incident.get(key[0]) is incident:
                    del self._last_outage_incident[key[0]]
            if incident.members:  # every change in it may have been withdrawn
                over.append(incident)
        return over

    def ongoing(self, now_ns: int) -> list[OpenIncident]:
        """Return the incidents to be reported as going on: once each, when all is judged or nothing new came for long."""
        found = []
        for incident in self._open:
            quiet_ns = now_ns - incident.join_until_ns
            wanted_ns = self._quiet_ns if incident.judged else ONGOING_NS
            if not incident.reported and incident.lasts and quiet_ns > wanted_ns:
                incident.reported = True
                found.append(incident)
        return found

    # --- members -----------------------------------------------------------------------------------------------------

    def _join(self, member: Member) -> None:
        """Put a member into the open incident that is near it, or into a new one."""
        incident = next((each for each in self._open if each.accepts(member.from_ns, member.to_ns)), None)
        self._add_member(incident or self._begin(member.from_ns, member.to_ns), member, member.from_ns)

    def _begin(self, from_ns: int, to_ns: int) -> OpenIncident:
        self._count += 1
        by_ip = Counter(who.reflexive.ip for who in self.serving.values() if who.reflexive is not None)
        incident = OpenIncident(self._count, from_ns, to_ns, to_ns, to_ns, sessions_by_ip=dict(by_ip))
        self._open.append(incident)
        return incident

    def _add_member(self, incident: OpenIncident, member: Member, from_ns: int) -> None:
        """Add a member, and let the incident reach from `from_ns` to the member's end."""
        self._incident_of[incident.add(member)] = incident
        incident.from_ns = min(incident.from_ns, from_ns)
        incident.extend(member.to_ns)

    def _remove(self, key: CaseKey) -> None:
        incident = self._incident_of.pop(key, None)
        if incident is not None:
            del incident.members[key]

    def _judge(self, key: CaseKey, judged: CaseJudged) -> None:
        incident = self._incident_of.get(key)
        if incident is not None:
            incident.members[key].judgement = judged.judgement
            incident.members[key].avoidable = judged.avoidable is True
            incident.members[key].reasons = judged.reasons

    # --- changes and stray replies -----------------------------------------------------------------------------------

    def _add_change(self, session: str, change: Change) -> None:
        """Add a change. One that the first reply after an outage shows belongs to the outage's incident."""
        member = _change_member(session, change)
        ended_seq = self._ended_seq.get(session)
        incident = self._last_outage_incident.get(session)
        if incident in self._open and change.before.seq < (ended_seq or 0) <= change.after.seq:
            # Like the outage's end, it makes the incident longer, and lets nothing more join: it brings no new fault.
            self._incident_of[incident.add(member)] = incident
            incident.to_ns = max(incident.to_ns, member.to_ns)
        else:
            self._join(member)

    def _revise_change(self, session: str, change: Change) -> None:
        key = case_key(session, change)
        incident = self._incident_of.get(key)
        if incident is not None:
            incident.members[key] = _change_member(session, change)

    def _add_stray(self, event: WrongSource | CrossDelivered) -> None:
        stray = Stray.WRONG_SOURCE if isinstance(event, WrongSource) else Stray.CROSS_DELIVERED
        key = (stray, event.at_ns)
        self._join(Member(event.session, key, event.sent_ns, event.at_ns, self.serving.get(event.session)))

    # --- losses and outages ------------------------------------------------------------------------------------------

    def _start_outage(self, event: OutageStarted) -> None:
        """Add an outage. It replaces the burst that it began as, so that its probes are counted once."""
        before = None if event.last is None else event.last.identity
        member = Member(event.session, ("outage", event.since_seq), event.since_ns, event.at_ns, before, ended=False)
        run = self._loss_runs.pop(event.session, None)
        if run is not None and run.first_seq >= event.since_seq:
            member.lost = run.lost
            self._remove((event.session, "burst", run.first_seq))
        self._outages[event.session] = member

        blackout = self._blackout
        if blackout is None or not blackout.since_ns - NEAR_NS <= event.since_ns <= blackout.until_ns:
            self._join(member)
            return

        # It began with the blackout and outlives it: what is wrong with this session shows from the blackout's end on.
        if self._after_blackout is None or self._after_blackout not in self._open:
            self._after_blackout = self._begin(blackout.until_ns, event.at_ns)
        self._add_member(self._after_blackout, member, blackout.until_ns)

    def _end_outage(self, event: OutageEnded) -> None:
        member = self._outages.pop(event.session, None)
        if member is None:
            return
        member.ended, member.lost, member.to_ns = True, event.probes, event.first.sent_ns

        self._ended_seq[event.session] = event.first.seq
        incident = self._incident_of.get((event.session, *member.key))
        if incident is not None:  # the incident may have been cut or closed in the meantime
            incident.to_ns = max(incident.to_ns, member.to_ns)
            self._last_outage_incident[event.session] = incident

    def _add_loss(self, event: ProbesLost) -> None:
        """Count lost probes to the session's outage or burst; a run of them that is long enough becomes a burst."""
        outage = self._outages.get(event.session)
        if outage is not None:  # an outage does not keep its incident open: it is reported while it goes on
            outage.lost += event.count
            return
        if event.first_seq < self._ended_seq.get(event.session, 0):
            return  # the tail of an outage, declared lost after its end; its probes are counted

        run = self._loss_runs.get(event.session)
        if run is None or run.next_seq != event.first_seq:
            run = self._loss_runs[event.session] = _LossRun(event)
        else:
            run.extend(event)

        key = (event.session, "burst", run.first_seq)
        incident = self._incident_of.get(key)
        if incident is not None:
            member = incident.members[key]
            member.lost, member.to_ns = run.lost, run.last_ns
            incident.extend(run.last_ns)
            return

        if run.is_member:  # its incident was cut or closed: the rest is another burst
            run = self._loss_runs[event.session] = _LossRun(event)
        if run.lost >= BURST:
            run.is_member = True
            before = self._served_at(event.session, run.first_seq)
            burst = ("burst", run.first_seq)
            self._join(Member(event.session, burst, run.first_ns, run.last_ns, before, lost=run.lost))

    def _served_at(self, session: str, seq: int) -> Identity | None:
        """Return who served a session when probe `seq` was sent: when its loss is told, it may have moved on."""
        change = self._newest_change.get(session)
        if change is not None and change.before.seq <= seq < change.after.seq:
            return change.before.identity
        return self.serving.get(session)


def _change_member(session: str, change: Change) -> Member:
    key = ("change", change.number)
    return Member(session, key, change.before.sent_ns, change.after.sent_ns, change.before.identity, change)
