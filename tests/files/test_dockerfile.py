"""The Dockerfile, read as text (no container engine is at hand): its two targets and what each may hold."""

import json
import os
import re
import shlex
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


BASE = """\
set -eu
# A root as the base image has it: system and Python to read, and nothing of this checkout.
base() {
    mkdir -p "$1/usr" "$1/etc" "$1/proc" "$1/dev" "$1/tmp" "$1/base" "$1$PREFIX"
    mount --bind "$1" "$1"
    for link in bin sbin lib lib64; do [ ! -L "/$link" ] || ln -sfn "usr/$link" "$1/$link"; done
    for part in /usr /etc "$PREFIX"; do mount --bind "$part" "$1$part"; mount -o remount,bind,ro "$1$part"; done
    mount --bind "$ROOTS/python" "$1/base"; mount -o remount,bind,ro "$1/base"
    mount --rbind /dev "$1/dev"
    mount -t proc proc "$1/proc"
}
run() { root=$1; directory=$2; shift 2; chroot "$root" sh -euc "cd $directory && $1"; }
"""

START = """\
# As a pod runs it: its user, nothing to write to, no network but its own, none of this environment.
mount -o remount,bind,ro "$ROOTS/server"; mount -o remount,bind,ro "$ROOTS/client"
mount --make-rprivate /
export ROOTS
unshare --net --pid --fork sh -euc '
    ip link set lo up
    as_user() { user=$1; root=$2; shift 2; exec chroot --userspec="$user" "$root" env -i "$@" $COMMAND; }
    umount "$ROOTS/server/proc" "$ROOTS/client/proc"
    mount -t proc proc "$ROOTS/server/proc"; mount -t proc proc "$ROOTS/client/proc"
    touch "$ROOTS/log"
    (
        COMMAND="$SERVER_COMMAND"
        as_user "$SERVER_USER" "$ROOTS/server" $SERVER_ENV AFFINITY_DRAIN=100ms POD_NAME=pod-a
    ) >"$ROOTS/log" 2>&1 &
    server=$!
    for _ in $(seq 200); do ! grep -q 3478 "$ROOTS/log" || break; sleep 0.1; done
    (
        COMMAND="$CLIENT_COMMAND"
        as_user "$CLIENT_USER" "$ROOTS/client" $CLIENT_ENV TARGET_ADDR=127.0.0.1 AFFINITY_WATCH=off AFFINITY_INTERVAL=20ms \
            AFFINITY_DURATION=3s AFFINITY_STATS_INTERVAL=1s AFFINITY_SETTLE=0
    )
    kill -TERM $server
    wait $server
'
"""


def built_stage(stage: str) -> list[str]:
    """The commands that make a stage's root by the Dockerfile's instructions, of those stages that it takes from too."""
    parent = PARENTS[stage]
    lines = built_stage(parent) if parent in PARENTS else []
    sources = [rest.split("=")[1].split()[0] for keyword, rest in STAGES[stage] if rest.startswith("--from=")]
    for source in sources:
        lines += built_stage(source)

    root = f'"$ROOTS/{stage}"'
    lines.append(f"base {root}")
    if parent in PARENTS:
        lines.append(
            f'for part in src dist opt; do [ ! -e "$ROOTS/{parent}/$part" ] || cp -a "$ROOTS/{parent}/$part" {root}; done'
        )
    directory = dict(lineage(stage)).get("WORKDIR", "/")
    for keyword, rest in STAGES[stage]:
        match keyword:
            case "WORKDIR":
                lines.append(f'mkdir -p "$ROOTS/{stage}{rest}"')
            case "COPY" if sources:
                _, path, goal = rest.split()
                lines.append(
                    f'mkdir -p "$ROOTS/{stage}{Path(goal).parent}"; cp -a "$ROOTS/{sources[0]}{path}" "$ROOTS/{stage}{goal}"'
                )
            case "COPY":
                *copied, goal = rest.split()
                lines += [f'cp -R "$CHECKOUT/{each}" "$ROOTS/{stage}{directory}/{goal}"' for each in copied]
            case "RUN":
                lines.append(f"run {root} {directory} {shlex.quote(rest)}")
            case _:
                assert keyword in {"ENV", "USER", "ENTRYPOINT", "CMD", "EXPOSE", "LABEL", "ARG"}
    # A stage is made once.
    return [f'[ -e "$ROOTS/{stage}" ] || {{', *lines, "}"]


@pytest.mark.root
@pytest.mark.timeout(300)
def test_the_steps_of_both_targets_in_a_clean_root_make_a_server_and_a_client_that_work(tmp_path):
    """No container engine is at hand: the instructions run in roots and a mount namespace of their own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    settings = {
        name: value for name, value in os.environ.items() if re.fullmatch("(PIP_(CERT|INDEX_URL)|(?i:.*_proxy))", name)
    }
    for target in ("server", "client"):
        made = dict(lineage(target))
        settings |= {
            f"{target.upper()}_COMMAND": " ".join(json.loads(made["ENTRYPOINT"]) + json.loads(made["CMD"])),
            f"{target.upper()}_USER": made["USER"],
            f"{target.upper()}_ENV": made["ENV"].replace("$PATH", "/base/bin:/usr/bin:/bin"),
        }
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    pip = tmp_path / "python/bin/pip"  # where it stands in the roots; else the shell falls back on the system's
    pip.write_text(pip.read_text().replace(f"#!{tmp_path}/python/", "#!/base/"))
    script = "\n".join([BASE, *built_stage("server"), *built_stage("client"), START])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={
            **settings,
            "PATH": "/base/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOTS": str(tmp_path),
            "CHECKOUT": str(ROOT),
            "PREFIX": sys.base_prefix if not sys.base_prefix.startswith("/usr") else "/etc/ssl",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'served by pod "pod-a"' in done.stdout
    assert "\nPASS: 0 violations in " in done.stdout
    # What was mounted there is not here: only the stages' own files are.
    assert not list((tmp_path / "server/usr").iterdir())
    python = [path.name for path in (tmp_path / "server/opt/affinity-tester/lib").iterdir()]
    packages = tmp_path / "server/opt/affinity-tester/lib" / python[0] / "site-packages"
    assert not (packages / "kubernetes").exists()
    assert (tmp_path / "client" / packages.relative_to(tmp_path / "server") / "kubernetes").exists()
    for path in tmp_path.iterdir():  # the environments are large
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
