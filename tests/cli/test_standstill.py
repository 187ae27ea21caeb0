"""A client that stood still: the machine slept, or the process was stopped. Nothing of that is the network's."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from affinity_tester.core.events import CaseJudged, ChangeSeen, Event, Judgement, OutageStarted, RunSummary, Verdict
from affinity_tester.report.record import read_record
from affinity_tester.units import NS_PER_S
from commands import Start
from scripted import Probe, ScriptedServer, scripted

pytestmark = pytest.mark.busy

SLEEP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* As after ten minutes of the machine's sleep: CLOCK_BOOTTIME went on, CLOCK_MONOTONIC stood. */
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*asked)(clockid_t, struct timespec *);
    if (!asked) asked = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = asked(id, now);
    const char *slept = getenv("SLEPT");
    if (!failed && id == CLOCK_BOOTTIME && slept && access(slept, F_OK) == 0) now->tv_sec += 600;
    return failed;
}
"""


def recorded(path: Path) -> list[Event]:
    return list(read_record(path, on_truncated=pytest.fail))


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


class Pods:
    """A server whose probes another pod answers from when it is told so."""

    pod = "pod-a"

    def __call__(self, server: ScriptedServer, probe: Probe) -> None:
        server.reply(probe, self.pod)


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """To be preloaded: lets a process see the sleep as soon as the file named by SLEPT is there."""
    source, library = tmp_path / "sleep.c", tmp_path / "sleep.so"
    source.write_text(SLEEP)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.debian
@pytest.mark.skipif(sys.platform != "linux", reason="CLOCK_BOOTTIME is Linux's")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler (gcc): apt-get install gcc libc6-dev")
async def test_what_changed_while_the_machine_slept_is_idle(start: Start, shim: Path, tmp_path: Path) -> None:
    slept, record = tmp_path / "slept", tmp_path / "run.jsonl"
    pods = Pods()
    async with scripted(pods) as server, start(
        server.address, "--sessions", "3", "--duration", "604", "--stats-interval", "1", "--record", record,
        LD_PRELOAD=str(shim), SLEPT=str(slept),
    ) as client:  # fmt: skip
        await client.until(r'served by pod "pod-a"')
        client.signal(signal.SIGSTOP)
        pods.pod = "pod-b"
        slept.touch()
        client.signal(signal.SIGCONT)
        end = await client.end()

    events = recorded(record)
    changes = [event.change for event in of(events, ChangeSeen)]
    assert len(changes) == 3
    for change in changes:
        assert 600 * NS_PER_S < change.longest_pause_ns < 660 * NS_PER_S
    assert {event.judgement for event in of(events, CaseJudged)} == {Judgement.IDLE}
    assert not of(events, OutageStarted)

    # It goes on after the sleep, which counts for its duration, and sends no burst of what it slept over.
    (summary,) = of(events, RunSummary)
    assert 604 * NS_PER_S <= summary.duration_ns < 664 * NS_PER_S
    assert summary.total.lost == 0
    assert 3 * 5_900 < summary.total.timer_misses < 3 * 6_600
    assert 3 * 10 < summary.total.sent < 3 * 600
    assert of(events, Verdict)[0].violations == 0
    assert end.code == 3
    assert not re.search(r"\[error\](?! CLIENT-\d+ pod_name changed)", end.out)


async def test_a_client_that_was_stopped_says_nothing_against_the_network(start: Start, tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    async with (
        scripted(Pods()) as server,
        start(server.address, "--sessions", "3", "--stats-interval", "1", "--record", record) as client,
    ):
        await client.until(r'served by pod "pod-a"')
        client.signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        client.signal(signal.SIGCONT)
        await client.until(r'served by pod "pod-a"')
        await client.until(r'served by pod "pod-a"')
        client.signal(signal.SIGINT)
        end = await client.end()
    events = recorded(record)
    assert not of(events, ChangeSeen)
    assert not of(events, OutageStarted)
    (summary,) = of(events, RunSummary)
    assert summary.total.lost == 0
    assert summary.total.timer_misses >= 3 * 27
    assert end.code == 3
    assert "[error]" not in end.out
