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
        "experiment",
        "image",
        "archive",
        "apply-deployment",
        "apply-service",
        "apply-rbac",
        "experiment-rbac",
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


NASTY = (
    "$(shell touch made)",
    "$(touch made)",
    "`touch made`",
    "'; touch made; '",
    '"; touch made; "',
    "a b  c",
    "# no comment",
    "$$HOME $HOME ${HOME} $@ $^",
    "a\\b\\n%=:",
    "* ~ ?",
)
SHOWS = [
    *(
        "PYTHON",
        "KUBECTL",
        "DOCKER",
        "ENV_FILE",
        "RUNTIME_IMAGE",
        "IMAGE",
        "RUN_AS_USER",
        "WHEELS",
        "CLIENT_IMAGE",
        "BASE",
    ),
    *("PLATFORMS", "CONTEXT", "NAMESPACE", "REPLICAS", "POLICY", "AFFINITY", "CLOUD", "IP_FAMILY", "SOURCE_RANGES"),
    *("NODES", "CPU", "WAIT", "SEEDS", "EXPERIMENTS", "ARGS"),
]


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("by", ["command line", "environment"])
def test_a_value_is_text_and_nothing_in_it_is_expanded(tree, value, by):
    """For every setting of the Makefile, and for a name that it does not know: make would hand that on, too."""
    makefile = (tree.root / "Makefile").read_text()
    show = "show:\n" + "".join(f"\t@printf '%s\\n' \"$${name}\"\n" for name in SHOWS)
    (tree.root / "Makefile").write_text(f"{makefile}\n{show}")
    names = [*SHOWS, "OTHER"]
    if by == "environment":
        done = tree.make("show", **dict.fromkeys(names, value))
    else:
        done = tree.make("show", *(f"{name}={value}" for name in names))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [value] * len(SHOWS)
    assert not (tree.root / "made").exists()


def test_every_setting_is_among_those(tree):
    text = (tree.root / "Makefile").read_text()
    declared = {line.split()[0] for line in text.splitlines() if " ?=" in line and not line.startswith(("#", "\t"))}
    assert declared == {*SHOWS, "VENV"}


@pytest.mark.parametrize("value", ["".join(NASTY[:4]), "".join(reversed(NASTY[:5]))])
def test_what_is_run_with_a_value_runs_nothing_of_it(installed, value):
    """Programs that a person names are run, but no more than they."""
    installed.script("bin/podman", '#!/bin/sh\nprintf "%s\\n" "$*" >> "$LOG"\n')
    log = installed.root / "log"
    names = ("IMAGE", "CLIENT_IMAGE", "BASE", "PLATFORMS")
    done = installed.make("image", "DOCKER=podman", *(f"{name}={value}" for name in names), LOG=str(log))
    assert done.returncode == 0, done.stderr
    assert f"--build-arg BASE={value} " in log.read_text()
    for name in ("DOCKER", "KUBECTL", "PYTHON"):
        installed.make("image", "apply-rbac", "--keep-going", f"{name}={value}")
    for target in ("apply-deployment", "clean", "demo", "client", "lab", "experiment"):
        names = ("CONTEXT", "NAMESPACE", "WAIT", "ENV_FILE", "REPLICAS", "ARGS", "SEEDS", "EXPERIMENTS", "WHEELS")
        installed.make(target, *(f"{name}={value}" for name in names))
        installed.make(target, f"ARGS={value}")
        installed.make(target, f"VENV={value}")
    assert not (installed.root / "made").exists()


@pytest.mark.parametrize("venv", ["", "a b", "a;b", "a#b", "a$b", "a:b", "a'b"])
def test_a_directory_that_no_target_can_be_is_refused(tree, venv):
    done = tree.make("help", f"VENV={venv}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "VENV is the name of a directory, of letters, digits and . _ / -" in done.stderr


def test_quotes_hold_words_of_args_together(installed):
    installed.script(".venv/bin/affinity-tester", "#!/bin/sh\nprintf '<%s>' \"$@\"\n")
    done = installed.make("demo", """ARGS=-k "a  b" 'c"d' e\\ f $HOME * --x=$(id)""")
    assert done.stdout == """<demo><-k><a  b><c"d><e f><$HOME><*><--x=$(id)>"""
    done = installed.make("demo", "ARGS=it's")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "ARGS: a quote is not closed: it's"


def test_the_client_gets_the_context_and_the_namespace(installed):
    done = installed.make("client", "CONTEXT=a b", "NAMESPACE=probe")
    assert "AFFINITY_CONTEXT=a b" in done.stdout.splitlines()
    assert "AFFINITY_SERVICE=probe/affinity-tester" in done.stdout.splitlines()
    assert "AFFINITY_" not in installed.make("client").stdout
    done = installed.make("client", "NAMESPACE=probe", AFFINITY_SERVICE="mine/other")
    assert "AFFINITY_SERVICE=mine/other" in done.stdout.splitlines()


PIP_FAILS = {
    "echo 'x: No module named pip' >&2": ".venv has no pip (any more): delete the directory, and run this again",
    "printf 'WARNING: w\\nERROR: a\\nERROR: no matching distribution\\n' >&2": (
        "The packages cannot be installed into .venv (no matching distribution): reach a Python package index, or name a "
        "directory with their wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=dir make ...)"
    ),
}


@pytest.mark.parametrize("pip", PIP_FAILS)
def test_what_pip_says_is_one_line(installed, pip):
    (installed.root / ".venv/.installed").unlink()
    installed.script(".venv/bin/python", f"#!/bin/sh\n{pip}\nexit 1\n")
    done = installed.make("demo")
    assert (done.returncode, done.stdout) == (2, "")
    first, make_says = done.stderr.splitlines()
    assert first == PIP_FAILS[pip]
    assert make_says.startswith("make: ***")


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
    # PLATFORMS: one line for both, and pushed, since no machine can keep images of another's kind.
    labels = f"--build-arg VERSION={__version__} --build-arg REVISION="  # this copy is no git repository
    assert log.read_text().splitlines() == [
        f"build --target server --tag reg.example/echo:2 {labels} .",
        f"build --target client --tag probe:2 {labels} .",
    ]
    assert "kind load docker-image reg.example/echo:2" in done.stdout
    log.unlink()
    assert tree.make("image", "DOCKER=podman", LOG=str(log)).returncode == 0
    assert f"--tag affinity-tester-server:{__version__} " in log.read_text()
    log.unlink()
    many = "PLATFORMS=linux/amd64,linux/arm64"
    done = tree.make("image", "DOCKER=podman", "IMAGE=reg.example/echo:2", many, "BASE=python@sha256:ab", LOG=str(log))
    assert (done.returncode, done.stdout) == (0, "")
    assert log.read_text().splitlines()[0] == (
        "buildx build --platform linux/amd64,linux/arm64 --push --target server --tag reg.example/echo:2 "
        f"--build-arg BASE=python@sha256:ab {labels} ."
    )
    missing = tree.make("image", "DOCKER=no-docker")
    assert missing.stderr.splitlines()[0].startswith("no-docker is not on the PATH")
