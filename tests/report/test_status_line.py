"""The line at the bottom of a terminal, and what a signal asks for."""

from __future__ import annotations

import os
import pty
import time

from affinity_tester.core import events as ev
from affinity_tester.core.identity import Identity
from affinity_tester.core.pulse import Pulse, Silence
from affinity_tester.report.status_line import StatusLine
from affinity_tester.report.terminal import TerminalWriter

MS = 1_000_000

ERASED = "\r\x1b[J"


def pulse(story, t: float, **changes: object) -> Pulse:
    groups = tuple(ev.GroupCounts(ev.GroupKind.POD, pod, 1, 9, 9, 0, 0, MS, MS) for pod in ("pod-a", "pod-b"))
    values = {
        "total": ev.Counts(sent=2_000, answered=1_990, lost=4, pairs=1_980),
        "silent": 0,
        "silences": (),
        "recent_sent": 100,
        "recent_lost": 0,
        "p99_ns": 1_520_000,
        "times": (),
        "rtt_sum_ns": 0,
        "groups": groups,
    }
    return Pulse(story.at(t), **values | changes)  # type: ignore[arg-type]


def begin(line: StatusLine, story, sessions: int, answered: int | None = None) -> None:
    """Start a run, so many of whose sessions are answered at once; None: all."""
    line.emit(story.started(sessions=sessions))
    for n in range(sessions if answered is None else answered):
        line.emit(ev.FirstAnswer(story.at(0.1), f"CLIENT-{n}", 0, Identity(pod="pod-a")))


def test_it_says_how_long_who_answers_what_is_lost_and_what_was_judged(story):
    line = StatusLine(600 * 1_000 * MS)
    assert line.text(story.at(0)) == ""
    begin(line, story, 24)
    assert line.text(story.at(1)) == "1 s of 10 min | 24 sessions | 0 violations"

    line.beat(pulse(story, 2, total=ev.Counts(sent=24), groups=()))
    assert line.text(story.at(2)).startswith("2 s of 10 min | 24 sessions, none answered yet | 0 violations")

    line.beat(pulse(story, 42))
    assert line.text(story.at(42.9)) == (
        "42 s of 10 min | 24 of 24 sessions answered | 2 pods | 0 % lost in 5 s, p99 1.52 ms | 0 violations"
    )
    silence = Silence("CLIENT-3", story.at(40), Identity(pod="pod-b"))
    line.beat(pulse(story, 43, silent=1, silences=(silence,), recent_lost=10, p99_ns=None))
    line.emit(ev.CaseJudged(story.at(43), "CLIENT-1", story.change(), ev.Judgement.VIOLATION, None, ()))
    line.emit(ev.CaseJudged(story.at(43), "CLIENT-2", story.change(), ev.Judgement.EXPLAINED, True, ()))
    assert line.text(story.at(43)) == (
        "43 s of 10 min | 23 of 24 sessions answered, 1 silent since 13:36:00 (CLIENT-3) | 2 pods | 10 % lost in 5 s"
        " | 1 violation of 1 session, last at 13:35:23 (CLIENT-1), 1 explained"
    )


def test_who_still_waits_for_a_first_answer_is_not_called_answered(story):
    line = StatusLine(None)
    begin(line, story, 24, answered=12)
    line.beat(pulse(story, 1))
    assert line.text(story.at(1)).startswith("1 s | 12 of 24 sessions answered, 12 not yet | 2 pods")
    assert line.text(story.at(1), 60).startswith("1 s | 12 not answered yet | ")


def test_a_change_is_counted_before_it_is_judged(story):
    line = StatusLine(None)
    begin(line, story, 2)
    line.emit(ev.ChangeSeen(story.at(3), "CLIENT-1", story.change()))
    assert line.text(story.at(4)).endswith("| 0 violations, 1 not judged yet")
    line.emit(ev.CaseJudged(story.at(5), "CLIENT-1", story.change(), ev.Judgement.EXPLAINED, True, ()))
    assert line.text(story.at(6)).endswith("| 0 violations, 1 explained")


def test_a_narrow_terminal_keeps_who_is_broken_and_since_when(story):
    line = StatusLine(32 * 1_000 * MS, faults=7)
    begin(line, story, 10)
    line.emit(ev.CaseJudged(story.at(3), "CLIENT-1", story.change(), ev.Judgement.VIOLATION, None, ()))
    silences = (Silence("CLIENT-1", story.at(12), Identity(pod="pod-a")), Silence("CLIENT-2", story.at(13), None))
    line.beat(pulse(story, 25, silent=2, silences=silences, recent_lost=1))
    told = {width: line.text(story.at(25), width) for width in range(20, 200)}
    assert told[199] == (
        "25 s of 32 s, 0 of 7 faults injected | 8 of 10 sessions answered, 2 silent since 13:35:32 (first CLIENT-1) | 2 pods"
        " | 1 % lost in 5 s, p99 1.52 ms | 1 violation of 1 session, last at 13:35:23"
    )
    assert [told[width] for width in (140, 100, 80, 60, 40, 30)] == [
        "25 s of 32 s | 8 of 10 sessions answered, 2 silent since 13:35:32 (first CLIENT-1) | 1 % lost in 5 s"
        " | 1 violation, last at 13:35:23",
        "25 s of 32 s | 8 of 10 answered, 2 silent since 13:35:32 | 1 % lost | 1 violation, last at 13:35:23",
        "25 s | 2 silent since 13:35:32 | 1 % lost | 1 violation, last at 13:35:23",
        "25 s | 2 silent since 13:35:32 | 1 % lost | 1 violation",
        "25 s | 2 silent | 1 % lost | 1 violation",
        "25 s | 2 silent | 1 violation",
    ]
    assert all(len(text) <= width for width, text in told.items() if width >= 30)
    assert all("1 violation" in text and "2 silent" in text for text in told.values())


def test_a_narrow_terminal_keeps_what_makes_a_verdict_doubtful(story):
    line = StatusLine(32 * 1_000 * MS)
    begin(line, story, 10)
    line.beat(pulse(story, 25))
    for number, judgement in enumerate((ev.Judgement.UNKNOWN, ev.Judgement.UNKNOWN, ev.Judgement.EXPLAINED)):
        line.emit(ev.ChangeSeen(story.at(3), "CLIENT-1", story.change(number=number)))
        line.emit(ev.CaseJudged(story.at(13), "CLIENT-1", story.change(number=number), judgement, None, ()))
    assert line.text(story.at(25)).endswith("p99 1.52 ms | 0 violations, 1 explained, 2 unknown")
    assert line.text(story.at(25), 80) == "25 s of 32 s | all answered | 0 % lost in 5 s | 0 violations, 2 unknown"
    line.emit(ev.ChangeSeen(story.at(24), "CLIENT-1", story.change(number=9)))
    assert line.text(story.at(25), 80) == "25 s of 32 s | all answered | 0 % lost in 5 s | 0 violations, 2 unknown"


def test_it_says_what_a_verdict_still_needs_and_never_the_word_pass(story):
    line = StatusLine(None)
    begin(line, story, 2)
    line.beat(pulse(story, 5, total=ev.Counts(sent=100, answered=100, pairs=98)))
    assert line.text(story.at(5)).endswith("| 0 violations, a verdict needs 202 more pairs")
    line.beat(pulse(story, 50))
    told = line.text(story.at(50))
    assert told.startswith("50 s |")
    assert "PASS" not in told


def test_it_counts_down_judgements_and_is_gone_at_the_end(story):
    line = StatusLine(None)
    begin(line, story, 2)
    line.emit(ev.SendingStopped(story.at(60), interrupted=True))
    assert line.text(story.at(61)) == "sending stopped, waiting for the last replies | 0 violations"
    line.emit(ev.Settling(story.at(62), 3, 10_000 * MS))
    assert line.text(story.at(62)) == "sending stopped, waiting for 3 judgements | 0 violations"
    line.emit(ev.RunEnded(story.at(63), aborted=False))
    assert line.text(story.at(63)) == ""


def test_the_summary_so_far_tells_who_serves(story):
    line = StatusLine(None)
    begin(line, story, 2)
    line.emit(ev.NodeAddresses(story.at(1), (("10.240.0.7", "node-2"),)))
    line.beat(pulse(story, 2, groups=()))
    assert line.summary(story.at(2))[-1][0] == "by pod, node and reflexive IP: from the first statistics on"
    line.emit(ev.StatsTick(story.at(40), 2, ev.Counts(), ev.Counts()))
    line.emit(ev.NodeAddresses(story.at(41), ()))
    ips = ("10.240.0.7", "10.240.0.8")
    by_ip = tuple(ev.GroupCounts(ev.GroupKind.REFLEXIVE_IP, ip, 1, 9, 9, 0, 0, MS, MS) for ip in ips)
    line.beat(pulse(story, 42, groups=(*pulse(story, 42).groups, *by_ip)))
    told = [text for text, _ in line.summary(story.at(42))]
    assert told[0].startswith("so far: 42 s | 2 of 2 sessions answered")
    assert "2,000 probes sent, 1,990 answered, 4 lost (0.2 %)" in told
    assert "by pod, as of 13:36:00" in told
    assert any(text.startswith("10.240.0.7 (node-2) ") for text in told), "a node that is gone has its name"


def read_all(fd: int) -> str:
    said = b""
    while True:
        try:
            piece = os.read(fd, 65_536)
        except OSError:  # a terminal's other end is gone
            return said.decode()
        said += piece
        if not piece:
            return said.decode()


def screen(said: str) -> list[str]:
    """The lines that a terminal shows after all that was written, as far as one line is erased and drawn again."""
    lines, line = [], ""
    for part in said.replace("\r\n", "\n").replace("\x1b[7m", "").replace("\x1b[0m", ""):
        line += part
        if line.endswith(ERASED):
            line = ""
        elif line.endswith("\n"):
            lines.append(line[:-1])
            line = ""
    return [*lines, line]


def test_lines_stand_above_it_and_it_is_erased_at_the_end():
    main, other = pty.openpty()
    with open(other, "w", encoding="utf-8", closefd=False) as stream:
        writer = TerminalWriter(stream)
        writer.set_status("10 s | 24 sessions")
        writer.flush()
        time.sleep(0.2)
        writer.write("\x1b[31mred line\x1b[0m\n")
        writer.write("second line\n")
        writer.flush()
        time.sleep(0.2)
        writer.set_status("11 s | 24 sessions " + "x" * 500)
        time.sleep(0.2)
        assert writer.drain()
    os.close(other)
    said = read_all(main)
    os.close(main)

    assert "10 s | 24 sessions" in said
    assert "\x1b[31mred line\x1b[0m" in said
    assert screen(said.replace("\x1b[31m", "")) == ["red line", "second line", ""]
    drawn = [part for part in said.split(ERASED) if "11 s" in part]
    assert len(drawn) == 1
    assert len(drawn[0]) < 120, "a line is cut to the terminal's width"
    assert "\x1b[?25l" not in said, "a run that is killed must leave the cursor visible"


def test_the_summary_so_far_tells_who_is_broken_and_since_when(story):
    line = StatusLine(None)
    begin(line, story, 2)
    line.emit(ev.CaseJudged(story.at(3), "CLIENT-1", story.change(), ev.Judgement.VIOLATION, None, ()))
    outage = ev.OutageCase(since_seq=7, since_ns=story.at(9))
    line.emit(ev.CaseJudged(story.at(15), "CLIENT-2", outage, ev.Judgement.VIOLATION, None, ()))
    silences = (Silence("CLIENT-1", story.at(12), Identity(pod="pod-a")), Silence("CLIENT-2", story.at(13), None))
    line.beat(pulse(story, 25, silent=12, silences=silences))
    told = [text for text, _ in line.summary(story.at(25))]
    assert "violations of 2 sessions: CLIENT-2 (last at 13:35:29), CLIENT-1 (last at 13:35:23)" in told
    assert 'silent: CLIENT-1 since 13:35:32, last answered by pod "pod-a"' in told
    assert "silent: CLIENT-2 since 13:35:33, never answered" in told
    assert "… and 10 more are silent" in told

    line.beat(pulse(story, 26, silent=2, silences=silences))
    assert "0 of 2 sessions answered, all 2 silent since 13:35:32 (first CLIENT-1)" in line.text(story.at(26))
    assert "silent: all 2 sessions, the first since 13:35:32" in [text for text, _ in line.summary(story.at(26))]
