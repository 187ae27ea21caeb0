"""What runs of shipped plans come to: whether each is as declared, the counts, and the document."""

from __future__ import annotations

from dataclasses import replace

import pytest

from affinity_tester.app import lab_matrix
from affinity_tester.app.lab_document import document_text
from affinity_tester.app.lab_matrix import PlanResult, count_lines, run_one, summarise
from affinity_tester.app.lab_run import LabResult
from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Outcome
from affinity_tester.lab.faults import FAULTS, LaptopAsleep, StuckFlows
from affinity_tester.lab.plan_file import builtin, builtin_comment, builtin_names
from lab_results import LIKELY, POSSIBLE, ROW, lab_result


@pytest.mark.parametrize(
    ("run", "problems"),
    [
        (lab_result(), ()),
        (
            lab_result(first=(POSSIBLE,)),
            ("port-rewrite: it was named possible flow-wipe, not likely port-rewrite",),
        ),
        (lab_result(first=()), ("port-rewrite: it was named nothing, not likely port-rewrite",)),
        (lab_result(first=(), control=True), ()),
        (replace(lab_result(), unexpected_diagnoses=("mtu",)), ("it was likely mtu, which nobody did",)),
        (lab_result(row=replace(ROW, problems=("a flaw",))), ("port-rewrite: a flaw",)),
        (lab_result(unexpected=("an outage",)), ("an outage",)),
        (
            replace(lab_result(), busy=True),
            ("the machine was too busy for the client to send on time, each time: take fewer --jobs",),
        ),
    ],
)
def test_a_run_is_as_declared_or_says_why_not(run: LabResult, problems: tuple[str, ...]) -> None:
    assert summarise("port-rewrite", 1, run).problems == problems


def test_a_violation_in_a_control_is_a_problem() -> None:
    result = summarise("control-nothing", 1, lab_result(control=True))
    assert result.problems == ("1 violations, where nothing is one",)
    assert result.control


RESULTS = [
    PlanResult(
        "port-rewrite", 1, control=False, names=("likely port-rewrite",), right=LIKELY, violations=3, problems=()
    ),
    PlanResult(
        "port-rewrite", 2, control=False, names=(), right=None, violations=0, problems=("it was named nothing",)
    ),
    PlanResult("control-nothing", 1, control=True, names=(), right=None, violations=0, problems=()),
]


def test_runs_are_counted() -> None:
    assert count_lines(RESULTS) == [
        "port-rewrite     1/2 as declared  named first: likely port-rewrite 1",
        "control-nothing  1/1 as declared  named first: nothing",
    ]


def test_a_run_that_a_busy_machine_spoilt_is_repeated_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [replace(lab_result(), busy=True), replace(lab_result(), busy=True), lab_result()]

    monkeypatch.setattr(lab_matrix, "run_once", lambda _plan: runs.pop(0))
    result = run_one("port-rewrite", 3)
    assert (result.repeated, result.problems) == (2, ())
    last = "2 runs were repeated: the machine was too busy for the client to send on time"
    assert count_lines([result])[-1] == last
    assert "2 further runs proved nothing" in document_text([result])


def test_the_document_has_counts_evidence_and_what_looks_alike() -> None:
    text = document_text(RESULTS)
    assert "| [`port-rewrite`](#port-rewrite) | 2 | 1 | likely port-rewrite (1) |\n" in text
    assert "| `control-nothing` | nothing happens. | 1 | 0 | nothing |\n" in text
    assert "\n### port-rewrite\n\nA few flows of different nodes get another port in mid-session.\n" in text
    assert "\n- 3 of 10 sessions have a new reflexive port\n" in text
    assert "- **`flow-wipe` and `port-rewrite`**, when " in text


def test_a_fault_that_was_never_named_says_so_in_the_document() -> None:
    assert "\nThe catalogue has no name for it, or none was given.\n" in document_text(RESULTS[1:2])


def test_every_fault_of_the_catalogue_can_be_injected_and_has_a_plan() -> None:
    assert {fault.alias or name for name, fault in FAULTS.items()} >= CATALOGUE.keys()
    plans = [builtin(name) for name in builtin_names()]
    assert {fault.name for plan in plans for fault in plan.faults} == FAULTS.keys()


def test_a_plan_takes_no_longer_than_its_kind_needs() -> None:
    """All of them run in CI. A sleeping machine takes no time; the demo is no case of its own.

    A silence at a slow interval needs longest: it must outlast the proof that the pod lives by three probes.
    """
    for name in set(builtin_names()) - {"demo"}:
        plan = builtin(name)
        asleep_ns = sum(fault.lasts_ns for fault in plan.faults if isinstance(fault, LaptopAsleep))
        slow = plan.interval_ns >= 2_000_000_000
        silent = any(isinstance(fault, StuckFlows) for fault in plan.faults)
        whole_run = any(
            fault.name == "lossy-path" for fault in plan.faults
        )  # learnt from one half, tested in the other
        most_s = 26 if slow and silent else 18 if slow or whole_run else 17
        assert plan.duration_ns - asleep_ns <= most_s * 1_000_000_000, name


def test_controls_say_so_and_want_no_failure() -> None:
    """What ends as a violation is no control, and what a plan wants of the verdict says the same."""
    for name in builtin_names():
        plan = builtin(name)
        assert name.startswith("control-") == (builtin_comment(name).startswith("Control: ")), name
        if name.startswith("control-") and plan.verdict != frozenset(Outcome):
            assert Outcome.FAIL not in plan.verdict, name
