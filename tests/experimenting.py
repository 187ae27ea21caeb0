"""The installed `affinity-tester experiment`, run against the lab's cluster."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from commands import PATIENCE_S, environment
from lab_clusters import COMMAND, Api

QUICK = ("-i", "50ms", "-t", "500ms", "--settle", "500ms", "--steady", "500ms", "--limit", "20s", "-n", "24")
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/affinity-tester"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
LISTS = ("/apis/apps/v1/deployments", "/api/v1/services", "/api/v1/nodes", LEASES)
"""What experiments change or make; pods come and go."""


class Ended(NamedTuple):
    """How the command ended."""

    code: int | None
    lines: list[dict[str, Any]]
    """Of its JSON log."""
    err: str

    @property
    def held(self) -> dict[str, list[str]]:
        """By experiment, what each Service's requirement came to."""
        return {
            result["name"]: [cell["outcome"]["held"] for cell in result["cells"]] for result in self.report["results"]
        }

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.lines[-1]["report"]
        return report

    def reasons(self, name: str) -> str:
        (result,) = (each for each in self.report["results"] if each["name"] == name)
        return "; ".join(
            [result["failure"], *(reason for cell in result["cells"] for reason in cell["outcome"]["reasons"])]
        )

    def texts(self, step: str) -> list[str]:
        return [line["text"] for line in self.lines if line["event"] == f"experiment.{step}"]


class Experiment:
    """The running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._lines: list[dict[str, Any]] = []

    async def until(self, step: str, pattern: str) -> None:
        """Read its log until a step has this text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while data := await self.process.stdout.readline():
                self._lines.append(json.loads(data))
                line = self._lines[-1]
                if line["event"] == f"experiment.{step}" and re.search(pattern, line["message"]):
                    return
        raise AssertionError(await self.end())

    def close_output(self) -> None:
        """Read no more of its log, as `| head` does."""
        transport: Any = self.process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).close()

    async def end(self) -> Ended:
        async with asyncio.timeout(2 * PATIENCE_S):
            out, err = await self.process.communicate()
        lines = self._lines + [json.loads(line) for line in out.decode().splitlines()]
        return Ended(self.process.returncode, lines, err.decode())


@asynccontextmanager
async def experiment(kubeconfig: Path, *arguments: str) -> AsyncIterator[Experiment]:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "experiment",
        *("--kubeconfig", kubeconfig, "--log-format", "json"),
        *QUICK,
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=1 << 24,
        env=environment(),
    )
    try:
        yield Experiment(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(kubeconfig: Path, *arguments: str) -> Ended:
    async with experiment(kubeconfig, *arguments) as command:
        return await command.end()


async def state(api: Api) -> dict[str, Any]:
    """What the cluster was told to be: every object's spec, labels and annotations, without what its controllers write."""
    found = {}
    for path in LISTS:
        for obj in (await api.ask("GET", path))["items"]:
            metadata = obj["metadata"]
            if "affinity-tester.lab/autoscaler" in (metadata.get("labels") or {}):
                continue  # the autoscaler takes it away when it sees fit
            annotations = {
                name: value
                for name, value in (metadata.get("annotations") or {}).items()
                if not name.startswith("deployment.kubernetes.io/")
            }
            spec = dict(obj.get("spec", {}))
            spec.pop("template", None)  # a rollout leaves its time there
            found[path, metadata["name"]] = (spec, metadata.get("labels") or {}, annotations)
    return found
