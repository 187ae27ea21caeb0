"""What the reference's answers to some sockets say of a session that it is not asked about: a NAT of several addresses."""

from __future__ import annotations

from test_client_nat_cases import CLIENTS, LOCAL, N1, UNKNOWN, VIOLATION, Run, S

LOST, LEFT = ("198.51.100.1", 1000, "a", "n1"), ("198.51.100.2", 3000, "a", "n1")
"""Where sessions are by turns: one public address is taken away, the other stays."""


def two_addresses(*asked: int, spec: tuple[str, str] | None) -> Run:
    """Ten sessions, every second one at the address that is lost; the reference sees what pods see."""
    run = Run(spec=spec, reference=True).begin(LOST, LEFT)
    moved = run.names[::2]
    for n in asked:
        ip, port = run.at[run.names[n]].reflexive or ("", 0)
        now = ("198.51.100.2", 7000 + n) if run.names[n] in moved else (ip, port)
        run.ask(run.names[n], (8 * S, (ip, port)), (10 * S + S // 2, now), (12 * S, now))
    run.move(10 * S, ("198.51.100.2", 7000, "b", "n2"), names=moved, apart=0)
    return run.play()


def test_siblings_of_which_some_moved_make_it_possible_and_no_more() -> None:
    run = two_addresses(0, 1, spec=None)
    assert run.judged["CLIENT-0"].judgement is CLIENTS
    assert {run.judged[name].judgement for name in run.names[2::2]} == {UNKNOWN}
    assert (
        "perhaps the client's own NAT: the reference saw 198.51.100.1:1000 -> 198.51.100.2:7000 then for another socket",
    ) in run.reasons
    assert "client-nat" in {name for name, _ in run.named}
    assert not run.verdict.violations


def test_siblings_with_another_address_exclude_nothing_under_local() -> None:
    run = two_addresses(1, 3, spec=LOCAL)
    assert run.classes == {UNKNOWN}


def test_siblings_that_share_its_address_and_stay_exclude_the_nat() -> None:
    run = Run(spec=LOCAL, reference=True).begin(LOST)
    for n in (1, 3):
        run.ask(run.names[n], *((at * S, ("198.51.100.1", 1000 + n)) for at in (8, 10, 12)))
    run.move(10 * S, LEFT, names=run.names[::2])
    assert run.play().classes == {VIOLATION}


def test_a_node_s_address_is_not_the_siblings() -> None:
    """Under Cluster pods see the node's: what stayed at the reference is said, and excludes nothing."""
    run = Run(reference=True).begin(N1)
    run.ask("CLIENT-0", *((at * S, ("198.51.100.1", 1000)) for at in (8, 10, 12)))
    run.move(10 * S, ("10.0.0.1", 2000, "b", "n2"), apart=0)
    assert run.play().classes == {UNKNOWN}
