"""One worker process of `WorkerPool`: an echo server that its parent controls through pipes.

The parent runs it as `python -m affinity_tester.net.worker`:

- stdin: one line of JSON (`WorkerConfig`), then an empty line each time the parent wants the totals. When stdin ends, by
  the parent's wish or because the parent ended, the worker ends.
- stdout: one line of JSON with the totals for each empty line, and one with the final totals, once it answers no more
  probes. A failure is one line with the traceback.

The worker ignores the signals that end the parent.
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
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.net.server import EchoServer


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs to know to start."""

    fds: list[int]
    """File descriptors of its bound sockets, which it inherits."""
    pod_name: str
    node_name: str | None
    instance_id: str
    """In hexadecimal digits."""
    key: str | None
    """In hexadecimal digits; None without a key."""
    max_flows: int
    rate_limit: int = 0
    """Datagrams a second for all workers together; 0 means no limit."""
    rate_limit_prefix: int = 0
    """Datagrams a second from one source prefix, for all workers together; 0 means no limit."""
    shares: int = 1
    """The number of workers that share these rates."""
    counted_before: int = 0
    """RECEIVED-COUNT of a new flow's first probe is one more than this."""


class WorkerError(Exception):
    """A worker failed with an exception; the text is its traceback."""


def write_totals(totals: ServerTotals) -> str:
    """Return the line in which a worker reports its totals."""
    return json.dumps({"totals": asdict(totals)})


def read_totals(line: bytes) -> ServerTotals:
    """Return the totals of a line from a worker. Raise `WorkerError` if the line reports a failure."""
    message = json.loads(line)
    if "error" in message:
        raise WorkerError(message["error"])
    totals = message["totals"]
    by_reason = {name: tuple(map(tuple, totals[name])) for name in ("dropped", "not_delayed")}
    return ServerTotals(**totals | by_reason)


async def _work() -> None:
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)

    line = await requests.readline()
    if line:
        config = WorkerConfig(**json.loads(line))
        sockets = [socket.socket(fileno=fd) for fd in config.fds]
        for sock in sockets:
            sock.setblocking(False)

        server = await EchoServer.serve(
            sockets,
            config.pod_name,
            config.node_name,
            bytes.fromhex(config.instance_id),
            key=None if config.key is None else bytes.fromhex(config.key),
            max_flows=config.max_flows,
            counted_before=config.counted_before,
            limit=RateLimit.of(config.rate_limit, config.rate_limit_prefix, clock.now_ns(), shares=config.shares),
        )

        while await requests.readline():
            print(write_totals(server.counters), flush=True)  # noqa: T201 - to the parent
        print(write_totals(await server.close()), flush=True)  # noqa: T201 - to the parent
    pipe.close()


def main() -> None:
    """Run the worker until the parent closes the pipe or ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    try:
        asyncio.run(_work())
    except BrokenPipeError:
        return  # the parent has ended
    except Exception:  # the parent decides what to do about it
        print(json.dumps({"error": traceback.format_exc()}), flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    main()
