"""A client behind a real NAT of its own: what that NAT does is never called the cluster's, and with a reference it is proved.

A NAT that maps a socket anew gives it a new source port, and so the balancer a new flow: to the client it looks as if all
flows had been wiped. Each case is run under policy Cluster and under Local, without and with `--reference`. No cluster is
watched, so that the policy is known to the lab alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import rules
from observed import ADDRESS, Observed

from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from lab import NAT_IPS, REFERENCE_IP, SESSIONS, Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]

AROUND = 20
"""Probes of each session before and after: the reference must have been answered on both sides, more than a second away."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A lab whose client is behind a NAT, and a reference that it asks or not."""

    lab: Lab
    policy: str
    asks: bool

    def build(self, *pods: list[str], how: str = "masquerade fully-random") -> None:
        self.lab.build(*pods, nat=True)
        self.lab.nft("nat", rules.nat("wan", how))
        self.lab.proxy(policy=self.policy)
        self.lab.balance(*range(1, len(pods) + 1))

    def watch(self, *acts: Callable[[], object]) -> Observed:
        """What a client sees that runs while each of these is done, 2 s apart."""
        options = ("--reference", self.lab.address(REFERENCE_IP)) if self.asks else ()
        with self.lab.client(*options) as client:
            client.rounds(AROUND)
            for act in acts:
                act()
                client.rounds(AROUND)
            return Observed(client.stop())


def behind(*combinations: tuple[str, bool]) -> pytest.MarkDecorator:
    """Run a case under these policies, without or with a reference; without any, under all."""
    every = combinations or tuple((policy, asks) for policy in ("Cluster", "Local") for asks in (False, True))
    names = [f"{policy}-{'reference' if asks else 'alone'}" for policy, asks in every]
    return pytest.mark.parametrize(("policy", "asks"), every, ids=names)


def is_the_clients(seen: Observed, moves: int, *, proved: bool) -> None:
    """All sessions moved so often, and nobody else is accused of it."""
    assert seen.changed == set(seen.locals)
    assert all(ADDRESS & set(change.kinds) for change in seen.all_changes)
    assert seen.judged == {Judgement.CLIENT if proved else Judgement.UNKNOWN: moves * SESSIONS}, seen.reasons
    assert seen.exit_code != 1
    if proved:
        assert (seen.likely, seen.possible) == ({"client-nat"}, set()), seen.diagnoses
    else:
        assert seen.likely == set(), seen.diagnoses
        # What else it may be is told beside it: a wipe, or another leader where all have one new IP instead of one old.
        assert seen.possible - {"client-nat"}, seen.diagnoses
        # A box that ends sessions by their age looks like one that renews its mappings.
        others = {"flow-wipe", "vip-failover"} | ({"session-limit"} if moves > 1 else set())
        assert seen.possible <= {"client-nat", *others}, seen.diagnoses
        assert "client-nat" in seen.possible, seen.diagnoses


# --- the NAT's doing -------------------------------------------------------------------------------------------------


@behind()
def test_its_table_is_flushed(lab: Lab, policy: str, *, asks: bool) -> None:
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], ["pod-c"])
    seen = here.watch(lambda: lab.flush("nat"))
    is_the_clients(seen, 1, proved=asks)
    if policy == "Local":  # pods see what the client has become: no other, and never the client's own
        assert {who.reflexive.ip for who in seen.first.values() if who.reflexive} == {lab.address(NAT_IPS[0])}


def test_its_table_is_flushed_over_ipv6(lab_ipv6: Lab) -> None:
    here = Behind(lab_ipv6, "Local", asks=True)
    here.build(["pod-a", "pod-b"], ["pod-c"])
    is_the_clients(here.watch(lambda: lab_ipv6.flush("nat")), 1, proved=True)


@behind(("Cluster", False), ("Local", True))
def test_it_renews_its_ports_again_and_again(lab: Lab, policy: str, *, asks: bool) -> None:
    """As a carrier's NAT does, there every few minutes."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], ["pod-c"])
    is_the_clients(here.watch(*[lambda: lab.flush("nat")] * 3), 3, proved=asks)


@behind()
def test_it_takes_its_second_public_address(lab: Lab, policy: str, *, asks: bool) -> None:
    """As where the first uplink is lost. Ports are kept, so that one socket is the same to the reference and the pods."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], ["pod-c"], how=f"snat to {NAT_IPS[0]}")

    def renumber() -> None:
        lab.nft("nat", rules.nat("wan", f"snat to {NAT_IPS[1]}"))
        lab.flush("nat")

    seen = here.watch(renumber)
    is_the_clients(seen, 1, proved=asks)
    if policy == "Local":
        assert {change.kinds[0] for change in seen.all_changes} == {Kind.REFLEXIVE_IP}


@behind(("Local", True))
def test_it_loses_one_of_its_public_addresses(lab: Lab, policy: str, *, asks: bool) -> None:
    """Some sessions move and others stay: whose sockets are not asked may be among those that the NAT moved."""
    here = Behind(lab, policy, asks)
    pool = f"jhash udp sport mod 2 seed 0x5eed map {{ 0 : {NAT_IPS[0]}, 1 : {NAT_IPS[1]} }}"
    here.build(["pod-a", "pod-b"], ["pod-c"], how=f"snat to {pool}")

    def lose() -> None:
        lab.nft("nat", rules.nat("wan", f"snat to {NAT_IPS[1]}"))
        lab.delete("nat", "--reply-dst", NAT_IPS[0])

    seen = here.watch(lose)
    at_lost = {session for session, who in seen.first.items() if who.reflexive and who.reflexive.ip == NAT_IPS[0]}
    assert seen.changed == at_lost
    assert set() < at_lost < set(seen.locals)
    assert set(seen.judged) <= {Judgement.CLIENT, Judgement.UNKNOWN}, seen.reasons
    assert seen.exit_code != 1
    assert "client-nat" in seen.likely, seen.diagnoses


@behind(("Cluster", True), ("Local", True))
def test_it_forgets_its_mappings_to_the_target_alone(lab: Lab, policy: str, *, asks: bool) -> None:
    """What stays at the reference excludes nothing where each destination has a mapping of its own."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], ["pod-c"])
    seen = here.watch(lambda: lab.delete("nat", "--orig-dst", rules.VIP))
    assert seen.changed == set(seen.locals)
    assert set(seen.judged) == {Judgement.UNKNOWN}, seen.reasons
    assert seen.exit_code == 3


# --- the cluster's doing ---------------------------------------------------------------------------------------------


@behind(("Cluster", True), ("Local", False), ("Local", True))
def test_all_nodes_are_flushed(lab: Lab, policy: str, *, asks: bool) -> None:
    """Under Cluster each session keeps its ingress node, which a new source port would not; under Local its address."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], ["pod-c", "pod-d"], how="masquerade")

    def flush() -> None:
        for node in lab.nodes:
            lab.flush(node)

    seen = here.watch(flush)
    assert set() < seen.changed <= set(seen.locals)
    assert set(seen.judged) == {Judgement.VIOLATION}, seen.reasons
    assert (seen.likely, seen.exit_code) == ({"flow-wipe"}, 1), seen.diagnoses


@behind(("Cluster", False), ("Cluster", True))
def test_the_only_node_is_flushed(lab: Lab, policy: str, *, asks: bool) -> None:
    """All sessions change at once, and one ingress address excludes nothing; nor does a reference, as pods see the node's."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a", "pod-b"], how="masquerade")
    seen = here.watch(lambda: lab.flush("node-1"))
    assert seen.changed == set(seen.locals)
    assert set(seen.judged) == {Judgement.UNKNOWN}, seen.reasons
    assert "flow-wipe" in seen.likely | seen.possible
    assert seen.exit_code == 3


@behind(("Local", True))
def test_a_second_nat_on_the_way_is_not_the_clients(lab: Lab, policy: str, *, asks: bool) -> None:
    """The mapping at the reference is what pods had seen, and stays: the NAT did not move, so something behind it did."""
    here = Behind(lab, policy, asks)
    here.build(["pod-a"], ["pod-b"], how="masquerade")

    def begin() -> None:
        lab.nft("balancer", rules.nat('"node-*"'))
        lab.flush("balancer")

    seen = here.watch(begin)
    assert seen.changed == set(seen.locals)
    assert set(seen.judged) == {Judgement.VIOLATION}, seen.reasons
    assert "client-nat" not in seen.likely | seen.possible
    assert seen.exit_code == 1
