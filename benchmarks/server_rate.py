"""How many probes a second the server answers on one core, beside coturn and the limit; and with two workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from functools import partial

from benchmarks.contenders import (
    BARE,
    PROBE,
    Load,
    Running,
    Setup,
    coturn,
    coturn_version,
    limit_echo,
    load,
    our_server,
)
from benchmarks.machine import AFFINITY_TESTER, UnavailableError
from benchmarks.results import Bar, Result, alternate

SOCKETS, WINDOW = 64, 8
"""512 probes on their way: enough that the server never waits for one, and no buffer overflows."""


BARS = {
    "coturn": {PROBE: Bar(1.4, at_least=True), BARE: Bar(1.3, at_least=True)},
    "C echo": {PROBE: Bar(0.7, at_least=True)},
}
"""Of the replies that a second of CPU gives, ours to theirs (issue 12), by the size of the request."""

SIZES = {PROBE: "probes of 288 bytes", BARE: "bare requests"}


def server_rate(setup: Setup) -> Result:
    """One worker on one core beside coturn and the C limit: the same requests for all, of either size."""
    result = Result("server-rate", "what one core of a server answers (closed loop, 64 flows)")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server(setup))
        contenders = {_title("affinity-tester", size): _measure(setup, ours, size) for size in SIZES}
        for size in SIZES:  # the C echo answers all with one reply, so there is one for each size
            limit = stack.enter_context(limit_echo(setup, size=size))
            contenders[_title("C echo", size)] = _measure(setup, limit, size)
        try:
            rival = stack.enter_context(coturn(setup))
            contenders |= {_title("coturn", size): _measure(setup, rival, size) for size in SIZES}
            result.notes.append(f"coturn {coturn_version()}")
        except UnavailableError as error:
            result.notes.append(f"without coturn: {error}")
        samples = alternate(contenders, setup.rounds, setup.progress)

    for name, loads in samples.items():
        result.add(name, "replies/s", [one.replies_per_s for one in loads])
        result.add(f"{name}: of its CPU", "replies/CPU s", [one.replies_per_cpu_s for one in loads])
        busy = [one.server_cpu_s / one.result["seconds"] for one in loads]
        result.add(f"{name}: CPU it got", "of a core", busy)
    for size in SIZES:
        own = samples[_title("affinity-tester", size)]
        for rival_name, bars in BARS.items():
            theirs = samples.get(_title(rival_name, size))
            if theirs is None:
                continue
            title = _title(f"ours / {rival_name}", size)
            result.add_ratio(f"rate, {title}", list(map(_rate, own)), list(map(_rate, theirs)))
            # A shared machine gives neither of them all of its core, so the bar is held against what a second of CPU gave.
            own_of_cpu, theirs_of_cpu = list(map(_rate_of_cpu, own)), list(map(_rate_of_cpu, theirs))
            result.add_ratio(f"rate of its CPU, {title}", own_of_cpu, theirs_of_cpu, bars.get(size))

    dropped = sum(one.server_drops for loads in samples.values() for one in loads)
    lost = sum(int(one.result["lost"]) for loads in samples.values() for one in loads)
    result.notes.append(f"{lost} probes lost, of which {dropped} at a server's full buffer")
    result.notes.append(f"load average {os.getloadavg()[0]:.1f} at the end")
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


def _title(name: str, size: int) -> str:
    return f"{name}, {SIZES[size]}"


def _measure(setup: Setup, server: Running, size: int, cores: tuple[int, ...] = ()) -> partial[Load]:
    return partial(load, setup, server, size, SOCKETS, "window", WINDOW, cores=cores)


def _rate(one: Load) -> float:
    return one.replies_per_s


def _rate_of_cpu(one: Load) -> float:
    return one.replies_per_cpu_s
