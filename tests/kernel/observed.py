"""What a client saw in one run, put together from its record: the signature that a fault leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TypeVar

from prober import Run

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CaseJudged,
    Certainty,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    Diagnosis,
    Event,
    FirstAnswer,
    Incident,
    IncidentClosed,
    Judgement,
    NetworkError,
    OutageStarted,
    RunDiagnosed,
    RunSummary,
    SessionStarted,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import Reason

_E = TypeVar("_E", bound=Event)

ADDRESS = {Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT}
"""The kinds of which a change of the reflexive address has at least one."""


def ingress(identity: Identity) -> int:
    """The node that masqueraded: both its addresses, 10.30.N.2 and (towards its own pods) 10.40.N.1, tell its number."""
    assert identity.reflexive is not None
    ip = identity.reflexive.ip
    return int(ip.split(":")[3] if ":" in ip else ip.split(".")[2])


def _ip(identity: Identity) -> str:
    assert identity.reflexive is not None
    return identity.reflexive.ip


class Observed:
    """A run, asked for what matters."""

    def __init__(self, run: Run) -> None:
        self.exit_code = run.exit_code
        self._events = run.events
        self.summaries = {event.session: event for event in self._of(SessionSummary)}
        self.run = self._of(RunSummary)[0]
        self.locals: dict[str, TransportAddress] = {event.session: event.local for event in self._of(SessionStarted)}
        self.first = {event.session: event.identity for event in self._of(FirstAnswer)}
        """Who answered each session first; a session that never was is missing."""
        self.outages = {event.session: event for event in self._of(OutageStarted)}

    def _of(self, kind: type[_E]) -> list[_E]:
        return [event for event in self._events if type(event) is kind]

    @cached_property
    def changes(self) -> dict[str, list[Change]]:
        """The final changes of each session that has any."""
        final: dict[tuple[str, int], Change] = {}
        for event in self._events:
            match event:
                case ChangeSeen(change=change) | ChangeRevised(change=change):
                    final[event.session, change.number] = change
                case ChangeWithdrawn(change=change):
                    del final[event.session, change.number]
        of: dict[str, list[Change]] = {}
        for (session, _), change in final.items():
            of.setdefault(session, []).append(change)
        return of

    @property
    def all_changes(self) -> list[Change]:
        """Those of all sessions."""
        return [change for changes in self.changes.values() for change in changes]

    @property
    def kinds(self) -> set[tuple[Kind, ...]]:
        """Each combination of kinds that changed together."""
        return {change.kinds for change in self.all_changes}

    @property
    def changed(self) -> set[str]:
        """The sessions with a change."""
        return set(self.changes)

    @property
    def silent(self) -> set[str]:
        """The sessions that were never answered."""
        return set(self.locals) - set(self.first)

    @property
    def left_altogether(self) -> set[str]:
        """The IPs that all of their two or more sessions left, by chance: to those who know no node it may be a proxy's."""
        last = {session: changes[-1].after.identity for session, changes in self.changes.items()}
        stayed = {_ip(last.get(session, who)) for session, who in self.first.items()}
        return {ip for ip, count in Counter(map(_ip, self.first.values())).items() if count > 1 and ip not in stayed}

    def entering(self, node: int) -> set[str]:
        """The sessions that a node masqueraded at first."""
        return {session for session, who in self.first.items() if ingress(who) == node}

    def served_by(self, pod: str) -> set[str]:
        """The sessions that a pod answered first."""
        return {session for session, who in self.first.items() if who.pod == pod}

    def lost(self, sessions: Iterable[str]) -> int:
        """Probes lost by these sessions."""
        return sum(self.summaries[session].total.lost for session in sessions)

    @property
    def wrong_sources(self) -> dict[str, str]:
        """The address that answered a session instead of the one asked."""
        return {event.session: str(event.source) for event in self._of(WrongSource)}

    @property
    def network_errors(self) -> set[tuple[str, str | None]]:
        """(error, offender) of each ICMP error heard."""
        return {(event.error, event.offender) for event in self._of(NetworkError)}

    @property
    def client_faults(self) -> set[tuple[str, str]]:
        """(session, fault) of each."""
        return {(event.session, event.fault) for event in self._of(ClientFault)}

    @property
    def judged(self) -> Counter[Judgement]:
        """How many changes have each class, by their newest judgement."""
        newest = {
            (event.session, event.case.number): event.judgement
            for event in self._of(CaseJudged)
            if isinstance(event.case, Change)
        }
        return Counter(newest.values())

    @property
    def avoidable(self) -> set[str]:
        """The sessions with a change that is explained although the old pod went on serving."""
        return {event.session for event in self._of(CaseJudged) if event.avoidable}

    @property
    def incidents(self) -> list[Incident]:
        """Those that closed, in their order."""
        return [event.incident for event in self._of(IncidentClosed)]

    @property
    def reasons(self) -> set[tuple[Reason, ...]]:
        """The reasons of all judgements."""
        return {event.reasons for event in self._of(CaseJudged)}

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """Those of all incidents, and of the run."""
        of_incidents = [named for incident in self.incidents for named in incident.diagnoses]
        return of_incidents + [named for event in self._of(RunDiagnosed) for named in event.diagnoses]

    @property
    def likely(self) -> set[str]:
        """The faults that are called likely."""
        return {named.name for named in self.diagnoses if named.certainty is Certainty.LIKELY}

    @property
    def possible(self) -> set[str]:
        """The faults that are called possible; empty names are of what nothing explains."""
        return {named.name for named in self.diagnoses if named.certainty is not Certainty.LIKELY}
