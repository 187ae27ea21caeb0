"""A cluster for each test: an API server on loopback, and a kubeconfig that leads to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from affinity_tester.cluster.connect import Cluster
from fakeapi import FakeApi, connected, endpoint, endpoint_slice, node, pod, proxy, service, write_kubeconfig


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """A cluster with a Service of two pods, two nodes, and a kube-proxy on each."""
    fake = FakeApi()
    fake.put("services", service())
    fake.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2")))
    for number in (1, 2):
        fake.put("nodes", node(f"n{number}", internal=f"10.0.0.{number}"))
        fake.put("pods", proxy(f"kube-proxy-{number}", on=f"n{number}"))
    fake.put("pods", pod("a"))
    fake.put("pods", pod("b", on="n2"))
    await fake.start()
    yield fake
    fake.hold.set()
    await fake.kill()


@pytest.fixture
def kubeconfig(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubeconfig that leads to `api`, in KUBECONFIG."""
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, api.port)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with connected() as found:
        yield found
