"""What a node's own tables do to flows: they are forgotten twice, lose their first packet, or get one another's port.

No cluster is watched. Each case says which real behaviour it copies, here or in `faults`; those of IPv6 are beside those
that tests/kernel/test_kernel_ipv6.py runs again.
"""

from __future__ import annotations

import signal
from time import sleep

import faults
import pytest
import test_kernel_cases as cases
from observed import ADDRESS, Observed, ingress

from affinity_tester.core.events import Change, Judgement
from affinity_tester.core.identity import Kind
from lab import CLIENT_IP, Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]

BETWEEN_SYNCS_S = 0.7
"""From one sync of kube-proxy to the next in a pair, as measured."""


@pytest.fixture(params=["lab", "lab_ipv6"], ids=["ipv4", "ipv6"])
def either(request: pytest.FixtureRequest) -> Lab:
    """A lab of each family."""
    lab = request.getfixturevalue(request.param)
    assert isinstance(lab, Lab)
    return lab


def came_back(changes: list[Change]) -> bool:
    """True if a session was seen at another reflexive IP, and then at its old one again."""
    seen = [changes[0].before, *(change.after for change in changes)]
    ips = [probe.identity.reflexive.ip for probe in seen if probe.identity.reflexive]
    return ips[0] == ips[-1] and len(set(ips)) > 1


def test_all_nodes_are_flushed_twice_within_a_second(either: Lab) -> None:
    """kube-proxy cleans conntrack at each sync, and syncs come in pairs.

    A node masquerades from two addresses, so some sessions go from one to the other and back: that is no new ingress node.
    """
    either.build(["pod-a", "pod-b"], ["pod-c", "pod-d"])
    either.proxy()
    either.balance(1, 2)

    def flush() -> None:
        for node in either.nodes:
            either.flush(node)

    with either.client(sessions=40) as client:
        client.rounds(5)
        flush()
        sleep(BETWEEN_SYNCS_S)
        flush()
        client.rounds(12)
        seen = Observed(client.stop())

    assert seen.changed == set(seen.locals)
    assert all(ADDRESS & set(change.kinds) for change in seen.all_changes)
    assert all(ingress(change.before.identity) == ingress(change.after.identity) for change in seen.all_changes)
    assert any(came_back(changes) for changes in seen.changes.values())

    assert seen.judged == {Judgement.VIOLATION: seen.run.total.changes}, seen.reasons
    assert len(seen.incidents) == 1
    assert (seen.likely, seen.possible) == ({"flow-wipe"}, set()), seen.diagnoses
    assert seen.exit_code == 1


def test_every_second_flow_loses_its_first_packet(lab: Lab) -> None:
    """What the insert race leaves of two flows that meet in it. Both nodes have it, so that none of them is to blame."""
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy()
    for node in lab.nodes:
        lab.nft(node, faults.insert_race())
    lab.balance(1, 2)
    seen = cases.watch(lab, after=16)
    lost = {session: summary.total.lost for session, summary in seen.summaries.items()}
    assert set(lost.values()) == {0, 1}
    for node in (1, 2):
        assert {lost[session] for session in seen.entering(node)} == {0, 1}
    assert (seen.silent, seen.changes, seen.judged, seen.network_errors) == (set(), {}, {}, set())
    assert (seen.likely, seen.possible) == ({"first-packet-race"}, set()), seen.diagnoses
    assert seen.exit_code == 0


def test_flows_get_the_ports_of_evicted_ones(either: Lab) -> None:
    """Replies that are under way when their flow's entry is evicted go to whoever has the port by then.

    A pod that stands still for a while has them wait; more than the loss threshold it does not. Then each flow has a port to
    itself again: two never have one at the same time, which the kernel does not let happen.
    """
    lab = either
    lab.build(["pod-a"])
    lab.proxy()
    lab.nft("node-1", faults.few_ports())
    lab.balance(1)
    server = lab.pods["pod-a"].server
    with lab.client("--loss-threshold", "2s", sessions=len(faults.SNAT_PORTS)) as client:
        client.rounds(15)  # over IPv6 the first replies may wait for half a second, until the neighbours are resolved
        server.send_signal(signal.SIGSTOP)
        client.rounds(4)
        lab.delete("node-1", "--mark", str(faults.EVICTABLE))
        client.rounds(4)
        server.send_signal(signal.SIGCONT)
        client.rounds(12)
        seen = Observed(client.stop())

    assert {who.reflexive.port for who in seen.first.values() if who.reflexive} == set(faults.SNAT_PORTS)
    assert set() < seen.changed < set(seen.locals)
    assert seen.kinds == {(Kind.REFLEXIVE_PORT,)}
    assert seen.run.total.cross_delivered > 0
    # What went to another session was lost by its own, and all of that on the way back.
    assert (seen.run.losses.up, seen.run.losses.unknown) == (0, 0)
    assert seen.run.losses.down == seen.lost(seen.changed) == seen.run.total.cross_delivered

    assert seen.judged == {Judgement.VIOLATION: len(seen.all_changes)}, seen.reasons
    assert (seen.likely, seen.possible) == ({"snat-collision"}, set()), seen.diagnoses
    assert seen.exit_code == 1


# --- IPv6 ------------------------------------------------------------------------------------------------------------


def test_ports_are_rewritten_in_mid_session_over_ipv6(lab_ipv6: Lab) -> None:
    """Somebody between client and node begins to masquerade, and its rule does not spare the Service's traffic."""
    lab = lab_ipv6
    lab.build(["pod-a"], ["pod-b"])
    lab.proxy(policy="Local")
    lab.balance(1, 2)

    def begin() -> None:
        lab.nft("node-1", faults.rewrite_ports(CLIENT_IP))
        lab.flush("node-1")

    seen = cases.watch(lab, begin)
    assert all(who.reflexive == seen.locals[session] for session, who in seen.first.items())
    assert seen.changed == seen.served_by("pod-a") != set(seen.locals)
    assert seen.kinds == {(Kind.REFLEXIVE_PORT,)}
    assert seen.judged == {Judgement.VIOLATION: len(seen.changed)}, seen.reasons
    assert (seen.likely, seen.possible) == ({"port-rewrite"}, set()), seen.diagnoses
    assert seen.exit_code == 1


def test_flows_stay_with_a_pod_that_is_gone_over_ipv6(lab_ipv6: Lab) -> None:
    seen = cases.a_backend_removed_without_its_flows(lab_ipv6)
    assert (seen.likely, seen.possible) == ({"stale-flow"}, set()), seen.diagnoses
