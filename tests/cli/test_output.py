"""Where the output goes: streams that are closed or full, readers that are slow, records that have no room."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity_tester.core.events import Event, RunSummary, Verdict
from affinity_tester.report.record import read_record
from commands import PATIENCE_S, TIME, Run, Start, environment
from scripted import answer, closed_port, scripted

PLAN = """
duration: 2s
sessions: 2
settle: 200ms
faults:
  - {fault: port-rewrite, at: 900ms}
"""

CLOSED = [(1,), (2,), (1, 2), (0, 1, 2)]


def without(*numbers: int) -> Callable[[], None]:
    """For a child: close these."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def ended(command: Path, *arguments: object, before: Callable[[], None] | None = None, **more: object) -> int:
    """Run it to its end, with its output thrown away unless that is said otherwise."""
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [command, *map(str, arguments)], env=environment(), preexec_fn=before, timeout=60, check=False, **given
    ).returncode


# --- closed at start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", CLOSED)
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("lab", "--list"), ("client", "--help")])
def test_what_cannot_be_shown_is_lost_quietly(
    affinity_tester: Path, arguments: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    done = subprocess.run(
        [affinity_tester, *arguments], capture_output=True, preexec_fn=without(*numbers), timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert bool(done.stdout) == (1 not in numbers)


@pytest.mark.parametrize("numbers", CLOSED)
async def test_a_run_without_streams_still_tells_its_verdict(
    run: Run, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    record = tmp_path / "run.jsonl"
    there = (closed_port(), "--watch", "off", "--duration", "0.5", "--loss-threshold", "0.3", "--record", record)
    end = await run(*there, before=without(*numbers))
    assert end.code == 3
    events = list(read_record(record, on_truncated=pytest.fail))  # nothing of the log is in it
    assert isinstance(events[-1], Verdict)
    again = ended(Path(sys.executable).with_name("affinity-tester"), "report", record, before=without(*numbers))
    assert again == 3


def test_a_demo_without_streams_still_tells_whether_it_agrees(affinity_tester: Path, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text(PLAN)
    assert ended(affinity_tester, "demo", "--plan", tmp_path / "plan", before=without(0, 1, 2)) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_without_streams_answers_and_drains(affinity_tester: Path, workers: str) -> None:
    """Else a socket has the number of a stream, and is sent what is printed."""
    port = closed_port().port
    server = subprocess.Popen(
        [affinity_tester, "server", "--host", "127.0.0.1", "--port", str(port), "--health-port", "0",
         "--drain", "0", "--workers", workers],
        env=environment(),
        preexec_fn=without(0, 1, 2),  # noqa: PLW1509 - no thread runs here
    )  # fmt: skip
    try:
        for _ in range(20):  # until it listens
            code = ended(affinity_tester, "client", f"127.0.0.1:{port}", "--watch", "off", "--duration", "4",
                         "--interval", "20ms", "--loss-threshold", "0.3")  # fmt: skip
            if code == 0:
                break
        assert code == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def test_an_error_without_a_place_to_be_told_keeps_its_code(affinity_tester: Path) -> None:
    assert ended(affinity_tester, "sever", before=without(2)) == 2
    with Path("/dev/full").open("w") as full:
        assert ended(affinity_tester, "sever", stderr=full) == 2


# --- full ------------------------------------------------------------------------------------------------------------

FULL = "error: the output cannot be written, no space is left there: free some, or send it elsewhere\n"


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("lab", "--list"), ("client", "--help"), ("client", "127.0.0.1:9", "--watch", "off")],
)
def test_a_full_output_is_one_line(affinity_tester: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [affinity_tester, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(),
            timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, FULL)


def test_an_output_that_cannot_be_written_for_another_reason_says_it(affinity_tester: Path) -> None:
    with Path("/dev/null").open() as unwritable:
        done = subprocess.run(
            [affinity_tester, "--help"], stdout=unwritable, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    said = "error: the output cannot be written, Bad file descriptor: send it elsewhere\n"
    assert (done.returncode, done.stderr) == (2, said)


# --- Ctrl-C before anything has begun --------------------------------------------------------------------------------


def test_ctrl_c_while_it_imports_is_quiet(affinity_tester: Path) -> None:
    """At every moment of its start; the first milliseconds are Python's own, before any line of ours."""
    codes = set()
    for ms in range(0, 150, 5):
        with subprocess.Popen([affinity_tester, "lab", "--list"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True) as process:  # fmt: skip
            time.sleep(ms / 1000)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert "affinity_tester/" not in err, (ms, err)
        codes.add(process.returncode)
    assert 130 in codes
    assert codes <= {130, 0, 1, -signal.SIGINT}  # 1: Python's own, with a traceback of its own start


def test_ctrl_c_that_is_ignored_stays_so(affinity_tester: Path) -> None:
    """`nohup`, a shell's `&`: the run goes on."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with subprocess.Popen(
        [affinity_tester, "lab", "--list"],
        stdout=subprocess.PIPE,
        preexec_fn=ignore,  # noqa: PLW1509 - no thread runs here
    ) as process:
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out


# --- records and their readers ---------------------------------------------------------------------------------------


def misses(events: list[Event]) -> int:
    (summary,) = [event for event in events if isinstance(event, RunSummary)]
    return summary.total.timer_misses


async def test_a_pipe_without_a_reader_is_refused_at_start(run: Run, tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    began = time.monotonic()
    end = await run("127.0.0.1:9", "--watch", "off", "--record", fifo)
    assert time.monotonic() - began < 30
    said = f"error: nobody reads the pipe --record {fifo}: start its reader first, or name a file\n"
    assert (end.code, end.out, end.err) == (2, "", said)
    assert fifo.is_fifo()


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_reader_that_reads_nothing_for_long_costs_no_slot(start: Start, tmp_path: Path, form: str) -> None:
    """The record goes to a pipe that is read when the run is nearly over, and the log's is not read either."""
    os.mkfifo(fifo := tmp_path / "fifo")
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    async with scripted(answer) as server:
        # 1 s of it is more than a pipe holds (64 KiB).
        there = (server.address, "--watch", "off", "--record", fifo, "--sessions", "100", "--interval", "200ms")
        async with start(*there, "--stats-interval", "100ms", "--stats", "session", "--duration", "12",
                         "--log-format", form) as client:  # fmt: skip
            await asyncio.sleep(10)
            with os.fdopen(reading, "rb") as file:
                content = await asyncio.to_thread(file.read)
            end = await client.end()
    record = tmp_path / "run.jsonl"
    record.write_bytes(content)
    events = list(read_record(record, on_truncated=pytest.fail))
    assert len(content) > 1 << 20
    assert end.code in (0, 3), end.err
    assert misses(events) == 0


async def test_what_nobody_takes_is_left_out_and_said(run: Run, tmp_path: Path) -> None:
    """Nothing is read to the end: the run has its verdict all the same, and its log says what the record lacks."""
    os.mkfifo(fifo := tmp_path / "fifo")
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with scripted(answer) as server:
            end = await run(server.address, "--watch", "off", "--record", fifo, "--sessions", "100", "--duration", "3",
                            "--stats-interval", "100ms", "--interval", "100ms")  # fmt: skip
    finally:
        os.close(reading)
    assert end.code == 0
    assert re.fullmatch(
        TIME + r" \[warn\]  the record lacks its end: whoever reads it took nothing for 10 s", end.out.splitlines()[-1]
    )


@pytest.mark.parametrize("there", [("203.0.113.1:9",), ("127.0.0.1:9", "--sessions", "65")])
async def test_a_refused_start_leaves_no_record(run: Run, tmp_path: Path, there: tuple[str, ...]) -> None:
    """No route, or too few descriptors: the retry may use the name."""

    def poor() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    record = tmp_path / "run.jsonl"
    if there[0].startswith("203"):
        there = ("no-such-host.invalid",)
    for _ in range(2):
        end = await run(*there, "--watch", "off", "--record", record, before=poor)
        assert (end.code, end.out) == (2, "")
        assert "has something in it already" not in end.err
        assert not record.exists()
    record.touch()
    end = await run(*there, "--watch", "off", "--record", record, before=poor)
    assert (end.code, record.stat().st_size) == (2, 0)  # who made it keeps it


async def test_a_record_on_a_full_disk_says_so_at_once_and_when_it_is_read(run: Run, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    record = tmp_path / "run.jsonl"
    async with scripted(answer) as server:
        end = await run(server.address, "--watch", "off", "--record", record, "--duration", "3", "--interval", "20ms",
                        "--stats-interval", "100ms", before=little_room)  # fmt: skip
        full = await run(server.address, "--watch", "off", "--record", "/dev/full", "--duration", "1")
    assert end.code == 0
    lines = end.out.splitlines()
    told = [at for at, line in enumerate(lines) if "the record" in line]
    assert len(told) == 1
    assert re.fullmatch(TIME + r" \[warn\]  the record ends here, the run goes on: File too large", lines[told[0]])
    assert told[0] < len(lines) // 2, "at once"
    said: list[str] = []
    events = list(read_record(record, on_truncated=said.append))
    assert len(events) > 20
    assert said == [f"the record {record} ends in line {len(events) + 2}, before its run: File too large"]
    assert sum("the record ends here, the run goes on: No space left on device" in line
               for line in full.out.splitlines()) == 1  # fmt: skip


# --- reading back ----------------------------------------------------------------------------------------------------


MEASURE = (
    "import os, subprocess, sys;"
    "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL);"
    "_, status, usage = os.wait4(child.pid, 0);"
    "print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)"
)
"""Runs a command from a small process: Linux counts the memory of whoever starts a process as that one's own peak."""


def reported(command: Path, record: Path) -> tuple[int, str, int]:
    """Exit code, what it says on stderr, and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, command, "report", record], capture_output=True, text=True, check=True
    )
    code, kilobytes = map(int, done.stdout.split())
    return code, done.stderr, kilobytes * 1024


async def short_run(run: Run, record: Path) -> None:
    async with scripted(answer) as server:
        await run(server.address, "--watch", "off", "--duration", "0.3", "--sessions", "1", "--record", record)


async def test_a_record_is_known_by_its_bytes_and_not_by_its_name(
    run: Run, affinity_tester: Path, tmp_path: Path
) -> None:
    await short_run(run, tmp_path / "run.jsonl")
    content = (tmp_path / "run.jsonl").read_bytes()
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    (tmp_path / "plain.gz").write_bytes(content)
    for name in ("run.jsonl", "packed", "plain.gz"):
        assert reported(affinity_tester, tmp_path / name)[:2] == (3, "")


async def test_two_runs_in_one_record_are_told(run: Run, affinity_tester: Path, tmp_path: Path) -> None:
    await short_run(run, tmp_path / "one")
    content = (tmp_path / "one").read_bytes()
    lines = content.count(b"\n")
    (two := tmp_path / "two").write_bytes(content * 2)
    said = (
        f"error: the record {two} holds more than one run, the second from line {lines + 1} on:"
        f" split it there (head -n {lines}, tail -n +{lines + 1})\n"
    )
    assert reported(affinity_tester, two)[:2] == (2, said)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"x" * (1 << 20), "it has more than 32 MiB"),
        (b"[" * 100_000, "its brackets are nested too deeply"),
        (b'{"record":"something"}', "it is no event, and nothing known about the record"),
    ],
)
def test_a_line_of_any_kind_is_read_in_bounded_memory(
    affinity_tester: Path, tmp_path: Path, line: bytes, what: str
) -> None:
    header = json.dumps({"record": "affinity-tester", "format": 3, "version": "0.1.0"}).encode() + b"\n"
    with gzip.open(record := tmp_path / "run.gz", "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(200 if line[0] == ord("x") else 1):
            file.write(line)
        file.write(b"\n")
    code, err, memory = reported(affinity_tester, record)
    assert (code, err) == (2, f"error: the record {record} is damaged in line 2: {what}\n")
    assert memory < 200 << 20


def test_a_record_that_lacks_events_says_so(affinity_tester: Path, tmp_path: Path) -> None:
    started = (
        '{"event":"RunStarted","at_ns":0,"wall_ns":1,"utc_offset_s":0,"version":"0.1.0","target":{"ip":"127.0.0.1",'
        '"port":9},"target_name":"x","sessions":1,"interval_ns":1,"loss_threshold_ns":1,"request_size":288,'
        '"connected":false,"lost_guarantees":[]}\n'
    )
    header = '{"record":"affinity-tester","format":3,"version":"0.1.0"}\n'
    (record := tmp_path / "run").write_text(header + started + '{"record":"left out","events":7}\n')
    lacks = "7 events are missing before line 3, nobody took them in time"
    assert reported(affinity_tester, record)[:2] == (3, f"warning: the record {record} is incomplete: {lacks}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: " + "[" * 3_000, ":1: nested too deeply: a plan has lists and mappings in 16 levels at most"),
        ("\n" + "- " * 3_000, ":2: nested too deeply: a plan has lists and mappings in 16 levels at most"),
        ("# " + "x" * (1 << 18), ": it is too long for a plan: at most 256 KiB are read"),
    ],
)
def test_a_plan_is_read_in_bounds(affinity_tester: Path, tmp_path: Path, text: str, said: str) -> None:
    (plan := tmp_path / "plan.yaml").write_text(text)
    done = subprocess.run(
        [affinity_tester, "demo", "--plan", plan], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {plan}{said}\n")
