"""What holds on a sound cluster, which is as it was afterwards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from affinity_tester.core.experiment.catalogue import ALL
from experimenting import run, state
from lab_clusters import api_of, lab


async def test_all_experiments_hold_on_a_sound_cluster_and_leave_it_as_it_was(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        records = tmp_path / "records"
        ended = await run(tmp_path / "kubeconfig", "all", "--record", str(records))
        assert (ended.code, ended.held) == (0, {name: ["held"] for name in ALL}), ended
        assert await state(api) == before

    journal = [json.loads(line) for line in (records / "journal.jsonl").read_text().splitlines()]
    assert [line["experiment"] for line in journal if line["step"] == "experiment"] == list(ALL)
    will = [(line["experiment"], line["text"]) for line in journal if line["step"] == "will"]
    did = [(line["experiment"], line["text"]) for line in journal if line["step"] == "did"]
    again = [(line["experiment"], line["text"]) for line in journal if line["step"] == "again"]
    assert Counter(will) == Counter(did) + Counter(again)
    began, *_, last = journal
    assert began["text"] == ("context lab, namespace default, Service affinity-tester: 9 experiments with 24 sessions")
    assert began["experiments"] == list(ALL)
    judged = [line for line in journal if line["step"] == "judged"]
    assert [(line["experiment"], line["held"]) for line in judged] == [(name, "held") for name in ALL]
    assert all(line["services"][0]["claim"] for line in judged)
    assert (last["step"], last["experiments"]) == ("ended", len(ALL))
    assert {path.name for path in records.iterdir()} >= {f"{name}.jsonl.gz" for name in ALL if name != "idle"}


async def test_a_matrix_acts_once_and_judges_four_services_which_are_gone_afterwards(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        ended = await run(tmp_path / "kubeconfig", "pod-delete", "scale-up", "--matrix")
        assert await state(api) == before
    assert ended.code in (0, 3), ended  # under ClientIP all sessions may be on another pod
    where = "context lab, namespace default, 4 Services of its own: 2 experiments with 24 sessions of each"
    assert ended.lines[0]["message"] == where
    for result in ended.report["results"]:
        cells = [(cell["policy"], cell["affinity"]) for cell in result["cells"]]
        assert cells == [(policy, affinity) for policy in ("Cluster", "Local") for affinity in ("None", "ClientIP")]
    assert ended.held["scale-up"] == ["held"] * 4
    assert "broken" not in ended.held["pod-delete"]
    assert sum(text.startswith("delete pod ") for text in ended.texts("did")) == 1


FOREIGN = ("proxy-restart", "node-scaleup", "node-drain")


async def test_those_that_touch_more_hold_as_well(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig", "--autoscale"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        ended = await run(tmp_path / "kubeconfig", *FOREIGN, "--confirm-context", "lab", "--via", "node-port")
        assert (ended.code, ended.held) == (0, {name: ["held"] for name in FOREIGN}), ended
        assert await state(api) == before


async def test_a_command_is_run_with_the_cluster_in_its_environment_and_undone(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"):
        do, undo = (f"sh -c 'echo {word} $CONTEXT $NAMESPACE >> {tmp_path}/said'" for word in ("did", "undid"))
        ended = await run(
            tmp_path / "kubeconfig", "command", "--do", do, "--undo", undo, "--confirm-context", "lab", "-n", "6"
        )
    assert (tmp_path / "said").read_text() == "did lab default\nundid lab default\n"
    assert ended.held == {"command": ["held"]}, ended
