"""What is said before anything is done."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from affinity_tester.cli import main
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from commands import NO_KUBECONFIG
from experimenting import experiment, run, state
from lab_clusters import api_of, lab


async def test_a_dry_run_shows_the_calls_and_changes_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        ended = await run(tmp_path / "kubeconfig", "all", "node-drain", "--matrix", "--dry-run")
        assert await state(api) == before
    assert ended.code == 0, ended
    notes = [line["message"].strip() for line in ended.lines]
    where = "context lab, namespace default, 4 Services of its own; a dry run: nothing is done"
    assert notes[:2] == [where, "lease: keep a second experiment out (undone by us)"]
    assert notes[2].startswith("create leases.coordination.k8s.io/affinity-tester-experiment in default")
    assert notes[3] == "undo: delete leases.coordination.k8s.io/affinity-tester-experiment in default"
    assert 'patch deployments.apps/affinity-tester in default: {"spec":{"replicas":4}}' in notes
    assert sum(note.startswith("create services/affinity-tester-") for note in notes) == 4
    assert any(note.startswith("undo: ") for note in notes)


async def test_missing_rights_are_found_before_anything_is_touched(tmp_path: Path) -> None:
    denied = ("--deny", "patch:deployments", "--deny", "create:leases")
    async with lab(tmp_path / "kubeconfig", *denied), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        ended = await run(tmp_path / "kubeconfig", "pod-delete", "scale-up")
        assert await state(api) == before
    assert (ended.code, ended.lines) == (2, [])
    assert "patch deployments.apps" in ended.err
    assert "create leases.coordination.k8s.io" in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_a_second_experiment_is_kept_out_while_the_first_one_lasts(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"):
        async with experiment(tmp_path / "kubeconfig", "baseline", "--steady", "30s") as command:
            await command.until("phase", "steady")
            ended = await run(tmp_path / "kubeconfig", "baseline")
            assert (ended.code, ended.lines) == (2, [])
            assert re.match(r"error: \S+ \(pid \d+\) runs an experiment in namespace default since ", ended.err)
            command.process.send_signal(signal.SIGINT)
            assert (await command.end()).code == 130
        assert (await run(tmp_path / "kubeconfig", "baseline")).code == 0


async def test_more_than_the_tools_own_objects_wants_the_contexts_name_once_more(tmp_path: Path) -> None:
    async with lab(tmp_path / "kubeconfig"), api_of(tmp_path / "kubeconfig") as api:
        before = await state(api)
        for confirmed in ((), ("--confirm-context", "another")):
            ended = await run(tmp_path / "kubeconfig", "proxy-restart", *confirmed)
            assert (ended.code, ended.lines) == (2, [])
            assert ended.err.startswith("error: proxy-restart touches more than this tool's own objects")
            assert "--confirm-context lab" in ended.err
        assert await state(api) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no experiment: name one (--list shows them), a .yaml file, or all"),
        (("pod-delet",), "'pod-delet' is no experiment"),
        (("command", "--lab"), "the experiment command wants --do COMMAND"),
        (("baseline", "--do", "true"), "--do goes with the experiment command"),
        (("baseline", "--node", "n1"), "--node goes with the experiment node-drain or proxy-restart"),
        (("baseline", "--lab-fault", "spray"), "--lab-fault goes with --lab"),
        (("baseline", "--lab", "--namespace", "x"), "--lab has a cluster of its own: leave --namespace out"),
        (
            ("baseline", "--lab", "--lab-fault", "none"),
            "the lab's cluster does not start: --lab-fault 'none' is unknown",
        ),
        (("baseline", "--matrix", "--service", "x"), "--matrix makes Services of its own"),
        (("baseline", "-o", "report.txt"), "ends in none of .json, .md, .xml, .html"),
        (("baseline", "-o", "missing/report.json"), "cannot write the report missing/report.json: No such file"),
        (("baseline",), "no cluster: there is neither a kubeconfig (/nonexistent/kubeconfig)"),
        (("suite.yaml", "baseline"), "a FILE.yaml says which experiments are run: give it alone"),
        (("none.yaml",), "cannot read none.yaml: No such file"),
        (("option.yaml",), "option.yaml: 'kubeconfig' is no option of this command"),
        (("value.yaml",), "value.yaml: sessions: 'many' is not a whole number from 1 to 10000"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", NO_KUBECONFIG)
    Path("option.yaml").write_text("experiments: [baseline]\nkubeconfig: elsewhere\n")
    Path("value.yaml").write_text("experiments: [baseline]\nsessions: many\n")
    done = CliRunner().invoke(main, ["experiment", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_the_list_has_each_experiment_with_its_requirement_and_source() -> None:
    done = CliRunner().invoke(main, ["experiment", "--list"])
    assert done.exit_code == 0
    for name, each in EXPERIMENTS.items():
        assert f"{name}: {each.does} ({each.kind.value}" in done.stdout
        assert f"    {each.requirement}\n    source: {each.source}\n" in done.stdout


async def test_a_suites_options_count_but_for_those_of_the_command_line(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("experiments: [{scale-up: {pods: 2}}]\nsessions: 6\nvia: load-balancer\n")
    async with lab(tmp_path / "kubeconfig"):
        ended = await run(tmp_path / "kubeconfig", str(suite), "-n", "12")
    assert ended.code == 0, ended
    assert (ended.report["sessions"], ended.report["ran_on"]["via"]) == (12, "load-balancer")
    assert "scale Deployment default/affinity-tester from 3 to 5 pods" in ended.texts("did")
