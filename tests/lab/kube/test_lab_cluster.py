"""`affinity-tester lab-cluster` as a process: the client passes against it, requests act on it, and nothing stays behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import busy
from affinity_tester.cluster.discover import discover
from affinity_tester.cluster.queries import read_nodes
from commands import NO_KUBECONFIG, PATIENCE_S, environment
from fakeapi import connected
from lab_clusters import COMMAND, api_of, lab

PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/affinity-tester"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


async def client(kubeconfig: Path, *arguments: str) -> tuple[int | None, str]:
    """Run `affinity-tester client` to its end: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "client",
        "--kubeconfig",
        kubeconfig,
        *("--service", "affinity-tester", "--interval", "50ms", "--settle", "1s", "--stats", "total"),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    busy.look_at(out.decode())
    return process.returncode, out.decode()


def verdict(out: str) -> str:
    return next((line for line in out.splitlines() if line.startswith(("PASS", "FAIL", "INCONCLUSIVE"))), out)


@pytest.mark.busy
@pytest.mark.parametrize("via", ["node-port", "load-balancer"])
async def test_the_client_passes_watched(tmp_path: Path, via: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig):
        code, out = await client(kubeconfig, "--via", via, "--duration", "4s", "--sessions", "12")
    assert code == 0, out
    assert verdict(out).startswith("PASS: 0 violations")
    assert "the pool is watched: 3 of 3 endpoints ready" in out
    assert "answered by 3 pods on 3 nodes" in out


@pytest.mark.busy
async def test_a_fault_is_a_violation(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig, "--fault", "spray"):
        code, out = await client(kubeconfig, "--via", "node-port", "--duration", "4s", "--sessions", "6")
    assert code == 1, out
    assert "packet-spray" in out


async def test_the_tools_own_cluster_package_finds_the_service(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig), connected(kubeconfig=str(kubeconfig)) as cluster:
        nodes = await read_nodes(cluster.api)
        assert nodes is not None
        assert [node.ready for node in nodes.values()] == [True] * 3
        for via in ("node-port", "load-balancer", "cluster-ip"):
            found = await discover(cluster, None, via)  # type: ignore[arg-type]
            assert found.service.ref == ("default", "affinity-tester")
        assert [(await discover(cluster, None, "load-balancer")).host_port] == [3478]


async def test_pods_come_and_go_and_their_sockets_with_them(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig), api_of(kubeconfig) as api:
        pods = (await api.ask("GET", PODS))["items"]
        address = pods[0]["status"]["podIP"]
        assert await answers(address)
        await api.ask("DELETE", f"{PODS}/{pods[0]['metadata']['name']}", {"gracePeriodSeconds": 0})
        await api.until(SLICES, lambda found: len(found["items"][0]["endpoints"]) < 3)
        assert not await answers(address)
        await api.ask("PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": 5}})
        await api.until(SLICES, lambda found: ready(found) == 5)
        await api.ask("DELETE", DEPLOYMENT)
        await api.until(PODS, lambda found: not found["items"])


def ready(slices: Any) -> int:
    return sum(endpoint["conditions"]["ready"] for each in slices["items"] for endpoint in each["endpoints"])


async def answers(ip: str) -> bool:
    """True if an echo server answers a bare Binding request there."""
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[bytes] = loop.create_future()

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            reply.set_result(data)

        def error_received(self, exc: Exception) -> None:
            reply.set_exception(exc)

    transport, _ = await loop.create_datagram_endpoint(Listener, remote_addr=(ip, 3478))
    transport.sendto(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12))
    try:
        async with asyncio.timeout(PATIENCE_S):
            return (await reply)[:2] == b"\x01\x01"
    except ConnectionRefusedError:
        return False
    finally:
        transport.close()


async def test_a_deleted_service_closes_its_node_ports(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig), api_of(kubeconfig) as api:
        service = {
            "metadata": {"name": "two"},
            "spec": {
                "type": "NodePort",
                "selector": {"app.kubernetes.io/name": "affinity-tester"},
                "ports": [{"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": "stun"}],
            },
        }
        made = await api.ask("POST", "/api/v1/namespaces/default/services", service)
        assert await api.ask("POST", "/api/v1/namespaces/default/services", service) == (409, "AlreadyExists")
        _, out = await client(kubeconfig, "--service", "two", "--duration", "1s", "--sessions", "4")
        assert "4 sessions answered by" in out
        await api.ask("DELETE", "/api/v1/namespaces/default/services/two")
        await api.until(SLICES, lambda found: len(found["items"]) == 1)
        port, node = made["spec"]["ports"][0]["nodePort"], (await api.ask("GET", "/api/v1/nodes"))["items"][0]
        async with asyncio.timeout(PATIENCE_S):
            while await answers_at(node["status"]["addresses"][0]["address"], port):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


async def answers_at(ip: str, port: int) -> bool:
    """True if anything listens there: a connected socket hears that nothing does."""
    loop = asyncio.get_running_loop()
    refused: asyncio.Future[bool] = loop.create_future()

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            refused.set_result(True)

        def error_received(self, exc: Exception) -> None:
            refused.set_result(False)

    transport, _ = await loop.create_datagram_endpoint(Listener, remote_addr=(ip, port))
    transport.sendto(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12))
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await refused
    finally:
        transport.close()


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "parent"])
async def test_it_ends_when_told_and_leaves_nothing(tmp_path: Path, way: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig) as process:
        assert names_in(tmp_path) == ["kubeconfig"]
        if way == "parent":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, way))
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b"", b"")
    assert names_in(tmp_path) == []


@pytest.mark.busy
async def test_several_run_side_by_side(tmp_path: Path) -> None:
    async with lab(tmp_path / "one"), lab(tmp_path / "two"):
        results = await asyncio.gather(
            *(client(tmp_path / name, "--duration", "4s", "--sessions", "12") for name in ("one", "two"))
        )
    assert [code for code, _ in results] == [0, 0], results


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fault", "none"), "error: --fault 'none' is unknown: take one of flush-on-change"),
        (
            ("--kubeconfig", "/nonexistent/file"),
            "error: --kubeconfig /nonexistent/file cannot be written, No such file",
        ),
        (("--nodes", "0"), "0"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [COMMAND, "lab-cluster", "--kubeconfig", tmp_path / "k", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(KUBECONFIG=NO_KUBECONFIG),
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("apiVersion: v1\n")
    done = subprocess.run(
        [COMMAND, "lab-cluster", "--kubeconfig", kubeconfig],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --kubeconfig {kubeconfig} is there already, and no lab's: name a new file\n"
    assert kubeconfig.read_text() == "apiVersion: v1\n"


async def test_what_a_killed_one_left_is_replaced(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    async with lab(kubeconfig) as killed:
        killed.kill()
    assert names_in(tmp_path) == ["kubeconfig"]
    async with lab(kubeconfig) as process:
        process.terminate()
        await process.wait()
    assert names_in(tmp_path) == []


def test_the_list_of_commands_does_not_show_it() -> None:
    done = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True, env=environment())
    assert "lab-cluster" not in done.stdout
