"""What one fact more or less changes in a diagnosis: names in replies, gaps of the watch, what was heard meanwhile."""

from __future__ import annotations

from diagnosing import MS, TARGET, Action, S, World
from network_faults import (
    answered,
    balancer_made_anew,
    entries_stay,
    every_time_anew,
    new_ports,
    no_spray,
    rehash_local,
    silent,
    spray,
    wipe,
    world,
)

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis import RunHistory, diagnose_run
from affinity_tester.core.events import (
    Certainty,
    ClusterAction,
    ClusterSubject,
    ConflictingDuplicate,
    Counts,
    Diagnosis,
    FirstAnswer,
    Losses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RttStats,
    SessionStarted,
    SessionSummary,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot

LIKELY, POSSIBLE, CANNOT_TELL = Certainty


def evidence_of(w: World, name: str) -> tuple[str, ...]:
    """The evidence of the last diagnosis of this name."""
    return next(d.evidence for d in reversed(w.run().diagnoses) if d.name == name)


def nameless(_world: World, _session: int, _seq: int, who: Identity) -> Identity:
    """A STUN server of another make answers."""
    return Identity(who.reflexive, software="coturn")


# --- replies that say less -----------------------------------------------------------------------------------------------


def test_behind_one_nat_a_move_to_another_node_may_be_a_rehash_or_a_wipe() -> None:
    def natted(w: World, session: int, _seq: int, who: Identity) -> Identity:
        return who._replace(reflexive=TransportAddress("198.51.100.1", w.flow(session).port))

    w = world((4, rehash_local), watched=False, local=True, pods=6, reply=natted).run()
    assert w.named == [("node-rehash", POSSIBLE), ("flow-wipe", POSSIBLE)]


def test_without_reflexive_addresses_a_wipe_has_no_cohort() -> None:
    w = world((4, wipe), watched=False, reply=lambda _w, _s, _q, who: who._replace(reflexive=None))
    assert evidence_of(w, "flow-wipe")[0] == "2 of 12 sessions; their old reflexive IPs are not known"


def test_a_server_without_pod_names_shows_a_rehash_and_a_blocked_flow() -> None:
    rehash: Action = lambda w: w.move(range(4), node=4)  # noqa: E731 - a action like the others
    assert world((4, rehash), watched=False, reply=nameless).run().named == [("node-rehash", LIKELY)]
    assert world((4, silent(1)), watched=False, seconds=18, reply=nameless).run().named == [("stale-flow", LIKELY)]
    ports = world((4, new_ports(*range(12))), watched=False, reply=nameless).run()
    assert ports.named == [("flow-wipe", POSSIBLE), ("port-rewrite", POSSIBLE)]


class Reborn(World):
    """A world in which fresh source ports are answered, in turn by each pod, whatever became of the sessions' flows."""

    enters = (1, 2, 3)
    """The nodes by which they come in, in turn."""

    def canary(self, node: int | None = None, pod: str | None = None) -> Identity | None:
        turn = len(self.answered_canaries)
        return super().canary(self.enters[turn % len(self.enters)], f"p{turn % 3 + 1}")


class RebornElsewhere(Reborn):
    enters = (9,)


def all_dead(w: World) -> None:
    w.block(*range(12))


def test_where_all_flows_are_dead_fresh_ports_tell_that_their_entries_are_stale() -> None:
    w = Reborn(watched=True, seconds=16, actions=[(4, all_dead)])
    places = 'node "n1", node "n2", node "n3"'
    assert f"others through {places} were answered all the time" in evidence_of(w, "stale-flow")
    assert w.named == [("stale-flow", LIKELY)]


def test_where_all_flows_are_dead_and_no_fresh_port_comes_in_by_their_nodes_these_are_dead() -> None:
    w = RebornElsewhere(watched=True, seconds=16, actions=[(4, all_dead)])
    said = 'pods "p1", "p2", "p3" went on answering through other nodes'
    assert said in evidence_of(w, "dead-target")
    assert w.named == [("dead-target", LIKELY)]


def test_a_fresh_port_that_is_answered_as_all_come_back_tells_nothing_of_their_entries() -> None:
    def restore(w: World) -> None:
        w.heal()
        w.move(range(12))

    # The first canary is sent 2 s after the silence began, and they come back less than 2 s after it.
    w = Reborn(watched=True, seconds=14, actions=[(4, all_dead), (7, restore)])
    assert "stale-flow" not in [name for name, _ in w.run().named]


def test_a_flow_whose_pod_is_in_the_pool_and_answers_nobody_is_no_stale_one() -> None:
    hangs: Action = lambda w: w.network.dead_pods.add("p1")  # noqa: E731
    w = world((4, hangs), watched=True, seconds=12).run()
    assert w.named == [("pod-silent", LIKELY)]


def test_replies_from_elsewhere_are_what_follows_where_each_packet_goes_elsewhere() -> None:
    w = world((4, lambda w: w.astray(1)), (4, spray()), (6, no_spray), watched=False).run()
    assert w.named == [("packet-spray", LIKELY), ("wrong-source", LIKELY)]


def test_a_session_alone_at_its_node_is_stale_when_its_pod_is_gone() -> None:
    at_home: Action = lambda w: w.move([0], pod="p1")  # noqa: E731 - an action like the others
    w = world((0, at_home), (4, entries_stay), watched=True, sessions=3, seconds=12).run()
    assert w.named == [("stale-flow", LIKELY)]
    gone: Action = lambda w: (w.network.remove_pod("p1", flush=False), w.look())  # noqa: E731
    late: Action = lambda w: w.network.dead_pods.add("p1")  # noqa: E731
    w = world((0, at_home), (1, gone), (6, late), watched=True, sessions=3, seconds=14).run()
    assert w.named == [("stale-flow", LIKELY)]


def test_a_canary_that_is_not_answered_speaks_against_a_blocked_flow() -> None:
    w = world((4, silent(1)), watched=False, seconds=12)
    w.canary = lambda: None  # type: ignore[method-assign]
    (diagnosis,) = w.run().diagnoses
    assert diagnosis.certainty is CANNOT_TELL
    assert "23 test probes from new ports got no answer" in diagnosis.evidence


# --- of one and of several -----------------------------------------------------------------------------------------------


def test_what_one_session_did_is_told_in_the_singular() -> None:
    one = evidence_of(world((4, new_ports(1)), watched=False), "port-rewrite")[0]
    assert one.startswith("1 of 12 sessions has a new reflexive port, the same IP and pod: ")
    dead = evidence_of(world((0, silent(*range(1, 12))), watched=True, local=True, seconds=10), "stale-flow")
    assert dead[:2] == ("11 of 12 sessions were never answered since their first probe", "1 other session is answered")
    race = world(watched=False, is_lost=lambda _w, session, seq: seq == 0 and session % 2 == 0)
    assert evidence_of(race, "first-packet-race") == (
        "6 of 12 sessions lost their first probe, 6 probes in all, and were answered then",
        "0 of the 954 probes after were lost",
    )


# --- what was told meanwhile ---------------------------------------------------------------------------------------------


def test_probes_answered_twice_are_evidence_of_a_spray() -> None:
    twice: Action = lambda w: w.emit(ConflictingDuplicate(w.now, w.name(1), 45, w.identity(1), w.identity(2)))  # noqa: E731
    assert "1 probe answered twice, and differently" in evidence_of(
        world((4, spray()), (5, twice), (6, no_spray), watched=False), "packet-spray"
    )


def test_cluster_events_are_told_in_their_own_words() -> None:
    address: Action = lambda w: w.tell(ClusterSubject.SERVICE, "", ClusterAction.ADDRESS_CHANGED, new=("203.0.113.9",))  # noqa: E731
    w = world((4, balancer_made_anew), (4.1, address), (6, answered), watched=True)
    assert evidence_of(w, "lb-churn")[1:] == (
        'service "media/turn" was changed: annotations 0.0 s before',
        "service: load-balancer address changed none -> 203.0.113.9 0.1 s after",
    )


def test_a_change_ends_only_the_silence_that_it_lies_over() -> None:
    w = world((4, silent(1)), (4.5, answered), (5, silent(1)), (6, answered), (6, new_ports(1)), watched=False).run()
    (incident,) = w.incidents
    assert (incident.bursts, incident.changes) == (2, 1)
    assert incident.diagnoses[0].evidence[1:] == (
        "at 10.0.0.2: 1 of its 4 sessions, 1 with a new port",
        "1 of 12 sessions lost 10 consecutive probes",
        "in gaps of any length 5 are known to be lost towards the pod, 0 on the way back",
        "all with old reflexive IP 10.0.0.2, which had 4 sessions",
        "1 session then went on at the same pod and address",
    )


def test_a_silence_that_a_cut_incident_told_counts_for_the_change_that_ends_it() -> None:
    flips = [(1 + 0.9 * turn, new_ports(0)) for turn in range(75)]
    hushed: Action = lambda w: w.paused.add(1)  # noqa: E731 - a action like the others
    back: Action = lambda w: (w.paused.clear(), w.heal(), w.rewrite(1))  # noqa: E731
    told = [(57.5, silent(1)), (58.5, hushed), (62, back)]
    w = world(*flips, *told, watched=False, sessions=2, seconds=70).run()
    cut, rest = w.incidents[:2]
    assert (cut.continuing, cut.bursts, rest.bursts) == (True, 1, 0)
    assert [d.evidence[0] for d in rest.diagnoses if d.name == "stale-flow"] == [
        '1 of 2 sessions lost every probe for 4.6 s and more, each ended with a change; all had been served by pod "p2"'
    ]


# --- the run as a whole --------------------------------------------------------------------------------------------------


def seen(
    *sessions: tuple[int, Identity | None], affinity: str = "None", policy: str = "Cluster"
) -> tuple[Diagnosis, ...]:
    """What a run is that consists of sessions' first answers."""
    history = RunHistory(Rules(settle_ns=2 * S))
    endpoints = frozenset({Endpoint("u", "p1", "10.1.0.1")})
    spec = (("externalTrafficPolicy", policy), ("sessionAffinity", affinity))
    history.feed(PoolObserved(0, 0, 0, PoolSnapshot(endpoints, spec)))
    for number, (port, who) in enumerate(sessions):
        history.feed(SessionStarted(0, f"CLIENT-{number}", TransportAddress("192.168.0.9", port)))
        if who is not None:
            history.feed(FirstAnswer(MS, f"CLIENT-{number}", 0, who))
    return diagnose_run(history)


def at(pod: str, ip: str, port: int = 50_000) -> Identity:
    return Identity(TransportAddress(ip, port), pod)


def test_a_port_that_was_rewritten_from_the_start_is_information() -> None:
    (diagnosis,) = seen((50_000, at("p1", "192.168.0.9", 61_022)), (50_001, at("p1", "192.168.0.9", 50_001)))
    assert (diagnosis.name, diagnosis.certainty, diagnosis.evidence) == (
        "port-rewrite",
        LIKELY,
        (
            "1 of 2 sessions had another port from the first reply on, such as 192.168.0.9:50000 seen as "
            "192.168.0.9:61022: information, and no break by itself",
        ),
    )
    (behind_nat,) = seen((50_000, at("p1", "198.51.100.1", 61_022)), policy="Local")
    assert (behind_nat.name, behind_nat.certainty) == ("port-rewrite", POSSIBLE)
    assert seen((50_000, at("p1", "10.0.0.1", 61_022))) == ()


def test_affinity_that_each_node_keeps_on_its_own_is_told_so() -> None:
    sessions = [(50_000, at("p1", "10.0.0.1", 1)), (50_001, at("p1", "10.0.0.1", 2)), (50_002, at("p2", "10.0.0.2"))]
    (diagnosis,) = seen(*sessions, (50_003, None), affinity="ClientIP")
    assert diagnosis.evidence == (
        "sessionAffinity is ClientIP, yet the 3 sessions of client IP 192.168.0.9 are served by 2 pods at once: "
        'pods "p1", "p2"',
        "each of the 2 ingress IPs keeps to one pod: each node has its own affinity",
    )
    (one_node,) = seen(*sessions[:2], (50_002, at("p2", "10.0.0.1")), (50_003, Identity(pod="p1")), affinity="ClientIP")
    assert len(one_node.evidence) == 1
    assert seen(*sessions[:2], affinity="ClientIP") == ()
    assert seen((50_000, None), affinity="ClientIP") == ()


def test_a_session_that_is_dead_at_the_end_is_no_spread() -> None:
    history = RunHistory(Rules(settle_ns=2 * S))
    history.feed(PoolObserved(0, 0, 0, PoolSnapshot(frozenset(), (("sessionAffinity", "ClientIP"),))))
    for number, pod in enumerate(("p1", "p2")):
        history.feed(SessionStarted(0, f"CLIENT-{number}", TransportAddress("192.168.0.9", 50_000 + number)))
        history.feed(FirstAnswer(MS, f"CLIENT-{number}", 0, at(pod, "10.0.0.1", number)))
    assert [d.name for d in diagnose_run(history)] == ["client-ip-spread"]
    history.feed(
        SessionSummary(
            9 * S, "CLIENT-1", TARGET, Counts(), Losses(), RttStats(), (), 0, unanswered_ns=6 * S, serving=None
        )
    )
    assert diagnose_run(history) == ()


def test_sessions_that_share_an_address_from_the_start_are_a_collision() -> None:
    (diagnosis,) = seen(
        (50_000, at("p1", "10.0.0.1", 7)), (50_001, at("p1", "10.0.0.1", 7)), (50_002, Identity(pod="p1"))
    )
    assert (diagnosis.name, diagnosis.evidence) == (
        "snat-collision",
        ("2 sessions (CLIENT-0, CLIENT-1) are seen at the same address 10.0.0.1:7 by one pod",),
    )


def test_when_every_session_loses_its_first_probe_it_may_be_no_race() -> None:
    w = world(watched=False, is_lost=lambda _w, _s, seq: seq == 0).run()
    assert w.named == [("first-packet-race", POSSIBLE)]
    w = world(
        watched=False, sessions=40, is_lost=lambda w, s, seq: (s in {1, 2} and seq == 0) or w.rng.random() < 0.05
    ).run()
    assert w.named == []


# --- the watch -----------------------------------------------------------------------------------------------------------


def test_a_gap_of_the_watch_is_closed_by_news_and_undone_by_a_confirmation() -> None:
    history = RunHistory(Rules(settle_ns=2 * S))
    pool = PoolSnapshot(frozenset())
    assert (history.watched, history.unobserved(0, S), history.endpoints("p1", 0, S)) == (False, False, ())
    history.feed(PoolObserved(0, 0, 0, pool))
    history.feed(PoolUnobserved(10 * S, 9 * S, "gone"))
    assert (history.unobserved(0, 8 * S), history.unobserved(0, 9 * S)) == (False, True)
    history.feed(PoolConfirmed(11 * S, 11 * S))
    assert not history.unobserved(0, 20 * S)
    history.feed(PoolUnobserved(20 * S, 19 * S, "gone"))
    history.feed(PoolObserved(25 * S, 19 * S, 25 * S, pool, 24 * S))
    assert (history.unobserved(0, 18 * S), history.unobserved(24 * S, 30 * S), history.unobserved(26 * S, 30 * S)) == (
        False,
        True,
        False,
    )
    assert not history.pool_changed(0, 30 * S)


def test_the_pool_stood_still_only_where_that_is_known() -> None:
    """A wipe within the settle time of the watch's first list: what the pool did before is not known."""
    early = evidence_of(world((1, wipe), watched=True), "flow-wipe")
    assert ("whether an endpoint had changed is not known" in early, "no endpoint had changed" in early) == (
        True,
        False,
    )
    later = evidence_of(world((4, wipe), watched=True), "flow-wipe")
    assert ("whether an endpoint had changed is not known" in later, "no endpoint had changed" in later) == (
        False,
        True,
    )


def test_the_wrong_pool_tells_nothing() -> None:
    history = RunHistory(Rules(settle_ns=2 * S))
    history.feed(PoolObserved(0, 0, 0, PoolSnapshot(frozenset(), (("sessionAffinity", "ClientIP"),))))
    assert history.spec("sessionAffinity") == "ClientIP"
    history.pool_trusted = False
    assert (history.watched, history.spec("sessionAffinity"), history.endpoints("p1", 0, S)) == (False, None, ())


def test_memory_is_bounded() -> None:
    history = RunHistory(Rules(settle_ns=2 * S))
    for number in range(2_000):
        pool = PoolSnapshot(frozenset({Endpoint(f"u{number}", "p", "10.1.0.1")}))
        change = EndpointChange(EndpointAction.JOINED, *pool.endpoints)
        history.feed(PoolObserved(number, number, number, pool, changes=(change,)))
    assert (len(history._snapshots), len(history._snapshots_ns), len(history._pool_changes_ns)) == (1_000, 1_000, 1_000)
    w = world((0, every_time_anew), watched=False, sessions=1, seconds=30).run()
    (session,) = w.analysis._facts.sessions.values()
    assert len(session.identities) == 32


def test_a_session_of_which_nothing_was_heard_changed_at_no_rate() -> None:
    """A record may lack its first answer."""
    history = RunHistory(Rules())
    history.feed(SessionStarted(0, "CLIENT-1", TARGET))
    assert history.change_rate("CLIENT-1") == (0, 1)


def test_a_pool_that_nobody_watches_is_not_known_to_be_empty() -> None:
    assert RunHistory(Rules()).was_empty(0, 1) is False
