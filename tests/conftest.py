"""What all tests share: where things are, how hypothesis searches, and what may not be skipped in CI."""

import asyncio
import os
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

MUST_RUN = os.environ.get("AFFINITY_TESTS_MUST_RUN") == "1"
"""Set by `.ci/run`, which is root and installs every Debian package: there, a skip is a hole in the proof."""

# A deadline per example would fail on a busy machine and says nothing about right or wrong. CI tries the same examples each
# time, so that what fails there is what was changed; everybody's own run tries new ones.
hypothesis.settings.register_profile("affinity-tester", deadline=None, print_blob=True, derandomize=MUST_RUN)
# A mutant that a property kills dies of a few examples, by the same ones each time, and nobody reads which.
hypothesis.settings.register_profile(
    "mutants", deadline=None, max_examples=20, derandomize=True, database=None, phases=[hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("affinity-tester")

# Before Python 3.14 asyncio makes a loop for whoever asks first, which is pytest-asyncio; nobody would close that one, and
# its ResourceWarning would fail whichever test runs when it is collected.
asyncio.set_event_loop(None)

pytest_plugins = ["busy", "golden"]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def affinity_tester() -> Path:
    """The installed command, in the environment that runs the tests."""
    return Path(sys.executable).with_name("affinity-tester")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where every test must run, a skip of one marked `root` or `debian` is a failure."""
    report = yield
    marked = item.get_closest_marker("root") or item.get_closest_marker("debian")
    if MUST_RUN and marked and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"must run where AFFINITY_TESTS_MUST_RUN=1, but: {call.excinfo and call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself, which then has no marks to go by."""
    report = yield
    if MUST_RUN and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"must run where AFFINITY_TESTS_MUST_RUN=1, but: {report.longrepr}"
    return report
