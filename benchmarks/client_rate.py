"""What the client keeps up with on one core, what a probe costs it as sessions grow, and what irtt takes for the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.contenders import PROBE, ClientRun, Load, Setup, free_port, limit_echo, load, run_client
from benchmarks.machine import Child, all_ended, program
from benchmarks.results import Bar, Result, alternate

RATE = 50_000
"""Probes a second of the bar."""

SCALE_RATE = 5_000
"""Probes a second at every size: as many as 10 sessions may send (an interval is at least 2 ms)."""

PAIR_CLIENTS, PAIR_RATE = 100, 10


def client_rate(setup: Setup) -> Result:
    """50,000 probes/s over 1,000 and 10,000 sessions against the C echo, beside the C client."""
    result = Result("client-rate", f"{RATE:,} probes/s from one core, for {setup.hold_seconds:g} s")
    timed = replace(setup, seconds=setup.hold_seconds)

    def ours(sessions: int) -> ClientRun:
        return run_client(setup, sessions, RATE, setup.hold_seconds)

    def limit(sessions: int) -> Load:
        with limit_echo(setup) as echo:
            return load(timed, echo, PROBE, sessions, "rate", RATE)

    contenders = {(name, n): partial(run, n) for n in (1_000, 10_000) for name, run in (("ours", ours), ("C", limit))}
    named = {f"{name} {n}": measure for (name, n), measure in contenders.items()}
    samples: dict[str, list[Any]] = alternate(named, setup.rounds, setup.progress, warm_up=False)
    for n in (1_000, 10_000):
        runs, loads = samples[f"ours {n}"], samples[f"C {n}"]
        of = f"{n:,} sessions: "
        sent = [run.counts["sent"] / (run.summary["duration_ns"] / 1e9) for run in runs]
        result.add(of + "sent", "probes/s", sent)
        result.add(of + "self-inflicted loss", "%", [100 * run.self_inflicted for run in runs], Bar(0))
        result.add(of + "without an answer", "%", [100 * run.unanswered for run in runs], Bar(0))
        result.add(of + "timer misses", "%", [100 * run.timer_misses for run in runs], Bar(0.13))
        result.add(of + "CPU", "of a core", [run.steady_cpu_s / run.steady_s for run in runs])
        cost = [1e6 * run.steady_cpu_s / run.steady_s / rate for run, rate in zip(runs, sent, strict=True)]
        result.add(of + "CPU a probe", "us", cost)
        limit_cost = [1e6 * one.result["cpu_s"] / (one.result["seconds"] * one.result["sent_per_s"]) for one in loads]
        result.add(of + "CPU a probe, C client", "us", limit_cost)
        result.add(of + "median RTT, ours", "us", [run.p50_us for run in runs])
        result.add(of + "median RTT, C client", "us", [one.result["p50_us"] for one in loads])
        rtts = [float(one.result["p50_us"]) for one in loads]
        result.add_ratio(of + "median RTT, ours / C", [run.p50_us for run in runs], rtts, Bar(2))
    return result


def scaling(setup: Setup) -> Result:
    """CPU per probe of our client at 10 to 10,000 sessions, at the same probe rate."""
    result = Result("scaling", f"CPU a probe at {SCALE_RATE:,} probes/s in all, by sessions")
    sizes = (10, 100, 1_000, 10_000)
    # A session's first probes cost more (its first answer is told and recorded), so two rounds of the slowest go by first.
    settle_s = 2 * max(sizes) / SCALE_RATE + 0.5
    seconds = settle_s + setup.seconds + 0.5
    samples = alternate(
        {f"{n:,} sessions": partial(run_client, setup, n, SCALE_RATE, seconds, settle_s=settle_s) for n in sizes},
        setup.rounds,
        setup.progress,
        warm_up=False,
    )
    costs = {
        name: [1e6 * run.steady_cpu_s / (run.steady_s * SCALE_RATE) for run in runs] for name, runs in samples.items()
    }
    for name, values in costs.items():
        result.add(name, "us of CPU a probe", values)
    result.add_ratio("10,000 / 100 sessions", costs["10,000 sessions"], costs["100 sessions"], Bar(1.3))
    return result


class Fleet(NamedTuple):
    """What 100 sessions took, whoever ran them."""

    cpu: float
    """Of a core, while all of them send."""
    pss_kb: int
    rss_kb: int


def beside_irtt(setup: Setup) -> Result:
    """100 sessions x 10/s: our one client beside 100 irtt clients, CPU and memory."""
    result = Result(
        "irtt", f"{PAIR_CLIENTS} sessions x {PAIR_RATE} probes/s: one client of ours, {PAIR_CLIENTS} of irtt"
    )
    irtt = program("irtt", "irtt")
    contenders = {"affinity-tester": partial(_ours, setup), "irtt": partial(_irtt, setup, irtt)}
    samples = alternate(contenders, setup.rounds, setup.progress)
    for name, fleets in samples.items():
        result.add(f"{name}: CPU", "of a core", [fleet.cpu for fleet in fleets])
        result.add(f"{name}: memory (PSS)", "MB", [fleet.pss_kb / 1024 for fleet in fleets])
        result.add(f"{name}: memory (sum of RSS)", "MB", [fleet.rss_kb / 1024 for fleet in fleets])
    ours, theirs = samples["affinity-tester"], samples["irtt"]
    result.add_ratio("CPU, ours / irtt's", [one.cpu for one in ours], [one.cpu for one in theirs])
    result.add_ratio(
        "memory, ours / irtt's", [float(one.pss_kb) for one in ours], [float(one.pss_kb) for one in theirs]
    )
    return result


def _ours(setup: Setup) -> Fleet:
    run = run_client(setup, PAIR_CLIENTS, PAIR_CLIENTS * PAIR_RATE, setup.seconds + 1)
    return Fleet(run.steady_cpu_s / run.steady_s, run.pss_kb, run.rss_kb)


def _irtt(setup: Setup, irtt: str) -> Fleet:
    address = f"127.0.0.1:{free_port()}"
    lasting_s = setup.seconds + 60  # they are ended as soon as they are measured
    command = [irtt, "client", "-Q", "-i", f"{1000 // PAIR_RATE}ms", "-l", str(PROBE), "-d", f"{lasting_s}s", address]
    with (
        Child([irtt, "server", "-b", address], setup.cores.server) as server,
        _started(setup, server, command) as clients,
    ):
        time.sleep(2)
        before_s, before_ns = sum(child.cpu_s() for child in clients), time.monotonic_ns()
        time.sleep(setup.seconds)
        cpu_s, seconds = sum(child.cpu_s() for child in clients) - before_s, (time.monotonic_ns() - before_ns) / 1e9
        try:
            return Fleet(cpu_s / seconds, sum(c.pss_kb() for c in clients), sum(c.rss_kb() for c in clients))
        except OSError as error:
            raise RuntimeError(f"one of {PAIR_CLIENTS} irtt clients ended early: {error}") from error


@contextlib.contextmanager
def _started(setup: Setup, server: Child, command: list[str]) -> Iterator[list[Child]]:
    while "[ListenerStart]" not in (server.line(10) or "[ListenerStart]"):
        pass
    children: list[Child] = []
    with all_ended(children):
        children.extend(Child(command, setup.cores.load) for _ in range(PAIR_CLIENTS))
        yield children
