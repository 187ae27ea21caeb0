"""The server's log, line by line, in both forms."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import threading
import time
from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.server_events import (
    ServerDraining,
    ServerEvent,
    ServerStarted,
    ServerStats,
    ServerStopped,
    ServerWarning,
)
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.report import server_log
from affinity_tester.report.logging import LogFormat, OutputClosed, configure
from affinity_tester.report.server_log import ServerLog

NS = 1_000_000_000
STARTED = ServerStarted(
    at_ns=5 * NS,
    wall_ns=1_763_000_000 * NS + 123_456_789,
    utc_offset_s=3600,
    version="1.2.3",
    pod_name="pod-a",
    node_name="node-1",
    instance_id=bytes(range(8)),
    addresses=(TransportAddress("10.0.0.5", 3478), TransportAddress("fd00::5", 3478)),
    health=(TransportAddress("10.0.0.5", 8080), TransportAddress("fd00::5", 8080)),
    keyed=True,
)
TOTALS = ServerTotals(
    received=2000,
    answered=1990,
    refused=1,
    dropped=(("legacy", 7), ("not-stun", 2)),
    flows=12,
    evicted=3,
    send_errors=1,
    delayed=1,
    not_delayed=(("no-key", 3), ("too-long", 1)),
)
REST = (
    ServerWarning(6 * NS, "mind this"),
    ServerStats(65 * NS, ServerTotals(received=1, answered=1, flows=1), TOTALS),
    ServerDraining(66 * NS, 5 * NS),
    ServerStopped(71 * NS, TOTALS, 66 * NS),
)
COUNTED = (
    "received 2,000 datagrams, answered 1,990, refused 1, dropped 9 (legacy 7, not-stun 2), 1 send error,"
    " 1 delayed reply, not delayed 4 (no-key 3, too-long 1); 12 flows, 3 older ones forgotten"
)


def written(log_format: LogFormat, *events: ServerEvent) -> list[str]:
    stream = io.StringIO()
    log = ServerLog(configure(format=log_format, stream=stream, colour=False), log_format)
    for event in events:
        log.emit(event)
    return stream.getvalue().splitlines()


def test_for_people() -> None:
    assert written("console", STARTED, *REST) == [
        '03:13:20.123 [info]  affinity-tester 1.2.3, 2025-11-13 UTC+01:00: pod "pod-a" on node "node-1" answers only'
        " requests signed with the key, at 10.0.0.5:3478, [fd00::5]:3478; health port at 10.0.0.5:8080, [fd00::5]:8080",
        "03:13:21.123 [warn]  mind this",
        "03:14:20.123 [info]  received 1 datagram, answered 1, refused 0, dropped 0; 1 flow",
        "03:14:21.123 [info]  draining for 5 s (still ready)",
        f"03:14:26.123 [info]  ended after 66 s; in all {COUNTED}",
    ]


def test_for_machines() -> None:
    total = {
        "received": 2000,
        "answered": 1990,
        "refused": 1,
        "dropped": {"legacy": 7, "not-stun": 2},
        "flows": 12,
        "evicted": 3,
        "send_errors": 1,
        "delayed": 1,
        "not_delayed": {"no-key": 3, "too-long": 1},
    }
    delta = dict.fromkeys(total, 0) | {"received": 1, "answered": 1, "dropped": {}, "flows": 1, "not_delayed": {}}
    told = [json.loads(line) for line in written("json", STARTED, *REST)]
    words = [line.split("] ", 1)[1].strip() for line in written("console", STARTED, *REST)]
    assert [line.pop("message") for line in told] == words
    assert told == [
        {
            "time": "2025-11-13T02:13:20.123456Z",
            "level": "info",
            "event": "server.started",
            "version": "1.2.3",
            "pod_name": "pod-a",
            "node_name": "node-1",
            "instance_id": "0001020304050607",
            "addresses": ["10.0.0.5:3478", "[fd00::5]:3478"],
            "health": ["10.0.0.5:8080", "[fd00::5]:8080"],
            "keyed": True,
            "workers": 1,
        },
        {"time": "2025-11-13T02:13:21.123456Z", "level": "warn", "event": "server.warning", "text": "mind this"},
        {
            "time": "2025-11-13T02:14:20.123456Z",
            "level": "info",
            "event": "server.stats",
            "delta": delta,
            "total": total,
        },
        {"time": "2025-11-13T02:14:21.123456Z", "level": "info", "event": "server.draining", "drain_ns": 5 * NS},
        {
            "time": "2025-11-13T02:14:26.123456Z",
            "level": "info",
            "event": "server.stopped",
            "uptime_ns": 66 * NS,
            "total": total,
        },
    ]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_reader_that_takes_nothing_holds_up_nobody_and_hears_what_it_missed(log_format: LogFormat) -> None:
    """The pipe is as small as they get, and far fewer lines are kept than are written."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(write, "w", encoding="utf-8") as stream, os.fdopen(read, encoding="utf-8") as reader:
        log = ServerLog.open(stream, log_format, {}, most=20_000)
        log.emit(STARTED)
        for number in range(1000):
            log.emit(ServerWarning(6 * NS, f"number {number}"))  # returns, though nobody reads
        began = time.monotonic()
        log.close()
        assert server_log.CLOSE_S <= time.monotonic() - began < 10  # the thread has the rest
        taker = threading.Thread(target=lambda: taken.extend(reader))
        taken: list[str] = []
        taker.start()
        stream.close()
        log._background._thread.join(10)  # type: ignore[union-attr]
        log._own.close()  # type: ignore[union-attr]
        taker.join(10)
    told = [line for line in taken if "number" in line]
    assert "number 0" in told[0]
    words = r"(\d+) lines? w\w+ left out: whoever reads this did not take them"
    if log_format == "json":
        time_ = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
        words = rf'{{"time":"{time_}","level":"warn","event":"server\.warning","message":"[^"]+","text":"{words}"}}'
    else:
        words = f"… {words}"
    missed = [int(found[1]) for line in taken if (found := re.fullmatch(f"{words}\n", line))]
    assert sum(missed) == 1000 - len(told) > 100
    assert len(taken) == 1 + len(told) + len(missed)


def test_an_output_that_was_closed_from_the_start_takes_all() -> None:
    with ServerLog.open(None, "console", {}) as log:
        log.emit(STARTED)


def test_a_reader_that_has_gone_is_said_at_the_end_unless_something_else_went_wrong() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        with pytest.raises(OutputClosed), ServerLog.open(stream, "console", {}) as log:
            log.emit(STARTED)

        def fail() -> None:
            with ServerLog.open(stream, "console", {}) as log:
                log._log.text("a line that meets nobody")
                log.emit(REST[0])

        with pytest.raises(ValueError, match="came before"):
            fail()


def test_an_event_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="ServerWarning came before ServerStarted"):
        written("console", *REST)


def test_more_than_one_worker_is_said() -> None:
    (line,) = written("console", replace(STARTED, workers=4))
    assert "at 10.0.0.5:3478, [fd00::5]:3478 with 4 workers; health port at" in line


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(TypeError, match="ServerEvent is no event of a server"):
        written("console", STARTED, ServerEvent(6 * NS))
