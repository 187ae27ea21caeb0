"""`python -m benchmarks [NAME...]`: run them, print tables, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.client_rate import beside_irtt, client_rate, scaling
from benchmarks.contenders import Setup
from benchmarks.latency import detection, start_up
from benchmarks.machine import Cores, UnavailableError, compile_c, describe
from benchmarks.memory import memory, tracker_memory
from benchmarks.results import Result
from benchmarks.server_rate import server_rate, server_workers
from benchmarks.watching import watching

BENCHMARKS: dict[str, Callable[[Setup], Result]] = {
    "server-rate": server_rate,
    "server-workers": server_workers,
    "client-rate": client_rate,
    "irtt": beside_irtt,
    "memory": memory,
    "tracker": tracker_memory,
    "detection": detection,
    "start-up": start_up,
    "scaling": scaling,
    "watching": watching,
}


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    hold_seconds: float
    memory_seconds: float
    tracker_probes: int


QUICK = Effort(1, 0.7, 1.5, 4, 200_000)
USUAL = Effort(5, 2, 4, 20, 2_000_000)
FULL = Effort(5, 4, 60, 65, 100_000_000)
"""What issue 5 asks for; half an hour."""


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 unless a benchmark broke. A missed bar is a finding, no failure."""
    options = _options(arguments)
    effort = FULL if options.full else QUICK if options.quick else USUAL
    cores = Cores.of_this_machine()
    report: dict[str, Any] = {"machine": describe(), "server_core": cores.server, "load_core": cores.load}
    results: list[dict[str, Any]] = []
    broken = 0
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="affinity-tester-bench-") as scratch:
        compile_c(Path(scratch))
        for name in options.names or BENCHMARKS:
            setup = Setup(
                Path(scratch),
                cores,
                options.rounds or effort.rounds,
                options.seconds or effort.seconds,
                options.hold or effort.hold_seconds,
                effort.memory_seconds,
                options.probes or effort.tracker_probes,
                partial(_progress, name),
            )
            try:
                result = BENCHMARKS[name](setup)
            except UnavailableError as reason:
                print(f"{name}: skipped, {reason}\n", flush=True)
                results.append({"name": name, "skipped": str(reason)})
            except (OSError, RuntimeError, TimeoutError) as error:
                broken += 1
                print(f"{name}: broke, {error}\n", flush=True)
                results.append({"name": name, "broke": str(error)})
            else:
                print(f"{result.table()}\n", flush=True)
                results.append(result.as_json())
    report["seconds"] = round(time.monotonic() - started_s, 1)
    report["results"] = results
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if broken else 0


def _progress(name: str, text: str) -> None:
    print(f"  ... {name}: {text}", file=sys.stderr, flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, each round's figures too")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="one short round of each: a look, no measurement")
    effort.add_argument("--full", action="store_true", help="as long as issue 5 asks: half an hour")
    parser.add_argument("--rounds", type=int, help="rounds after the warm-up (default 5)")
    parser.add_argument("--seconds", type=float, help="how long one measurement of a rate lasts (default 2)")
    parser.add_argument("--hold", type=float, metavar="SECONDS", help="how long a client holds its rate (default 4)")
    parser.add_argument("--probes", type=int, help="how many probes the tracker is fed (default 2,000,000)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]!r}: {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
