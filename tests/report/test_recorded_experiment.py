"""An experiment in a record is shown, and judged again as it was judged live."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EVENT_CLASSES

from affinity_tester.core import events as ev
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.replay import judge_again
from affinity_tester.report.event_json import decode, encode
from affinity_tester.report.html import html_text
from affinity_tester.report.recorded_experiment import RecordedExperiment
from affinity_tester.report.recorded_run import RecordedRun, load
from affinity_tester.report.render import json_text, text_lines
from experiment_worlds import World

EVENTS = st.one_of([st.from_type(cls) for cls in EVENT_CLASSES])


def recorded(world: World) -> RecordedRun:
    """What is read of a world's record, judged again."""
    written = [json.loads(json.dumps(encode(event))) for event in world.events]
    return load(judge_again(decode(each, ev.Event) for each in written))


@pytest.mark.parametrize("name", ["pod-delete", "rollout", "policy-flip", "not-ready"])
@pytest.mark.parametrize("seed", range(3))
def test_a_recorded_experiment_comes_to_what_it_came_to(name: str, seed: int) -> None:
    world = World(seed, name, rogue=seed)
    result = recorded(world).experiment.result()
    assert result is not None
    assert (result.service, result.policy) == ("ns/affinity", "Cluster")
    assert result.outcome == world.outcome


def test_it_stands_in_every_form_of_the_report() -> None:
    world = World(1, "pod-delete", rogue=1)
    run = recorded(world)
    text = [line for line, _ in text_lines(run)]
    begin = text.index("experiment")
    assert text[begin + 1].endswith('experiment pod-delete on Service "ns/affinity" (policy Cluster, affinity None)')
    assert "only the deleted pod's sessions move, each once, and none stays silent: broken" in text
    assert any(line.startswith("    why: 1 session moved that need not have: CLIENT-") for line in text)

    document = json.loads(json_text(run))["experiment"]
    assert (document["name"], document["outcome"]["held"]) == ("pod-delete", "broken")
    assert [step["text"].split(": ")[0] for step in document["steps"][1:]] == ["experiment"] * 5
    assert "<h2>Experiment</h2>" in html_text(run)


def test_a_run_without_an_experiment_says_nothing_of_one(story) -> None:  # type: ignore[no-untyped-def]
    run = load(story.run())
    assert "experiment" not in json.loads(json_text(run))
    assert "<h2>Experiment</h2>" not in html_text(run)


def test_an_experiment_that_this_program_does_not_know_has_its_steps() -> None:
    world = World(1, "baseline")
    world.events = [
        replace(event, name="from-the-future") if isinstance(event, ev.ExperimentStarted) else event
        for event in world.events
    ]
    document = json.loads(json_text(recorded(world)))["experiment"]
    assert (document["name"], document["outcome"], len(document["steps"])) == ("from-the-future", None, 6)


@given(st.sampled_from(sorted(EXPERIMENTS)), st.lists(EVENTS, max_size=40), st.integers(0, 2**40))
def test_no_record_makes_it_fail(name: str, events: list[ev.Event], action_ns: int) -> None:
    experiment = RecordedExperiment()
    middle = len(events) // 2
    started = ev.ExperimentStarted(0, name, "ns/echo", "Cluster", "None", 5)
    for event in (started, *events[:middle], ev.PhaseStarted(action_ns, ev.Phase.ACTION), *events[middle:]):
        experiment.add(event)
    assert experiment.result() is not None
