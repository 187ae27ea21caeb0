"""`affinity-tester idle`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from affinity_tester import clock
from affinity_tester.app.idle_run import run_idle
from affinity_tester.cli import options
from affinity_tester.cli.grouped import IDLE, GroupedCommand
from affinity_tester.cli.target_options import read_target_options, target_options
from affinity_tester.core.idle.grid import SHORTEST_NS
from affinity_tester.core.idle.model import Direction
from affinity_tester.core.idle.settings import IdleSettings
from affinity_tester.errors import UserError
from affinity_tester.report.idle_report import IdleReport
from affinity_tester.report.logging import LogFormat
from affinity_tester.units import NS_PER_H, NS_PER_S

_DEFAULT = IdleSettings()

MIN_SAMPLES = 20
"""Fewer could not say much: of 20, none lost means at most 14 % at 95 %."""

INCONCLUSIVE = 3


@click.command(
    cls=GroupedCommand,
    groups=IDLE,
    epilog="Exit codes: 0 a result, 2 usage, 3 nothing can be said, 70 internal error.",
)
@target_options
@options.option(
    "--longest",
    type=options.Duration(SHORTEST_NS, NS_PER_H),
    default=_DEFAULT.longest_ns,
    help="The longest silence to try, from 1s on, each 1.25 times the one before; the run takes about as long, and as long"
    " again where flows are lost on the way up to it.",
)
@options.option(
    "--samples",
    type=options.Whole(MIN_SAMPLES, 1_000),
    default=_DEFAULT.samples,
    help="Samples of each silence and state, each on a socket of its own: none lost of 20 means at most 14 % (95 %).",
)
@options.option(
    "--direction",
    type=click.Choice(["client", "pod", "both"]),
    default="client",
    help="Who speaks first after the silence: the client, or the pod, as an inbound call does: the server answers again after"
    " it. That takes a --key, here and at the server.",
)
@options.option(
    "--settle",
    type=options.Duration(0, 600 * NS_PER_S),
    default=_DEFAULT.settle_ns,
    help="A change of the pool voids samples up to so long before and after it; they are repeated once.",
)
@options.key()
@options.log_format()
@options.option(
    "--json",
    "document",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    env="AFFINITY_IDLE_JSON",
    help="File to write the whole result to, as one JSON object.",
)
@options.live()
def idle(
    *,
    longest: int,
    samples: int,
    direction: Literal["client", "pod", "both"],
    settle: int,
    key: bytes | None,
    bind: str | None,
    log_format: LogFormat,
    document: Path | None,
    live: bool,
    **target: Any,
) -> int:
    """Find how long a flow to TARGET may be silent and keep its pod, its port and its address.

    Silences from 1 s to --longest are tried at once, each by fresh flows in two states: after one exchange, and after
    traffic both ways for 3 s, since connection tracking forgets the two after different times. Finer steps follow where it
    breaks. Ctrl-C ends it with the result so far.
    """
    if direction != "client" and key is None:
        raise UserError(
            f"--direction {direction} needs --key (AFFINITY_KEY), here and at the server: it delays a reply for nobody else"
        )
    target_settings = read_target_options(bind=bind, **target)
    settings = IdleSettings(
        longest_ns=longest,
        samples=samples,
        directions=tuple(Direction) if direction == "both" else (Direction(direction),),
        settle_ns=settle,
        key=key,
        bind=bind,
    )
    if document is not None:
        _check_writable(document)
    with IdleReport.open(
        stream=sys.stdout,
        log_format=log_format,
        environ=os.environ,
        at_ns=clock.now_ns(),
        live=live,
        document=document,
    ) as report:
        result = asyncio.run(run_idle(settings, target_settings, report))
    return 0 if result.is_conclusive else INCONCLUSIVE


def _check_writable(document: Path) -> None:
    """Raise `UserError` if the file cannot be written: that must not show when the measurement is over."""
    try:
        document.open("a").close()
    except OSError as error:
        raise UserError(f"--json {document} cannot be written ({error.strerror}): name another file") from error
