"""The targets that act on this machine: help, the environment's making, the client's settings, the images."""

import os

import pytest

from affinity_tester import __version__

CLIENT = """\
#!/bin/sh
echo "args: $*"
env | grep -E '^(TARGET_ADDR|AFFINITY_)' | sort | tr '\\r' '?'
exit 3
"""


@pytest.fixture
def installed(tree):
    """The tree with an environment that make finds ready, and a client that shows what it was given."""
    tree.script(".venv/bin/affinity-tester", CLIENT)
    for stamp in (".python", ".installed", ".installed-dev"):
        (tree.root / ".venv" / stamp).touch()
    for path in (tree.root / "pyproject.toml",):
        os.utime(path, (0, 0))
    return tree


def test_make_alone_lists_the_targets(tree):
    done = tree.make()
    assert done.returncode == 0, done.stderr
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")]
    assert listed == [
        "help",
        "demo",
        "lab",
        "docs",
        "test",
        "lint",
        "mutants",
        "bench",
        "venv",
        "client",
        "image",
        "archive",
        "apply-deployment",
        "apply-service",
        "apply-rbac",
        "node-scaleup",
        "clean",
    ]


def test_client_reads_env_list_and_the_environment_wins(installed):
    (installed.root / "env.list").write_text(
        "# a comment\n\nTARGET_ADDR=203.0.113.7\n#AFFINITY_INTERVAL=1s\nAFFINITY_KEY=a=b; $(id) 'c'=\nAFFINITY_SESSIONS=3"
    )
    done = installed.make("client", "ARGS=--duration 5s", AFFINITY_SESSIONS="99", TARGET_ADDR="")
    assert done.stdout.splitlines() == [
        "args: client --duration 5s",
        "AFFINITY_KEY=a=b; $(id) 'c'=",
        "AFFINITY_SESSIONS=99",
        "TARGET_ADDR=203.0.113.7",
    ]
    assert done.returncode == 2
    assert "Error 3" in done.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("AFFINITY_SESSIONS", "env.list: 'AFFINITY_SESSIONS' is not NAME=value"),
        (
            "AFFINITY_SESSIONS = 3",
            "env.list: 'AFFINITY_SESSIONS ' is not a name: no spaces around '=', and nothing in front",
        ),
        ("$(touch x)=3", "env.list: '$(touch x)' is not a name: no spaces around '=', and nothing in front"),
        ("export A=1", "env.list: 'export A' is not a name: no spaces around '=', and nothing in front"),
        (
            'TARGET_ADDR="203.0.113.7"',
            "env.list: no quotes around the value of TARGET_ADDR: it is taken as it is, quotes and all",
        ),
        (
            "AFFINITY_KEY=''",
            "env.list: no quotes around the value of AFFINITY_KEY: it is taken as it is, quotes and all",
        ),
    ],
)
def test_a_bad_line_of_env_list_is_named(installed, line, says):
    (installed.root / "env.list").write_text(line + "\n")
    done = installed.make("client")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == says


def test_of_duplicate_names_in_env_list_the_last_wins_as_in_docker_and_it_is_said(installed):
    (installed.root / "env.list").write_text(
        "TARGET_ADDR=\nTARGET_ADDR=203.0.113.7\nAFFINITY_SESSIONS=3\nAFFINITY_KEY=x\nTARGET_ADDR=203.0.113.8\n"
        "AFFINITY_SESSIONS=4\nAFFINITY_KEY=\n"
    )
    done = installed.make("client", AFFINITY_SESSIONS="99")
    assert done.stdout.splitlines() == [
        "args: client",
        "AFFINITY_KEY=",
        "AFFINITY_SESSIONS=99",
        "TARGET_ADDR=203.0.113.8",
    ]
    said = [line for line in done.stderr.splitlines() if "more than once" in line]
    assert said == [
        "env.list has TARGET_ADDR more than once: the last one counts",
        "env.list has TARGET_ADDR more than once: the last one counts",
        "env.list has AFFINITY_KEY more than once: the last one counts",
    ]


def test_a_misspelt_name_in_env_list_is_named_by_the_client(installed, affinity_tester):
    installed.script(".venv/bin/affinity-tester", f'#!/bin/sh\nexec {affinity_tester} "$@"\n')
    (installed.root / "env.list").write_text("TARGET_ADR=203.0.113.7\nAFFINITY_SESSION=3\n")
    done = installed.make("client", KUBECONFIG="/nonexistent/kubeconfig")
    assert (done.returncode, done.stdout) == (2, "")
    *said, make_says = done.stderr.splitlines()
    assert said[:2] == [
        "warning: AFFINITY_SESSION (environment, env.list) is not read: did you mean AFFINITY_SESSIONS?",
        "warning: TARGET_ADR (environment, env.list) is not read: did you mean TARGET_ADDR?",
    ]
    assert said[2].startswith("error: no target: name it (affinity-tester client 203.0.113.7), or set TARGET_ADDR")
    assert make_says.startswith("make: ***")


def test_what_editors_on_windows_add_is_put_up_with(installed):
    text = "\ufeff# mine\r\n\r\nTARGET_ADDR=203.0.113.7\r\nAFFINITY_KEY=a b\r\nAFFINITY_SESSIONS=3"
    (installed.root / "env.list").write_bytes(text.encode())
    done = installed.make("client")
    assert done.stdout.splitlines()[1:] == ["AFFINITY_KEY=a b", "AFFINITY_SESSIONS=3", "TARGET_ADDR=203.0.113.7"]


@pytest.mark.parametrize("name", ["nope", "", "k8s"])
def test_a_file_of_settings_that_can_not_be_read_is_named(installed, name):
    done = installed.make("client", f"ENV_FILE={name}")
    assert (done.returncode, done.stdout) == (2, "")
    first, make_says = done.stderr.splitlines()
    assert first == (
        f"ENV_FILE='{name}' is no file that can be read: name the one with the client's settings (ENV_FILE=env.list); "
        "'make apply-service' makes one where there is none"
    )
    assert make_says.startswith("make: ***")


def test_a_ready_environment_is_not_made_again(installed):
    done = installed.make("demo", "ARGS=--seed 7")
    assert done.stdout.splitlines()[0] == "args: demo --seed 7"
    assert "Installing" not in done.stdout


@pytest.mark.parametrize(
    ("python", "says"),
    [
        (None, "no-python is not on the PATH: install Python 3.11 or newer"),
        (
            '#!/bin/sh\ncase $1 in --version) echo "Python 3.9.2" ;; *) exit 1 ;; esac\n',
            "Python 3.9.2 is too old: install Python 3.11 or newer",
        ),
        (
            "#!/bin/sh\ncase $2 in *ensurepip*) exit 1 ;; esac\n",
            "no-python comes without its venv module: apt-get install python3-venv",
        ),
    ],
)
def test_a_python_that_can_not_do_gets_one_line(tree, python, says):
    if python is not None:
        tree.script("bin/no-python", python)
    done = tree.make("demo", "PYTHON=no-python")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(says)
    assert make_says.startswith("make: ***")
    assert not (tree.root / ".venv").exists()


def test_a_new_environment_gets_a_new_pip_and_the_extras_once(tree):
    tree.script("bin/made-python", '#!/bin/sh\nprintf "%s\\n" "$*" >> "$LOG"\n')
    python = (
        '#!/bin/sh\nprintf "%s\\n" "$*" >> "$LOG"\n'
        '[ "$2" != venv ] || { mkdir -p "$3/bin" && cp bin/made-python "$3/bin/python"; }\n'
    )
    tree.script("bin/new-python", python)
    log = tree.root / "log"
    for _ in range(2):
        done = tree.make("venv", "PYTHON=new-python", LOG=str(log))
        assert (done.returncode, done.stderr) == (0, "")
    quiet = "-m pip install -qq --disable-pip-version-check"
    assert log.read_text().splitlines()[2:] == [
        "-m venv .venv",
        f"{quiet} --upgrade pip>=25.1",
        f"{quiet} --editable .[cluster]",
        f"{quiet} --group dev",
    ]


def test_image_builds_both(tree):
    tree.script("bin/podman", '#!/bin/sh\nprintf "%s\\n" "$*" >> "$LOG"\n')
    log = tree.root / "log"
    done = tree.make("image", "DOCKER=podman", "IMAGE=reg.example/echo:2", "CLIENT_IMAGE=probe:2", LOG=str(log))
    assert done.returncode == 0, done.stderr
    labels = f"--build-arg VERSION={__version__} --build-arg REVISION="  # this copy is no git repository
    assert log.read_text().splitlines() == [
        f"build --target server --tag reg.example/echo:2 {labels} .",
        f"build --target client --tag probe:2 {labels} .",
    ]
    assert "kind load docker-image reg.example/echo:2" in done.stdout
    log.unlink()
    assert tree.make("image", "DOCKER=podman", LOG=str(log)).returncode == 0
    assert f"--tag affinity-tester-server:{__version__} " in log.read_text()
    missing = tree.make("image", "DOCKER=no-docker")
    assert missing.stderr.splitlines()[0].startswith("no-docker is not on the PATH")
