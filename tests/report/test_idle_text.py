"""What `idle` says for people, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.advice import LINUX_TIMEOUTS
from affinity_tester.core.idle.model import Direction, Fate, FlowState, SampleResult, Step
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.core.idle.view import PathView
from affinity_tester.report.idle_json import idle_document
from affinity_tester.report.idle_text import idle_lines, silence_text

S = 1_000_000_000
MIN = 60 * S
WHO = Identity(TransportAddress("10.0.0.1", 4000), "a", "node-1", b"12345678")
ELSE = Identity(TransportAddress("10.0.0.1", 5000), "b", "node-2", b"87654321")
PORT = WHO._replace(reflexive=TransportAddress("10.0.0.1", 6000))
CLUSTER = PathView(policy="Cluster", affinity="None", pods_by_node=(("node-1", 2),), translated=True)
LOCAL = PathView(policy="Local", affinity="None", pods_by_node=(("node-1", 2),))
HIDDEN = PathView(policy="Local", affinity="ClientIP", pods_by_node=(("node-1", 2),))
HEAD = "after one exchange (a request and its reply), the client speaks first after the silence:"
LEGEND = "(# kept, + some lost, . lost, ? unknown)"


def samples(
    count: int, seconds: int, after: Identity | None = WHO, fate: Fate = Fate.ANSWERED, **more: Any
) -> list[SampleResult]:
    direction = more.pop("direction", Direction.CLIENT)
    step = Step(direction, FlowState.ONE_EXCHANGE, seconds * S)
    one = SampleResult(
        step=step, fate=fate, begun_ns=0, ended_ns=1, before=WHO, after=after, sent=1, answered=1, **more
    )
    return [one] * count


def said(
    results: Sequence[SampleResult], view: PathView = CLUSTER, *, void: Fate | None = None, **more: Any
) -> list[str]:
    given = {"longest_ns": 10 * MIN, "watched": True, "planned": len(results), "known": LINUX_TIMEOUTS, **more}
    result = IdleResult.of(results, view, lambda each: each.fate is void, **given)
    lines = [text for text, _ in idle_lines(result)]
    assert idle_document(result)["text"] == lines
    return lines


def test_a_timeout_with_its_bounds_its_match_and_its_keep_alive() -> None:
    lost = samples(12, 35, ELSE) + samples(8, 35, PORT)
    assert said(samples(20, 10) + samples(20, 28) + lost) == [
        HEAD,
        "  silent for 28 s: 20 of 20 kept (at most 14 % lost, 95 %)",
        "  silent for 35 s: 0 of 20 kept (new pod 12, new port 20)",
        "  address: kept up to 35 s",
        "  matches nf_conntrack_udp_timeout, Linux's default: 30 s",
        f"  10 s ##. 35 s {LEGEND}",
        "keep-alive: every 14 s or more often, half of the longest silence kept, so that one may be lost; ICE's 15 s"
        " (RFC 8445 section 11) is often enough, unless one is lost",
    ]


@pytest.mark.parametrize(("kept_s", "interval", "ice"), [(60, "30 s", "is often enough"), (10, "5 s", "is too seldom")])
def test_ices_own_interval_is_compared(kept_s: int, interval: str, ice: str) -> None:
    last = said(samples(20, kept_s) + samples(20, 2 * kept_s, ELSE))[-1]
    assert last.startswith(f"keep-alive: every {interval} or more often")
    assert last.endswith(f"ICE's 15 s (RFC 8445 section 11) {ice}")


def test_none_is_lost_in_ten_minutes() -> None:
    assert said(samples(20, 600)) == [
        HEAD,
        "  longer than 10 min",
        "  silent for 10 min: 20 of 20 kept (at most 14 % lost, 95 %)",
        f"  10 min # 10 min {LEGEND}",
        "keep-alive: every 5 min is safe, half of the longest silence tried",
    ]


def test_who_meets_his_old_pod_again_by_chance_is_counted() -> None:
    lines = said(samples(20, 28) + samples(11, 35, ELSE._replace(reflexive=WHO.reflexive)) + samples(9, 35), LOCAL)
    assert lines[2] == (
        "  silent for 35 s: 9 of 20 kept (new pod 11; 1 in 2 expired flows meets its old pod again, so about 100 % expired)"
    )


def test_what_the_setting_hides_cannot_be_seen() -> None:
    blind = "  cannot be seen from here: policy Local with ClientIP: an entry made anew looks alike"
    assert said(samples(20, 30), HIDDEN)[1] == f"{blind}; --direction pod (with --key) shows it"
    assert said(samples(20, 30), HIDDEN)[-1] != "keep-alive"
    one = PathView(policy="Cluster", via="node-port", affinity="None", pods_by_node=(("n", 1),))
    assert said(samples(20, 30), one)[1].startswith("  cannot be seen from here: via node-port with 1 pod")


def test_a_keep_alive_says_for_which_flows_it_is_not_known_to_suffice() -> None:
    late = samples(20, 10, None, Fate.NOT_DELAYED, direction=Direction.POD)
    lines = said(samples(20, 10) + samples(20, 20, ELSE) + late)
    keep_alive, not_known, *_ = lines[lines.index(f"  10 s ? 10 s {LEGEND}") + 1 :]
    assert keep_alive.startswith("keep-alive: every 5 s or more often")
    assert not_known == (
        "not known: whether that suffices after one exchange (a request and its reply), where the pod speaks first after the"
        " silence"
    )


def test_the_pod_that_is_not_heard() -> None:
    heard = samples(20, 10, direction=Direction.POD, heard=True)
    lines = said(heard + samples(20, 20, direction=Direction.POD, heard=False), HIDDEN)
    assert lines[:3] == [
        "after one exchange (a request and its reply), the pod speaks first after the silence:",
        "  silent for 10 s: 20 of 20 kept (at most 14 % lost, 95 %)",
        "  silent for 20 s: 0 of 20 kept (not heard 20)",
    ]


def test_no_keep_alive_where_the_shortest_silence_is_lost() -> None:
    assert said(samples(20, 1, None, Fate.DEAD)) == [
        HEAD,
        "  not kept over any silence that was tried",
        "  silent for 1 s: 0 of 20 kept (unanswered 20)",
        f"  1 s . 1 s {LEGEND}",
        "keep-alive: none is safe, some flows were lost after the shortest silence that was tried",
    ]


def test_a_shorter_silence_that_was_lost_is_odd() -> None:
    lines = said(samples(20, 5, ELSE) + samples(20, 10))
    assert "  5 s: not kept, though longer silences were: something else happened there" in lines


def test_what_says_nothing_is_counted() -> None:
    late = samples(2, 10, None, Fate.LATE) + samples(1, 10, None, Fate.PATH_SILENT)
    lines = said(samples(17, 10) + late, void=Fate.LATE, repeated=2, planned=25)
    assert lines[-4:] == [
        "2 samples void: the pool changed near them; 2 samples repeated",
        "1 sample met a silent path",
        "2 samples were sent late by this machine",
        "5 samples cut off by the end",
    ]


def test_nothing_known_has_its_reason() -> None:
    assert said(samples(20, 10, None, Fate.NOT_DELAYED))[1] == (
        "  nothing is known: the samples got no delayed reply from the server (it needs the client's --key)"
    )
    assert said(samples(20, 10), void=Fate.ANSWERED)[1] == "  nothing is known: the pool kept changing"
    restarted = said(samples(20, 10, WHO._replace(instance=b"new" * 2)))
    assert restarted[1] == "  nothing is known: the pods kept restarting"
    assert restarted[-1] == "20 samples met a pod that was restarted meanwhile"
    unsure = said(samples(20, 10, ELSE, resent=True))
    why = "lost the probe after the silence, and their flow may have expired between that and the next one"
    assert (unsure[1], unsure[-1]) == (f"  nothing is known: the samples {why}", f"20 samples {why}")
    assert said(samples(9, 10))[1] == "  nothing is known: no silence has 10 samples that count"
    assert said(samples(20, 10, None, Fate.NOT_STARTED), planned=400)[-2:] == [
        "nothing was answered: check the address, that UDP gets there, and that the server has the same --key;"
        " `affinity-tester client` with the same target says what comes back",
        "380 samples cut off by the end",
    ]
    assert said([]) == ["no sample has ended: let it run longer, or give a shorter --longest"]


@pytest.mark.parametrize(
    ("ns", "text"), [(28_400_000_000, "28.4 s"), (MIN, "60 s"), (2 * MIN, "2 min"), (123 * S, "123 s")]
)
def test_silences_are_not_rounded(ns: int, text: str) -> None:
    assert silence_text(ns) == text
