"""The rule of the client's NAT by example: what excludes it, what a reference says, and how it is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    Certainty,
    Change,
    ChangeSeen,
    ChangeWithdrawn,
    ClientFault,
    ClientFaultKind,
    Counts,
    Diagnosis,
    Event,
    FirstAnswer,
    IncidentClosed,
    Judgement,
    Losses,
    NodeAddresses,
    Outcome,
    PoolConfirmed,
    PoolObserved,
    ProbesLost,
    ReferenceResult,
    RepliedProbe,
    RttStats,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    Verdict,
)
from affinity_tester.core.identity import Identity, differing
from affinity_tester.core.judging import address_history
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from pools import ComparingAnalysis, judged_cases, texts

MS = 1_000_000
S = 1_000 * MS
INTERVAL = 100 * MS
END = 40 * S
TARGETS = [TransportAddress(f"203.0.113.{n}", 3478) for n in (7, 8)]
REFERENCE = TransportAddress("198.18.0.1", 3478)
OWN = "192.168.0.9"
UNKNOWN, VIOLATION, CLIENTS = Judgement.UNKNOWN, Judgement.VIOLATION, Judgement.CLIENT
POSSIBLE, LIKELY = Certainty.POSSIBLE, Certainty.LIKELY

At = tuple[str, int]
"""A reflexive address."""


class Run:
    """Sessions that are at (IP, port, pod, node) and change; all that is told of them, in order."""

    def __init__(
        self,
        sessions: int = 10,
        *,
        spec: tuple[str, str] | None = None,
        nodes: int | None = 2,
        own: str = OWN,
        targets: int = 1,
        reference: bool = False,
    ) -> None:
        started = RunStarted(
            0, 0, 0, "0", TARGETS[0], "x", sessions, INTERVAL, 2 * S, 288, connected=False, lost_guarantees=()
        )
        self.events: list[Event] = [replace(started, reference=REFERENCE if reference else None)]
        self.watched = spec is not None
        if spec is not None:
            endpoints = frozenset(Endpoint(f"uid-{p}", p, f"10.1.0.{n}", f"n{n}") for n, p in enumerate("abc", 1))
            pairs = (("externalTrafficPolicy", spec[0]), ("sessionAffinity", spec[1]))
            self.add(PoolObserved(0, -20 * S, -20 * S, PoolSnapshot(endpoints, pairs), -20 * S))
            if nodes is not None:
                self.add(NodeAddresses(0, tuple((f"10.0.0.{n}", f"n{n}") for n in range(1, nodes + 1))))
        self.names = [f"CLIENT-{n}" for n in range(sessions)]
        self.at: dict[str, Identity] = {}
        self.numbers = dict.fromkeys(self.names, 0)
        for n, name in enumerate(self.names):
            target = None if targets == 1 else TARGETS[n % targets]
            self.add(SessionStarted(0, name, TransportAddress(own, 50_000 + n), target))

    def add(self, event: Event) -> None:
        self.events.append(event)

    def begin(self, *at: tuple[str, int, str, str], names: list[str] | None = None) -> Run:
        """Let each session be answered at one second, as these say in turn."""
        for n, name in enumerate(names or self.names):
            ip, port, pod, node = at[n % len(at)]
            self.at[name] = Identity(TransportAddress(ip, port + n), pod, node, pod.encode())
            self.add(FirstAnswer(S, name, 0, self.at[name]))
        return self

    def move(
        self, at: int, *to: tuple[str, int, str, str], names: list[str] | None = None, apart: int = 5 * MS
    ) -> list[Change]:
        """Let sessions change at this time, one after the other."""
        found = []
        for n, name in enumerate(self.names if names is None else names):
            ip, port, pod, node = to[n % len(to)]
            old, new = self.at[name], Identity(TransportAddress(ip, port + n), pod, node, pod.encode())
            self.at[name], self.numbers[name] = new, self.numbers[name] + 1
            sent, seq = at + n * apart, (at + n * apart) // INTERVAL
            before, after = RepliedProbe(seq, sent - INTERVAL, old), RepliedProbe(seq + 1, sent, new)
            change = Change(self.numbers[name], differing(old, new), before, after, sent + MS, INTERVAL, sent + MS)
            found.append(change)
            self.add(ChangeSeen(sent + MS, name, change))
        return found

    def ask(self, name: str, *answers: tuple[int, At | None]) -> Run:
        """The reference is asked at these times."""
        for sent, mapped in answers:
            self.add(ReferenceResult(sent + MS, name, sent, None if mapped is None else TransportAddress(*mapped)))
        return self

    def play(self) -> Run:
        """Let all events come in the order of their times."""
        total = Counts(sent=4_000, answered=4_000, pairs=3_990)
        self.add(SendingStopped(END, interrupted=False))
        self.add(RunSummary(END + S, END, total, Losses(), RttStats(), (), 0))
        if self.watched:
            self.add(PoolConfirmed(END + 12 * S, END + 12 * S - 1))
        self.add(RunEnded(END + 13 * S, aborted=False))
        analysis = ComparingAnalysis(Rules())
        self.told: list[Event] = []
        for event in sorted(self.events, key=lambda event: event.at_ns):
            self.told += analysis.feed(event)
        return self

    @property
    def judged(self) -> dict[str, CaseJudged]:
        return {event.session: event for _, event in judged_cases(self.told, Change)}

    @property
    def classes(self) -> set[Judgement]:
        return {event.judgement for event in self.judged.values()}

    @property
    def reasons(self) -> set[tuple[str, ...]]:
        return {texts(event.reasons) for event in self.judged.values()}

    @property
    def diagnoses(self) -> list[Diagnosis]:
        return [d for event in self.told if isinstance(event, IncidentClosed) for d in event.incident.diagnoses]

    @property
    def named(self) -> list[tuple[str, Certainty]]:
        return [(d.name, d.certainty) for d in self.diagnoses]

    @property
    def verdict(self) -> Verdict:
        return next(event for event in self.told if isinstance(event, Verdict))


CLUSTER, LOCAL, STICKY = ("Cluster", "None"), ("Local", "None"), ("Cluster", "ClientIP")
N1, N2 = ("10.0.0.1", 1000, "b", "n2"), ("10.0.0.2", 1000, "a", "n1")
NEW1, NEW2 = ("10.0.0.1", 2000, "b", "n2"), ("10.0.0.2", 2000, "a", "n1")
PUBLIC, OTHER = ("198.51.100.1", 1000, "a", "n1"), ("198.51.100.2", 1000, "a", "n1")
ALL = "all 10 sessions changed within a second, and nothing excludes the client's own NAT"


@pytest.mark.parametrize("spec", [None, CLUSTER])
def test_all_that_change_together_may_be_the_clients_nat(spec: tuple[str, str] | None) -> None:
    run = Run(spec=spec).begin(N1)
    run.move(10 * S, NEW1)
    run.play()
    assert run.classes == {UNKNOWN}
    assert run.reasons == {(f"{ALL} (--reference settles it)",)}
    assert run.named == [("client-nat", POSSIBLE), ("flow-wipe", POSSIBLE)]
    assert {d.missing for d in run.diagnoses} == {
        "a second STUN server, asked from the same sockets (--reference HOST)"
    }
    assert run.verdict.outcome is Outcome.INCONCLUSIVE
    assert "10 changes may be the client's own NAT: --reference HOST settles it" in run.verdict.reasons


def test_two_changes_of_a_second_are_one_move_and_a_withdrawn_one_is_none() -> None:
    run = Run().begin(N1)
    run.move(10 * S, NEW1)
    run.move(10 * S + 600 * MS, ("10.0.0.1", 3000, "c", "n3"))
    (gone,) = run.move(11 * S, ("10.0.0.1", 4000, "c", "n3"), names=["CLIENT-9"])
    run.add(ChangeWithdrawn(11 * S + 50 * MS, "CLIENT-9", gone, into=2))
    assert run.play().classes == {UNKNOWN}


# --- what excludes it ------------------------------------------------------------------------------------------------------


def test_a_session_that_kept_its_address_excludes_it() -> None:
    run = Run(12).begin(N1)
    run.move(10 * S, NEW1, names=run.names[:10])
    run.move(25 * S, NEW1, names=run.names[10:])  # later, so until then it kept its own
    assert run.play().classes == {VIOLATION}


def test_a_session_that_kept_its_address_until_the_run_ended_excludes_it() -> None:
    """It is not known of a whole second, and a NAT that forgets its mappings forgets them at once."""
    run = Run(12).begin(N1)
    run.move(END - 600 * MS, NEW1, names=run.names[:10])
    assert run.play().classes == {VIOLATION}

    run = Run(12).begin(N1)
    run.move(END - 60 * MS, NEW1, names=run.names[:10])  # the others had no probe after it
    assert run.play().classes == {UNKNOWN}


def test_the_few_that_had_a_probe_after_it_when_the_run_ended_may_be_all() -> None:
    """What the others would have shown is not known, so that it is no chance that these are one node's."""
    run = Run(12).begin(N1)
    run.move(END - 60 * MS, NEW1, names=run.names[:2])
    assert run.play().classes == {UNKNOWN}


def test_the_few_that_were_answered_before_it_when_the_run_began_may_be_all() -> None:
    run = Run(12).begin(N1)
    for n, event in enumerate(run.events):
        if isinstance(event, FirstAnswer) and event.session not in run.names[:2]:
            run.events[n] = replace(event, at_ns=S + 90 * MS)
    for n, event in enumerate(run.events):
        if isinstance(event, SessionStarted):
            run.events[n] = replace(event, at_ns=S - 50 * MS)
    run.move(S + 120 * MS, NEW1, names=run.names[:2])
    assert run.play().classes == {UNKNOWN}


def test_one_that_began_later_and_changed_in_a_later_event_does_not_hide_the_first() -> None:
    run = Run(24).begin(N1)
    for n, event in enumerate(run.events):
        if isinstance(event, SessionStarted) and int(event.session[7:]) % 2:
            run.events[n] = replace(event, local=TransportAddress("192.168.1.9", event.local.port))
        if isinstance(event, FirstAnswer) and event.session == "CLIENT-22":
            run.events[n] = replace(event, at_ns=10 * S + 500 * MS)
    (lossy,) = run.move(11 * S + 900 * MS, NEW1, names=["CLIENT-0"])
    long = replace(lossy, before=lossy.before._replace(sent_ns=9 * S))
    run.events[-1] = replace(run.events[-1], change=long)
    run.move(10 * S, ("10.0.0.1", 2001, "b", "n2"), names=run.names[2:22:2])
    run.move(10 * S + 300 * MS, ("10.0.0.1", 2101, "b", "n2"), names=run.names[1::2])
    run.move(12 * S + 900 * MS, ("10.0.0.1", 3000, "c", "n3"), names=["CLIENT-22"])
    run.play()
    assert run.judged["CLIENT-0"].judgement is UNKNOWN
    assert run.judged["CLIENT-22"].judgement is VIOLATION


@pytest.mark.parametrize(("kept", "found"), [(0, {UNKNOWN}), (1, {VIOLATION})])
def test_of_a_few_sessions_at_each_of_the_clients_addresses_all_are_compared(kept: int, found: set[Judgement]) -> None:
    run = Run(12).begin(N1)
    for n, event in enumerate(run.events):
        if isinstance(event, SessionStarted) and int(event.session[7:]) % 2:
            run.events[n] = replace(event, local=TransportAddress("192.168.1.9", event.local.port))
    run.move(10 * S, NEW1, names=run.names[kept:])
    assert run.play().classes == found


def test_the_two_addresses_of_one_node_are_not_two_that_were_kept() -> None:
    bridge = ("10.9.0.1", 1000, "a", "n1")
    run = Run(8, spec=CLUSTER).begin(N1, *[N1] * 6, bridge)
    run.move(10 * S, NEW1, *[NEW1] * 6, ("10.9.0.1", 2000, "a", "n1"))
    assert run.play().classes == {UNKNOWN}


def test_a_session_that_changed_its_pod_alone_kept_its_address() -> None:
    run = Run(12).begin(N1)
    run.move(10 * S, NEW1, names=run.names[:11])
    run.move(10 * S, ("10.0.0.1", 1011, "c", "n3"), names=["CLIENT-11"])
    assert run.play().classes == {VIOLATION}


def test_one_that_is_silent_or_was_never_answered_or_began_later_excludes_nothing() -> None:
    run = Run(13)
    run.begin(N1, names=run.names[:12])
    run.move(10 * S, NEW1, names=run.names[:10])
    for first in range(90, 400):
        sent = first * INTERVAL
        run.add(ProbesLost(sent + 2 * S, "CLIENT-11", first, 1, sent, sent))
    begun = run.events.index(next(e for e in run.events if isinstance(e, FirstAnswer) and e.session == "CLIENT-10"))
    run.events[begun] = replace(run.events[begun], at_ns=10 * S + 500 * MS)
    assert run.play().classes == {UNKNOWN}


@pytest.mark.parametrize("own", ["81.2.69.142", "2a00:1450::1"])
def test_a_global_address_is_not_translated(own: str) -> None:
    run = Run(own=own).begin(N1)
    run.move(10 * S, NEW1)
    assert run.play().classes == {VIOLATION}


@pytest.mark.parametrize("own", ["100.64.3.4", "fd00::9", "10.0.0.9"])
def test_a_carriers_address_or_a_local_one_of_ipv6_may_be(own: str) -> None:
    run = Run(own=own).begin(N1)
    run.move(10 * S, NEW1)
    assert run.play().classes == {UNKNOWN}


@pytest.mark.parametrize("spec", [None, LOCAL])
def test_where_pods_see_the_clients_own_ip_nobody_translates(spec: tuple[str, str] | None) -> None:
    run = Run(spec=spec).begin((OWN, 1000, "a", "n1"))
    run.move(10 * S, (OWN, 2000, "a", "n1"))
    assert run.play().classes == {VIOLATION}
    assert run.named == [("port-rewrite", LIKELY)]
    assert "pods see the client's own IP, so no masquerade drew the port anew" in run.diagnoses[0].evidence


@pytest.mark.parametrize("back", [False, True])
def test_a_node_that_begins_or_ceases_to_masquerade_is_no_nat_of_the_clients(*, back: bool) -> None:
    """As where a Service's policy is changed: pods see the client's own IP on one side."""
    shown = (OWN, 1000, "a", "n1")
    run = Run(spec=CLUSTER).begin(shown if back else N1)
    run.move(10 * S, N1 if back else shown)
    assert run.play().classes == {VIOLATION}


def test_seven_sessions_may_be_one_nodes_and_are_named_by_what_fits() -> None:
    run = Run(7, spec=CLUSTER).begin(PUBLIC)
    run.move(10 * S, OTHER)
    assert run.play().classes == {VIOLATION}
    assert run.named == [("client-nat", LIKELY)]
    unwatched = Run(7).begin(PUBLIC)
    unwatched.move(10 * S, OTHER)
    assert ("client-nat", POSSIBLE) in unwatched.play().named


def test_sessions_that_keep_two_nodes_were_not_hashed_anew() -> None:
    run = Run(spec=CLUSTER).begin(N1, N2)
    run.move(10 * S, NEW1, NEW2)
    assert run.play().classes == {VIOLATION}


def test_two_targets_of_one_node_each_say_nothing_of_a_hash() -> None:
    run = Run(spec=CLUSTER, targets=2).begin(N1, N2)
    run.move(10 * S, NEW1, NEW2)
    assert run.play().classes == {UNKNOWN}


def test_the_two_addresses_of_a_node_are_one_place() -> None:
    bridge1, bridge2 = ("10.9.0.1", 2000, "a", "n1"), ("10.9.0.2", 2000, "b", "n2")
    run = Run(16, spec=CLUSTER).begin(N1, N2)
    run.move(10 * S, bridge1, bridge2)
    assert run.play().classes == {VIOLATION}


@pytest.mark.parametrize("to", [[NEW2], [NEW2, ("10.0.0.3", 2000, "c", "n3")]])
def test_sessions_at_another_node_were_hashed_anew(to: list[tuple[str, int, str, str]]) -> None:
    run = Run(spec=STICKY, nodes=3).begin(N1)
    run.move(10 * S, *to)
    assert run.play().classes == {UNKNOWN}


def test_all_that_meet_at_one_other_node_were_not_hashed() -> None:
    run = Run(spec=CLUSTER).begin(N1)
    run.move(10 * S, NEW2)
    assert run.play().classes == {VIOLATION}
    gathered = Run(spec=STICKY, nodes=3).begin(N1, N2)
    gathered.move(10 * S, ("10.0.0.3", 2000, "a", "n1"))
    assert gathered.play().classes == {VIOLATION}
    spread = Run(spec=CLUSTER, nodes=3).begin(N1, N2)
    spread.move(10 * S, NEW2, NEW1, NEW1)
    assert spread.play().classes == {UNKNOWN}


def test_no_nat_gives_back_at_once_what_it_took() -> None:
    run = Run().begin(N1)
    run.move(10 * S, NEW2)
    run.move(10 * S + 300 * MS, N1)
    assert run.play().classes == {VIOLATION}


def test_a_few_that_changed_while_the_others_were_silent_are_too_few() -> None:
    run = Run(10).begin(N1)
    run.move(10 * S, NEW1, names=run.names[:5])
    for name in run.names[5:]:
        run.add(ProbesLost(42 * S, name, 90, 310, 9 * S, 40 * S))
    assert run.play().classes == {VIOLATION}


def test_changes_that_no_second_holds_are_not_together() -> None:
    run = Run(12).begin(N1)
    for at, names in ((10 * S, run.names[:4]), (11 * S, run.names[4:8]), (11 * S + 900 * MS, run.names[8:])):
        run.move(at, NEW1, names=names, apart=0)
    assert run.play().classes == {VIOLATION}


def test_memory_of_places_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_history, "_MAX_PLACES", 1)
    run = Run(16, spec=CLUSTER).begin(N1, N2)
    run.move(10 * S, ("10.9.0.1", 2000, "a", "n1"), ("10.9.0.2", 2000, "b", "n2"))
    assert run.play().classes == {UNKNOWN}  # which two addresses are one node's is forgotten


# --- policy Local ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nodes", "certainty"), [(2, LIKELY), (None, POSSIBLE)])
def test_an_address_that_no_proxy_moves_is_moved_before_the_cluster(nodes: int | None, certainty: Certainty) -> None:
    run = Run(12, spec=LOCAL, nodes=nodes).begin(PUBLIC)
    run.move(10 * S, OTHER, names=run.names[:3])
    assert run.play().classes == {UNKNOWN}
    assert run.named == [("client-nat", certainty)]
    assert run.reasons == {
        ("under policy Local no proxy moves an address, and neither 198.51.100.1 nor 198.51.100.2 is a node's",)
    }


def test_the_spec_counts_as_it_was_then() -> None:
    run = Run(12, spec=LOCAL).begin(PUBLIC)
    run.move(10 * S, OTHER, names=run.names[:3])
    pool = next(event for event in run.events if isinstance(event, PoolObserved)).snapshot
    later = PoolSnapshot(pool.endpoints, (("externalTrafficPolicy", "Cluster"), ("sessionAffinity", "None")))
    run.add(PoolObserved(30 * S, 29 * S, 30 * S, later, 29 * S))
    assert run.play().classes == {UNKNOWN}


# --- the client's machine, and records that lack something -----------------------------------------------------------------


def test_a_machine_with_another_address_accuses_nobody() -> None:
    run = Run(3).begin(N1)
    run.move(10 * S, NEW1)
    run.add(ClientFault(10 * S, "CLIENT-1", ClientFaultKind.LOCAL_ADDRESS, "changed"))
    assert run.play().classes == {CLIENTS}
    assert run.reasons == {("this machine's own address changed or was gone",)}
    assert "3 changes or outages of the client's own making" in run.verdict.reasons
    assert run.verdict.judged_pairs == 3_987


def test_a_session_whose_start_the_record_lacks_is_judged_as_ever() -> None:
    run = Run().begin(N1)
    run.move(10 * S, NEW1)
    run.events = [event for event in run.events if not isinstance(event, SessionStarted)]
    assert run.play().classes == {VIOLATION}


# --- the reference ---------------------------------------------------------------------------------------------------------

X, Y = ("198.51.100.1", 1000), ("198.51.100.1", 7000)


def test_what_the_reference_sees_move_too_is_the_clients() -> None:
    run = Run(reference=True).begin(N1)
    run.move(10 * S, NEW1)
    for name in run.names[:8]:
        run.ask(name, (9 * S, X), (10 * S + 400 * MS, Y), (11 * S, Y))
    assert run.play().classes == {CLIENTS}  # those that were not asked, by their siblings
    assert run.reasons == {
        ("the client's own NAT: the reference saw 198.51.100.1:1000 -> 198.51.100.1:7000 then, too",)
    }
    assert run.named == [("client-nat", LIKELY)]
    assert (
        "the reference 198.18.0.1:3478 saw 198.51.100.1:1000 -> 198.51.100.1:7000 then, too"
        in run.diagnoses[0].evidence
    )
    assert run.verdict.outcome is Outcome.PASS


def test_what_stays_at_the_reference_is_the_clusters_where_pods_had_seen_it() -> None:
    run = Run(spec=LOCAL, reference=True).begin(PUBLIC)
    for n, name in enumerate(run.names[:8]):
        run.ask(name, *((at * S, ("198.51.100.1", 1000 + n)) for at in (8, 10, 12)))
    run.move(10 * S, OTHER, names=run.names[:3])
    assert run.play().classes == {VIOLATION}
    stayed = "the reference saw 198.51.100.1:1000 throughout, as pods had: the client's NAT did not move"
    assert ("no endpoint had changed", stayed) in run.reasons


def test_what_pods_saw_last_is_what_the_reference_is_compared_with() -> None:
    run = Run(3, spec=LOCAL, reference=True).begin(PUBLIC)
    run.move(10 * S, OTHER)
    run.move(20 * S, ("198.51.100.3", 1000, "a", "n1"))
    for n, name in enumerate(run.names):
        old, new = ("198.51.100.1", 1000 + n), ("198.51.100.2", 1000 + n)
        run.ask(name, (9 * S, old), (10 * S + 500 * MS, new), (18 * S, new), (22 * S, new))
    assert run.play().classes == {VIOLATION}
    told = [event.judgement for _, event in judged_cases(run.told, Change)]
    assert sorted(told) == [CLIENTS] * 3 + [VIOLATION] * 3


def test_what_pods_saw_later_says_nothing_of_the_time_before() -> None:
    run = Run(3, spec=LOCAL, reference=True).begin(PUBLIC)
    run.move(10 * S, OTHER)
    run.move(12 * S, ("198.51.100.3", 1000, "a", "n1"))
    run.ask("CLIENT-0", *((at * S, ("198.51.100.1", 1000)) for at in (8, 10, 11, 13)), (15 * S, ("198.51.100.1", 1000)))
    run.play()
    told = [event.judgement for _, event in judged_cases(run.told, Change)]
    assert sorted(told) == [UNKNOWN] * 3 + [VIOLATION] * 3


def test_a_few_sessions_without_an_answer_of_the_reference_are_judged_as_ever() -> None:
    run = Run(3, reference=True).begin(N1)
    run.move(10 * S, NEW1)
    assert run.play().classes == {VIOLATION}


def test_what_stays_there_alone_excludes_nothing_and_makes_the_clusters_fault_likely() -> None:
    run = Run(reference=True).begin(N1)
    run.move(10 * S, NEW1)
    run.ask("CLIENT-0", *((at * S, X) for at in (8, 10, 12)))
    assert run.play().classes == {UNKNOWN}
    assert run.reasons == {
        (f"{ALL}; the reference does not settle it", "the reference saw 198.51.100.1:1000 throughout")
    }
    assert run.named == [("flow-wipe", LIKELY), ("client-nat", POSSIBLE)]
    assert "10 changes may be the client's own NAT: the reference did not settle it" in run.verdict.reasons


@pytest.mark.parametrize(
    "answers",
    [
        [[(8 * S, X), (10 * S + S // 2, Y)], [(8 * S, X), (12 * S, X)]],  # they contradict each other
        [[(2 * S, X), (10 * S, Y)]],  # too far apart to say when
        [[(8 * S, X), (9 * S, None)]],  # nothing after it
        [[(11 * S, X)]],  # nothing before it
        [[(8 * S, None)]],
    ],
)
def test_a_reference_that_says_nothing_sure_settles_nothing(answers: list[list[tuple[int, At | None]]]) -> None:
    run = Run(reference=True).begin(N1)
    run.move(10 * S, NEW1, apart=0)
    for name, mine in zip(run.names[8:], answers, strict=False):
        run.ask(name, *mine)
    run.play()
    assert run.judged["CLIENT-0"].judgement is UNKNOWN
    assert run.named == [("client-nat", POSSIBLE), ("flow-wipe", POSSIBLE)] or len(answers) == 2


@pytest.mark.parametrize("ends", [True, False])
def test_a_blackout_that_the_reference_shares_is_the_clients_link(ends: bool) -> None:
    run = Run(reference=True).begin(N1)
    for name in run.names:
        for first in range(100, 180):
            sent = first * INTERVAL
            run.add(ProbesLost(sent + 2 * S, name, first, 1, sent, sent))
    run.ask("CLIENT-0", (9 * S, X), *((at * S, None) for at in (11, 12, 13, 14, 15)))
    run.add(BlackoutStarted(15 * S, 10 * S, 10))
    if ends:
        run.add(BlackoutEnded(18 * S, 10 * S, 18 * S, 800, 3))
    run.play()
    (diagnosis,) = run.diagnoses
    assert diagnosis.certainty is Certainty.CANNOT_TELL
    assert diagnosis.evidence[-1] == "the reference 198.18.0.1:3478 was not answered either: the client's own link"
    assert any(reason.endswith(", nor was the reference: the client's own link") for reason in run.verdict.reasons)
