"""What an ICMP error, a pause and a pod's count say of dead flows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diagnosing import Action, S, World
from network_faults import hung, ports_dead, silent, way_cut, world

from affinity_tester.core.diagnosis import dead_rules, dead_text
from affinity_tester.core.diagnosis.icmp import IcmpMeaning, icmp_meaning
from affinity_tester.core.diagnosis.start_rules import ready_nodes
from affinity_tester.core.events import Certainty, ClusterAction, ClusterEvent, ClusterSubject, NetworkError

LIKELY, POSSIBLE, CANNOT_TELL = Certainty


def facts(w: World, name: str) -> tuple[str, ...]:
    """The evidence of the last diagnosis of this name."""
    return next(each.evidence for each in reversed(w.diagnoses) if each.name == name)


@pytest.mark.parametrize(
    ("offender", "icmp", "meaning"),
    [
        ("10.0.0.1", (3, 13), IcmpMeaning.PROHIBITED),
        ("10.0.0.1", (3, 1), IcmpMeaning.HOST_UNREACHABLE),
        ("10.0.0.1", (3, 3), IcmpMeaning.PORT_UNREACHABLE),
        ("10.0.0.1", (3, 200), None),
        ("10.0.0.1", (11, 0), IcmpMeaning.TIME_EXCEEDED),
        ("2001:db8::1", (1, 1), IcmpMeaning.PROHIBITED),
        ("2001:db8::1", (1, 4), IcmpMeaning.PORT_UNREACHABLE),
        ("2001:db8::1", (2, 0), IcmpMeaning.TOO_BIG),
        ("2001:db8::1", (3, 0), IcmpMeaning.TIME_EXCEEDED),
        ("10.0.0.1", (5, 0), None),
        (None, (None, None), IcmpMeaning.HOST_UNREACHABLE),
    ],
)
def test_type_and_code_say_what_an_icmp_error_means(
    offender: str | None, icmp: tuple[int | None, int | None], meaning: IcmpMeaning | None
) -> None:
    assert icmp_meaning(NetworkError(0, "a", 0, "EHOSTUNREACH", offender, *icmp)) is meaning


def test_a_node_that_says_itself_that_it_has_no_way_has_no_rules() -> None:
    said: Action = lambda w: w.icmp(0, "EHOSTUNREACH", "10.0.0.1")  # noqa: E731
    said_by = '10.0.0.1 (node "n1") itself answered with ICMP host unreachable: the next hop does not answer'
    for start in (0, 3):
        w = world((start, silent(0, 3, 6)), (5, said), watched=True, seconds=14).run()
        assert w.named == [("dead-ingress", LIKELY)]
        assert f"{said_by}: it has no rules for the Service" in facts(w, "dead-ingress")


def test_a_refusal_that_nothing_explains_has_a_next_step() -> None:
    refused: Action = lambda w: w.icmp(1, "ECONNREFUSED", "203.0.113.7")  # noqa: E731
    w = world((4, silent(1)), (5, refused), (6.5, lambda w: w.heal()), watched=True).run()
    (diagnosis,) = w.diagnoses
    assert diagnosis.certainty is CANNOT_TELL
    assert diagnosis.missing.startswith("who refuses: `kubectl get endpointslices`")


def test_dead_canaries_are_dead_again_from_the_same_port_after_a_pause() -> None:
    w = world((3, ports_dead), watched=True, sessions=24, seconds=60, interval=300_000_000).run()
    assert w.named == [("lossy-path", LIKELY)]
    assert any("were answered from the same port after a pause of 35.0 s: no entry lives so long" in fact
               for fact in facts(w, "lossy-path"))  # fmt: skip


def test_a_port_that_is_answered_after_a_pause_was_no_bucket() -> None:
    mended: Action = lambda w: (setattr(w.network, "dead_below", 0.0), w.block(*range(24)))  # noqa: E731
    w = world((3, ports_dead), (30, mended), watched=True, sessions=24, seconds=60, interval=300_000_000).run()
    assert ("lossy-path", LIKELY) not in w.named


def test_a_pod_that_is_silent_names_its_node_and_where_to_look() -> None:
    w = world((3, hung), watched=True, sessions=24, seconds=16).run()
    assert w.named == [("pod-silent", LIKELY)]
    look = "look into: kubectl logs p1; kubectl describe node n1"
    assert look in facts(w, "pod-silent")
    assert 'no node of theirs ("n1") is known to be not Ready' in facts(w, "pod-silent")


def test_a_node_that_became_ready_again_before_is_not_down() -> None:
    def tell(action: ClusterAction) -> Action:
        return lambda w: w.tell(ClusterSubject.NODE, "n1", action)

    w = world(
        (1, tell(ClusterAction.NOT_READY)),
        (2, tell(ClusterAction.READY)),
        (5, hung),
        watched=True,
        sessions=24,
        seconds=18,
    ).run()
    assert not any("became not Ready" in fact for fact in facts(w, "pod-silent"))


def test_the_pods_count_tells_the_direction_once_it_answers_again() -> None:
    heal: Action = lambda w: w.network.mute_cells.clear()  # noqa: E731
    mute: Action = lambda w: w.network.mute_cells.add(("n1", "n2"))  # noqa: E731
    w = world((3, mute), (14, heal), watched=True, sessions=36, pods=6, seconds=18)
    cut = world(
        (3, way_cut), (14, lambda w: w.network.dead_cells.clear()), watched=True, sessions=36, pods=6, seconds=18
    )
    assert w.run().named == cut.run().named == [("node-path", LIKELY)]
    assert any("all 0" not in fact and "the replies are lost" in fact for fact in facts(w, "node-path"))
    assert any("were lost towards it" in fact for fact in facts(cut, "node-path"))
    assert S


def test_replies_that_are_lost_while_fresh_flows_live_are_no_dead_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_text, "shared", lambda _flows: [])
    flows: Any = SimpleNamespace(direction=(0, 5), fresh_live=True, resumed=False)
    assert list(dead_rules._scattered(flows)) == []


def test_losses_both_ways_are_told_by_count() -> None:
    flows: Any = SimpleNamespace(direction=(3, 2))
    (said,) = dead_text.direction(flows)
    assert said == "by the pod's count 3 probes were lost towards it, and 2 replies on the way back"


def test_nodes_are_ready_as_the_cluster_told_last() -> None:
    def told(name: str, action: ClusterAction) -> ClusterEvent:
        return ClusterEvent(0, ClusterSubject.NODE, name, action)

    cluster = [
        told("n1", ClusterAction.NOT_READY),
        told("n2", ClusterAction.REMOVED),
        told("n1", ClusterAction.READY),
        told("n3", ClusterAction.CORDONED),
        ClusterEvent(0, ClusterSubject.PROXY, "n3", ClusterAction.RESTARTED),
    ]
    names = {f"10.0.0.{n}": f"n{n}" for n in (1, 2, 3)}
    view: Any = SimpleNamespace(history=SimpleNamespace(node_names=names, cluster=cluster))
    assert ready_nodes(view) == {"n1", "n3"}


@pytest.mark.parametrize(
    ("canaries", "unanswered", "missing"),
    [
        ((), (), "a test probe: was a new flow answered meanwhile?"),
        ((1, 2), (2,), "why test probes died too: whether new flows live"),
        ((1,), (), ""),
    ],
)
def test_what_new_flows_did_is_asked_for_where_it_is_not_known(
    canaries: tuple[int, ...], unanswered: tuple[int, ...], missing: str
) -> None:
    flows: Any = SimpleNamespace(canaries=canaries, unanswered=unanswered)
    assert dead_rules._tried(flows) == missing
