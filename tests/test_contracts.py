"""The layers of docs/architecture.md hold (`[tool.importlinter]` in pyproject.toml), and a breach would be seen."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of the checkout at `tree` on the sources in it."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_contracts_are_kept(repo: Path) -> None:
    config = tomllib.loads((repo / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    done = lint_imports(repo)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def test_a_core_that_reads_the_clock_is_seen(repo: Path, tmp_path: Path) -> None:
    shutil.copy(repo / "pyproject.toml", tmp_path)
    shutil.copytree(repo / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "src/affinity_tester/core/address.py").open("a") as source:
        source.write("import time\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "affinity_tester.core.address -> time" in done.stdout
