"""Lines on a narrow terminal: broken at words, but for those that people copy; tables give up columns."""

from __future__ import annotations

from affinity_tester.report.table import Table, aligned
from affinity_tester.report.wrapping import wrapped

LONG = (
    "05:41:39.327 [error]         try: keep the balancer's set of nodes still (fewer, fixed ingress nodes), or take one"
)


def test_a_long_line_goes_on_under_its_text():
    assert wrapped(LONG, 80).split("\n") == [
        "05:41:39.327 [error]         try: keep the balancer's set of nodes still (fewer,",
        "                               fixed ingress nodes), or take one",
    ]
    assert wrapped("    a b " + "c" * 40, 30) == "    a b\n      " + "c" * 40


def test_a_number_stays_with_its_unit():
    assert wrapped("this client: 0 probes skipped (0 %)", 34) == "this client: 0 probes skipped\n  (0 %)"
    assert wrapped("nobody was answered for 8.67 s at all", 30) == "nobody was answered for 8.67 s\n  at all"
    assert wrapped("nobody was answered for 8.67 s at all", 29) == "nobody was answered for\n  8.67 s at all"


def test_a_line_that_fits_stays_and_so_does_one_that_no_terminal_shows():
    assert wrapped(LONG, None) == LONG
    assert wrapped(LONG, len(LONG)) == LONG
    assert wrapped("", 80) == ""


def test_a_line_of_one_session_is_left_whole_to_be_copied():
    changed = '05:41:34.558 [error] CLIENT-518156904 pod_name changed "lab-swhbv" -> "lab-8x2xz"'
    assert wrapped(changed, 80) == changed


def test_a_terminal_that_is_too_narrow_breaks_lines_itself():
    assert wrapped(LONG, 40) == LONG


def test_a_table_stands_closer_and_gives_up_columns_where_it_is_too_wide():
    table = Table("by pod", ("", "sent", "answered", "lost"), [["pod-a", "100", "98", "2"]], spare=("answered", "sent"))
    assert list(aligned(table, 80)) == ["       sent  answered  lost", "pod-a   100        98     2"]
    assert list(aligned(table, 25)) == ["      sent answered lost", "pod-a  100       98    2"]
    assert list(aligned(table, 20)) == ["      sent lost", "pod-a  100    2"]
    assert list(aligned(table, 1)) == ["      lost", "pod-a    2"]
