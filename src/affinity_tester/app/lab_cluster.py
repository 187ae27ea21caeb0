"""Runs the lab as a cluster until it is told to end, and tells where it is by a kubeconfig."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from affinity_tester.app.manifests import read_settings, render
from affinity_tester.app.signals import TERMINATING, handle_signals
from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.lab.kube.cluster import LabCluster, LabClusterSettings
from affinity_tester.lab.kube.resources import Json
from affinity_tester.net.limits import raise_descriptor_limit

CONTEXT = "lab"
NAMESPACE = "default"

SOCKETS = 4000
"""Flows that the nodes may hold at a time: each has a socket for as long as its entry lives."""

MARK = "# Written by affinity-tester lab-cluster, which removes it when it ends.\n"
"""The first line of its kubeconfig: no other file is replaced, or removed."""

POLL_S = 0.02
"""How often it is looked whether the cluster is ready."""

READY_S = 30.0
"""The longest that may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabClusterRun:
    """A run of `lab-cluster`."""

    kubeconfig: Path
    replicas: int = 3
    with_parent: bool = False
    """End when standard input ends, as it does with the parent that holds its other end."""
    settings: LabClusterSettings = field(default_factory=LabClusterSettings)

    async def run(self, say: Callable[[str], None]) -> None:
        """Run until SIGTERM, SIGINT or the parent's end; `say` gets a line when the cluster is ready. Raises `UserError`."""
        stop = asyncio.Event()
        with handle_signals(dict.fromkeys((*TERMINATING, signal.SIGINT), stop.set)):
            if self.with_parent:
                _call_at_end_of_input(stop.set)
            await self._run(say, stop)

    async def _run(self, say: Callable[[str], None], stop: asyncio.Event) -> None:
        check_kubeconfig(self.kubeconfig)
        with contextlib.suppress(UserError):  # a low hard limit serves fewer flows; what is refused then is told
            raise_descriptor_limit(SOCKETS)
        cluster = await LabCluster.start(self.settings, own_objects(self.replicas), NAMESPACE)
        tasks = [asyncio.create_task(cluster.run()), asyncio.create_task(stop.wait())]
        try:
            tasks.append(asyncio.create_task(self._announce(cluster, say)))
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if stop.is_set():
                    break
                tasks = [task for task in tasks if task not in done]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._remove_kubeconfig(cluster.address)
            await cluster.close()
            if cluster.refused:
                say(f"the machine refused {cluster.refused:,} of the lab's packets: they are no loss of the cluster's")

    async def _announce(self, cluster: LabCluster, say: Callable[[str], None]) -> None:
        """Write the kubeconfig when the cluster is ready."""
        try:
            async with asyncio.timeout(READY_S):
                while not cluster.is_ready(NAMESPACE):  # noqa: ASYNC110 - it depends on many objects
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise UserError(
                f"{self.replicas} pods were not ready within {READY_S:g} s: take fewer --replicas, or more --nodes"
            ) from None
        write_kubeconfig(self.kubeconfig, cluster.address)
        nodes = self.settings.nodes
        say(f"lab cluster ready: {nodes} nodes, {self.replicas} pods; KUBECONFIG={self.kubeconfig}, context {CONTEXT}")

    def _remove_kubeconfig(self, address: TransportAddress) -> None:
        """Remove the file, unless another cluster has written its own there."""
        with contextlib.suppress(OSError):
            if _server(address) in self.kubeconfig.read_text(encoding="utf-8"):
                self.kubeconfig.unlink()


def own_objects(replicas: int) -> list[Json]:
    """Return the Deployment and the Service that a user applies, from the same manifests (k8s/*.yaml)."""
    server = read_settings("server", {"IMAGE": "affinity-tester:lab"})
    service = read_settings("service", {})
    texts = render("server", server, _no_archive, "Deployment") + render("service", service, _no_archive)
    deployment, *services = (yaml.safe_load(text) for text in texts)
    deployment["spec"]["replicas"] = replicas
    return [deployment, *services]


def check_kubeconfig(path: Path) -> None:
    """Raise `UserError` where another file would be replaced: a user's own kubeconfig is not the lab's to write."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # it is not there, or writing it will say what is wrong
    if text and not text.startswith(MARK):
        raise UserError(f"--kubeconfig {path} is there already, and no lab's: name a new file")


def write_kubeconfig(path: Path, address: TransportAddress) -> None:
    """Write a kubeconfig with the lab's context, as a whole or not at all. Raises `UserError`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": NAMESPACE}}],
        "clusters": [{"name": CONTEXT, "cluster": {"server": _server(address)}}],
        "users": [{"name": CONTEXT, "user": {"token": "lab"}}],
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(MARK + yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"--kubeconfig {path} cannot be written, {error.strerror}: name another file") from error


def _server(address: TransportAddress) -> str:
    return f"http://{address}"


def _no_archive() -> bytes:
    raise AssertionError("with an IMAGE no code is asked for")


def _call_at_end_of_input(stop: Callable[[], None]) -> None:
    """Call `stop` in this loop when standard input ends. What comes there is ignored."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=read, daemon=True).start()
