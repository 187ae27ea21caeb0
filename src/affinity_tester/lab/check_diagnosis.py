"""Check what the diagnosis named against what was injected: each fault first and `likely`, and nothing else `likely`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from affinity_tester.core.events import Certainty, Diagnosis, Incident
from affinity_tester.lab.evidence import LAG_NS
from affinity_tester.lab.injection import Injection
from affinity_tester.lab.lab_record import LabRecord


@dataclass(frozen=True, slots=True)
class NamedFault:
    """What one injected fault was named."""

    number: int
    """Its place in the plan, from 1."""
    fault: str
    control: bool
    """True for ordinary life: nothing needs to be named."""
    correct: frozenset[str]
    """The names that are right: its own, and those that the plan declares to look alike."""
    first: tuple[Diagnosis, ...]
    """The first diagnosis of each incident at its time, then that of the run."""

    @property
    def right(self) -> Diagnosis | None:
        """Return the first `likely` diagnosis with a right name; None without one."""
        return next((each for each in self.first if _is_likely(each) and each.name in self.correct), None)

    @property
    def words(self) -> str:
        """Return what was named, for people; each name once."""
        said = dict.fromkeys(f"{each.certainty.value} {each.name}".strip() for each in self.first)
        return ", ".join(said) or "nothing"

    @property
    def problem(self) -> str:
        """Return what is wrong; empty where nothing is."""
        if self.control or self.right is not None:
            return ""
        return f"it was named {self.words}, not likely {' or '.join(sorted(self.correct))}"


def name_faults(record: LabRecord, alike: frozenset[str]) -> tuple[NamedFault, ...]:
    """Return what each injected fault was named; `alike` are names that the plan declares to be as right as a fault's own."""
    return tuple(_name_fault(record, injection, alike) for _, injection in sorted(record.injections.items()))


def unexpected(record: LabRecord, alike: frozenset[str]) -> tuple[str, ...]:
    """Return what is `likely` anywhere in the run and right for no fault of the plan: each name, and its first evidence."""
    right = alike.union(*({fault.diagnosis_name} | fault.also_correct for fault in record.planned))
    told = [diagnosis for incident in record.incidents for diagnosis in incident.diagnoses] + record.run_diagnoses
    wrong = {each.name: each for each in told if _is_likely(each) and each.name not in right}
    return tuple(f"{name} ({each.evidence[0]})" for name, each in sorted(wrong.items()))


def _name_fault(record: LabRecord, injection: Injection, alike: frozenset[str]) -> NamedFault:
    fault = record.planned[injection.number - 1]
    return NamedFault(
        injection.number,
        fault.name,
        fault.control,
        alike | {fault.diagnosis_name},
        (*_first_of_incidents(record.incidents, injection), *_first_of_run(record, fault.diagnosis_name)),
    )


def _first_of_incidents(incidents: list[Incident], injection: Injection) -> Iterator[Diagnosis]:
    for incident in incidents:
        begun = injection.at_ns - LAG_NS <= incident.to_ns
        if begun and incident.from_ns <= injection.until_ns + LAG_NS and incident.diagnoses:
            yield incident.diagnoses[0]


def _first_of_run(record: LabRecord, name: str) -> Iterator[Diagnosis]:
    """Yield one of the run's diagnoses, which stand beside each other: that of the fault's own name, else the first."""
    own = [each for each in record.run_diagnoses if each.name == name]
    yield from (own or record.run_diagnoses)[:1]


def _is_likely(diagnosis: Diagnosis) -> bool:
    return diagnosis.certainty is Certainty.LIKELY
