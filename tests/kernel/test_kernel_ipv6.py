"""Cases of `test_kernel_cases` once more, over IPv6: other tables, other conntrack, and the same signature and name."""

from __future__ import annotations

import pytest
import test_kernel_cases as cases

from lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]

AGAIN = (
    cases.nothing_done,
    cases.flows_of_a_node_flushed,
    cases.flows_of_a_node_flushed_under_client_ip,
    cases.a_backend_removed_with_its_flows,
    cases.a_node_joins_the_hash,
    cases.a_node_joins_the_hash_under_local,
)
"""A case for each rule of a node or of the balancer that names a family."""

ROWS = [row for row in cases.CASES if row.scenario in AGAIN]


@pytest.mark.parametrize("row", ROWS, ids=[row.scenario.__name__ for row in ROWS])
def test_kernel_case_over_ipv6(row: cases.Case, lab_ipv6: Lab) -> None:
    seen = row.scenario(lab_ipv6)
    assert row.is_named(seen), seen.diagnoses
