"""An experiment's events as lines, as objects, and on a run's page."""

from __future__ import annotations

import pytest

from affinity_tester.core import events as ev
from affinity_tester.report.clock import RunClock
from affinity_tester.report.jsonlog import objects
from affinity_tester.report.lines import run_lines
from affinity_tester.report.logging import Colour
from affinity_tester.report.messages import Messages
from affinity_tester.report.recorded_run import load

S = 1_000_000_000
STARTED = ev.ExperimentStarted(0, "pod-delete", "udp/turn", "Local", "ClientIP", 5 * S)
CLOCK = RunClock(wall_ns=0, at_ns=0, utc_offset_s=0)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (STARTED, 'experiment pod-delete on Service "udp/turn" (policy Local, affinity ClientIP)'),
        (ev.ExperimentStarted(0, "idle", "udp/turn", "", "", S), 'experiment idle on Service "udp/turn"'),
        (ev.PhaseStarted(0, ev.Phase.STEADY), "experiment: steady state: nothing is done, and no session may move"),
        (ev.PhaseStarted(0, ev.Phase.ACTION), "experiment: action"),
        (ev.ActionStep(0, 'deleted pod "a"'), 'done: deleted pod "a"'),
        (ev.ActionStep(0, "scaled back to 3", undo=True), "undone: scaled back to 3"),
        (ev.ActionStep(0, "no rights", failed=True), "failed: no rights"),
        (ev.ActionStep(0, "no rights", undo=True, failed=True), "could not be undone: no rights"),
    ],
)
def test_a_step_is_a_line(event: ev.Event, text: str) -> None:
    (line,) = run_lines(event, CLOCK)
    assert line.text == text
    assert line.category is None
    failed = isinstance(event, ev.ActionStep) and event.failed
    assert line.colour is (Colour.WARNING if failed else Colour.CLUSTER)


def test_what_an_action_names_is_for_the_record_alone() -> None:
    assert run_lines(ev.ActionRemoved(0, ("uid-1",)), CLOCK) == []


def test_the_objects_of_the_log_have_seconds_and_words() -> None:
    (told,) = objects(STARTED, CLOCK, Messages(CLOCK))
    name, level, message, data = told
    assert (name, level) == ("experiment.started", "info")
    assert message == 'experiment pod-delete on Service "udp/turn" (policy Local, affinity ClientIP)'
    assert data == {
        "name": "pod-delete",
        "service": "udp/turn",
        "policy": "Local",
        "affinity": "ClientIP",
        "steady_s": 5.0,
    }


def test_a_runs_page_shows_phases_and_steps(story) -> None:  # type: ignore[no-untyped-def]
    steps = (
        ev.PhaseStarted(story.at(1), ev.Phase.ACTION),
        ev.ActionStep(story.at(1.1), 'deleted pod "a"'),
        ev.ActionRemoved(story.at(1.1), ("uid-1",)),
    )
    first, *others = story.run()
    context = [text for _, text in load([first, *steps, *others]).context]
    assert context[:2] == ["experiment: action", 'done: deleted pod "a"']
