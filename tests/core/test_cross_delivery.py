"""Sessions that get one another's replies have the ports of one another: nobody on the way rewrote these."""

from __future__ import annotations

from diagnosing import TARGET, Action, World
from network_faults import on_one_pod, world

from affinity_tester.core.events import Certainty, CrossDelivered

LIKELY = Certainty.LIKELY


def trade_ports(w: World) -> None:
    """Entries of 1 and 4, of one node, are evicted, and each gets the other's port."""
    first, second = w.source(1), w.source(4)
    w.network.set_source(w.flow(1), second, w.now)
    w.network.set_source(w.flow(4), first, w.now)


def reply_goes_to(session: int, owner: int) -> Action:
    """Let a reply that was under way to `owner` arrive at another session."""

    def action(w: World) -> None:
        sent = w.trackers[owner].sent_count - 1
        w.emit(CrossDelivered(w.now, w.name(session), w.name(owner), sent, w.now, w.identity(owner), TARGET))

    return action


def test_ports_that_were_traded_are_not_rewritten() -> None:
    both = [(4.05, reply_goes_to(1, 4)), (4.05, reply_goes_to(4, 1))]
    assert world((0, on_one_pod), (4, trade_ports), *both, watched=True).run().named == [("snat-collision", LIKELY)]


def test_a_port_of_a_session_beside_them_is_rewritten() -> None:
    both = [(4.05, reply_goes_to(1, 4)), (4.05, reply_goes_to(4, 1))]
    beside: Action = lambda w: w.rewrite(3)  # noqa: E731 - an action like the others
    named = world((0, on_one_pod), (4, trade_ports), (4, beside), *both, watched=True).run().named
    assert named == [("snat-collision", LIKELY), ("port-rewrite", LIKELY)]


def test_ports_that_were_traded_without_such_a_reply_may_be_rewritten() -> None:
    """One who rewrites ports anew may give one what another had."""
    assert world((0, on_one_pod), (4, trade_ports), watched=True).run().named == [("port-rewrite", LIKELY)]
