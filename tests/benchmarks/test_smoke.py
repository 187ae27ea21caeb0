"""The benchmarks themselves work: the C compiles, and one runs to its JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.busy
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc): apt-get install gcc libc6-dev")
@pytest.mark.skipif(sys.platform != "linux", reason="recvmmsg, epoll and /proc are Linux's")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "server-rate",
            ["affinity-tester, probes of 288 bytes", "C echo, probes of 288 bytes", "C echo, bare requests"],
        ),
        ("watching", ["watched: CPU", "not watched: CPU"]),
    ],
)
def test_a_benchmark_runs_to_its_figures(name: str, shown: list[str], repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--rounds", "1", "--seconds", "0.3", "--hold", "0.5", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, *options],
        cwd=repo, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(out.read_text())["results"]
    assert result["name"] == name
    medians = {figure["name"]: figure["median"] for figure in result["figures"]}
    for figure in shown:
        assert medians[figure] > 0
    assert result["figures"][0]["name"] in done.stdout
