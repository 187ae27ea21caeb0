"""`.ci/run` parses, and its promise that nothing skips holds."""

import os
import shutil
import subprocess
import sys

import pytest

SKIPPING = """\
import pytest

@pytest.mark.root
def test_needs_root():
    pytest.skip("not root")

@pytest.mark.debian
@pytest.mark.skipif(True, reason="no coturn")
def test_needs_a_package():
    raise AssertionError

def test_may_skip():
    pytest.skip("another platform")
"""


def test_the_script_is_bash_that_parses(repo):
    assert os.access(repo / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", repo / ".ci/run"], check=True)


@pytest.mark.parametrize(
    ("must_run", "outcome"),
    [("0", "1 passed, 3 skipped"), ("1", "1 failed, 1 passed, 1 skipped, 1 error")],
)
def test_where_all_must_run_a_skip_is_a_failure(repo, tmp_path, must_run, outcome):
    assert run_pytest(repo, tmp_path, must_run, SKIPPING + "\ndef test_passes(): pass\n") == outcome


@pytest.mark.parametrize(("must_run", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_module_that_skips_itself_counts_too(repo, tmp_path, must_run, outcome):
    assert run_pytest(repo, tmp_path, must_run, "import pytest\npytest.importorskip('no_such_package')\n") == outcome


def run_pytest(repo, tmp_path, must_run, source) -> str:
    """Run one test file below the project's conftest and give pytest's closing line without the time."""
    for name in ("conftest.py", "busy.py", "golden.py"):
        shutil.copy(repo / "tests" / name, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    root\n    debian\n")
    (tmp_path / "test_it.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"],
        cwd=tmp_path,
        env={**os.environ, "AFFINITY_TESTS_MUST_RUN": must_run},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()[-1].partition(" in ")[0]
