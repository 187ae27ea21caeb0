"""What the golden comparison hides, and what it does not."""

from __future__ import annotations

import pytest

from golden import keys, shape

SAID = """\
20:49:03.721 [event] the pool is watched: 3 of 3 endpoints ready
20:49:06.830 [error] CLIENT-15 x_address changed 127.1.0.3:455 (node "node-3") -> 127.1.0.3:220 (node "node-3")
20:49:07.830 [error] CLIENT-159 x_address changed 127.1.0.1:46 (node "node-1") -> 127.1.0.4:4 (node "node-4")
20:49:10.000 [error] incident 1 at 20:49:06.830 for 180 ms, 2 of 10 sessions: 2 changes (reflexive_port 2)
20:49:10.000 [error]     judged: 2 violations
20:49:10.000 [error]         answered by pods "lab-wq76z", "lab-swhbv" 0.1 s before
20:49:10.000 [error]         known: kubernetes/kubernetes#78547
20:49:10.000 [error]     VIOLATION: no endpoint had changed (CLIENT-15, changed 20:49:06.830)
20:49:10.100 [info]  CLIENT-15 sent 10 messages of which 0 message(s) lost, served by pod "lab-wq76z", 1 late, 4 duplicate
20:49:10.100 [info]  10 sessions sent 99 messages of which 3 message(s) lost; worst: CLIENT-15 (2 lost, 0 change(s))

probes
                   sent  p50
CLIENT-15            10  0.2
CLIENT-159           10   12
all               1,000    1
this client: 0 probes skipped (0 %)
FAIL: 2 violations
"""

SHAPE = """\
some x TIME [error]     VIOLATION: no endpoint had changed (changed TIME)
2 x TIME [error] CLIENT x_address changed ADDRESS (node "NODE") -> ADDRESS (node "NODE")
1 x TIME [error] incident N at TIME for DURATION, N of N sessions: N changes (reflexive_port N)
    TIME [error]     judged: N violations
    TIME [error]         answered by pod "POD" DURATION apart
    TIME [error]         known: kubernetes/kubernetes#78547
1 x TIME [event] the pool is watched: N of N endpoints ready
some x TIME [info]  CLIENT sent N messages of which N message(s) lost, served by pod "POD"
some x TIME [info]  N sessions sent N messages of which N message(s) lost; worst: CLIENT (N lost, N change(s))

probes
          sent  p50
CLIENT  N  N
all  N  N
this client: N probes skipped (N %)
FAIL: N violations
"""


def test_the_shape_of_a_run() -> None:
    assert shape(SAID) == SHAPE


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("CLIENT-15 x", "CLIENT-16 x"),
        ("180 ms", "1.42 s"),
        ('"lab-wq76z", "lab-swhbv"', '"lab-8x2xz"'),
        ("0.1 s before", "0.0 s after"),
        (", 1 late, 4 duplicate", ", 4 duplicate"),
        ("(s) lost; worst", "(s) lost, 1 skipped; worst"),
        ("0 probes skipped (0 %)", "1 probe skipped (0.01 %)"),
        ("CLIENT-159           10   12\n", ""),
        ("               1,000    1", "                  100  0.1"),
    ],
)
def test_time_and_chance_are_hidden(what: str, instead: str) -> None:
    assert what in SAID
    assert shape(SAID.replace(what, instead)) == SHAPE


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("watched", "observed"),
        ("[event]", "[info]"),
        ("#78547", "#78548"),
        ("    known", "known"),
        ("p50", "p90"),
        ("violations", "violation"),
        (SAID.splitlines(keepends=True)[1], ""),
        ("probes\n", ""),
        ("all  ", "sum  "),
        ("probes skipped", "skipped"),
        ("1 late, 4", "1 early, 4"),
    ],
)
def test_words_marks_and_structure_are_not(what: str, instead: str) -> None:
    assert what in SAID
    assert shape(SAID.replace(what, instead)) != SHAPE


def test_the_order_of_the_log_is_hidden_and_that_of_the_table_is_not() -> None:
    first, second, *rest = SAID.splitlines()
    assert shape("\n".join([second, first, *rest])) == SHAPE
    assert shape("\n".join([first, second, *rest[:-2], rest[-1], rest[-2]])) != SHAPE


def test_the_keys_of_events() -> None:
    said = '{"event": "run.ended", "total": {"sent": 1}, "by": {"127.0.0.1": [1, {"lost": null}]}}\n{"event": "a"}\n'
    assert keys(said) == (
        "a: event\nrun.ended: by.ADDRESS[]\nrun.ended: by.ADDRESS[].lost\nrun.ended: event\nrun.ended: total.sent\n"
    )
