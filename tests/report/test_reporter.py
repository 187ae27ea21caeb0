"""One emit for log and record, and what happens when either fails."""

import io
import os

import pytest

from affinity_tester.errors import UserError
from affinity_tester.report.logging import OutputClosed
from affinity_tester.report.record import read_record
from affinity_tester.report.reporter import Reporter


def test_every_event_is_shown_and_recorded(story, tmp_path):
    stream = io.StringIO()
    path = tmp_path / "run.jsonl"
    with Reporter.open(log_format="json", record=path, stream=stream, environ={}) as reporter:
        for event in story.run():
            reporter.emit(event)
    assert list(read_record(path, on_truncated=pytest.fail)) == story.run()
    assert stream.getvalue().count("\n") == len(story.run()) + 3  # the rules, and the change for each of three kinds


def test_colour_is_the_environments(story):
    stream = io.StringIO()
    with Reporter.open(log_format="console", stream=stream, environ={"FORCE_COLOR": "1"}) as reporter:
        reporter.emit(story.started())
    assert stream.getvalue().startswith("13:35:20.176 [info]  2026-11-22")


def test_a_record_that_cannot_be_written_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot write the record"):
        Reporter.open(log_format="json", record=tmp_path / "no" / "run", stream=io.StringIO(), environ={})


@pytest.mark.parametrize(
    ("log_format", "line"),
    [
        ("console", "13:35:21.176 [warn]  the record ends here, the run goes on: No space left on device"),
        (
            "json",
            '{"time":"2026-11-22T12:35:21.176042Z","level":"warn","event":"report.warning",'
            '"message":"the record ends here, the run goes on: No space left on device","run":"",'
            '"text":"the record ends here, the run goes on: No space left on device"}',
        ),
    ],
)
def test_a_full_disk_ends_the_record_and_not_the_run(story, log_format, line):
    class Full:
        def write(self, event):
            if event.at_ns > story.START_NS:
                raise OSError(28, "No space left on device")

        left_out = 0

        def advance(self, now_ns):
            pass

        def give_up(self, error):
            assert error.errno == 28

        def close(self):
            raise AssertionError("it was given up")

    stream = io.StringIO()
    with Reporter.open(log_format=log_format, stream=stream, environ={}) as reporter:
        reporter._record.writer = Full()
        reporter.emit(story.started())
        reporter.emit(story.stats("CLIENT-7", 1, None))
        reporter.emit(story.stats("CLIENT-7", 2, None))
    lines = stream.getvalue().splitlines()
    assert [at for at, shown in enumerate(lines) if "record" in shown] == [len(lines) - 2]
    assert lines[-2] == line


def test_a_record_that_fails_at_its_end_says_so(story):
    class Full:
        left_out = 0

        def write(self, event):
            pass

        def close(self):
            raise OSError(28, "No space left on device")

    stream = io.StringIO()
    with Reporter.open(log_format="console", stream=stream, environ={}) as reporter:
        reporter._record.writer = Full()
        reporter.emit(story.started())
    assert (
        stream.getvalue().splitlines()[-1] == "13:35:20.176 [warn]  the record lacks its end: No space left on device"
    )


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_after_the_reader_has_gone_events_still_reach_the_record(story, tmp_path, log_format):
    reading, writing = os.pipe()
    os.close(reading)
    path = tmp_path / "run.jsonl"
    with os.fdopen(writing, "w") as stream:
        reporter = Reporter.open(log_format=log_format, record=path, stream=stream, environ={})
        closed = 0
        for (
            event
        ) in story.run():  # the log is written beside the run: its end is told by a later event, or by the close
            try:
                reporter.emit(event)
            except OutputClosed:
                closed += 1
        try:
            reporter.close()
        except OutputClosed:
            closed += 1
        assert closed == 1
        assert list(read_record(path, on_truncated=pytest.fail)) == story.run()
