"""What may not be accused, what nothing names, the catalogue's equivalences, and any actions at any time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnosing import Action, S, World
from hypothesis import given, settings
from hypothesis import strategies as st
from network_faults import (
    answered,
    balancer_made_anew,
    drops,
    entries_stay,
    every_time_anew,
    is_sound,
    nat_moves,
    new_ports,
    node_dies,
    node_drains,
    on_one_pod,
    one_takes_anothers_address,
    pause,
    rehash,
    removed,
    restarts,
    resume,
    silent,
    socket_changes,
    stray,
    terminates,
    vip_moves,
    wipe,
    world,
)

from affinity_tester.core.diagnosis import CATALOGUE, EQUIVALENCES, equivalents
from affinity_tester.core.events import Certainty, ClusterAction, ClusterSubject, Diagnosis, Outcome
from affinity_tester.lab.packet_log import Direction

LIKELY, POSSIBLE, CANNOT_TELL = Certainty

# --- controls ------------------------------------------------------------------------------------------------------------


def replaced(old: str, new: str) -> Action:
    def action(w: World) -> None:
        w.add_pod(new)
        w.network.set_conditions(old, ready=False, serving=True, terminating=True)
        w.look()

    return action


CONTROLS: dict[str, Callable[[bool], World]] = {
    "nothing": lambda watched: world(watched=watched),
    "a pod added": lambda watched: world((4, lambda w: (w.add_pod("p4"), w.look())), watched=watched),
    "5 % random loss": lambda watched: world(
        watched=watched, sessions=20, seconds=30, is_lost=lambda w, _s, _q: w.rng.random() < 0.05
    ),
    "a short burst up": lambda watched: world((4, silent(1, 2)), (5, answered), watched=watched),
    "a short burst down": lambda watched: world(
        (4, lambda w: w.drop(Direction.DOWN, 1, 2)), (5, answered), watched=watched
    ),
    "nobody is answered any more": lambda watched: world((4, silent()), watched=watched),
}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
def test_what_is_no_fault_of_the_path_is_not_accused(control: str, watched: bool) -> None:
    w = CONTROLS[control](watched).run()
    assert all(certainty is not LIKELY for _, certainty in w.named)
    for diagnosis in w.diagnoses:
        is_sound(diagnosis)


def test_a_deleted_pod_is_not_accused_while_proxies_need_no_longer_than_they_do() -> None:
    w = world((4, terminates), (5.2, removed), watched=True, seconds=12).run()
    assert (w.named, w.verdict.outcome) == ([], Outcome.PASS)
    assert [incident.changes for incident in w.incidents] == [3]


def test_a_rolling_update_is_not_accused() -> None:
    def step(old: str, new: str) -> Action:
        def action(w: World) -> None:
            w.network.remove_pod(old)
            w.look()

        return action

    turns = [(3 + n, replaced(f"p{n + 1}", f"p{n + 4}")) for n in range(3)]
    turns += [(3.9 + n, step(f"p{n + 1}", f"p{n + 4}")) for n in range(3)]
    w = world(*turns, watched=True, seconds=12).run()
    assert (w.named, w.verdict.violations) == ([], 0)


def test_loss_that_nothing_names_tells_its_direction_and_what_would_settle_it() -> None:
    (incident,) = world((4, silent(1, 2)), (5, answered), watched=True).run().incidents
    assert incident.diagnoses == (
        Diagnosis(
            "",
            CANNOT_TELL,
            (
                "2 of 12 sessions lost 20 probes in the longest gap of each",
                "20 lost towards the pod, 0 on the way back",
                "2 sessions then went on at the same pod and address",
            ),
            "packet capture on the pod's node and the kube-proxy log",
        ),
    )


def how_it_ended(*actions: tuple[float, Action], watched: bool = False, **kw: object) -> list[list[str]]:
    """For each incident that nothing names, what it says of sessions that went on."""
    named = [incident.diagnoses for incident in world(*actions, watched=watched, **kw).run().incidents]
    return [[fact for fact in d.evidence if "went on" in fact] for (d,) in named if d.certainty is CANNOT_TELL]


def test_how_a_silence_ended_is_told_only_where_that_is_known() -> None:
    assert how_it_ended((4, silent()), seconds=12) == [[]]
    assert how_it_ended((0, silent(1, 2)), (3, answered)) == [[]]
    assert how_it_ended((4, silent()), (70, answered), seconds=76) == [[]]  # told in the midst of it
    slow = [how_it_ended((8, silent(1, 2)), (24, answered), seconds=40, interval=n * S) for n in (1, 4)]
    assert slow == [[["2 sessions then went on at the same pod and address"]], [[]]]


def test_a_silence_of_all_that_is_told_in_parts_is_no_churn_before_it_ends() -> None:
    actions: list[tuple[float, Action]] = [(4, balancer_made_anew), (70, answered)]
    first, second = world(*actions, watched=True, settle=70 * S, seconds=76).run().incidents
    assert [(d.name, d.certainty) for d in first.diagnoses] == [("", CANNOT_TELL)]
    assert [(d.name, d.certainty) for d in second.diagnoses] == [("lb-churn", LIKELY)]


def test_sessions_that_begin_when_all_are_silent_do_not_show_a_local_policy() -> None:
    begin: Action = lambda w: w.paused.clear()  # noqa: E731 - a action like the others
    w = world(
        (0, lambda w: w.paused.update(range(6, 12))), (3, silent()), (3.2, begin), watched=False, seconds=12
    ).run()
    assert w.named == [("", CANNOT_TELL)], w.diagnoses


def test_of_the_silences_that_ended_those_are_counted_that_ended_where_they_began() -> None:
    back: Action = lambda w: (answered(w), w.rewrite(1), w.rewrite(2))  # noqa: E731 - a action like the others
    same = how_it_ended((4, silent(0, 1, 2)), (5, back), seconds=8)
    assert same == [["3 sessions then went on, 1 of them at the same pod and address"]]
    assert how_it_ended((4, silent(1, 2)), (5, back), seconds=8) == [
        ["2 sessions then went on at another pod or address"]
    ]


def replies_lost(*times: tuple[float, float], **kw: object) -> list[tuple[str, Certainty]]:
    """What the loss of sessions 1 and 2's replies, and of no request, from when to when each, is named in the end."""
    actions: list[tuple[float, Action]] = []
    for begin, end in times:
        actions += [(begin, lambda w: w.drop(Direction.DOWN, 1, 2)), (end, answered)]
    *_, last = world(*actions, watched=False, seconds=times[-1][1] + 6, **kw).run().incidents
    return [(d.name, d.certainty) for d in last.diagnoses]


def test_lost_replies_may_be_a_collision_only_where_a_flow_loses_all_of_them_for_long_or_again_and_again() -> None:
    maybe, nothing = [("snat-collision", POSSIBLE)], [("", CANNOT_TELL)]
    assert replies_lost((4, 5)) == nothing
    assert replies_lost((4, 6.5)) == maybe
    assert replies_lost((4, 8), interval=600_000_000) == nothing  # too few to be no accident
    assert replies_lost((4, 5), (9, 10)) == maybe
    unlucky: Action = lambda w: w.drop(Direction.DOWN, 5)  # noqa: E731 - a action like the others
    others = world(
        (2, unlucky), (2.2, answered), (4, lambda w: w.drop(Direction.DOWN, 1)), (5, answered),
        (9, lambda w: w.drop(Direction.DOWN, 1)), (10, answered), watched=False, seconds=16,
    ).run()  # fmt: skip
    assert others.named == nothing
    alone: Action = lambda w: w.drop(Direction.DOWN, 0)  # noqa: E731 - a action like the others
    assert world((4, alone), (7, answered), watched=False, sessions=1, seconds=10).run().named == nothing


def named_when_an_address_is_passed_on(left_s: float, taken_s: float) -> tuple[str, tuple[str, ...]]:
    """What it is named that session 4 takes the address which session 1 leaves, all at one pod; and the evidence."""
    taken = {}

    def left(w: World) -> None:
        taken[4] = w.source(1)
        w.rewrite(1)

    def take(w: World) -> None:
        w.network.set_source(w.flow(4), taken.setdefault(4, w.source(1)), w.now)

    actions: list[tuple[float, Action]] = [(0, on_one_pod), (left_s, left), (taken_s, take)]
    (diagnosis, *_) = world(*sorted(actions, key=lambda action: action[0]), watched=False).run().diagnoses
    return diagnosis.name, diagnosis.evidence


def test_an_address_that_two_sessions_had_one_after_the_other_is_no_collision() -> None:
    """A NAT gives a free port again. The session that left it is heard of late, by less than three intervals."""
    assert named_when_an_address_is_passed_on(4, 4)[0] == "port-rewrite"
    assert named_when_an_address_is_passed_on(4, 4.6)[0] == "port-rewrite"
    assert named_when_an_address_is_passed_on(4.25, 4)[0] == "port-rewrite"
    name, evidence = named_when_an_address_is_passed_on(4.5, 4)
    assert (name, evidence[0].partition(":")[0]) == (
        "snat-collision",
        "2 of 12 sessions shared a reflexive address with another one at the same pod",
    )


def test_that_a_flow_loses_its_replies_again_is_told() -> None:
    alone: Action = lambda w: w.drop(Direction.DOWN, 1)  # noqa: E731 - a action like the others
    w = world((4, alone), (5, answered), (9, alone), (10, answered), watched=True, seconds=16).run()
    (diagnosis,) = w.incidents[1].diagnoses
    assert diagnosis.evidence == (
        "1 of 12 sessions lost 10 replies and no request, then went on as before",
        "the same had lost replies in a row before, and no other session had lost one",
    )


def test_changes_that_nothing_names_say_so() -> None:
    """Some sessions go from one address that is no node's to another one, at the same pods."""
    steps: list[tuple[float, Action]] = [
        (1, lambda w: w.rewrite(*range(4), ip="198.51.100.1")),
        (5, lambda w: w.rewrite(*range(4), ip="198.51.100.2")),
    ]
    *_, diagnosis = world(*steps, watched=True).run().diagnoses
    assert (diagnosis.certainty, diagnosis.evidence) == (CANNOT_TELL, ("4 of 12 sessions, 4 changes",))


# --- the catalogue -------------------------------------------------------------------------------------------------------


def test_equivalences_are_of_the_catalogue_and_each_says_why() -> None:
    for each in EQUIVALENCES:
        assert each.names <= set(CATALOGUE)
        assert len(each.names) > 1
        assert all((each.when, each.why, each.settled_by))
    assert equivalents("dead-target") == {"dead-target", "stale-flow"}
    assert equivalents("mtu") == {"mtu"}


# --- any actions at any time -----------------------------------------------------------------------------------------------

ACTIONS: list[Action] = [
    wipe, rehash, new_ports(1, 2), silent(1, 2, 3), silent(), answered, entries_stay, node_dies, node_drains,
    nat_moves, socket_changes, terminates, restarts, pause, resume, stray, one_takes_anothers_address, drops,
    vip_moves(2), every_time_anew, lambda w: w.icmp(3, "EMSGSIZE"),
    lambda w: w.tell(ClusterSubject.SERVICE, "", ClusterAction.DELETED),
]  # fmt: skip


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 7), st.sampled_from(ACTIONS)), max_size=5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), (288, 1400), (20, 288)]),
)
def test_whatever_happens_diagnoses_are_sound(
    actions: list[tuple[float, Action]], watched: bool, local: bool, sizes: tuple[int, ...]
) -> None:
    if sum(action in {entries_stay, terminates} for _, action in actions) > 1:
        actions = [pair for pair in actions if pair[1] is not terminates][:1]
    w = world(*actions, watched=watched, local=local, sizes=sizes, sessions=6).run()
    assert all(incident.diagnoses or dict(incident.judgements) for incident in w.incidents if incident.changes)
    for diagnosis in w.diagnoses:
        is_sound(diagnosis)
