"""How many probes a second the server answers on one core, beside coturn and the limit; and with two workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from functools import partial

from benchmarks.contenders import BARE, PROBE, Load, Running, Setup, coturn, limit_echo, load, our_server
from benchmarks.machine import AFFINITY_TESTER, UnavailableError
from benchmarks.results import Bar, Result, alternate

SOCKETS, WINDOW = 64, 8
"""512 probes on their way: enough that the server never waits for one, and no buffer overflows."""


def server_rate(setup: Setup) -> Result:
    """One worker on one core, default probes with full identity, beside coturn's Binding rate and the C limit."""
    result = Result("server-rate", "what one core of a server answers (closed loop, 64 flows)")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server(setup))
        limit = stack.enter_context(limit_echo(setup))
        contenders = {
            "affinity-tester, probes": _measure(setup, ours, PROBE),
            "affinity-tester, bare": _measure(setup, ours, BARE),
            "C echo, probes": _measure(setup, limit, PROBE),
        }
        try:
            contenders["coturn, bare"] = _measure(setup, stack.enter_context(coturn(setup)), BARE)
        except UnavailableError as error:
            result.notes.append(f"without coturn: {error}")
        samples = alternate(contenders, setup.rounds, setup.progress)
    for name, loads in samples.items():
        result.add(f"{name}", "replies/s", [one.replies_per_s for one in loads])
        result.add(f"{name}: of its CPU", "replies/CPU s", [one.replies_per_cpu_s for one in loads])
        busy = [one.server_cpu_s / one.result["seconds"] for one in loads]
        result.add(f"{name}: CPU it got", "of a core", busy)
    for rival, bar in (("coturn, bare", Bar(1.1, at_least=True)), ("C echo, probes", Bar(0.5, at_least=True))):
        if rival in samples:
            ours_loads, rival_loads = samples["affinity-tester, probes"], samples[rival]
            result.add_ratio(f"rate, ours / {rival}", list(map(_rate, ours_loads)), list(map(_rate, rival_loads)))
            # A shared machine gives neither of them all of its core, so the bar is held against what a second of CPU gave.
            ours_of_cpu, rival_of_cpu = list(map(_rate_of_cpu, ours_loads)), list(map(_rate_of_cpu, rival_loads))
            result.add_ratio(f"rate of its CPU, ours / {rival}", ours_of_cpu, rival_of_cpu, bar)
    dropped = sum(one.server_drops for loads in samples.values() for one in loads)
    lost = sum(int(one.result["lost"]) for loads in samples.values() for one in loads)
    result.notes.append(f"{lost} probes lost, of which {dropped} at a server's full buffer")
    return result


def server_workers(setup: Setup) -> Result:
    """Two workers beside one. The load generator gets a third core where there is one."""
    result = Result("server-workers", "two workers beside one (SO_REUSEPORT)")
    text = subprocess.run([AFFINITY_TESTER, "server", "--help"], capture_output=True, text=True, check=True).stdout
    if "--workers" not in text:
        raise UnavailableError("`affinity-tester server` has no --workers")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UnavailableError("two workers need two cores")
    roomy = len(cores) > 2
    load_cores = (cores[2],) if roomy else tuple(cores[:2])
    with (
        our_server(setup, "--workers", "1", cores=(cores[0],)) as one,
        our_server(setup, "--workers", "2", cores=(cores[0], cores[1])) as two,
    ):
        contenders = {
            "one worker": _measure(setup, one, PROBE, load_cores),
            "two workers": _measure(setup, two, PROBE, load_cores),
        }
        samples = alternate(contenders, setup.rounds, setup.progress)
    for name, loads in samples.items():
        result.add(name, "replies/s", [load.replies_per_s for load in loads])
        result.add(f"{name}: of their CPU", "replies/CPU s", [load.replies_per_cpu_s for load in loads])
    bar = Bar(1.8, at_least=True)
    ours, base = samples["two workers"], samples["one worker"]
    result.add_ratio("rate, two / one", list(map(_rate, ours)), list(map(_rate, base)), bar if roomy else None)
    twice = [2 * one.replies_per_cpu_s for one in ours]
    result.add_ratio("rate of two whole cores / one", twice, [one.replies_per_cpu_s for one in base], bar)
    if not roomy:
        result.notes.append(
            "two cores leave no room for the load generator beside two workers: the last ratio takes the replies that"
            " each second of the workers' CPU gave, while both ran at once, times two"
        )
    return result


def _measure(setup: Setup, server: Running, size: int, cores: tuple[int, ...] = ()) -> partial[Load]:
    return partial(load, setup, server, size, SOCKETS, "window", WINDOW, cores=cores)


def _rate(one: Load) -> float:
    return one.replies_per_s


def _rate_of_cpu(one: Load) -> float:
    return one.replies_per_cpu_s
