"""Which faults of the catalogue were seen from the action on, by the diagnoses of incidents and of the run."""

from __future__ import annotations

from affinity_tester.core.events import Certainty, Diagnosis, Event, IncidentClosed, RunDiagnosed


class NamesSeen:
    """Take in diagnoses. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self._found: list[tuple[int | None, tuple[Diagnosis, ...]]] = []
        """When an incident ended, and what it may be; None: it is the run as a whole."""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case IncidentClosed(incident=incident):
                self._found.append((incident.to_ns, incident.diagnoses))
            case RunDiagnosed(diagnoses=diagnoses):
                self._found.append((None, diagnoses))
            case _:
                pass

    def names(self, since_ns: int) -> tuple[str, ...]:
        """Return `likely flow-wipe`, each name once with its best certainty, likely ones first.

        Where an incident has a likely name, those that are only possible for it are left out.
        """
        certainty: dict[str, Certainty] = {}
        for to_ns, diagnoses in self._found:
            if to_ns is not None and to_ns < since_ns:
                continue
            likely = [each for each in diagnoses if each.certainty is Certainty.LIKELY]
            for each in likely or [each for each in diagnoses if each.certainty is Certainty.POSSIBLE]:
                if certainty.get(each.name) is not Certainty.LIKELY:
                    certainty[each.name] = each.certainty
        found = sorted(certainty.items(), key=lambda entry: entry[1] is not Certainty.LIKELY)
        return tuple(f"{how} {name}" for name, how in found)
