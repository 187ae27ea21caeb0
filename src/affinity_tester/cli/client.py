"""`affinity-tester client`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from affinity_tester.app.client_run import run_against_target
from affinity_tester.cli import options
from affinity_tester.cli.dscp import Dscp
from affinity_tester.cli.exclusive import one_of
from affinity_tester.cli.exit_codes import EXIT_CODES
from affinity_tester.cli.grouped import CLIENT, GroupedCommand
from affinity_tester.cli.target_options import (
    read_reference,
    read_target_options,
    reference_option,
    target_options,
    warn,
)
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.session.tracker import HISTORY_NS
from affinity_tester.core.stun import MAX_WALKED_SIZE
from affinity_tester.errors import UserError
from affinity_tester.report.logging import LogFormat, StatsMode, Verbosity
from affinity_tester.report.reporter import Reporter
from affinity_tester.settings import MAX_REQUEST_SIZE, MIN_REQUEST_SIZE, NAMING_SIZE, ClientSettings
from affinity_tester.units import NS_PER_MS, NS_PER_S

MIN_INTERVAL_NS = 2 * NS_PER_MS
"""At 2 ms a session keeps 30,000 probes, about as many as it can tell apart by their replies (core.session.probe_ring)."""

_DEFAULT = ClientSettings()


@click.command(
    cls=GroupedCommand,
    groups=CLIENT,
    epilog="Exit codes: 0 PASS, 1 FAIL, 2 usage, 3 INCONCLUSIVE, 70 internal error.",
)
@target_options
@options.option(
    "-n",
    "--sessions",
    type=options.Whole(1, 60_000),
    default=_DEFAULT.sessions,
    help="Sessions, each on a socket of its own; at most 5,000 of them begin in a second.",
)
@options.option(
    "-i",
    "--interval",
    type=options.Duration(MIN_INTERVAL_NS, 3600 * NS_PER_S),
    default=_DEFAULT.interval_ns,
    help="Time between two probes of a session; above 1s one that is not answered for 2 s sends up to 5 more in between.",
)
@options.option(
    "-d", "--duration", type=options.Duration(1 * NS_PER_MS), help="How long to send. Default: until Ctrl-C."
)
@options.option(
    "--stats-interval",
    type=options.Duration(100 * NS_PER_MS),
    default=_DEFAULT.stats_interval_ns,
    help="Time between statistics lines.",
)
@options.option(
    "--stats",
    type=click.Choice(["auto", "session", "total"]),
    default="auto",
    help="Statistics a session a line, or one line for all; auto: by their number.",
)
@options.option(
    "-t",
    "--loss-threshold",
    type=options.Duration(1 * NS_PER_MS, HISTORY_NS // 2),
    default=_DEFAULT.loss_threshold_ns,
    help="A probe not answered in this time is lost.",
)
@options.option(
    "--size",
    type=options.Whole(MIN_REQUEST_SIZE, MAX_REQUEST_SIZE),
    default=_DEFAULT.request_size,
    help="Bytes of a probe, a multiple of 4; a shorter one gets a shorter reply, with less in it.",
)
@options.option(
    "--sizes",
    metavar="A,B,…",
    callback=lambda _context, _option, value: _read_sizes(value),
    help="Sizes that probes have by turns, instead of --size: shows what depends on the size (MTU).",
)
@options.option(
    "--dscp",
    type=Dscp(),
    metavar="N|NAME",
    help="DiffServ codepoint to mark probes with: a number, or EF, AF41, CS5 and the like. Default: the system's, mostly 0.",
)
@options.option(
    "--connected", is_flag=True, help="Connect the sockets, for comparison; a reply from a wrong source is then lost."
)
@reference_option
@options.option(
    "--affinity-window",
    type=options.Duration(),
    default=_DEFAULT.rules.affinity_window_ns,
    help="A longer pause between probes excuses a change (conntrack forgets idle flows).",
)
@options.option(
    "--settle",
    type=options.Duration(0, 600 * NS_PER_S),
    default=_DEFAULT.rules.settle_ns,
    help="A change of the pool explains changes of sessions up to so long before and after it.",
)
@options.option(
    "--balancer-check",
    type=options.Duration(0, 600 * NS_PER_S),
    default=_DEFAULT.rules.balancer_check_ns,
    help="How long a balancer's health check takes to see a dead node: so long it may explain an outage where it decides"
    " (externalTrafficPolicy Local, or an ingress node that is silent as a whole).",
)
@options.option(
    "--max-loss",
    type=options.Percentage(),
    help="Percentage of probes lost in the network above which the run fails. Default: loss alone never fails.",
)
@options.option(
    "--fail-on",
    type=click.Choice(["violation", "avoidable"]),
    default="violation",
    help="avoidable: flows that a pool change moved off a pod that still served fail the run too.",
)
@options.option("--fail-fast", is_flag=True, help="End the run at the first violation.")
@options.option(
    "--record",
    type=click.Path(dir_okay=False, writable=True),
    help="File to record every event in (JSON lines; gzip where it ends in .gz), for `affinity-tester report`; or a pipe"
    " that is read.",
)
@options.key()
@options.log_format()
@options.option(
    "-v", "--verbose", is_flag=True, help="More lines: statistics, starts and losses a session each, canaries' detail."
)
@options.option("-q", "--quiet", is_flag=True, help="Only what is red (in JSON: level error), and the summary.")
@options.live()
@options.option(
    "--metrics",
    "metrics_at",
    type=options.ListenAddress(),
    help="Where to be scraped by Prometheus, at /metrics; without HOST at 127.0.0.1. 9464 is customary.",
)
@options.option(
    "--on-violation",
    metavar="COMMAND",
    help="Shell command to call once for each incident with a violation, with the incident as JSON on its standard input:"
    " one at a time, for 30 s at most, beside the probes. What it prints is dropped; if it fails, a warning says so.",
)
def client(
    *,
    sessions: int,
    interval: int,
    duration: int | None,
    stats_interval: int,
    stats: StatsMode,
    loss_threshold: int,
    size: int,
    sizes: tuple[int, ...],
    bind: str | None,
    dscp: int | None,
    connected: bool,
    reference: str | None,
    affinity_window: int,
    settle: int,
    balancer_check: int,
    max_loss: float | None,
    fail_on: str,
    fail_fast: bool,
    record: str | None,
    key: bytes | None,
    log_format: LogFormat,
    verbose: bool,
    quiet: bool,
    live: bool,
    metrics_at: TransportAddress | None,
    on_violation: str | None,
    **target: Any,
) -> int:
    """Run sessions against TARGET (a name or an address, with or without :port) until Ctrl-C or --duration.

    TARGET is the environment's TARGET_ADDR by default. Statistics are plain; each change of pod or reflexive address
    between two answered probes of a session is red, and judged. The second Ctrl-C ends at once; SIGUSR1 asks how the run
    stands.
    """
    sizes = _effective_sizes(sizes)
    for each in sizes or (size,):
        _check_size("--sizes" if sizes else "--size", each, key)
    if max(sizes, default=size) < NAMING_SIZE:
        warn(
            f"probes of less than {NAMING_SIZE} bytes may be too short for replies with the pod's name: then"
            " x_address alone is tracked"
        )

    reference = read_reference(reference, connected=connected)
    target_settings = read_target_options(bind=bind, reference=reference, **target)
    verbose, quiet = one_of("verbose", "quiet")
    if verbose and stats == "auto":
        stats = "session"
    settings = ClientSettings(
        sessions=sessions,
        interval_ns=interval,
        duration_ns=duration,
        stats_interval_ns=stats_interval,
        loss_threshold_ns=loss_threshold,
        request_size=size,
        sizes=sizes,
        per_session_stats=stats == "session",
        connected=connected,
        key=key,
        bind=bind,
        dscp=dscp,
        rules=Rules(
            settle_ns=settle,
            affinity_window_ns=affinity_window,
            balancer_check_ns=balancer_check,
            max_loss=None if max_loss is None else max_loss / 100,
            fail_on_avoidable=fail_on == "avoidable",
        ),
    )
    verbosity: Verbosity = "verbose" if verbose else "quiet" if quiet else "usual"
    options.check_record(None if record is None else Path(record))

    with Reporter.open(
        log_format=log_format,
        stats=stats,
        verbosity=verbosity,
        record=record,
        stream=sys.stdout,
        environ=os.environ,
        live=live,
        duration_ns=duration,
    ) as reporter:
        verdict = asyncio.run(
            run_against_target(
                settings,
                target_settings,
                reporter,
                warn,
                metrics_at,
                on_violation=on_violation,
                fail_fast=fail_fast,
            )
        )
    return EXIT_CODES[verdict.outcome]


def _read_sizes(text: str | None) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of sizes such as 288,1400")
    return tuple(int(part) for part in parts)


def _effective_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of --sizes, or none where --size counts: the command line goes before the environment.

    Raises `UserError` where both are given in the same way.
    """
    source = click.get_current_context().get_parameter_source
    if not sizes or source("size") is ParameterSource.DEFAULT:
        return sizes
    if source("size") is source("sizes"):
        raise UserError(
            "--size and --sizes (AFFINITY_SIZE, AFFINITY_SIZES) both say how long a probe is: give one of them"
        )
    return sizes if source("sizes") is ParameterSource.COMMANDLINE else ()


def _check_size(option: str, size: int, key: bytes | None) -> None:
    least, most = (MIN_REQUEST_SIZE, MAX_REQUEST_SIZE) if key is None else (56, MAX_WALKED_SIZE)
    if size % 4 or not least <= size <= most:
        possible = f"multiples of 4 from {least} to {most}{' with --key' if key else ''}"
        raise UserError(f"{option}: a probe cannot have {size} bytes: take {possible}")
