"""A lab for each test, removed after it, also after a failure; skipped with the reason where none can be built."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, sweep, why_not


@pytest.fixture(scope="session")
def _kernel() -> str | None:
    reason = why_not()
    if reason is None:
        sweep()
    return reason


@pytest.fixture
def lab_ipv6(_kernel: str | None, affinity_tester: Path, tmp_path: Path) -> Iterator[Lab]:
    """As `lab`, of IPv6."""
    if _kernel is not None:
        pytest.skip(_kernel)
    with Lab(affinity_tester, tmp_path, ipv6=True) as made:
        yield made


@pytest.fixture
def lab(_kernel: str | None, affinity_tester: Path, tmp_path: Path) -> Iterator[Lab]:
    """Nothing built yet."""
    if _kernel is not None:
        pytest.skip(_kernel)
    with Lab(affinity_tester, tmp_path) as made:
        yield made
