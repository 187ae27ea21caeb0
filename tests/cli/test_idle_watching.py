"""`affinity-tester idle` beside a cluster: what its Service hides, and what a change of its pool voids."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from test_idle_command import idle
from test_watching import scene

from fakeapi import endpoint

pytestmark = pytest.mark.busy


@pytest.mark.parametrize(
    ("spec", "code", "line"),
    [
        (
            {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"},
            3,
            "  cannot be seen from here: policy Local with ClientIP: an entry made anew looks alike;"
            " --direction pod (with --key) shows it",
        ),
        ({"externalTrafficPolicy": "Cluster", "sessionAffinity": "None"}, 0, "  longer than 1 s"),
    ],
)
async def test_the_service_says_what_can_be_seen(
    affinity_tester: Path, tmp_path: Path, spec: dict[str, str], code: int, line: str
) -> None:
    async with scene(tmp_path) as made:
        made.put_service(**spec)
        arguments = (
            "--service",
            "media/turn",
            "--longest",
            "1s",
            "--settle",
            "100ms",
            "--json",
            tmp_path / "idle.json",
        )
        ended = await idle(affinity_tester, *arguments, **made.environ)
    assert (ended.code, ended.err) == (code, "")
    assert ended.out.splitlines().count(line) == 2
    way = json.loads((tmp_path / "idle.json").read_text())["way"]
    assert (way["external_traffic_policy"], way["session_affinity"]) == tuple(spec.values())
    assert (way["via"], way["pods"]) == ("load-balancer", 2)


async def test_a_change_of_the_pool_voids_samples_and_they_are_repeated(affinity_tester: Path, tmp_path: Path) -> None:
    async with scene(tmp_path) as made:

        async def change() -> None:
            while not made.server.probes:  # noqa: ASYNC110 - the server tells of no probe
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
            made.put_pool(endpoint("a"), endpoint("b", "n2"), endpoint("c"))

        changing = asyncio.create_task(change())
        arguments = (
            "--service",
            "media/turn",
            "--longest",
            "1s",
            "--settle",
            "200ms",
            "--json",
            tmp_path / "idle.json",
        )
        ended = await idle(affinity_tester, *arguments, **made.environ)
        await changing
    document = json.loads((tmp_path / "idle.json").read_text())
    assert document["watched"]
    assert document["void"] > 0
    assert document["repeated"] > 0
    assert any("void: the pool changed near them" in line for line in ended.out.splitlines())
    assert ended.code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal of its own")
async def test_a_terminal_shows_how_far_it_is(affinity_tester: Path, tmp_path: Path) -> None:
    script = ["script", "--quiet", "--return", "--command"]
    async with scene(tmp_path) as made:
        command = f"{affinity_tester} idle {made.server.address} --watch off --longest 1s"
        process = await asyncio.create_subprocess_exec(
            *script,
            command,
            str(tmp_path / "typescript"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "120"},
        )
        out, _ = await process.communicate()
    assert "first round: " in out.decode()
    assert "of 40 samples ended" in out.decode()
    assert "longer than 1 s" in out.decode()
