from __future__ import annotations

from affinity_tester.core.echo import ServerTotals


def test_totals_since_an_earlier_reading_leave_out_what_did_not_happen() -> None:
    earlier = ServerTotals(10, 8, 0, (("legacy", 1), ("too-short", 1)), flows=3, evicted=0, send_errors=1)
    now = ServerTotals(15, 12, 0, (("legacy", 1), ("too-short", 2)), flows=2, evicted=4, send_errors=1)
    assert now.since(earlier) == ServerTotals(5, 4, 0, (("too-short", 1),), flows=2, evicted=4, send_errors=0)


def test_totals_of_two_workers() -> None:
    one = ServerTotals(10, 8, 0, (("legacy", 1), ("too-short", 1)), flows=3, evicted=0, send_errors=1)
    two = ServerTotals(4, 1, 1, (("bad-length", 1), ("too-short", 1)), flows=2, evicted=4, send_errors=0)
    dropped = (("bad-length", 1), ("legacy", 1), ("too-short", 2))
    assert one + two == ServerTotals(14, 9, 1, dropped, flows=5, evicted=4, send_errors=1)
