"""The log's form and its stream."""

import io
import json
import os

import pytest

from affinity_tester.report.clock import RunClock
from affinity_tester.report.logging import Colour, OutputClosed, configure, wants_colour

CLOCK = RunClock(wall_ns=0, at_ns=0, utc_offset_s=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "terminal", "file"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_follows_the_terminal_and_the_environment(environ, terminal, file):
    assert (wants_colour(Terminal(), environ), wants_colour(io.StringIO(), environ)) == (terminal, file)


@pytest.mark.parametrize(
    ("level", "line"),
    [
        ("info", "00:00:00.007 [info]  x\n"),
        ("event", "00:00:00.007 [event] x\n"),
        ("warn", "00:00:00.007 [warn]  x\n"),
        ("error", "00:00:00.007 [error] x\n"),
    ],
)
def test_levels_are_padded_to_one_width(level, line):
    stream = io.StringIO()
    log = configure(format="console", stream=stream, colour=False).bind(CLOCK)
    log.line(level, "x", at_ns=7_000_000, colour=Colour.CHANGE, data=1)
    assert stream.getvalue() == line


def test_json_has_time_level_and_event_first_and_no_colour():
    stream = io.StringIO()
    log = configure(format="json", stream=stream, colour=True).bind(CLOCK)
    log.line("error", "session.pod_changed", at_ns=7_000_000, colour=Colour.CHANGE, session="CLIENT-1", to="p\u00f6d")
    assert stream.getvalue() == (
        '{"time":"1970-01-01T00:00:00.007000Z","level":"error","event":"session.pod_changed",'
        '"session":"CLIENT-1","to":"p\\u00f6d"}\n'
    )


def test_a_number_that_json_lacks_is_a_bug_and_not_written():
    stream = io.StringIO()
    log = configure(format="json", stream=stream, colour=False).bind(CLOCK)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.line("info", "x", at_ns=7_000_000, value=float("nan"))
    assert stream.getvalue() == ""


def test_a_character_that_the_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    log = configure(format="console", stream=io.TextIOWrapper(raw, encoding="ascii"), colour=False)
    log.text("p\u00f6d \u2026")
    log.flush()
    assert raw.getvalue() == b"p\\xf6d \\u2026\n"


def test_a_reader_that_has_gone_is_told_once_and_leaves_nothing_to_fail_later():
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    log = configure(format="console", stream=stream, colour=False)
    log.text("x")
    with pytest.raises(OutputClosed):
        log.flush()
    log.text("y")
    log.flush()
    stream.close()


def test_a_closed_stream_is_an_output_closed_too():
    stream = io.StringIO()
    log = configure(format="console", stream=stream, colour=False)
    stream.close()
    with pytest.raises(OutputClosed):
        log.text("x")


def test_a_full_disk_is_an_output_closed_too():
    with open("/dev/full", "w") as stream:  # noqa: PTH123 - a device
        log = configure(format="json", stream=stream, colour=False).bind(CLOCK)
        log.line("info", "x", at_ns=7_000_000)
        with pytest.raises(OutputClosed):
            log.flush()


def test_two_logs_do_not_know_each_other():
    one, two = io.StringIO(), io.StringIO()
    first = configure(format="console", stream=one, colour=False).bind(CLOCK)
    second = configure(format="json", stream=two, colour=False).bind(CLOCK)
    first.line("info", "x", at_ns=7_000_000)
    second.line("info", "x", at_ns=7_000_000)
    assert one.getvalue() == "00:00:00.007 [info]  x\n"
    assert json.loads(two.getvalue()) == {"time": "1970-01-01T00:00:00.007000Z", "level": "info", "event": "x"}


class TestClock:
    WALL_NS = 1_795_350_920_176_042_999

    def test_moments_are_cut_not_rounded(self):
        clock = RunClock(wall_ns=self.WALL_NS, at_ns=0, utc_offset_s=3600)
        assert (clock.time_of_day(0), clock.rfc3339(0)) == ("13:35:20.176", "2026-11-22T12:35:20.176042Z")
        assert (clock.time_of_day(823_957_000), clock.rfc3339(823_957_001)) == (
            "13:35:20.999",
            "2026-11-22T12:35:21.000000Z",
        )

    @pytest.mark.parametrize(
        ("offset_s", "text", "date", "time"),
        [
            (0, "UTC+00:00", "2026-11-22", "12:35:20.176"),
            (-12_600, "UTC-03:30", "2026-11-22", "09:05:20.176"),
            (45_900, "UTC+12:45", "2026-11-23", "01:20:20.176"),
        ],
    )
    def test_offsets(self, offset_s, text, date, time):
        clock = RunClock(wall_ns=self.WALL_NS, at_ns=7, utc_offset_s=offset_s)
        assert (clock.utc_offset, clock.date(7), clock.time_of_day(7)) == (text, date, time)

    @pytest.mark.parametrize("offset_s", [86_400, -86_400])
    def test_an_offset_of_a_day_is_none(self, offset_s):
        with pytest.raises(ValueError, match="is no offset"):
            RunClock(wall_ns=0, at_ns=0, utc_offset_s=offset_s)
