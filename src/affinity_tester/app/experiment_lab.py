"""Starts the lab's cluster in a process of its own, which ends with the experiments."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from affinity_tester.errors import UserError

REPLICAS = 6
"""Two on each of three nodes, as in the runs that docs/failure-modes.md tells of: under policy Local a node keeps a pod."""

DRAIN_S = 4
"""Long enough to know of a session that it left a pod which still served: the API learns of a pod's end up to 3 s late."""

END_S = 10.0
"""How long the process may take to end by itself."""


@asynccontextmanager
async def open_lab_cluster(faults: Iterable[str] = ()) -> AsyncIterator[Path]:
    """Start a cluster with these faults, and return its kubeconfig. Raises `UserError`.

    It is a process of its own, so that neither its work nor a signal to this one's group comes between; it ends when its
    standard input does, so with this process in any case.
    """
    with tempfile.TemporaryDirectory(prefix="affinity-tester-lab-") as directory:
        kubeconfig = Path(directory) / "kubeconfig"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "affinity_tester", "lab-cluster", "--with-parent", "--autoscale"),
            *(f"--replicas={REPLICAS}", f"--pod-drain={DRAIN_S}s"),
            f"--kubeconfig={kubeconfig}",
            *(f"--fault={fault}" for fault in faults),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await _wait_ready(process)
            yield kubeconfig
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_ready(process: asyncio.subprocess.Process) -> None:
    """Return when the cluster says that it is ready. Raises `UserError` with its last line if it ends before."""
    assert process.stdout is not None
    assert process.stderr is not None
    if await process.stdout.readline():
        return
    said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
    why = said[-1].removeprefix("error: ") if said else f"it ended with {await process.wait()}"
    raise UserError(f"the lab's cluster does not start: {why.replace('--fault ', '--lab-fault ')}")
