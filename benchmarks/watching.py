"""Whether watching a big cluster disturbs the probes, and what it takes (issue 3)."""

from __future__ import annotations

import os
import sys
from functools import partial

from benchmarks.big_cluster import NODES, PER_SLICE, SLICES
from benchmarks.contenders import ClientRun, Setup, run_client
from benchmarks.machine import Child
from benchmarks.results import Bar, Result, alternate

SESSIONS, RATE = 1_000, 10_000


def watching(setup: Setup) -> Result:
    """1,000 sessions x 10 probes/s with the watch of a big cluster and without any, in alternation."""
    size = f"{SLICES * PER_SLICE:,} endpoints in {SLICES} slices and {NODES} nodes"
    result = Result("watching", f"{SESSIONS:,} sessions x {RATE // SESSIONS}/s beside the watch of {size}")
    kubeconfig = setup.scratch / "kubeconfig"
    with Child([sys.executable, "-m", "benchmarks.big_cluster", str(kubeconfig)], setup.cores.server) as api:
        api.read_json()
        os.environ["KUBECONFIG"] = str(kubeconfig)
        contenders = {"watched": partial(_run, setup, "on"), "not watched": partial(_run, setup, "off")}
        samples = alternate(contenders, setup.rounds, setup.progress, warm_up=False)
    for name, runs in samples.items():
        bar = Bar(0.13) if name == "watched" else None
        result.add(f"{name}: timer misses", "%", [100 * run.timer_misses for run in runs], bar)
        result.add(f"{name}: without an answer", "%", [100 * run.unanswered for run in runs])
        result.add(f"{name}: CPU", "of a core", [run.steady_cpu_s / run.steady_s for run in runs])
        result.add(f"{name}: median RTT", "us", [run.p50_us for run in runs])
        result.add(f"{name}: p99 RTT", "us", [float(run.summary["rtt"]["p99_ns"] or 0) / 1000 for run in runs])
    pairs = list(zip(samples["watched"], samples["not watched"], strict=True))
    result.add("memory of the watch", "MB", [(a.max_rss_kb - b.max_rss_kb) / 1024 for a, b in pairs], Bar(100))
    return result


def _run(setup: Setup, watch: str) -> ClientRun:
    more = ("--service", "media/turn") if watch == "on" else ()
    return run_client(setup, SESSIONS, RATE, setup.hold_seconds + 1, "--watch", watch, *more)
