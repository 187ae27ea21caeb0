"""What is undone: after Ctrl-C, failures, and by the run after one that was killed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from commands import PATIENCE_S
from experimenting import experiment, run, state
from lab_clusters import api_of, lab

UNDONE = {
    "scale-up": "scale Deployment",
    "scale-down": "scale Deployment",
    "policy-flip": "change externalTrafficPolicy",
    "node-scaleup": "create Deployment",
    "node-drain": "cordon node",
}
"""Experiments that change what no controller brings back, with how the text of that step begins."""


@pytest.mark.parametrize("name", UNDONE)
async def test_ctrl_c_undoes_what_was_done(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", name, "baseline", "--confirm-context", "lab") as command:
            await command.until("did", UNDONE[name])
            command.process.send_signal(signal.SIGINT)
            ended = await command.end()
        assert ended.code == 130, ended
        assert "not run: baseline" in [line["message"] for line in ended.lines]
        assert await state(api) == before
    assert ended.report["results"][0]["failure"] == "interrupted"


async def test_a_signal_that_asks_how_it_stands_ends_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", "scale-up", "--confirm-context", "lab") as command:
            await command.until("did", UNDONE["scale-up"])
            command.process.send_signal(signal.SIGUSR1)
            await command.until("progress", "so far: scale-up: ")
            ended = await command.end()
        assert ended.code == 0, ended
        assert await state(api) == before


@pytest.mark.parametrize("name", UNDONE)
async def test_what_a_killed_run_left_is_mended_by_the_next(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", name, "--confirm-context", "lab") as command:
            await command.until("did", UNDONE[name])
            command.process.kill()
            await command.process.wait()
        assert await state(api) != before
        ended = await run(tmp_path / "kubeconfig", "baseline")
        assert ended.code == 0, ended
        assert await state(api) == before
        notes = [line["message"] for line in ended.lines if line["event"] == "experiment.note"]
        assert any("what it left is mended" in note for note in notes)


async def test_the_services_of_a_killed_matrix_are_deleted_by_the_next_run(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", "scale-up", "--matrix") as command:
            await command.until("did", "scale Deployment")
            command.process.kill()
            await command.process.wait()
        assert len(await state(api)) == len(before) + 5  # the Services, and the Lease
        ended = await run(tmp_path / "kubeconfig", "baseline")
        assert ended.code == 0, ended
        assert await state(api) == before


async def test_what_does_not_settle_is_undone_and_told(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        for number in (1, 2, 3):
            await api.ask("PATCH", f"/api/v1/nodes/node-{number}", {"spec": {"unschedulable": True}})
        cordoned = await state(api)
        ended = await run(tmp_path / "kubeconfig", "scale-up", "--limit", "2s")
        assert await state(api) == cordoned != before
    assert ended.code == 3, ended
    assert ended.held == {"scale-up": ["cannot tell"]}
    (result,) = ended.report["results"]
    assert "ready" in result["failure"]
    assert result["undone"] == "what was changed is as it was"
    assert f"the action failed: {result['failure']}" in ended.reasons("scale-up")


async def test_a_command_that_could_not_be_undone_is_left_to_its_owner(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"):
        chosen = ("--do", "true", "--undo", "false", "--confirm-context", "lab")
        ended = await run(tmp_path / "kubeconfig", "command", *chosen)
    assert ended.code == 3, ended
    (result,) = ended.report["results"]
    assert result["undone"] == "not undone (false failed with exit code 1): undo by hand what the command did"


async def test_what_was_done_is_undone_where_nobody_reads_the_output_any_more(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", "scale-up", "--matrix") as command:
            await command.until("did", "scale Deployment")
            command.close_output()
            async with asyncio.timeout(PATIENCE_S):
                assert await command.process.wait() == 141
        assert await state(api) == before


async def test_a_second_ctrl_c_ends_the_wait_for_what_was_written_back(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--pod-drain=100s"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        async with experiment(tmp_path / "kubeconfig", "scale-up", "--limit", "90s") as command:
            await command.until("did", "set spec.replicas")  # the pod that was added drains
            command.process.send_signal(signal.SIGINT)
            await command.until("note", "a second signal ends that")
            command.process.send_signal(signal.SIGINT)
            ended = await command.end()
        assert ended.code == 130, ended
        assert await state(api) == before
    (result,) = ended.report["results"]
    assert result["undone"] == "written back, and not seen to settle (a second signal ended it)"
