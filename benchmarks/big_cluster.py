"""An API server on loopback with a big cluster in it that does not stand still; prints its port as JSON.

A process of its own, so that what it takes is not taken from the client: `python -m benchmarks.big_cluster KUBECONFIG`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakeapi import FakeApi, endpoint_slice, node, numbered_endpoint, pod, proxy, service, write_kubeconfig

SLICES, PER_SLICE, NODES = 50, 100, 500
NODES_PER_S, PODS_PER_S = 50, 5
"""A kubelet reports its node's status every 10 s where its images or conditions move; pods report now and then."""
RELIST_TENTHS = 30
"""So often all watches end and cannot be resumed (410): the client lists everything anew, in mid-run."""


def _node(number: int) -> dict[str, Any]:
    return node(f"node-{number}", internal=f"172.16.{number >> 8}.{number & 255}")


def _pod(number: int) -> dict[str, Any]:
    return pod(f"turn-{number}", on=f"node-{number % NODES}")


def _fill(api: FakeApi) -> None:
    api.put("services", service())
    for at in range(SLICES):
        numbers = range(at * PER_SLICE, (at + 1) * PER_SLICE)
        api.put("endpointslices", endpoint_slice(*map(numbered_endpoint, numbers), name=f"turn-{at:03}"))
    for number in range(NODES):
        api.put("nodes", _node(number))
        api.put("pods", proxy(f"kube-proxy-{number}", on=f"node-{number}"))
    for number in range(SLICES * PER_SLICE):
        api.put("pods", _pod(number))


async def _live(api: FakeApi) -> None:
    """Statuses are reported, and nothing that matters changes."""
    tenths = 0
    while True:
        await asyncio.sleep(0.1)
        tenths += 1
        for number in range(NODES_PER_S // 10):
            api.put("nodes", _node((tenths * NODES_PER_S // 10 + number) % NODES))
        if tenths % (10 // PODS_PER_S) == 0:
            api.put("pods", _pod(tenths % (SLICES * PER_SLICE)))
        api.bookmark()
        if tenths % RELIST_TENTHS == 0:
            api.deaf = True  # what nobody heard of is gone from the history: 410
            api.put("nodes", _node(0))
            api.deaf = False
            api.compact()
            api.history.clear()
            for resource in api.objects:
                api.end(resource)


async def main(kubeconfig: Path) -> None:
    """Serve until killed."""
    api = FakeApi()
    _fill(api)
    api.history.clear()
    await api.start()
    write_kubeconfig(kubeconfig, api.port)
    print(json.dumps({"port": api.port}), flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await _live(api)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
