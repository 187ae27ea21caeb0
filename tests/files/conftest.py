"""A copy of the checkout in which make may act, and a kubectl that only writes down what it is asked."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from affinity_tester.app.server_archive import default_wheels, find_wheels

FAKE_KUBECTL = """\
#!/bin/sh
here=${0%/*}
printf '%s\\n' "$*" >> "$here/asked"
case "$*" in *--filename=-*) { cat; echo ---; } >> "$here/applied" ;; esac
. "$here/answers"
"""
"""A shell script, since most tests ask it a dozen times, and a shell starts many times as fast as Python."""


@dataclass
class Tree:
    """The copy, its `bin` on the PATH before all else."""

    root: Path
    bin: Path
    settings: dict[str, str] = field(default_factory=dict)
    """What the environment of each make has."""

    def answer(self, answers: dict[str, tuple[int, str, str]]) -> None:
        """Script kubectl: the first part found in its arguments gives exit code, stdout and stderr; else 0 and silence."""
        base = {"config current-context": (0, "kind-test\n", ""), "config view": (0, "media", "")}
        self.answer_alone({**answers, **base})

    def answer_alone(self, answers: dict[str, tuple[int, str, str]]) -> None:
        """Script kubectl, with no context but what the answers tell."""
        cases = [
            f"*{shlex.quote(part)}*) printf %s {shlex.quote(out)}; printf %s {shlex.quote(err)} >&2; exit {code} ;;\n"
            for part, (code, out, err) in answers.items()
        ]
        (self.bin / "answers").write_text(f'case "$*" in\n{"".join(cases)}esac\n')

    @property
    def asked(self) -> list[str]:
        """What kubectl was asked, without the questions for the context and whether its API server answers."""
        lines = (self.bin / "asked").read_text().splitlines() if (self.bin / "asked").exists() else []
        return [line for line in lines if not line.startswith(("config ", "get --raw=/version "))]

    @property
    def applied(self) -> list[dict[str, Any]]:
        """The objects that were piped into `kubectl apply`."""
        text = (self.bin / "applied").read_text() if (self.bin / "applied").exists() else ""
        return [document for document in yaml.safe_load_all(text) if document]

    def install(self, affinity_tester: Path) -> None:
        """Have make find an environment in which the tool is installed."""
        self.script(".venv/bin/affinity-tester", f'#!/bin/sh\nexec {affinity_tester} "$@"\n')
        for stamp in (".python", ".installed", ".installed-dev"):
            (self.root / ".venv" / stamp).touch()
        os.utime(self.root / "pyproject.toml", (0, 0))

    def make(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run make here, with nothing in the environment that a developer may have set."""
        clean = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "PYENV_ROOT"}}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            ["make", "--no-print-directory", *args],
            cwd=self.root,
            env={**clean, "PATH": path, **self.settings, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    def script(self, name: str, text: str) -> Path:
        """Put an executable into the copy."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The wheels of the servers' archive; they are downloaded once into the environment that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(sys.prefix) / "cache"))
        find_wheels(None, print)
        return default_wheels()


@pytest.fixture
def tree(repo: Path, tmp_path: Path) -> Tree:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("Makefile", "env.list", "pyproject.toml"):
        shutil.copy(repo / name, root)
    shutil.copytree(repo / "k8s", root / "k8s")
    (root / "src/affinity_tester").mkdir(parents=True)
    shutil.copy(repo / "src/affinity_tester/__init__.py", root / "src/affinity_tester")
    made = Tree(root, root / "bin")
    made.script("bin/kubectl", FAKE_KUBECTL)
    made.answer({})
    return made
