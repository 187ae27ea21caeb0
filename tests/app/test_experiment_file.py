"""Which experiments are to be run: by name, and by a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from affinity_tester.app.experiment_file import load_suite, planned
from affinity_tester.core.experiment.catalogue import ALL, EXPERIMENTS
from affinity_tester.errors import UserError


def test_all_are_those_of_the_tools_own_objects_and_each_is_run_once() -> None:
    assert tuple(each.name for each in planned(("idle", "all", "baseline"))) == (
        "idle",
        *(name for name in ALL if name != "idle"),
    )
    assert not {"proxy-restart", "node-scaleup", "node-drain", "command"} & set(ALL)
    assert all(EXPERIMENTS[name].own_objects for name in ALL)


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"'pod-delet' is no experiment, nor a .yaml file: take all, or of baseline, "):
        planned(("pod-delet",))


def test_a_suite_has_experiments_with_what_is_chosen_and_options(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(
        "experiments:\n"
        "  - baseline\n"
        "  - scale-up: {pods: 2}\n"
        "  - node-drain: {node: n1, delete-emptydir-data: true}\n"
        "  - command: {do: ./up.sh, undo: ./down.sh, limit: 45m}\n"
        "  - rollout:\n"
        "matrix: true\n"
        "loss-threshold: 1s\n"
    )
    suite = load_suite(file)
    assert [each.name for each in suite.experiments] == ["baseline", "scale-up", "node-drain", "command", "rollout"]
    _, up, drain, command, _ = (each.options for each in suite.experiments)
    assert (up.pods, drain.node, drain.delete_emptydir_data) == (2, "n1", True)
    assert (command.do, command.undo, command.command_limit_s) == ("./up.sh", "./down.sh", 2700)
    assert suite.options == {"matrix": True, "loss_threshold": "1s"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1: this is no YAML"),
        ("- baseline", "write `experiments:` with a list of names"),
        ("experiments: []", "write `experiments:` with a list of names"),
        ("experiments: [nothing]", "'nothing' is no experiment"),
        (
            "experiments: [{scale-up: {pods: 1}, rollout: {}}]",
            "write an experiment as `- NAME`, or as `- scale-up: {pods: 2}`",
        ),
        ("experiments: [{name: rollout}]", "{'name': 'rollout'}: write an experiment as `- NAME`"),
        ("experiments: [{scale-up: 2}]", "scale-up: write what you choose as {name: value}"),
        ("experiments: [{scale-up: {pod: 2}}]", "scale-up has no 'pod': pods can be chosen"),
        ("experiments: [{rollout: {pods: 2}}]", "rollout has no 'pods': nothing can be chosen"),
        ("experiments: [{scale-up: {pods: 0}}]", "pods wants a whole number, 1 or more, not 0"),
        ("experiments: [{scale-up: {pods: true}}]", "pods wants a whole number, 1 or more, not True"),
        ("experiments: [{command: {do: 1}}]", "do wants a text, not 1"),
        ("experiments: [{command: {limit: soon}}]", "command: limit: 'soon' is not a time"),
        ("experiments: [{node-drain: {delete_emptydir_data: 1}}]", "wants true or false, not 1"),
    ],
)
def test_what_is_wrong_with_a_suite_is_one_line_with_the_files_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_suite(file)
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suite_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.yaml: No such file"):
        load_suite(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="this is no YAML"):
        load_suite(tmp_path / "bytes.yaml")
