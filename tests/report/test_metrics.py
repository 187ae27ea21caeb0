"""Metrics of runs and servers: what promtool says of them, what the alert rules do with real runs, and what bounds them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from affinity_tester.core import events as ev
from affinity_tester.core.pool import PoolSnapshot
from affinity_tester.core.pulse import Pulse
from affinity_tester.core.replay import judge_again
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.core.session.rtt import BUCKETS, RttHistogram
from affinity_tester.report.metric_families import exposition
from affinity_tester.report.record import read_record
from affinity_tester.report.run_metrics import KEPT_NS, RUN_METRICS, RunMetrics
from affinity_tester.report.server_metrics import SERVER_METRICS, server_families

MS = 1_000_000
S = 1_000 * MS
REAL = Path(__file__).resolve().parents[1] / "data" / "real"
K8S = Path(__file__).resolve().parents[2] / "k8s"
SAMPLE = re.compile(r"(?P<name>[a-z_0-9]+)(?P<labels>\{.*\})? (?P<value>\S+)")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    return found


def groups(count: int, sessions: int = 1) -> tuple[ev.GroupCounts, ...]:
    return tuple(
        ev.GroupCounts(kind, f"{kind}-{n}", sessions, 100, 99, 1, 2, MS, 2 * MS)
        for kind in ev.GroupKind
        for n in range(count)
    )


def pulse(at_ns: int, rows: tuple[ev.GroupCounts, ...], times: Iterable[int] = ()) -> Pulse:
    rtt = RttHistogram()
    for seq, ns in enumerate(times):
        rtt.add(seq, ns)
    counted = [0] * BUCKETS
    counted[: len(rtt._buckets)] = rtt._buckets
    total = ev.Counts(sent=200, answered=190, lost=7, pairs=189)
    return Pulse(at_ns, total, 1, (), 10, 1, 2 * MS, counted, rtt.sum_ns, rows)


def samples(page: bytes) -> dict[str, float]:
    """Each sample's value by its name and labels."""
    found = {}
    for line in page.decode().splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            found[match["name"] + (match["labels"] or "")] = float(match["value"])
    return found


def told(story, *events: ev.Event, beat: Pulse | None = None) -> dict[str, float]:
    metrics = RunMetrics()
    for event in (story.started(), *events):
        metrics.emit(event)
    if beat is not None:
        metrics.beat(beat)
    return samples(exposition(metrics.families()))


@pytest.mark.debian
@pytest.mark.parametrize("side", ["client", "server"])
def test_promtool_accepts_the_page(story, promtool, side):
    if side == "client":
        metrics = RunMetrics()
        for event in story.run():
            metrics.emit(event)
        metrics.beat(pulse(story.at(50), groups(3), [MS, 3 * MS]))
        page = exposition(metrics.families())
    else:
        page = exposition(server_families(ServerTotals(9, 7, 1, (("not-stun", 1),), 3, 0, 0, 4, (("full", 2),)), 1.5e9))
        assert b"affinity_tester_server_delayed_total 4.0" in page
        assert b'affinity_tester_server_not_delayed_total{reason="full"} 2.0' in page
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_case_counts_once_a_violation_at_once_and_others_when_they_are_over(story):
    outage = ev.OutageCase(7, story.at(5))

    def judged(judgement: ev.Judgement, *, lasts: bool) -> ev.CaseJudged:
        return ev.CaseJudged(story.at(20), "CLIENT-1", outage, judgement, None, (), lasts=lasts)

    lasting = judged(ev.Judgement.EXPLAINED, lasts=True)
    assert told(story, lasting)["affinity_tester_violations_total"] == 0
    broken = judged(ev.Judgement.VIOLATION, lasts=True)
    once = told(story, lasting, broken, broken, judged(ev.Judgement.VIOLATION, lasts=False))
    assert once["affinity_tester_violations_total"] == 1
    assert once['affinity_tester_judged_total{case="outage",judgement="violation"}'] == 1
    assert once["affinity_tester_last_violation_timestamp_seconds"] == pytest.approx(
        story.started().wall_ns / S + 20, abs=1
    )
    over = told(story, lasting, judged(ev.Judgement.EXPLAINED, lasts=False))
    assert over['affinity_tester_judged_total{case="outage",judgement="explained"}'] == 1


def test_the_histogram_counts_each_time_below_the_bounds_above_it(story):
    times = [63_000, 64_000, 500_000, 513_000, 3 * S]
    found = told(story, beat=pulse(story.at(9), (), times))
    below = {
        bound: found[f'affinity_tester_rtt_seconds_bucket{{le="{bound}"}}']
        for bound in ("6.4e-05", "0.000128", "0.000512", "0.001024", "2.097152", "+Inf")
    }
    assert below == {"6.4e-05": 1, "0.000128": 2, "0.000512": 3, "0.001024": 4, "2.097152": 4, "+Inf": 5}
    assert found["affinity_tester_rtt_seconds_count"] == 5
    assert found["affinity_tester_rtt_seconds_sum"] == pytest.approx(sum(times) / S)


def test_what_serves_nobody_is_told_for_ten_minutes(story):
    metrics = RunMetrics()
    metrics.emit(story.started())
    metrics.beat(pulse(story.at(1), groups(2)))
    for minute in range(1, 12):
        metrics.beat(pulse(story.at(1) + minute * 60 * S, groups(1) + groups(2, sessions=0)[1::2]))
        shown = samples(exposition(metrics.families()))
        name = 'affinity_tester_pod_sessions{pod="pod-1"}'
        assert (name in shown) == (minute * 60 * S < KEPT_NS)
    assert 'affinity_tester_pod_sessions{pod="pod-0"}' in shown


def test_outages_blackouts_and_the_watch_are_gauges(story):
    last = ev.RepliedProbe(1, story.at(1), story.pod_a)
    outage = ev.OutageStarted(story.at(9), "CLIENT-1", 2, story.at(2), last)
    dark = ev.BlackoutStarted(story.at(9), story.at(4), 2)
    assert told(story, outage)["affinity_tester_sessions_in_outage"] == 1
    ended = ev.OutageEnded(story.at(12), "CLIENT-1", 2, story.at(2), 70, last)
    assert told(story, outage, ended)["affinity_tester_sessions_in_outage"] == 0
    assert told(story, dark)["affinity_tester_blackout"] == 1
    assert (
        told(story, dark, ev.BlackoutEnded(story.at(20), story.at(4), story.at(19), 9, 1))["affinity_tester_blackout"]
        == 0
    )
    assert "affinity_tester_pool_ready_endpoints" not in told(story)


def test_a_page_of_the_most_groups_is_bounded_and_quick(story):
    metrics = RunMetrics()
    metrics.emit(story.started(sessions=10_000))
    rows = tuple(
        ev.GroupCounts(kind, f"{kind}-{n}", 1, 100, 99, 1, 2, MS, 2 * MS)
        for kind, most in ((ev.GroupKind.POD, 201), (ev.GroupKind.NODE, 101), (ev.GroupKind.REFLEXIVE_IP, 21))
        for n in range(most)
    )
    metrics.beat(pulse(story.at(1), rows))
    page = exposition(metrics.families())
    assert len(samples(page)) < 2_200
    assert len(page) < 200_000


def test_every_family_is_described(story):
    metrics = RunMetrics()
    metrics.emit(story.started())
    metrics.emit(ev.PoolObserved(story.at(1), story.at(1), story.at(1), PoolSnapshot(frozenset())))
    metrics.beat(pulse(story.at(1), groups(1), [MS]))
    named = {family.name for family in metrics.families()}
    assert named == {f"affinity_tester_{each.name}" for each in RUN_METRICS}
    server = {family.name for family in server_families(ServerTotals(dropped=(("key", 1),)), 0.0)}
    assert server == {f"affinity_tester_{each.name}" for each in SERVER_METRICS}


def scraped(name: str) -> Iterator[tuple[int, dict[str, float]]]:
    """The pages of a recorded run, judged by today's rules, as a scrape each 15 s would have seen them."""
    metrics, due_ns, number = RunMetrics(), None, 0
    for event in judge_again(read_record(REAL / f"{name}.jsonl.gz", on_truncated=pytest.fail), lambda rules: rules):
        if due_ns is None:
            due_ns = event.at_ns
        while event.at_ns >= due_ns:
            yield number, samples(exposition(metrics.families()))
            due_ns, number = due_ns + 15 * S, number + 1
        metrics.emit(event)
    for _ in range(3):
        yield number, samples(exposition(metrics.families()))
        number += 1


@pytest.mark.debian
@pytest.mark.parametrize(
    ("name", "fires"),
    [
        ("03-flush-all.cn", True),
        ("12-dead-node.cn", True),
        ("05-kproxy-restart-all.cn", False),
        ("10-rollout.cc", False),
        ("61-flush-early", False),
    ],
)
def test_the_alert_fires_on_judged_violations_alone(promtool, tmp_path, name, fires):
    series = defaultdict(list)
    for _, page in scraped(name):
        for sample, value in page.items():
            if sample.startswith("affinity_tester_"):
                series[sample].append(f"{value:g}")
    length = max(map(len, series.values()))
    texts = {sample: " ".join(["_"] * (length - len(values)) + values) for sample, values in series.items()}
    hold_the_alert(promtool, tmp_path, texts, {15 * (length - 1): fires})


@pytest.mark.debian
def test_the_alert_fires_on_what_came_before_the_first_scrape_and_on_nothing_old(promtool, tmp_path):
    violations, last = "affinity_tester_violations_total", "affinity_tester_last_violation_timestamp_seconds"
    young = {violations: "_ _ 3x60", last: "_ _ 20x60"}
    hold_the_alert(promtool, tmp_path, young, {30: True, 240: True, 345: False, 600: False})
    # A Prometheus that was away for 10 minutes meets a run again that broke before.
    gap = " ".join(["_"] * 40)
    seen_again = {violations: f"0 3 3x40 {gap} 3x40", last: f"0 15 15x40 {gap} 15x40"}
    hold_the_alert(promtool, tmp_path, seen_again, {30: True, 600: False, 1260: False, 1500: False})


def hold_the_alert(promtool: str, tmp_path: Path, series: dict[str, str], fires: dict[int, bool]) -> None:
    """Hold the alert against what it should do at these seconds, where a scrape each 15 s saw these series."""
    (rule,) = [
        each for each in yaml.safe_load_all((K8S / "monitoring.yaml").read_text()) if each["kind"] == "PrometheusRule"
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": sample, "values": values} for sample, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count(ALERTS{alertname="UdpAffinityBroken", alertstate="firing"})',
                        "eval_time": f"{at_s}s",
                        "exp_samples": [{"labels": "{}", "value": 1}] if does else [],
                    }
                    for at_s, does in fires.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tests))
    for what in (["check", "rules", "rules.yaml"], ["test", "rules", "test.yaml"]):
        done = subprocess.run([promtool, *what], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_asks_for_metrics_that_there_are():
    board = json.loads((K8S / "grafana-dashboard.json").read_text())
    names = set()
    for each in RUN_METRICS:
        full = f"affinity_tester_{each.name}"
        names |= {f"{full}_total"} if each.kind == "counter" else {full}
        names |= {f"{full}_{part}" for part in ("bucket", "count", "sum")} if each.kind == "histogram" else set()

    asked = set(re.findall(r"affinity_tester_\w+", json.dumps(board)))
    assert asked <= names
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_scraping_costs_little(story):
    """Not a benchmark: a page that took a hundred times as long would still pass."""
    metrics = RunMetrics()
    metrics.emit(story.started())
    metrics.beat(pulse(story.at(1), groups(20)))
    started = time.process_time()
    exposition(metrics.families())
    assert time.process_time() - started < 1
