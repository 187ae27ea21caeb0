"""The comparison of a run's accounts: it passes when everything agrees, and fails for every way in which it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    ClientFaultKind,
    ConflictingDuplicate,
    Counts,
    CrossDelivered,
    Event,
    FaultInjected,
    ForeignServer,
    Losses,
    NetworkError,
    NoReplies,
    OutageStarted,
    ProbesLost,
    RepliedProbe,
    RttStats,
    SessionStarted,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.lab.compare import Findings, Row, compare
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.faults import DuplicateReorder, LossDown, LossUp, Mtu, NodeRehash, PodAdded, PortRewrite
from affinity_tester.lab.injection import LOST, Effect, Injection, Symptom
from affinity_tester.lab.lab_record import LabRecord
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent, Rerouted

S = 1_000_000_000
MS = 1_000_000
UP, DOWN = Direction.UP, Direction.DOWN

FLOWS = {name: TransportAddress("127.0.0.1", 40_000 + number) for number, name in enumerate("ABCDEF")}
"""One session for each fault, and F, which none touches."""

PLAN: tuple[Fault, ...] = (
    NodeRehash(at_ns=5 * S),
    PortRewrite(at_ns=10 * S),
    LossUp(at_ns=15 * S),
    LossDown(at_ns=20 * S),
    DuplicateReorder(at_ns=25 * S),
)

OLD = Identity(TransportAddress("127.1.0.1", 1000), "pod-1", "node-1", b"1" * 8)
REHASHED = Identity(TransportAddress("127.1.0.4", 4000), "pod-2", "node-2", b"2" * 8)
REPORTED = OLD._replace(reflexive=TransportAddress("127.1.0.1", 2000))


def change(at_ns: int, before: Identity, after: Identity, number: int = 1) -> Change:
    """A change whose P was sent 60 ms before, and whose Q 40 ms after this time."""
    return Change(
        number=number,
        kinds=differing(before, after),
        before=RepliedProbe(at_ns // (100 * MS), at_ns - 60 * MS, before),
        after=RepliedProbe(at_ns // (100 * MS) + 1, at_ns + 40 * MS, after),
        seen_ns=at_ns + 41 * MS,
        longest_pause_ns=100 * MS,
        settled_ns=at_ns + 41 * MS,
    )


def lost(name: str, at_ns: int, count: int) -> ProbesLost:
    return ProbesLost(at_ns + 2 * S, name, 1, count, at_ns, at_ns + count * 100 * MS)


def summary(name: str, losses: Losses = Losses(), duplicate: int = 0, reordered: int = 0) -> SessionSummary:  # noqa: B008
    total = Counts(lost=losses.total, duplicate=duplicate, reordered=reordered)
    return SessionSummary(
        at_ns=30 * S,
        session=name,
        local=FLOWS[name],
        total=total,
        losses=losses,
        rtt=RttStats(),
        kinds=(),
        longest_gap_ns=0,
        unanswered_ns=0,
        serving=OLD,
    )


@dataclass
class Run:
    """The accounts of a run in which all goes as it should; the tests spoil them."""

    injections: dict[int, Injection] = field(default_factory=dict)
    packets: list[PacketEvent] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    summaries: dict[str, SessionSummary] = field(default_factory=dict)
    invalid_reason: str = ""

    def __post_init__(self) -> None:
        may = frozenset({Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
        moved = Effect(FLOWS["A"], frozenset({Kind.REFLEXIVE_IP}), may)
        copied = frozenset({Symptom.DUPLICATES, Symptom.REORDERING})
        self.injections = {
            1: Injection(1, 5 * S, "a node joins", 5 * S, (moved,)),
            2: Injection(
                2, 10 * S, "a port is rewritten", 10 * S, (Effect(FLOWS["B"], frozenset({Kind.REFLEXIVE_PORT})),)
            ),
            3: Injection(3, 15 * S, "probes are dropped", 16 * S, (Effect(FLOWS["C"], frozenset({Symptom.LOSS_UP})),)),
            4: Injection(
                4, 20 * S, "replies are dropped", 21 * S, (Effect(FLOWS["D"], frozenset({Symptom.LOSS_DOWN})),)
            ),
            5: Injection(5, 25 * S, "replies are copied", 26 * S, (Effect(FLOWS["E"], copied),)),
        }
        self.packets = [
            Rerouted(FLOWS["A"], 5 * S + 40 * MS, OLD, REHASHED),
            Rerouted(FLOWS["B"], 10 * S + 40 * MS, OLD, REPORTED),
            Dropped(FLOWS["C"], 15 * S, UP, "fault"),
            Dropped(FLOWS["C"], 15 * S + 100 * MS, UP, "fault"),
            Dropped(FLOWS["D"], 20 * S, DOWN, "fault"),
            Duplicated(FLOWS["E"], 25 * S, DOWN),
            Delayed(FLOWS["E"], 25 * S, DOWN, 250 * MS),
            Delayed(FLOWS["E"], 25 * S + 100 * MS, DOWN, 250 * MS),
        ]
        self.events = [
            ChangeSeen(5 * S + 41 * MS, "A", change(5 * S, OLD, REHASHED)),
            ChangeSeen(10 * S + 41 * MS, "B", change(10 * S, OLD, REPORTED)),
            lost("C", 15 * S, 2),
            lost("D", 20 * S, 1),
        ]
        self.summaries = {
            "A": summary("A"),
            "B": summary("B"),
            "C": summary("C", Losses(up=2)),
            "D": summary("D", Losses(down=1)),
            "E": summary("E", duplicate=1, reordered=2),
            "F": summary("F"),
        }

    def findings(self) -> Findings:
        record = LabRecord(PLAN)
        for name, flow in FLOWS.items():
            record.feed(SessionStarted(0, name, flow))
        for injection in self.injections.values():
            record.inject(injection)
        for packet in self.packets:
            record.log_packet(packet)
        for event in (*self.events, *self.summaries.values()):
            record.feed(event)
        if self.invalid_reason:
            record.invalidate(self.invalid_reason)
        return compare(record)


def test_a_run_in_which_all_agrees_passes() -> None:
    findings = Run().findings()
    assert findings == Findings(
        (
            Row(
                1,
                "node-rehash",
                "a node joins",
                NodeRehash.expects,
                "1 session: reflexive_ip 1, reflexive_port 1, pod 1, node 1, instance 1",
                (),
            ),
            Row(2, "port-rewrite", "a port is rewritten", PortRewrite.expects, "1 session: reflexive_port 1", ()),
            Row(3, "loss-up", "probes are dropped", LossUp.expects, "1 session: lost up 2", ()),
            Row(4, "loss-down", "replies are dropped", LossDown.expects, "1 session: lost down 1", ()),
            Row(
                5,
                "duplicate-reorder",
                "replies are copied",
                DuplicateReorder.expects,
                "1 session: duplicate 1, reordered 2",
                (),
            ),
        ),
        (),
    )
    assert findings.passed


def test_an_injection_is_told_with_the_sessions_that_must_notice() -> None:
    record = LabRecord(PLAN)
    for name, flow in FLOWS.items():
        record.feed(SessionStarted(0, name, flow))
    assert record.inject(Run().injections[2]) == FaultInjected(10 * S, 2, "port-rewrite", "a port is rewritten", ("B",))


def without(run: Run, name: str) -> None:
    """The session saw no change and no loss."""
    run.events = [event for event in run.events if getattr(event, "session", None) != name]
    run.summaries[name] = summary(name)


def spoil_not_injected(run: Run) -> None:
    del run.injections[2]
    del run.packets[1]
    without(run, "B")


def spoil_no_change_seen(run: Run) -> None:
    without(run, "A")


def spoil_change_withdrawn(run: Run) -> None:
    run.events.append(ChangeWithdrawn(6 * S, "A", change(5 * S, OLD, REHASHED), into=2))


def spoil_lab_did_nothing(run: Run) -> None:
    del run.packets[0]
    without(run, "A")


def spoil_wrong_session(run: Run) -> None:
    without(run, "B")
    run.events.append(ChangeSeen(10 * S + 41 * MS, "F", change(10 * S, OLD, REPORTED)))


def spoil_lab_moved_wrong_flow(run: Run) -> None:
    run.packets[1] = replace(run.packets[1], flow=FLOWS["F"])
    without(run, "B")
    run.events.append(ChangeSeen(10 * S + 41 * MS, "F", change(10 * S, OLD, REPORTED)))


def spoil_wrong_kind(run: Run) -> None:
    """The rewrite also moved the pod: the lab did, and the client saw it, but the fault does not allow it."""
    other = REPORTED._replace(pod="pod-3")
    run.packets[1] = Rerouted(FLOWS["B"], 10 * S + 40 * MS, OLD, other)
    run.events[1] = ChangeSeen(10 * S + 41 * MS, "B", change(10 * S, OLD, other))


def spoil_kind_not_seen(run: Run) -> None:
    """The client missed that the pod changed too."""
    run.events[0] = ChangeSeen(5 * S, "A", replace(change(5 * S, OLD, REHASHED), kinds=(Kind.REFLEXIVE_IP,)))


def spoil_wrong_value(run: Run) -> None:
    other = REHASHED._replace(reflexive=TransportAddress("127.1.0.4", 4001))
    run.events[0] = ChangeSeen(5 * S, "A", change(5 * S, OLD, other))


def spoil_wrong_time(run: Run) -> None:
    """Seen a second before the fault."""
    run.events[0] = ChangeSeen(4 * S, "A", change(4 * S, OLD, REHASHED))


def spoil_late_pair(run: Run) -> None:
    """P, with the old identity, was sent after the fault: the pair does not straddle it."""
    run.packets[0] = Rerouted(FLOWS["A"], 8 * S, OLD, REHASHED)
    run.events[0] = ChangeSeen(8 * S, "A", change(8 * S, OLD, REHASHED))


def spoil_extra_change(run: Run) -> None:
    run.events.append(ChangeSeen(7 * S, "F", change(7 * S, OLD, REHASHED)))


def spoil_extra_change_of_touched(run: Run) -> None:
    run.events.append(ChangeSeen(7 * S, "A", change(7 * S, REHASHED, OLD, number=2)))


def spoil_loss_not_seen(run: Run) -> None:
    without(run, "C")


def spoil_loss_other_way(run: Run) -> None:
    run.summaries["C"] = summary("C", Losses(down=2))


def spoil_loss_unknown(run: Run) -> None:
    run.summaries["D"] = summary("D", Losses(unknown=1))


def spoil_loss_of_wrong_session(run: Run) -> None:
    run.events.append(lost("F", 15 * S, 1))
    run.summaries["F"] = summary("F", Losses(up=1))


def spoil_loss_at_another_time(run: Run) -> None:
    run.events[2] = lost("C", 18 * S, 2)


def spoil_no_drops(run: Run) -> None:
    del run.packets[2:4]
    without(run, "C")


def spoil_duplicates_not_counted(run: Run) -> None:
    run.summaries["E"] = summary("E", reordered=2)


def spoil_duplicates_of_wrong_session(run: Run) -> None:
    run.summaries["F"] = summary("F", duplicate=1)


def spoil_reordering_not_counted(run: Run) -> None:
    run.summaries["E"] = summary("E", duplicate=1)


def spoil_too_much_reordering(run: Run) -> None:
    run.summaries["F"] = summary("F", reordered=1)


def spoil_duplicates_turn_red(run: Run) -> None:
    run.events.append(ChangeSeen(25 * S, "E", change(25 * S, OLD, REPORTED)))


def spoil_outage(run: Run) -> None:
    run.events.append(OutageStarted(12 * S, "F", 70, 7 * S, None))


def spoil_wrong_source(run: Run) -> None:
    pod, front = TransportAddress("127.2.0.1", 1), TransportAddress("127.0.0.1", 2)
    run.events.append(WrongSource(12 * S, "F", pod, front, 1, 12 * S, OLD))


def spoil_cross_delivered(run: Run) -> None:
    front = TransportAddress("127.0.0.1", 2)
    run.events.append(CrossDelivered(12 * S, "F", "A", 1, 12 * S, OLD, front))


def spoil_network_error(run: Run) -> None:
    run.events.append(NetworkError(12 * S, "F", 1, "ECONNREFUSED", "127.2.0.1"))


def spoil_duplicate_differs(run: Run) -> None:
    run.events.append(ConflictingDuplicate(12 * S, "F", 1, OLD, REPORTED))


def spoil_client_fault(run: Run) -> None:
    run.events.append(ClientFault(12 * S, "F", ClientFaultKind.SOCKET_DROPS, "3"))


def spoil_no_summary(run: Run) -> None:
    del run.summaries["F"]


def spoil_nothing_answered(run: Run) -> None:
    run.events.append(NoReplies(5 * S, 5 * S))


def spoil_foreign_server(run: Run) -> None:
    run.events.append(ForeignServer(1 * S, None))


def spoil_complaint(run: Run) -> None:
    run.invalid_reason = "the machine is out of sockets"


def spoil_no_session_hit(run: Run) -> None:
    run.injections[3] = Injection(3, 15 * S, "probes are dropped", 16 * S, ())
    del run.packets[2:4]
    without(run, "C")


def spoil_red_not_seen(run: Run) -> None:
    """A fault that must end in an outage, which nobody told of."""
    run.injections[3] = Injection(
        3, 15 * S, "a pod dies", 16 * S, (Effect(FLOWS["C"], frozenset({Symptom.OUTAGE, Symptom.LOSS_UP})),)
    )


KINDS = "reflexive_ip, reflexive_port, pod, node, instance"

SPOILT: list[tuple[Callable[[Run], None], dict[int, list[str]], list[str]]] = [
    (spoil_not_injected, {2: ["it was not injected"]}, []),
    (spoil_no_change_seen, {1: [f"A: it saw no change of {KINDS}"]}, []),
    (spoil_change_withdrawn, {1: [f"A: it saw no change of {KINDS}"]}, []),
    (spoil_lab_did_nothing, {1: ["A: the lab did not change its reflexive_ip"]}, []),
    (
        spoil_wrong_session,
        {2: ["B: it saw no change of reflexive_port"]},
        ["F: it saw a change of reflexive_port that was not made, or not like that"],
    ),
    (
        spoil_lab_moved_wrong_flow,
        {2: ["B: the lab did not change its reflexive_port"]},
        ["F: the lab changed its reflexive_port though no fault asked for it"],
    ),
    (
        spoil_wrong_kind,
        {2: ["B: the lab did not change its reflexive_port"]},
        ["B: the lab changed its reflexive_port, pod though no fault asked for it"],
    ),
    (
        spoil_kind_not_seen,
        {1: [f"A: it saw no change of {KINDS}"]},
        ["A: it saw a change of reflexive_ip that was not made, or not like that"],
    ),
    (
        spoil_wrong_value,
        {1: [f"A: it saw no change of {KINDS}"]},
        [f"A: it saw a change of {KINDS} that was not made, or not like that"],
    ),
    (spoil_wrong_time, {1: ["A: the change that it saw does not lie around the time of the fault"]}, []),
    (spoil_late_pair, {1: ["A: the change that it saw does not lie around the time of the fault"]}, []),
    (spoil_extra_change, {}, [f"F: it saw a change of {KINDS} that was not made, or not like that"]),
    (spoil_extra_change_of_touched, {}, [f"A: it saw a change of {KINDS} that was not made, or not like that"]),
    (spoil_loss_not_seen, {3: ["C: it lost 0 up, 0 down, 0 unknown; dropped were 2 up, 0 down"]}, []),
    (spoil_loss_other_way, {3: ["C: it lost 0 up, 2 down, 0 unknown; dropped were 2 up, 0 down"]}, []),
    (spoil_loss_unknown, {4: ["D: it lost 0 up, 0 down, 1 unknown; dropped were 0 up, 1 down"]}, []),
    (
        spoil_loss_of_wrong_session,
        {},
        [
            "F: it lost 1 up, 0 down, 0 unknown; dropped were 0 up, 0 down",
            "F: it lost 1 probe at a time when no fault dropped any",
        ],
    ),
    (spoil_loss_at_another_time, {}, ["C: it lost 2 probes at a time when no fault dropped any"]),
    (
        spoil_no_drops,
        {3: ["the lab did nothing that makes loss_up: too short a time, or chance (try another seed)"]},
        [],
    ),
    (spoil_duplicates_not_counted, {5: ["E: it counted 0 duplicates; there were 1"]}, []),
    (spoil_duplicates_of_wrong_session, {}, ["F: it counted 1 duplicate; there were 0"]),
    (spoil_reordering_not_counted, {5: ["no session counted a reordered reply"]}, []),
    (spoil_too_much_reordering, {}, ["F: it counted 1 reordered; only 0 were held back"]),
    (
        spoil_duplicates_turn_red,
        {},
        ["E: it saw a change of reflexive_port that was not made, or not like that"],
    ),
    (spoil_outage, {}, ["F: it told of outage, which nothing caused"]),
    (spoil_wrong_source, {}, ["F: it told of wrong_source, which nothing caused"]),
    (spoil_cross_delivered, {}, ["F: it told of cross_delivered, which nothing caused"]),
    (spoil_network_error, {}, ["F: it told of network_error, which nothing caused"]),
    (spoil_duplicate_differs, {}, ["F: it told of duplicate_differs, which nothing caused"]),
    (spoil_client_fault, {}, ["F: it told of client_fault, which nothing caused"]),
    (spoil_no_summary, {}, ["F: it has no summary"]),
    (spoil_nothing_answered, {}, ["no session was answered"]),
    (spoil_foreign_server, {}, ["the pods' replies name no pod"]),
    (spoil_complaint, {}, ["the machine is out of sockets"]),
    (spoil_no_session_hit, {3: ["it touched no session"]}, []),
    (spoil_red_not_seen, {3: ["C: it told of no outage"]}, []),
]


@pytest.mark.parametrize(("spoil", "problems", "unexpected"), SPOILT, ids=[case[0].__name__ for case in SPOILT])
def test_a_run_with_a_flaw_fails_and_names_it(
    spoil: Callable[[Run], None], problems: dict[int, list[str]], unexpected: list[str]
) -> None:
    run = Run()
    spoil(run)
    findings = run.findings()
    assert {row.number: list(row.problems) for row in findings.rows if row.problems} == problems
    assert list(findings.unexpected) == unexpected
    assert not findings.passed


# --- what may differ without being a flaw ----------------------------------------------------------------------------


def test_a_revised_change_counts_as_it_is_in_the_end() -> None:
    run = Run()
    late = replace(change(5 * S, OLD, REHASHED), after=RepliedProbe(70, 7 * S, REHASHED), seen_ns=7 * S)
    right = change(5 * S, OLD, REHASHED)
    run.events[0:1] = [ChangeSeen(7 * S, "A", late), ChangeRevised(7 * S, "A", right, late)]
    assert run.findings().passed


def test_two_moves_between_two_answered_probes_are_one_change() -> None:
    run = Run()
    again = REHASHED._replace(reflexive=TransportAddress("127.1.0.4", 5000))
    run.injections[2] = Injection(
        2,
        10 * S,
        "a port is rewritten",
        10 * S,
        (*run.injections[2].effects, Effect(FLOWS["A"], frozenset({Kind.REFLEXIVE_PORT}))),
    )
    run.packets.insert(1, Rerouted(FLOWS["A"], 10 * S + 40 * MS, REHASHED, again))
    both = replace(
        change(5 * S, OLD, again), after=RepliedProbe(102, 10 * S + 40 * MS, again), seen_ns=10 * S + 41 * MS
    )
    run.events[0] = ChangeSeen(10 * S, "A", both)
    findings = run.findings()
    assert [row.problems for row in findings.rows] == [()] * 5
    assert findings.passed


def test_losses_may_be_of_unknown_direction_where_duplicates_blur_the_count() -> None:
    run = Run()
    run.injections[4] = Injection(
        4,
        20 * S,
        "replies are dropped",
        21 * S,
        (*run.injections[4].effects, Effect(FLOWS["E"], frozenset({Symptom.LOSS_DOWN}))),
    )
    run.packets.append(Dropped(FLOWS["E"], 20 * S, DOWN, "fault"))
    run.events.append(lost("E", 20 * S, 1))
    run.summaries["E"] = summary("E", Losses(unknown=1), duplicate=1, reordered=2)
    assert run.findings().passed


def test_losses_may_be_of_unknown_direction_where_the_address_changes() -> None:
    run = Run()
    run.injections[1] = replace(
        run.injections[1],
        effects=(replace(run.injections[1].effects[0], must=frozenset({Kind.REFLEXIVE_IP, Symptom.LOSS_DOWN})),),
    )
    run.packets.append(Dropped(FLOWS["A"], 5 * S, DOWN, "fault"))
    run.events.append(lost("A", 5 * S, 1))
    run.summaries["A"] = summary("A", Losses(unknown=1))
    assert run.findings().passed


def test_an_expected_alert_is_no_flaw() -> None:
    run = Run()
    run.injections[3] = Injection(
        3, 15 * S, "a pod dies", 16 * S, (Effect(FLOWS["C"], frozenset({Symptom.OUTAGE, Symptom.LOSS_UP})),)
    )
    run.events.append(OutageStarted(16 * S, "C", 150, 15 * S, None))
    findings = run.findings()
    assert findings.passed
    assert findings.rows[2].seen == "1 session: lost up 2, outage 1"


def common_run(*losses: Losses) -> Findings:
    """A fault that hits whom it hits: some session must see a loss, and any may."""
    record = LabRecord([Mtu(at_ns=10 * S)])
    record.inject(Injection(1, 10 * S, "done", 1 << 62, must_somewhere=frozenset({Symptom.LOSS_UP}), may=LOST))
    for name, lost_by in zip(FLOWS, losses, strict=False):
        record.feed(SessionStarted(0, name, FLOWS[name]))
        for number in range(lost_by.total):
            record.log_packet(Dropped(FLOWS[name], 11 * S + number, UP, "mtu"))
        record.feed(summary(name, lost_by))
    return compare(record)


def test_a_fault_that_hits_whom_it_hits_must_show_somewhere() -> None:
    findings = common_run(Losses(), Losses(up=3), Losses(unknown=2))
    assert findings.passed
    assert findings.rows[0].seen == "2 sessions: lost up 3, lost (direction unknown) 2"
    (row,) = common_run(Losses(), Losses(unknown=2)).rows
    assert row.problems == ("no session saw loss_up",)


def test_a_quiet_fault_must_show_nowhere() -> None:
    record = LabRecord([PodAdded(at_ns=10 * S)])
    record.inject(Injection(1, 10 * S, "a pod joins", 10 * S, unobservable=True))
    assert compare(record).rows == (Row(1, "pod-added", "a pod joins", PodAdded.expects, "nothing", ()),)
