"""The command for each incident with a violation: when it is called, with what, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from affinity_tester.app import violation_hook
from affinity_tester.app.violation_hook import ViolationHook
from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress

S = 1_000_000_000
START = ev.RunStarted(
    0, 1_795_350_920 * S, 0, "0.1.0", TransportAddress("203.0.113.7", 3478), "udp.example.com",
    1, S // 10, 2 * S, 288, False, (), run_id="0123456789abcdef",
)  # fmt: skip
BROKE = ((ev.Judgement.VIOLATION, 2), (ev.Judgement.EXPLAINED, 1))
INCIDENT = ev.Incident(1, S, 2 * S, False, 1, 1, 1, 0, 0, 0, 0, (), (), (), BROKE, ())


def closed(number: int = 1, **changed: object) -> ev.IncidentClosed:
    return ev.IncidentClosed(3 * S, replace(INCIDENT, number=number, **changed))  # type: ignore[arg-type]


async def called(command: str, *events: ev.Event, abort: asyncio.Event | None = None) -> list[str]:
    """Run a hook over these events to its end; returns the warnings."""
    warnings: list[str] = []
    hook = ViolationHook(command, warnings.append)
    async with hook.running():
        for event in (START, *events):
            hook.emit(event)
        await hook.finish(abort or asyncio.Event())
    return warnings


async def test_each_incident_with_a_violation_is_told_once(tmp_path: Path) -> None:
    ongoing = ev.IncidentOngoing(2 * S, INCIDENT)
    quiet = closed(2, judgements=((ev.Judgement.EXPLAINED, 1), (ev.Judgement.VIOLATION, 0)))
    late = [ev.IncidentOngoing(2 * S, replace(INCIDENT, number=3, judgements=())), closed(3)]
    file = tmp_path / "told"
    assert await called(f"cat >> '{file}'", ongoing, closed(), quiet, *late) == []
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert (first["event"], second["event"]) == ("run.incident_ongoing", "run.incident")
    assert (first["incident"]["number"], second["incident"]["number"]) == (1, 3)
    assert {key: value for key, value in second.items() if key != "incident"} == {
        "time": "2026-11-22T12:35:23.000000Z",
        "level": "error",
        "event": "run.incident",
        "message": "incident 3 at 12:35:21.000 for 1 s, 1 of 1 session: 1 change; sessions broke, nothing that the pool did"
        " excuses it, and what was seen does not tell what broke them",
        "run": "0123456789abcdef",
        "target": "203.0.113.7:3478",
        "target_name": "udp.example.com",
    }
    assert second["incident"]["judgements"] == {"violation": 2, "explained": 1}


@pytest.mark.parametrize(
    ("command", "warnings"),
    [
        ("true", []),
        ("cat > /dev/null", []),
        ("echo to nobody", []),
        ("exit 3", ["--on-violation: the command ended with exit code 3"]),
        (
            "echo first >&2; echo 'no such host' >&2; exit 1",
            ["--on-violation: the command ended with exit code 1: no such host"],
        ),
        ("kill -9 $$", ["--on-violation: signal 9 ended the command"]),
        ("yes >&2 & kid=$!; sleep 0.2; kill $kid; exit 1", ["--on-violation: the command ended with exit code 1: y"]),
        ("sleep 60 & exit 0", []),
    ],
)
async def test_what_goes_wrong_is_one_line(command: str, warnings: list[str]) -> None:
    began = time.monotonic()
    assert await called(command, closed()) == warnings
    assert time.monotonic() - began < 20, "what it leaves in the background is not waited for"


async def test_a_large_incident_that_nobody_reads_blocks_nothing() -> None:
    evidence = ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, ("x" * 1_000_000,))
    assert await called("exit 0", closed(diagnoses=(evidence,))) == []


async def test_nothing_of_an_incident_is_read_by_the_shell(tmp_path: Path) -> None:
    evil = ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, (f"$(touch {tmp_path}/evil) `touch {tmp_path}/evil`; '\"",))
    await called(f"cat > {tmp_path}/told", closed(diagnoses=(evil,)))
    assert os.listdir(tmp_path) == ["told"]  # noqa: PTH208 - the names


async def test_a_call_that_takes_too_long_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(violation_hook, "TIME_LIMIT_S", 0.5)
    warnings = await called(f"(sleep 2; touch {tmp_path}/alive) & sleep 30", closed())
    assert warnings == ["--on-violation: the command had not ended after 0 s, and is killed"]
    await asyncio.sleep(2)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - as above


async def test_one_runs_at_a_time_and_no_more_wait_than_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(violation_hook, "MOST_WAITING", 3)
    file = tmp_path / "log"
    events = [closed(number) for number in range(1, 8)]
    warnings = await called(f"echo in >> {file}; sleep 0.1; echo out >> {file}", *events)
    assert file.read_text().split() == ["in", "out"] * 3
    assert warnings == [
        "--on-violation is slower than the incidents: it is not called for this one, nor for some to come",
        "--on-violation was not called for 4 incidents: it was too slow",
    ]


async def test_the_end_of_the_run_waits_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(violation_hook, "END_S", 0.6)
    monkeypatch.setattr(violation_hook, "SAY_AFTER_S", 0.2)
    began = time.monotonic()
    assert await called("sleep 60", closed(1), closed(2)) == [
        "waiting for --on-violation, for up to 1 s (Ctrl-C: kill it)",
        "--on-violation had not ended with the run: it is killed, and 1 call not made",
    ]
    assert time.monotonic() - began < 20


async def test_ctrl_c_ends_the_wait() -> None:
    abort = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, abort.set)
    began = time.monotonic()
    [warning] = await called("sleep 60", closed(), abort=abort)
    assert warning == "--on-violation had not ended with the run: it is killed"
    assert time.monotonic() - began < 20


async def test_the_loop_goes_on_beside_a_call() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counter = asyncio.create_task(count())
    await called("sleep 0.5", closed())
    counter.cancel()
    assert turns > 10
