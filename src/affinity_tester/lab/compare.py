"""Hold a lab run's accounts against each other: what was injected, done, seen and judged must agree.

1. *FaultInjected*: each fault declares, flow by flow, what must and what may be seen of it.
2. *Done*: the packet log. Each event in it must be allowed by a fault, and each fault must have done its part.
3. *Seen*: the client's events. Each packet event must be seen by its session, with the right values and at the right
   time, and nothing may be seen that was not done (`check_events`).
4. *Judged*, where the run was: each change, outage and stray reply as its fault declares (`check_judgements`).

What the diagnosis named the faults is held against them in `check_diagnosis`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from affinity_tester.lab.check_events import SessionCheck
from affinity_tester.lab.check_judgements import run_problems
from affinity_tester.lab.evidence import describe, missing_effects
from affinity_tester.lab.lab_record import LabRecord

NOT_INJECTED = "it was not injected"
"""The problem of a fault whose time did not come."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table injected / seen."""

    number: int
    fault: str
    injected: str
    """What was done, in words."""
    expected: str
    """What the client must see, in words."""
    seen: str
    """What its sessions saw, in words."""
    problems: tuple[str, ...]
    """What is missing or wrong; empty: the fault was seen by the right sessions, and only as it should."""

    @property
    def injected_at_all(self) -> bool:
        """False if the run ended before the fault's time."""
        return NOT_INJECTED not in self.problems


@dataclass(frozen=True, slots=True)
class Findings:
    """The outcome of a lab run."""

    rows: tuple[Row, ...]
    """One for each fault of the plan."""
    unexpected: tuple[str, ...]
    """What was seen though nobody did it, and whatever else makes the run worthless."""

    @property
    def passed(self) -> bool:
        """True if every fault was seen, each by the right sessions, and nothing else turned red."""
        return not self.unexpected and not any(row.problems for row in self.rows)


def compare(record: LabRecord) -> Findings:
    """Compare the accounts of a run whose last event has been fed."""
    problems: defaultdict[int, list[str]] = defaultdict(list)
    unexpected = list(record.invalid_reasons)
    for session in record.sessions.values():
        for number, text in SessionCheck(record, session).problems():
            (unexpected if number is None else problems[number]).append(f"{session.name}: {text}")
    for number, text in run_problems(record):
        (unexpected if number is None else problems[number]).append(text)

    rows = []
    for number, fault in enumerate(record.planned, 1):
        injection = record.injections.get(number)
        if injection is None:
            rows.append(Row(number, fault.name, "nothing", fault.expects, "nothing", (NOT_INJECTED,)))
            continue
        found = (*problems[number], *missing_effects(record, injection))
        rows.append(Row(number, fault.name, injection.text, fault.expects, describe(record, injection), found))
    return Findings(tuple(rows), tuple(unexpected))
