"""The benchmarks themselves work: the C compiles, and one runs to its JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc): apt-get install gcc libc6-dev")
@pytest.mark.skipif(sys.platform != "linux", reason="recvmmsg, epoll and /proc are Linux's")
def test_the_server_beside_the_limit(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--rounds", "1", "--seconds", "0.3", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "server-rate", *options],
        cwd=repo, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(out.read_text())["results"]
    assert result["name"] == "server-rate"
    medians = {figure["name"]: figure["median"] for figure in result["figures"]}
    assert medians["affinity-tester, probes"] > 0
    assert medians["C echo, probes"] > 0
    assert result["figures"][0]["name"] in done.stdout
