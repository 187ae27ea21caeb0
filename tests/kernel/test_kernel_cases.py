"""Faults of the catalogue (docs/failure-modes.md), made with the kernel's own means, leave the signature it says.

Each case does one thing to a lab while the installed client runs, asserts what the client observed, and names all that its
diagnosis must call likely, and all that it must call possible, the fault itself among them: no cluster is watched, so what
only the cluster knows stays possible. Without a name nothing may be diagnosed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import rules
from observed import ADDRESS, Observed, ingress

from affinity_tester.core.diagnosis import equivalents
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from lab import CLIENT_IP, SESSIONS, Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    scenario: Callable[[Lab], Observed]
    likely: set[str]
    possible: set[str]
    perhaps: frozenset[str] = frozenset()
    """What is possible too where chance gave few sessions."""

    def is_named(self, seen: Observed) -> bool:
        """True if the diagnoses are those of the case, as far as chance lets them be told."""
        likely, possible = self.likely, self.possible
        if "node-rehash" in likely and seen.left_altogether:
            likely, possible = set[str](), {"node-rehash", "proxy-tier"}
        return (seen.likely, seen.possible - self.perhaps) == (likely, possible)


CASES: list[Case] = []


def equivalent(*names: str) -> set[str]:
    """Faults that no client can tell apart, as the catalogue declares."""
    assert set(names) <= equivalents(names[0])
    return set(names)


Scenario = Callable[[Lab], Observed]


def case(*likely: str, possible: Iterable[str] = (), perhaps: Iterable[str] = ()) -> Callable[[Scenario], Scenario]:
    """Add a scenario to the table, with what its diagnosis must name."""

    def add(scenario: Scenario) -> Scenario:
        CASES.append(Case(scenario, set(likely), set(possible), frozenset(perhaps)))
        return scenario

    return add


def watch(lab: Lab, act: Callable[[], object] = lambda: None, *options: str, after: int = 12) -> Observed:
    """What a client sees that runs from before `act` until each session has sent `after` probes more."""
    with lab.client(*options) as client:
        client.rounds(5)
        act()
        client.rounds(after)
        return Observed(client.stop())


# --- nothing is wrong ------------------------------------------------------------------------------------------------


@case()
def nothing_done(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"], [])
    lab.proxy()
    lab.balance(1, 2, 3)
    seen = watch(lab, after=20)
    assert (seen.changes, seen.run.total.lost, seen.network_errors, seen.wrong_sources) == ({}, 0, set(), {})
    assert {ingress(who) for who in seen.first.values()} == {1, 2, 3}
    assert {who.pod for who in seen.first.values()} == {"pod-a", "pod-b", "pod-c"}
    assert seen.exit_code == 0
    return seen


@case("pod-restart")
def pod_restarted(lab: Lab) -> Observed:
    """The port is closed for a moment, so ICMP errors come back through two address translations."""
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy()
    lab.balance(1, 2)
    seen = watch(lab, lambda: lab.restart("pod-b"), after=36)  # a server may take two seconds to start beside others
    assert seen.changed == seen.served_by("pod-b")
    assert seen.kinds == {(Kind.INSTANCE,)}
    assert seen.judged == {Judgement.POD_RESTART: len(seen.changed)}
    assert {error for error, _ in seen.network_errors} <= {"ECONNREFUSED"}
    assert seen.exit_code == 0
    return seen


def lossy(lab: Lab, what: str) -> Observed:
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy()
    lab.balance(1, 2)
    lab.nft("balancer", rules.drop(f"{what} numgen random mod 100 < 5"))
    return watch(lab, after=16)


@case()
def requests_lost_at_random(lab: Lab) -> Observed:
    seen = lossy(lab, f"udp dport {rules.PORT}")
    assert seen.changes == {}
    assert seen.run.losses.up > 0
    assert seen.run.losses.down == 0
    assert seen.exit_code == 0
    return seen


@case()
def replies_lost_at_random(lab: Lab) -> Observed:
    seen = lossy(lab, f"udp sport {rules.PORT}")
    assert seen.changes == {}
    assert seen.run.losses.down > 0
    assert seen.run.losses.up == 0
    assert seen.exit_code == 0
    return seen


# --- flows forgotten -------------------------------------------------------------------------------------------------


@case("flow-wipe")
def flows_of_a_node_flushed(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy()
    lab.balance(1, 2)
    seen = watch(lab, lambda: lab.flush("node-1"))
    cohort = seen.entering(1)
    assert seen.changed == cohort != set(seen.locals)
    assert seen.run.total.changes == len(cohort)
    assert all(ADDRESS & set(change.kinds) for change in seen.all_changes)
    assert any(Kind.POD in change.kinds for change in seen.all_changes)
    assert {ingress(change.after.identity) for change in seen.all_changes} == {1}
    # A reply that was under way when its flow was flushed is lost.
    assert seen.lost(cohort) <= len(cohort)
    assert seen.lost(set(seen.locals) - cohort) == 0
    assert seen.judged == {Judgement.VIOLATION: len(cohort)}
    assert seen.exit_code == 1
    return seen


@case(possible=equivalent("flow-wipe", "port-rewrite"))
def flows_of_a_node_flushed_under_client_ip(lab: Lab) -> Observed:
    """Affinity hides the lost flow from anyone who looks at the pod alone."""
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy(client_ip=True)
    for node in lab.nodes:  # each would keep to a pod of its own else, as `client-ip-spread` shows
        lab.remember(node, "pod-a")
    lab.balance(1, 2)
    seen = watch(lab, lambda: lab.flush("node-1"))
    assert seen.changed == seen.entering(1) != set(seen.locals)
    assert seen.kinds == {(Kind.REFLEXIVE_PORT,)}
    assert seen.exit_code == 1
    return seen


@case(possible={*equivalent("client-nat", "flow-wipe"), "client-ip-spread"})
def flows_of_a_nat_on_the_way_flushed(lab: Lab) -> Observed:
    """`masquerade fully-random` draws another port; the balancer's hash and the node's one pod stay.

    Behind a NAT, nodes that serve their own pod alone look as if each had its own affinity.
    """
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy(policy="Local")
    lab.balance(1, 2)
    lab.nft("balancer", rules.nat('"node-*"'))
    seen = watch(lab, lambda: lab.flush("balancer"))
    assert seen.changed == set(seen.locals)
    assert seen.kinds == {(Kind.REFLEXIVE_PORT,)}
    assert {who.reflexive.ip for who in seen.first.values() if who.reflexive} == {"10.30.1.1", "10.30.2.1"}
    assert seen.exit_code == 3  # what a client sees is what its own NAT does: one node may have both addresses
    return seen


@case("idle-expiry")
def a_flow_times_out(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    timeouts = ("net/netfilter/nf_conntrack_udp_timeout", "net/netfilter/nf_conntrack_udp_timeout_stream")
    for node in lab.nodes:
        lab.write(node, 1, *timeouts)
    lab.proxy()
    lab.balance(1, 2)
    idle = ("--interval", "1500ms", "--duration", "6s", "--affinity-window", "1s")
    with lab.client() as steady, lab.client(*idle) as slow:
        seen = Observed(slow.finished())
        beside = Observed(steady.stop())
    assert (beside.changes, beside.exit_code) == ({}, 0)
    assert seen.changed == set(seen.locals)
    assert seen.run.total.changes == seen.run.total.pairs
    assert all(ADDRESS & set(change.kinds) for change in seen.all_changes)
    assert seen.judged == {Judgement.IDLE: seen.run.total.changes}
    assert seen.exit_code == 3  # too few pairs to prove anything
    return seen


# --- a backend goes --------------------------------------------------------------------------------------------------


@case(possible=equivalent("early-flush", "flow-wipe"), perhaps={"proxy-tier", "node-rehash"})
def a_backend_removed_with_its_flows(lab: Lab) -> Observed:
    """Right as it is; only the pool, which no one watches here, could explain it."""
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy()
    lab.balance(1, 2)

    def remove() -> None:
        lab.proxy(without=["pod-c"])
        lab.forget(lab.pods["pod-c"].address)
        lab.delete_pod("pod-c")

    seen = watch(lab, remove)
    moved = seen.served_by("pod-c")
    assert seen.changed == moved
    assert seen.run.total.changes == len(moved)
    assert all(Kind.POD in change.kinds for change in seen.all_changes)
    assert {change.after.identity.pod for change in seen.all_changes} <= {"pod-a", "pod-b"}
    assert seen.lost(moved) <= len(moved)
    assert seen.lost(set(seen.locals) - moved) == 0
    return seen


@case("stale-flow")
def a_backend_removed_without_its_flows(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy()
    lab.balance(1, 2)
    with lab.client() as client:
        client.rounds(5)
        lab.proxy(without=["pod-c"])
        lab.delete_pod("pod-c")
        with lab.client("--duration", "1s") as fresh:
            newcomers = Observed(fresh.finished())
        client.until("session.outage_started")
        client.rounds(30)  # for as many canaries as a sure name needs
        seen = Observed(client.stop())
    assert (newcomers.silent, newcomers.run.total.lost) == (set(), 0)
    dead = seen.served_by("pod-c")
    assert seen.changes == {}
    assert set(seen.outages) == dead
    assert all(outage.last is not None for outage in seen.outages.values())
    assert seen.lost(set(seen.locals) - dead) == 0
    # When node 2 gives up looking for the pod, its word comes back through the masquerade.
    assert {error for error, _ in seen.network_errors} <= {"EHOSTUNREACH"}
    # Without a watch a dead pod is no violation: no affinity keeps a flow on it. What is left is a doubt or, where enough
    # canaries met other pods, a silent pod.
    assert seen.exit_code != 1
    return seen


# --- nodes and the balancer ------------------------------------------------------------------------------------------


@case("node-rehash")
def a_node_joins_the_hash(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"], [])
    lab.proxy()
    lab.balance(1, 2)
    seen = watch(lab, lambda: lab.balance(1, 2, 3))
    assert set() < seen.changed < set(seen.locals)
    assert seen.run.total.changes == len(seen.changed)
    for change in seen.all_changes:
        assert Kind.REFLEXIVE_IP in change.kinds
        assert ingress(change.after.identity) == ingress(change.before.identity) + 1
    assert seen.run.total.lost == 0
    assert seen.exit_code == 1
    return seen


@case("node-rehash")
def a_node_joins_the_hash_under_local(lab: Lab) -> Observed:
    lab.build(["pod-a"], ["pod-b"], ["pod-c"])
    lab.proxy(policy="Local")
    lab.balance(1, 2)
    seen = watch(lab, lambda: lab.balance(1, 2, 3))
    assert set() < seen.changed < set(seen.locals)
    assert seen.kinds == {(Kind.POD, Kind.NODE, Kind.INSTANCE)}
    assert all(who.reflexive == seen.locals[session] for session, who in seen.first.items())
    assert seen.run.total.lost == 0
    return seen


@case(possible=equivalent("vip-failover", "client-nat"))
def the_address_moves_to_another_node(lab: Lab) -> Observed:
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy()
    lab.balance(1)
    with lab.client() as client:
        client.rounds(5)
        lab.ip("balancer", "link set node-1 down")
        client.rounds(4)
        # Node 2's route to the pods of node 1 went with the link.
        lab.proxy(without=["pod-a", "pod-b"])
        lab.balance(2)
        client.rounds(8)
        seen = Observed(client.stop())
    assert seen.changed == seen.entering(1) == set(seen.locals)
    assert {ingress(change.after.identity) for change in seen.all_changes} == {2}
    assert all(change.after.seq - change.before.seq > 2 for change in seen.all_changes)
    return seen


@case("packet-spray")
def a_node_drawn_for_each_packet(lab: Lab) -> Observed:
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy(policy="Local")
    lab.balance(1, 2, spray=True)
    seen = watch(lab)
    assert seen.changed == set(seen.locals)
    assert seen.kinds == {(Kind.POD, Kind.NODE, Kind.INSTANCE)}
    assert seen.run.total.changes > seen.run.total.pairs / 3
    assert seen.run.total.lost == 0
    return seen


@case(possible={"local-policy", "dead-ingress", "pod-silent", "lossy-path"})
def a_node_without_a_pod_under_local(lab: Lab) -> Observed:
    lab.build(["pod-a"], ["pod-b"], [])
    lab.proxy(policy="Local")
    lab.balance(1, 2, 3)
    with lab.client("--balancer-check", "3s") as client:
        client.until("session.outage_judged")
        client.rounds(3)
        seen = Observed(client.stop())
    assert set() < seen.silent < set(seen.locals)
    assert seen.changes == {}
    assert {session: outage.last for session, outage in seen.outages.items()} == dict.fromkeys(seen.silent)
    assert {outage.since_seq for outage in seen.outages.values()} == {0}
    assert seen.lost(seen.first) == 0
    assert all(who.reflexive == seen.locals[session] for session, who in seen.first.items())
    assert seen.exit_code == 1
    return seen


@case(possible={"client-ip-spread"})
def one_client_ip_served_by_a_pod_for_each_node(lab: Lab) -> Observed:
    """ClientIP affinity is each node's own; here earlier traffic has settled on a pod of its own at each."""
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy(client_ip=True)
    for pod in lab.pods.values():
        lab.remember(f"node-{pod.node}", pod.name)
    lab.balance(1, 2)
    seen = watch(lab)
    assert seen.changes == {}
    assert seen.served_by("pod-a") == seen.entering(1) != set()
    assert seen.served_by("pod-b") == seen.entering(2) != set()
    return seen


# --- packets ---------------------------------------------------------------------------------------------------------


@case("wrong-source")
def replies_leave_from_another_address(lab: Lab) -> Observed:
    """A pod with two addresses answers on a wildcard socket: what leaves is no reply of the flow that conntrack knows."""
    lab.build(["pod-a"], ["pod-b"])
    lab.ip("pod-b", "address add 10.40.2.50/24 dev eth0")
    lab.restart("pod-b", host="0.0.0.0", address="10.40.2.50")
    lab.proxy(policy="Local")
    lab.balance(1, 2)
    with lab.client("--connected") as connected:
        seen = watch(lab)
        beside = Observed(connected.stop())
    assert set() < seen.silent < set(seen.locals)
    assert seen.wrong_sources == dict.fromkeys(seen.silent, f"10.40.2.11:{rules.PORT}")
    assert seen.changes == {}
    assert seen.lost(seen.first) == 0
    # A connected socket hears nothing of it: pure loss.
    assert set() < beside.silent < set(beside.locals)
    assert (beside.wrong_sources, beside.network_errors) == ({}, set())
    return seen


@case("mtu")
def a_hop_too_small_that_does_not_say_so(lab: Lab) -> Observed:
    """A firewall takes the router's ICMP error, so large probes with DF vanish; small ones of the same flow pass."""
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy(policy="Local")
    lab.balance(1, 2)
    lab.ip("balancer", "link set node-1 mtu 600")
    lab.nft("client", rules.deaf_to_icmp())
    seen = watch(lab, lambda: None, "--sizes", "288,1200")
    assert (seen.changes, seen.network_errors, seen.silent) == ({}, set(), set())
    cut = seen.served_by("pod-a")
    assert set() < cut < set(seen.locals)
    for session in cut:  # every second probe is a large one
        total = seen.summaries[session].total
        assert total.lost == total.sent // 2
    assert seen.lost(set(seen.locals) - cut) == 0
    assert seen.run.losses.down == 0
    return seen


@case("mtu")
def a_hop_too_small_that_says_so(lab: Lab) -> Observed:
    """One ICMP error makes the client's kernel fragment all probes; only first fragments carry ports to hash."""
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy()
    lab.balance(1, 2)
    lab.ip("balancer", "link set node-1 mtu 600")
    with lab.client() as small:
        seen = watch(lab, lambda: None, "--size", "1200")
        beside = Observed(small.stop())
    assert {error for error, _ in seen.network_errors} == {"EMSGSIZE"}
    # A session may have been answered in the round in which the error came.
    assert all(summary.total.answered <= 1 for summary in seen.summaries.values())
    assert (beside.silent, beside.changes, beside.run.total.lost) == (set(), {}, 0)
    return seen


@case("client-socket")
def the_client_loses_its_address(lab: Lab) -> Observed:
    lab.build(["pod-a"])
    lab.proxy()
    lab.balance(1)

    with lab.client() as client:
        client.rounds(5)
        lab.ip(
            "client",
            f"address delete {CLIENT_IP}/24 dev eth0",
            "address add 10.20.0.3/24 dev eth0",
            "route add default via 10.20.0.1",
        )
        told: set[str] = set()
        while len(told) < SESSIONS:
            told.add(client.until("session.client_fault")["session"])
        seen = Observed(client.stop())
    assert {session for session, _ in seen.client_faults} == set(seen.locals)
    assert seen.changes == {}
    assert seen.run.total.send_errors >= SESSIONS
    assert seen.exit_code == 3  # the client's own doing says nothing of the network
    return seen


@pytest.mark.parametrize("row", CASES, ids=[row.scenario.__name__ for row in CASES])
def test_kernel_case(row: Case, lab: Lab) -> None:
    seen = row.scenario(lab)
    assert row.is_named(seen), seen.diagnoses
