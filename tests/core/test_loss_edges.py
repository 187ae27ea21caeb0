"""What keeps loss from being called anything, and what is said where not all is known."""

from __future__ import annotations

from dataclasses import replace

from losing import MS, LosingRun, Lost, Place, S

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeSeen,
    Diagnosis,
    Event,
    LateReply,
    NodeAddresses,
    ProbesLost,
    RepliedProbe,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind


def of_first(count: int, share: float, run: LosingRun) -> Lost:
    return lambda place, _seq, _at: place.session < count and run.rng.random() < share


def lossy(run: LosingRun, count: int = 6, share: float = 0.3, events: tuple[Event, ...] = ()) -> list[Diagnosis]:
    return [each for each in run.diagnosed(of_first(count, share, run), events) if each.name == "lossy-path"]


def test_a_trifle_is_not_worth_a_name() -> None:
    assert lossy(LosingRun(1, seconds=120.0, interval=50 * MS), share=0.006) == []


def test_sessions_whose_replies_went_elsewhere_or_came_late_say_nothing_of_a_path() -> None:
    who, there = Identity(), TransportAddress("10.0.0.9", 1)
    astray = tuple(WrongSource(S, f"CLIENT-{number}", there, there, 9, S, who) for number in range(6))
    assert lossy(LosingRun(2), events=astray) == []
    late = tuple(LateReply(S, f"CLIENT-{number}", seq, 3 * S) for number in range(6) for seq in range(40))
    assert lossy(LosingRun(2), events=late) == []
    assert len(lossy(LosingRun(2))) == 1


def test_where_sessions_changed_their_pod_its_place_is_not_told() -> None:
    def changed(number: int) -> ChangeSeen:
        before, after = (
            RepliedProbe(seq, seq * 100 * MS, Identity(None, pod)) for seq, pod in ((80, "p0"), (81, "p9"))
        )
        return ChangeSeen(9 * S, f"CLIENT-{number}", Change(1, (Kind.POD,), before, after, 9 * S, 0, 9 * S))

    (told,) = lossy(LosingRun(3), events=tuple(map(changed, range(12))))
    assert told.evidence[2] == "by what cannot be told: sessions changed their pod or address meanwhile"


def test_a_server_that_tells_no_address_leaves_the_source_port() -> None:
    run = LosingRun(4)
    run.places = [_Silent(place.session, place.pod, place.node, place.ingress) for place in run.places]
    (told,) = lossy(run)
    assert told.evidence[2].endswith("as far as replies tell")


class _Silent(Place):
    """A place whose replies tell nothing but that there is a server."""

    @property
    def identity(self) -> Identity:
        return Identity()


def test_the_node_of_an_ingress_is_told_where_it_is_known() -> None:
    run = LosingRun(5, seconds=30.0)
    names = NodeAddresses(0, tuple((f"10.0.0.{number}", f"node-{number}") for number in range(1, 4)))
    (told,) = run.diagnosed(lambda place, _seq, _at: place.ingress == "10.0.0.2" and run.rng.random() < 0.3, (names,))
    assert told.evidence[2] == 'by place: they are all the sessions that came in through 10.0.0.2 (node "node-2")'


def test_where_lossy_sessions_share_a_place_with_spared_ones_by_chance_the_port_may_be_it() -> None:
    """A seed in which a pod has one session that loses and one that loses nothing."""
    run = LosingRun(0, seconds=10.0)
    two = set(run.rng.sample(range(run.sessions), 2))
    (told,) = run.diagnosed(lambda place, _seq, _at: run.rng.random() < (0.2 if place.session in two else 0))
    assert told.evidence[2].endswith("or by pod: too few sessions share one to tell")


def test_too_few_sessions_of_a_pod_leave_the_pod_and_the_port() -> None:
    run = LosingRun(0, pods=6, sessions=12)
    (told,) = run.diagnosed(lambda place, _seq, _at: place.pod == "p1" and run.rng.random() < 0.4)
    assert told.evidence[2].startswith("by source port (")
    assert told.evidence[2].endswith("or by pod: too few sessions share one to tell")


def slow(run: LosingRun, *events: Event) -> list[Diagnosis]:
    """Sessions through 10.0.0.2 lose their first probes, each some more than the one before."""
    found = run.diagnosed(lambda place, seq, _at: place.ingress == "10.0.0.2" and seq < 2 + place.session, events)
    return [each for each in found if each.name in {"table-full", "first-packet-race"}]


def test_a_full_table_tells_its_node_and_who_was_never_answered() -> None:
    names = NodeAddresses(0, (("10.0.0.2", "node-2"),))
    never = ProbesLost(3 * S, "CLIENT-never", 0, 10, 0, S)
    (told,) = slow(LosingRun(6), names, never)
    assert told.name == "table-full"
    assert any('10.0.0.2 (node "node-2")' in fact for fact in told.evidence)
    assert "1 session was never answered: CLIENT-never" in told.evidence


def test_where_one_pod_serves_all_those_the_pod_may_be_it() -> None:
    run = LosingRun(6)
    run.places = [replace(each, pod=each.ingress, node=each.ingress) for each in run.places]
    (told,) = slow(run)
    assert (told.name, told.missing[:34]) == ("table-full", "whether it is the node or the pod ")


def test_where_too_few_come_in_elsewhere_it_may_be_chance() -> None:
    run = LosingRun(8, sessions=6)
    run.places = [replace(each, ingress="10.0.0.2" if each.session < 4 else "10.0.0.1") for each in run.places]
    assert all(each.missing for each in slow(run))


def test_a_server_that_tells_no_address_may_be_behind_one_node_or_several() -> None:
    run = LosingRun(6)
    run.places = [_Silent(place.session, place.pod, place.node, place.ingress) for place in run.places]
    (told,) = run.diagnosed(lambda place, seq, _at: place.session % 5 == 0 and seq == 0)
    assert (told.name, told.evidence[-1]) == (
        "first-packet-race",
        "all of them came in through nodes that no reply told",
    )


def test_late_replies_of_a_whole_run_are_told() -> None:
    run = LosingRun(9)
    late = tuple(LateReply(S, "CLIENT-1", seq, (3 + seq % 4) * S) for seq in range(40))
    run.late = 40
    told = list(run.diagnosed(lambda p, seq, _at: p.session == 1 and 1 < seq < 42, late))
    assert [each.name for each in told] == ["late-replies"]
    assert told[0].evidence == (
        "40 of 40 lost probes (100 %) were answered after all, 3.0 s to 6.0 s after they were sent",
    )


def test_a_node_out_of_reach_at_first_is_no_full_table_for_sure() -> None:
    run = LosingRun(6)
    (told,) = run.diagnosed(lambda place, _seq, at: place.ingress == "10.0.0.2" and at < 0.5)
    assert (told.name, told.missing[:42]) == ("table-full", "whether the node was out of reach until th")


def test_a_pod_that_is_slow_to_begin_is_named_beside_a_race() -> None:
    run = LosingRun(0)
    (told,) = run.diagnosed(lambda place, _seq, at: place.pod == "p3" and at < 0.25)
    assert (told.name, told.missing) == (
        "first-packet-race",
        'whether pod "p3" is slow to begin: they were all served by it',
    )
