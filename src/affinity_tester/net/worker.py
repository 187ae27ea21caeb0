"""A worker of `WorkerPool`, run as `python -m affinity_tester.net.worker`: an echo server that its parent leads.

stdin has one line of JSON (`Task`), then an empty line for each time that the totals are asked for; its end, which the
parent's end brings about too, ends the worker. stdout has one line of JSON for each: the totals, and those of the end,
when it answers no more. Signals are for the parent alone.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import traceback
from dataclasses import asdict, dataclass

from affinity_tester import clock
from affinity_tester.core.echo import ServerTotals
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.net.server import EchoServer


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told at its start."""

    fds: list[int]
    """Its bound sockets, inherited."""
    pod_name: str
    node_name: str | None
    instance_id: str
    """As hexadecimal digits."""
    key: str | None
    """As hexadecimal digits."""
    max_flows: int
    rate_limit: int = 0
    """Datagrams a second over all workers; 0: any number."""
    rate_limit_prefix: int = 0
    """As that, of one source prefix."""
    shares: int = 1
    """Workers that have these rates together."""
    counted_before: int = 0
    """RECEIVED-COUNT of a new flow begins above this."""


class WorkerError(Exception):
    """A worker failed; the text is its traceback."""


def write_totals(totals: ServerTotals) -> str:
    """Totals as a worker tells them."""
    return json.dumps({"totals": asdict(totals)})


def read_totals(line: bytes) -> ServerTotals:
    """What a worker told. Raises `WorkerError` for its failure."""
    told = json.loads(line)
    if "error" in told:
        raise WorkerError(told["error"])
    totals = told["totals"]
    return ServerTotals(**totals | {"dropped": tuple((reason, count) for reason, count in totals["dropped"])})


async def _work() -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    line = await asked.readline()
    if line:
        task = Task(**json.loads(line))
        sockets = [socket.socket(fileno=fd) for fd in task.fds]
        for sock in sockets:
            sock.setblocking(False)
        server = await EchoServer.serve(
            sockets,
            task.pod_name,
            task.node_name,
            bytes.fromhex(task.instance_id),
            key=None if task.key is None else bytes.fromhex(task.key),
            max_flows=task.max_flows,
            counted_before=task.counted_before,
            limit=RateLimit.of(task.rate_limit, task.rate_limit_prefix, clock.now_ns(), shares=task.shares),
        )
        while await asked.readline():
            print(write_totals(server.counters), flush=True)  # noqa: T201 - to the parent
        print(write_totals(await server.close()), flush=True)  # noqa: T201 - to the parent
    pipe.close()


def main() -> None:
    """Work until the parent closes the pipe, or ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        asyncio.run(_work())
    except BrokenPipeError:
        return  # the parent is gone
    except Exception:  # told to the parent, who knows what to do with it
        print(json.dumps({"error": traceback.format_exc()}), flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    main()
