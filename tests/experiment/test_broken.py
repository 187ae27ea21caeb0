"""What each experiment is there to find, and what it is not the cluster's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experimenting import Ended, run, state
from lab_clusters import api_of, lab

SCALE = (
    "import json, sys, urllib.request as r;"
    "path = sys.argv[1] + '/apis/apps/v1/namespaces/default/deployments/affinity-tester';"
    "body = json.dumps({'spec': {'replicas': int(sys.argv[2])}}).encode();"
    "r.urlopen(r.Request(path, body, {'Content-Type': 'application/merge-patch+json'}, method='PATCH'))"
)
"""Scales the Deployment, as a command of a user's may."""

CHANGES = ("pod-delete", "pod-kill", "scale-up", "scale-down", "rollout")
NEEDLESS = "moved that need not have"


def broken(ended: Ended, *names: str) -> bool:
    return (ended.code, ended.held) == (1, {name: ["broken"] for name in names})


async def test_flows_that_are_dropped_at_a_change_of_the_endpoints(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--fault=flush-on-change"), api_of(tmp_path / "kubeconfig") as api:
        ended = await run(tmp_path / "kubeconfig", *CHANGES)
        assert broken(ended, *CHANGES), ended
        for name in CHANGES:
            assert NEEDLESS in ended.reasons(name) or "moved at another time" in ended.reasons(name)

        do, undo = (f'{sys.executable} -c "{SCALE}" {api.server} {replicas}' for replicas in (4, 3))
        arguments = ("--do", do, "--undo", undo, "--confirm-context", "lab")
        ended = await run(tmp_path / "kubeconfig", "command", "node-drain", *arguments)
        assert broken(ended, "command", "node-drain"), ended


async def test_flows_that_stay_with_a_pod_that_is_gone(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--fault=stale-entries"):
        ended = await run(tmp_path / "kubeconfig", "pod-kill")
    assert broken(ended, "pod-kill"), ended
    assert "stayed silent" in ended.reasons("pod-kill")


async def test_flows_that_leave_a_serving_endpoint_or_an_edited_service(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--fault=early-flush", "--fault=policy-flush", "--pod-drain=4s"):
        ended = await run(tmp_path / "kubeconfig", "not-ready", "policy-flip")
    assert broken(ended, "not-ready", "policy-flip"), ended
    assert "moved at another time" in ended.reasons("not-ready")
    assert NEEDLESS in ended.reasons("policy-flip")


async def test_flows_that_are_forgotten_after_a_short_silence(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--fault=conntrack-timeout=10s"):
        ended = await run(tmp_path / "kubeconfig", "idle")
    assert broken(ended, "idle"), ended
    assert "silent for 15 s after one exchange, 0 of 20 flows were kept" in ended.reasons("idle")
    (result,) = ended.report["results"]
    assert result["cells"][0]["outcome"]["names"][0] == "likely idle-expiry"


async def test_proxies_that_drop_flows_when_they_start_and_a_balancer_that_hashes_anew(tmp_path: Path) -> None:
    faults = ("--fault=proxy-restart-flush", "--fault=node-join-rehash", "--autoscale")
    async with lab(tmp_path / "kubeconfig", *faults):
        arguments = ("--confirm-context", "lab", "--via", "load-balancer")
        ended = await run(tmp_path / "kubeconfig", "proxy-restart", "node-scaleup", *arguments)
    assert broken(ended, "proxy-restart", "node-scaleup"), ended


@pytest.mark.parametrize("name", ["baseline", "scale-up"])
async def test_without_a_steady_state_nothing_is_done(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path / "kubeconfig", "--fault=spray"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        ended = await run(tmp_path / "kubeconfig", name)
        assert await state(api) == before
    assert ended.texts("will") == []
    assert "no steady state" in ended.reasons(name)
    # The steady state is all that `baseline` asks for.
    assert (ended.code, ended.held) == ((1, {name: ["broken"]}) if name == "baseline" else (3, {name: ["cannot tell"]}))
