"""Results of lab runs, made by hand."""

from __future__ import annotations

from affinity_tester.app.lab_run import LabResult
from affinity_tester.core.events import Certainty, Diagnosis, Outcome, Verdict
from affinity_tester.lab.check_diagnosis import NamedFault
from affinity_tester.lab.compare import Findings, Row

LIKELY = Diagnosis("port-rewrite", Certainty.LIKELY, ("3 of 10 sessions have a new reflexive port",))
POSSIBLE = Diagnosis("flow-wipe", Certainty.POSSIBLE, ("it fits",), missing="a fact")
ROW = Row(1, "port-rewrite", "done", "to see", "1 session: reflexive_port 1", ())


def lab_result(
    *, row: Row = ROW, unexpected: tuple[str, ...] = (), first: tuple[Diagnosis, ...] = (LIKELY,), control: bool = False
) -> LabResult:
    verdict = Verdict(0, Outcome.FAIL, ("1 violation",), "", violations=1, judged_pairs=10, still_ns=1)
    name = NamedFault(1, "port-rewrite", control, frozenset({"port-rewrite"}), first)
    return LabResult(verdict, Findings((row,), unexpected), (name,), (), busy=False)
