"""The Dockerfile, read as text (no container engine is at hand): its two targets and what each may hold."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from affinity_tester.app.manifests import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


def read() -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """What each stage is built from, and its instructions as (keyword, rest); arguments before the first are put in."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    parents: dict[str, str] = {}
    stages: dict[str, list[tuple[str, str]]] = {}
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, rest = line.split(maxsplit=1)
        if keyword == "FROM":
            for argument, value in arguments.items():
                rest = rest.replace(f"${{{argument}}}", value)
            parent, as_, name = rest.split()
            assert as_ == "AS"
            parents[name] = parent
            stages[name] = []
        elif not stages:
            assert keyword == "ARG"
            argument, value = rest.split("=")
            arguments[argument] = value
        else:
            stages[name].append((keyword, rest))
    return parents, stages


PARENTS, STAGES = read()


def lineage(stage: str) -> list[tuple[str, str]]:
    """The instructions that make up a stage's image, its ancestors' first."""
    parent = PARENTS[stage]
    return (lineage(parent) if parent in PARENTS else []) + STAGES[stage]


@pytest.mark.parametrize("target", ["server", "client"])
def test_a_target_runs_the_command_as_a_numeric_user(target):
    made = dict(lineage(target))
    assert json.loads(made["ENTRYPOINT"]) == ["affinity-tester"]
    assert json.loads(made["CMD"]) == [target]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", made["USER"])
    assert "PYTHONUNBUFFERED=1" in made["ENV"]
    assert "PYTHONDONTWRITEBYTECODE=1" in made["ENV"]
    # Nothing is installed in it: what it holds comes from its own build stage.
    assert [rest for keyword, rest in lineage(target) if keyword in {"COPY", "RUN", "ADD"}] == [
        f"--from=build-{target} /opt/affinity-tester /opt/affinity-tester"
    ]


def test_only_the_client_has_the_package_for_the_cluster():
    extras = {
        target: [re.findall(r"whl\)\[(\w+)]", rest) for keyword, rest in STAGES[f"build-{target}"] if keyword == "RUN"]
        for target in ("server", "client")
    }
    assert extras == {"server": [[]], "client": [["cluster"]]}


def test_the_user_is_the_deployments():
    assert dict(lineage("server"))["USER"] == "65532:65532"
    assert "runAsUser: 65532 # make: RUN_AS_USER\n" in (ROOT / "k8s/deployment.yaml").read_text()


def test_the_last_stage_is_the_server_and_all_images_are_slim():
    assert list(STAGES)[-1] == "server"
    # The stock image that runs the servers where no image is built.
    assert {parent for parent in PARENTS.values() if parent not in PARENTS} == {SETTINGS["RUNTIME_IMAGE"].default}


@pytest.mark.parametrize("target", ["server", "client"])
def test_an_image_says_what_it_is(target):
    made = dict(lineage(target))
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', made["LABEL"]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels == {
        "title": "Affinity Tester",
        "description": project["description"],
        "licenses": project["license"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "base.name": "${BASE}",
    }
    declared = {rest.partition("=")[0] for keyword, rest in lineage(target) if keyword == "ARG"}
    assert {value[2:-1] for value in labels.values() if value.startswith("$")} <= declared


def test_what_is_copied_exists_and_is_let_through():
    copied = {source for keyword, rest in STAGES["build"] if keyword == "COPY" for source in rest.split()[:-1]}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "src", "k8s"}
    assert all((ROOT / source).exists() for source in copied)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", "!pyproject.toml", "!README.md", "!LICENSE", "!src", "!k8s", "**/__pycache__"]


@pytest.mark.parametrize("target", ["server", "client"])
def test_the_steps_of_a_target_make_a_command_that_runs(target, tmp_path):
    """The build's own commands, below a directory instead of `/`, on a copy of what the Dockerfile copies."""
    for name in ("src", "dist", "opt", "bin"):
        (tmp_path / name).mkdir()
    for program, arguments in {"python": "", "pip": "-m pip"}.items():
        shim = tmp_path / "bin" / program
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for keyword, rest in STAGES["build"] + STAGES[f"build-{target}"]:
        if keyword == "COPY":
            *sources, goal = rest.split()
            for source in sources:
                made = tmp_path / "src" / goal / (source if goal == "./" else "")
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, made)
        elif keyword == "RUN":
            command = re.sub(r"/(dist|opt)\b", rf"{tmp_path}/\1", rest)
            subprocess.run(
                ["sh", "-ec", command], cwd=tmp_path / "src", env=environment, check=True, capture_output=True
            )

    made = dict(lineage(target))
    command = [
        tmp_path / "opt/affinity-tester/bin" / json.loads(made["ENTRYPOINT"])[0],
        *json.loads(made["CMD"]),
        "--help",
    ]
    shown = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"Usage: affinity-tester {target} ")
