"""What a session takes in memory, and that a tracker's memory stays flat however many probes it is fed."""

from __future__ import annotations

import sys

from benchmarks.contenders import Setup, run_client
from benchmarks.machine import Child
from benchmarks.results import Bar, Result

FEW, MANY = 100, 10_000
INTERVAL_S = 0.2
"""10,000 sessions then send 50,000 probes/s, the client's bar."""

# Of a thousand probes one is lost, one answered late and one twice; the pod changes every 9,973 probes.
FEED = r"""
import sys
from pathlib import Path
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.session.tracker import SessionTracker

MS = 1_000_000
INTERVAL, THRESHOLD, RTT = 10 * MS, 2_000 * MS, MS
count, parts = int(sys.argv[1]), 20
events = 0


def emit(event):
    global events
    events += 1


def rss_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


tracker = SessionTracker("CLIENT-1", THRESHOLD, emit)
pods = [Identity(TransportAddress("192.0.2.1", 40000), f"pod-{n}", "node", bytes(8)) for n in range(7)]
print(rss_kb(), flush=True)
now = fed = 0
for part in range(parts):
    for _ in range(count // parts):
        now += INTERVAL
        seq = tracker.sent(now)
        what = seq % 1000
        if what > 1:
            tracker.replied(seq, pods[seq // 9973 % 7], seq, now + RTT)
            if what == 2:
                tracker.replied(seq, pods[seq // 9973 % 7], seq, now + 2 * RTT)
        if what == 300:
            tracker.expire(now)
            tracker.replied(seq - 299, pods[(seq - 299) // 9973 % 7], seq, now + RTT)
        fed += 1
    print(rss_kb(), flush=True)
tracker.expire(now + 2 * THRESHOLD)
assert tracker.sent_count == fed == tracker.answered + tracker.lost, (fed, tracker.answered, tracker.lost)
assert tracker.changes == (fed - 1) // 9973, (tracker.changes, (fed - 1) // 9973)
print(events)
"""


def memory(setup: Setup) -> Result:
    """Base and slope of our client's resident memory between 100 and 10,000 sessions."""
    result = Result("memory", f"resident memory of the client after {setup.memory_seconds:g} s")
    base = run_client(setup, FEW, FEW / INTERVAL_S, min(10.0, setup.memory_seconds))
    setup.progress(f"{MANY:,} sessions for {setup.memory_seconds:g} s")
    full = run_client(setup, MANY, MANY / INTERVAL_S, setup.memory_seconds)
    slope_kb = (full.rss_kb - base.rss_kb) / (MANY - FEW)
    result.add(f"{FEW} sessions", "MB", [base.rss_kb / 1024])
    result.add(f"{MANY:,} sessions", "MB", [full.rss_kb / 1024])
    result.add("a session", "kB", [slope_kb], Bar(5))
    result.add("the base, without sessions", "MB", [(base.rss_kb - FEW * slope_kb) / 1024], Bar(40))
    if setup.memory_seconds < 62:
        result.notes.append(
            f"a session keeps 60 s of probes, here {setup.memory_seconds:g} s of them: --full shows all of it"
        )
    return result


def tracker_memory(setup: Setup) -> Result:
    """Probes fed to one tracker in simulated time, with losses, late replies, duplicates and changes among them."""
    result = Result("tracker", f"{setup.tracker_probes:,} probes fed to one tracker in simulated time")
    with Child([sys.executable, "-c", FEED, str(setup.tracker_probes)], setup.cores.load) as child:
        lines = []
        while (line := child.line(600)) is not None:
            lines.append(int(line))
        cost = child.wait()
    if cost.exit_code:
        raise RuntimeError(f"feeding the tracker ended with {cost.exit_code}")
    _start_kb, *rss_kb, events = lines
    result.add("resident memory after a tenth", "MB", [rss_kb[1] / 1024])
    result.add("growth from there to the end", "kB", [rss_kb[-1] - rss_kb[1]], Bar(256))
    result.add("CPU a probe", "us", [1e6 * cost.cpu_s / setup.tracker_probes])
    result.notes.append(
        f"{events:,} events told meanwhile; after 60 s of simulated time (6,000 probes) history is full"
    )
    return result
