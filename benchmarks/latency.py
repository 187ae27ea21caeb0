"""How soon a break is told with 10,000 sessions, and how soon the program is there."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

from benchmarks.contenders import Setup, client_command, limit_echo, new_record, read_summary
from benchmarks.machine import AFFINITY_TESTER, Child
from benchmarks.results import Bar, Result, alternate

SESSIONS = 10_000
RATES = (10_000, 50_000)
"""Probes a second over all sessions: one a second each, and the client's bar."""


class Detection(NamedTuple):
    """One pod change for all sessions at once."""

    first_s: float
    """From the first reply with the other pod's name until the first red line was read from the client's output."""
    timer_misses: float
    self_inflicted: float


def detection(setup: Setup) -> Result:
    """From the first changed reply to the red line, with 10,000 sessions that all change at once."""
    result = Result("detection", f"{SESSIONS:,} sessions change pod at once: when the first red line is there")
    contenders = {f"{rate:,} probes/s": partial(_detect, setup, rate) for rate in RATES}
    found = alternate(contenders, setup.rounds, setup.progress, warm_up=False)
    for rate, (name, samples) in zip(RATES, found.items(), strict=True):
        interval_ms = 1000 * SESSIONS / rate
        result.add(f"{name}: first red line", "ms", [1000 * one.first_s for one in samples], Bar(interval_ms))
        result.add(f"{name}: timer misses", "%", [100 * one.timer_misses for one in samples])
        result.add(f"{name}: self-inflicted loss", "%", [100 * one.self_inflicted for one in samples])
    return result


def _detect(setup: Setup, rate: int) -> Detection:
    record = new_record(setup)
    with limit_echo(setup, change_after=2 * rate) as echo:
        command = client_command(echo.port, SESSIONS, rate, 3, "--record", str(record))
        with Child(command, setup.cores.load) as child:
            echo.child.read_json()  # the first probe
            while (line := child.line()) is not None:
                if "pod_name changed" in line:
                    break
            seen_ns = time.monotonic_ns()
            if line is None:
                raise RuntimeError("the client told no change")
            changed_ns = echo.child.read_json()["changed_ns"]
            child.wait()
    counts = read_summary(record)["total"]
    misses = counts["timer_misses"] / (counts["sent"] + counts["timer_misses"])
    own = (counts["socket_drops"] + counts["send_errors"]) / counts["sent"]
    return Detection((seen_ns - changed_ns) / 1e9, misses, own)


def start_up(setup: Setup) -> Result:
    """The time of `--help`, beside Python's own; and the time that opening 10,000 sessions takes."""
    result = Result("start-up", "how soon the program is there")
    samples = alternate(
        {
            "affinity-tester --help": partial(_finished_in_s, setup, [str(AFFINITY_TESTER), "--help"]),
            "python -c pass": partial(_finished_in_s, setup, [sys.executable, "-c", "pass"]),
            "first probe, 1 session": partial(_first_probe_s, setup, 1),
            "first probe, 10,000 sessions": partial(_first_probe_s, setup, SESSIONS),
        },
        setup.rounds,
        setup.progress,
    )
    for name, values in samples.items():
        result.add(name, "s", values, Bar(0.2) if name.endswith("--help") else None)
    pairs = zip(samples["first probe, 10,000 sessions"], samples["first probe, 1 session"], strict=True)
    result.add("opening 10,000 sessions", "s", [many - one for many, one in pairs], Bar(1))
    return result


def _finished_in_s(setup: Setup, command: list[str]) -> float:
    with Child(command, setup.cores.load) as child:
        cost = child.wait()
    if cost.exit_code:
        raise RuntimeError(f"{command} ended with {cost.exit_code}")
    return cost.wall_s


def _first_probe_s(setup: Setup, sessions: int) -> float:
    """From the start of the process to its first probe at the echo."""
    with limit_echo(setup) as echo:
        command = client_command(echo.port, sessions, sessions, 0.5)
        with Child(command, setup.cores.load, stderr=subprocess.DEVNULL) as child:
            first_ns = echo.child.read_json()["first_ns"]
            return float(first_ns - child.started_ns) / 1e9
