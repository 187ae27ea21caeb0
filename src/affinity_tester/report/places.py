"""When and where a run's cases, losses and times were: at which pod, node and reflexive IP, second by second."""

from __future__ import annotations

from collections import Counter

from affinity_tester.core import events as ev
from affinity_tester.core.identity import Identity
from affinity_tester.units import NS_PER_S

MOST_CASES = 1_000_000
"""Cases kept apart, since a later judgement of one replaces an earlier one."""

Served = tuple[str | None, ...]
"""Pod, node and reflexive IP, in the order of `GroupKind`."""


class Places:
    """Takes every event of a run in order."""

    def __init__(self, start_ns: int) -> None:
        """Start with nothing; seconds count from `start_ns`."""
        self._start_ns = start_ns
        self._served: dict[str, list[tuple[int, Served]]] = {}
        """Who served each session, since the first probe that each one answered."""
        self.cases: dict[tuple[str, str, int], tuple[int, ev.Judgement, Served]] = {}
        """Second of the run, class and place of each case, by the kind of case, the session, and its number."""
        self.lost: Counter[tuple[int, Served]] = Counter()
        """Lost probes by second of the run and place."""
        self.ticks: list[ev.StatsTick] = []

    def add(self, event: ev.Event) -> None:
        """Take in one event."""
        match event:
            case ev.FirstAnswer(session=session, identity=identity):
                self._served[session] = [(0, _served(identity))]
            case ev.ChangeSeen(session=session, change=change):
                served = self._served.setdefault(session, [(0, _served(change.before.identity))])
                if change.after.sent_ns >= served[-1][0]:
                    served.append((change.after.sent_ns, _served(change.after.identity)))
            case ev.ChangeWithdrawn(session=session, change=change):
                self.cases.pop(("change", session, change.number), None)
            case ev.ProbesLost(session=session, first_sent_ns=at_ns, count=count):
                self.lost[self._second(at_ns), self._at(session, at_ns)] += count
            case ev.CaseJudged(session=session, case=ev.Change() as change):
                self._judge(
                    ("change", session, change.number), change.after.sent_ns, event, _served(change.before.identity)
                )
            case ev.CaseJudged(session=session, case=ev.OutageCase(since_seq=seq, since_ns=since_ns)):
                self._judge(("outage", session, seq), since_ns, event, self._at(session, since_ns))
            case ev.CaseJudged(session=session, case=ev.StrayCase(heard_ns=heard_ns)):
                self._judge(("stray", session, heard_ns), heard_ns, event, self._at(session, heard_ns))
            case ev.StatsTick():
                self.ticks.append(event)

    def violations(self) -> Counter[str]:
        """Return the violations of each session that has any."""
        return Counter(
            session for (_, session, _), (_, judged, _) in self.cases.items() if judged is ev.Judgement.VIOLATION
        )

    def _judge(self, key: tuple[str, str, int], at_ns: int, event: ev.CaseJudged, where: Served) -> None:
        if key in self.cases or len(self.cases) < MOST_CASES:
            self.cases[key] = (self._second(at_ns), event.judgement, where)

    def _second(self, at_ns: int) -> int:
        return max(0, at_ns - self._start_ns) // NS_PER_S

    def _at(self, session: str, at_ns: int) -> Served:
        """Return who served a session when a probe was sent."""
        for since_ns, served in reversed(self._served.get(session, ())):
            if since_ns <= at_ns:
                return served
        return _served(Identity())


def _served(identity: Identity) -> Served:
    return identity.pod, identity.node, None if identity.reflexive is None else identity.reflexive.ip
