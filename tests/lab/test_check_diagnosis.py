"""What the diagnosis named, held against what was injected."""

from __future__ import annotations

from affinity_tester.core.events import Certainty, Diagnosis, Incident, IncidentClosed, RunDiagnosed
from affinity_tester.lab.check_diagnosis import NamedFault, name_faults, unexpected
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.faults import LossUp, PodDeleted, PortRewrite, PortsRewritten
from affinity_tester.lab.injection import Injection
from affinity_tester.lab.lab_record import LabRecord

S = 1_000_000_000
NOBODY: frozenset[str] = frozenset()


def diagnosis(name: str, certainty: Certainty = Certainty.LIKELY) -> Diagnosis:
    return Diagnosis(name, certainty, (f"as {name} does",))


REWRITE, WIPE, MTU = diagnosis("port-rewrite"), diagnosis("flow-wipe"), diagnosis("mtu")
MAYBE_WIPE = diagnosis("flow-wipe", Certainty.POSSIBLE)


def incident(at_s: float, *diagnoses: Diagnosis) -> IncidentClosed:
    at_ns = round(at_s * S)
    told = Incident(1, at_ns, at_ns, False, 1, 10, 1, 0, 0, 0, 0, (), (), (), (), diagnoses)
    return IncidentClosed(at_ns + 3 * S, told)


def record(*events: IncidentClosed | RunDiagnosed, fault: Fault | None = None) -> LabRecord:
    fault = fault or PortRewrite(at_ns=5 * S)
    made = LabRecord([fault])
    made.inject(Injection(1, 5 * S, "done", 6 * S))
    for event in events:
        made.feed(event)
    return made


def only(made: LabRecord, alike: frozenset[str] = NOBODY) -> NamedFault:
    (each,) = name_faults(made, alike)
    return each


def test_the_first_of_an_incident_at_its_time_is_its_name() -> None:
    each = only(record(incident(5.1, REWRITE, MAYBE_WIPE)))
    assert each == NamedFault(1, "port-rewrite", False, frozenset({"port-rewrite"}), (REWRITE,))
    assert (each.right, each.words, each.problem) == (REWRITE, "likely port-rewrite", "")


def test_another_name_first_or_only_possible_is_a_problem() -> None:
    for first in (WIPE, MAYBE_WIPE):
        each = only(record(incident(5.1, first, REWRITE)))
        assert each.right is None
        assert each.problem == f"it was named {first.certainty.value} flow-wipe, not likely port-rewrite"


def test_a_name_that_the_plan_declares_alike_is_as_right() -> None:
    made = record(incident(5.1, WIPE))
    assert only(made, frozenset({"flow-wipe"})).right is WIPE
    assert unexpected(made, frozenset({"flow-wipe"})) == ()
    assert unexpected(made, NOBODY) == ("flow-wipe (as flow-wipe does)",)


def test_incidents_of_another_time_or_without_a_diagnosis_do_not_count() -> None:
    assert only(record(incident(3.9, REWRITE), incident(7.1, REWRITE), incident(5.5))).first == ()


def test_the_run_is_named_too_by_the_faults_own_name_or_its_first() -> None:
    assert only(record(RunDiagnosed(9 * S, (MTU, REWRITE)))).right is REWRITE
    assert only(record(RunDiagnosed(9 * S, (MTU, WIPE)))).first == (MTU,)


def test_a_control_needs_no_name_but_must_get_no_wrong_one() -> None:
    made = record(incident(5.1, MTU), fault=LossUp(at_ns=5 * S))
    assert only(made).problem == ""
    assert unexpected(made, NOBODY) == ("mtu (as mtu does)",)
    assert unexpected(record(incident(5.1, MAYBE_WIPE), fault=LossUp(at_ns=5 * S)), NOBODY) == ()


def test_what_is_as_true_of_a_fault_is_no_stranger() -> None:
    made = record(incident(5.1, diagnosis("terminating-backend")), fault=PodDeleted(at_ns=5 * S))
    assert unexpected(made, NOBODY) == ()


def test_a_fault_may_have_another_name_in_the_catalogue() -> None:
    made = record(RunDiagnosed(9 * S, (REWRITE,)), fault=PortsRewritten())
    assert only(made).right is REWRITE
    assert unexpected(made, NOBODY) == ()
