"""Kubeconfigs of every kind, several as one: what kubectl would take, or one line that names the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.cluster.kubeconfig import Kubeconfig, KubeconfigError, choose, read_kubeconfigs

GOOD: dict[str, Any] = {
    "current-context": "one",
    "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "media"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://c:6443", "certificate-authority": "ca.crt"}}],
    "users": [{"name": "u", "user": {"tokenFile": "secret/token", "exec": {"command": "./login"}}}],
}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_context_with_what_it_names(tmp_path: Path) -> None:
    found = choose(read_kubeconfigs([written(tmp_path, "config", GOOD)]), None, "config")
    assert (found.context, found.namespace) == ("one", "media")
    assert found.cluster == {"server": "https://c:6443", "certificate-authority": f"{tmp_path}/ca.crt"}
    assert found.user == {"tokenFile": f"{tmp_path}/secret/token", "exec": {"command": f"{tmp_path}/login"}}


def test_of_several_files_the_first_wins_for_each_name(tmp_path: Path) -> None:
    """As kubectl merges: the first current-context, the first of each name, each path by its own file's folder."""
    other = {
        "current-context": "two",
        "contexts": [
            {"name": "one", "context": {"cluster": "wrong", "user": "wrong"}},
            {"name": "two", "context": {"cluster": "c2"}},
        ],
        "clusters": [{"name": "c2", "cluster": {"server": "https://c2", "certificate-authority": "../ca"}}],
        "users": None,
    }
    files = [
        tmp_path / "missing",
        written(tmp_path, "empty", ""),
        written(tmp_path, "a/config", {**GOOD, "current-context": ""}),
        written(tmp_path, "b/config", other),
    ]
    config = read_kubeconfigs(files)
    assert config.current == "two"
    assert sorted(config.contexts) == ["one", "two"]
    assert choose(config, "one", "").namespace == "media"
    two = choose(config, None, "")
    assert (two.namespace, two.user) == ("default", {})
    assert two.cluster["certificate-authority"] == f"{tmp_path}/b/../ca"
    assert read_kubeconfigs(reversed(files)).current == "two"


def test_nothing_is_an_empty_kubeconfig(tmp_path: Path) -> None:
    assert read_kubeconfigs([]).is_empty
    assert read_kubeconfigs([written(tmp_path, "x", "# nothing\n"), written(tmp_path, "y", "{}")]) == Kubeconfig()


SKIP = "insecure-skip-tls-verify"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "the kubeconfig FILE is empty"),
        ("{}", "the kubeconfig FILE is empty"),
        ("[]", "the kubeconfig FILE is no kubeconfig, but a list"),
        ("- a", "the kubeconfig FILE is no kubeconfig, but a list"),
        ("hello", "the kubeconfig FILE is no kubeconfig, but a text"),
        ("a: b: c", "the kubeconfig FILE is no YAML (line 1)"),
        ("a:\n\tb: c", "the kubeconfig FILE is no YAML (line 2)"),
        ("{}\n---\n{}", "the kubeconfig FILE is no YAML (line 2)"),
        ("<html>", "the kubeconfig FILE is no kubeconfig, but a text"),
        ("\x00", "the kubeconfig FILE is no YAML"),
        ("[" * 3000, "the kubeconfig FILE is no YAML"),
        ({**GOOD, "current-context": ""}, "the kubeconfig FILE has no current-context"),
        ({**GOOD, "current-context": None}, "the kubeconfig FILE has no current-context"),
        ({**GOOD, "current-context": "no"}, 'the current-context "no" is not in the kubeconfig FILE'),
        ({**GOOD, "current-context": 7}, "the kubeconfig FILE is wrong: current-context is not a text"),
        ({**GOOD, "contexts": {}}, 'the current-context "one" is not in the kubeconfig FILE'),
        ({**GOOD, "contexts": {"a": 1}}, "the kubeconfig FILE is wrong: contexts is not a list"),
        ({**GOOD, "contexts": ["a"]}, "the kubeconfig FILE is wrong: contexts[0] is not an object"),
        ({**GOOD, "users": [{"user": {}}]}, "the kubeconfig FILE is wrong: users[0].name is not a text"),
        (
            {**GOOD, "users": [{"name": "u", "user": {"token": 12}}]},
            "the kubeconfig FILE is wrong: users[0].user.token is not a text",
        ),
        (
            {**GOOD, "users": [{"name": "u", "user": "x"}]},
            "the kubeconfig FILE is wrong: users[0].user is not an object",
        ),
        (
            {**GOOD, "clusters": [{"name": "c", "cluster": {"server": "https://c", SKIP: "false"}}]},
            f"the kubeconfig FILE is wrong: clusters[0].cluster.{SKIP} is not true or false",
        ),
        ({**GOOD, "clusters": []}, 'context "one" names the cluster "c", which is not in the kubeconfig FILE'),
        ({**GOOD, "users": []}, 'context "one" names the user "u", which is not in the kubeconfig FILE'),
        (
            {**GOOD, "clusters": [{"name": "c"}]},
            'the cluster of context "one" has no `server` in the kubeconfig FILE',
        ),
        (
            {**GOOD, "contexts": [{"name": "one", "context": {}}]},
            'context "one" names the cluster "", which is not in the kubeconfig FILE',
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, content: Any, line: str) -> None:
    path = written(tmp_path, "config", content)
    with pytest.raises(KubeconfigError) as error:
        choose(read_kubeconfigs([path]), None, str(path))
    assert str(error.value).replace(str(path), "FILE") == line
    assert error.value.advice


def test_the_contexts_to_choose_from_are_named(tmp_path: Path) -> None:
    contexts = [{"name": f"c{number}", "context": {"cluster": "c"}} for number in range(7)]
    config = read_kubeconfigs([written(tmp_path, "config", {**GOOD, "contexts": contexts})])
    with pytest.raises(KubeconfigError, match=r'^the context "x" is not in the kubeconfig F$') as error:
        choose(config, "x", "F")
    assert error.value.advice == "choose one with --context (it has: c0, c1, c2, c3, c4, …)"


def test_a_folder_and_a_file_of_somebody_else(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match=r"cannot be read \(Is a directory\)$"):
        read_kubeconfigs([tmp_path])
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))  # root may read everything
    with (
        mock.patch.object(Path, "read_bytes", side_effect=denied),
        pytest.raises(KubeconfigError, match=r"cannot be read \(Permission denied\)$"),
    ):
        read_kubeconfigs([written(tmp_path, "config", GOOD)])


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["one", "c", "u"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "context",
                    "cluster",
                    "user",
                    "server",
                    "contexts",
                    "clusters",
                    "users",
                    "current-context",
                    "exec",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, *GOOD]))
def test_whatever_a_file_has_it_is_used_or_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, value: Any, instead_of: str | None
) -> None:
    content = value if instead_of is None else {**GOOD, instead_of: value}
    path = written(tmp_path_factory.getbasetemp(), "any", yaml.safe_dump(content))
    try:
        found = choose(read_kubeconfigs([path]), None, str(path))
    except KubeconfigError as error:
        said = str(error)
    else:
        assert found.cluster["server"]
        return
    assert "\n" not in said
    assert str(path) in said
