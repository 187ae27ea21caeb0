"""`affinity-tester server`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import click

from affinity_tester.app.serve import loop_factory, serve
from affinity_tester.cli import options
from affinity_tester.cli.grouped import SERVER, GroupedCommand
from affinity_tester.core.stun import check_name
from affinity_tester.net.limits import usable_cpus
from affinity_tester.report.logging import LogFormat
from affinity_tester.report.server_log import ServerLog
from affinity_tester.settings import DEFAULT_MAX_FLOWS, DEFAULT_PORT, ServerSettings
from affinity_tester.units import NS_PER_S

_MAX_PER_S = 100_000_000
"""Datagrams a second: more than any machine reads."""


class _Workers(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4 alone
    """A number of processes, or `auto`."""

    name = "workers"
    _numbers = options.Whole(1, 256)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number; `auto` is the number of CPUs that this process may use."""
        return usable_cpus() if value == "auto" else self._numbers.convert(value, param, ctx)


class _Name(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """A name that fits into a reply; empty is the default."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        try:
            check_name("it", value or "default")
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


@click.command(cls=GroupedCommand, groups=SERVER)
@options.option(
    "--host",
    type=options.AddressList(),
    multiple=True,
    env=["AFFINITY_HOST", "POD_IPS"],
    help="Address to answer at; repeatable (in the environment: separated by commas). Default: every local address, each"
    " on a socket of its own, so that replies leave from where the probe was sent to.",
)
@options.option(
    "--port", type=options.PORT_OR_ZERO, default=DEFAULT_PORT, help="UDP port; 0 takes a free one for each address."
)
@options.option(
    "--health-port", type=options.PORT_OR_ZERO, default=8080, help="TCP port of /livez, /readyz and /metrics; 0 is off."
)
@options.option("--pod-name", type=_Name(), env="POD_NAME", help="Name to answer with. Default: the host's name.")
@options.option("--node-name", type=_Name(), env="NODE_NAME", help="Name of the node to answer with. Default: none.")
@options.option(
    "--drain",
    type=options.Duration(0, 3600 * NS_PER_S),
    default=5 * NS_PER_S,
    help="Time to keep answering, and stay ready, after SIGTERM.",
)
@options.option(
    "--stats-interval",
    type=options.Duration(NS_PER_S // 10),
    default=60 * NS_PER_S,
    help="Time between lines of totals.",
)
@options.option(
    "--max-flows",
    type=options.Whole(1, 1 << 24),
    default=DEFAULT_MAX_FLOWS,
    help="(session, reflexive address) pairs to remember; the longest silent is forgotten first.",
)
@options.option(
    "--workers",
    type=_Workers(),
    metavar="N|auto",
    default="1",
    help="Processes that answer, as one instance; auto is one for each CPU that this process may use.",
)
@options.option(
    "--rate-limit",
    type=options.Whole(0, _MAX_PER_S),
    metavar="N",
    default=0,
    help="Datagrams a second to read at most, over all workers, which share it evenly, so that one flow may get one"
    " worker's part; the rest is dropped and counted. 0 is any number.",
)
@options.option(
    "--rate-limit-prefix",
    type=options.Whole(0, _MAX_PER_S),
    metavar="N",
    default=0,
    help="As --rate-limit, from each source prefix (/24 of IPv4, /56 of IPv6). Under externalTrafficPolicy Cluster every"
    " client has a node's address, so that this limits all clients behind the nodes of a prefix together. 0 is any number.",
)
@options.key()
@options.log_format()
def server(
    *,
    host: tuple[str, ...],
    port: int,
    health_port: int,
    pod_name: str | None,
    node_name: str | None,
    drain: int,
    stats_interval: int,
    max_flows: int,
    workers: int,
    rate_limit: int,
    rate_limit_prefix: int,
    key: bytes | None,
    log_format: LogFormat,
) -> None:
    """Answer STUN Binding requests with the pod's name, its node, and the address that the request came from.

    SIGTERM (or SIGHUP: a terminal that closes) lets it drain and end with 0; a second one, or Ctrl-C, ends it at once.
    """
    settings = ServerSettings(
        hosts=tuple(dict.fromkeys(filter(None, host))),
        port=port,
        health_port=health_port,
        pod_name=pod_name or socket.gethostname(),
        node_name=node_name or None,
        drain_ns=drain,
        stats_interval_ns=stats_interval,
        max_flows=max_flows,
        workers=workers,
        rate_limit=rate_limit,
        rate_limit_prefix=rate_limit_prefix,
        key=key,
    )
    with (
        ServerLog.open(sys.stdout, log_format, os.environ) as log,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        runner.run(serve(settings, log.emit))
