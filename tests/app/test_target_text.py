"""What the user wrote as the target; the errors are tested through the command."""

from __future__ import annotations

import pytest

from affinity_tester.app.target_text import ambiguity_warning, cluster_name, split_target


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("lb.example", "lb.example", None),
        ("lb.example:5000", "lb.example", 5000),
        ("192.0.2.1:5000", "192.0.2.1", 5000),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]:5000", "2001:db8::1", 5000),
        ("stun:3478", "stun", 3478),
    ],
)
def test_a_target_is_a_host_with_or_without_a_port(text: str, host: str, port: int | None) -> None:
    assert split_target(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("::1:4000", "[::1]:4000"), ("2001:db8::1", ""), ("::1:99999", ""), ("[::1]:4000", ""), ("192.0.2.1:4000", "")],
)
def test_an_ipv6_address_whose_end_may_be_a_port_is_ambiguous(text: str, meant: str) -> None:
    line = ambiguity_warning(text)
    assert line.endswith(f"write {meant}") if meant else line == ""


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("turn.media.svc.cluster.local", "media/turn"),
        ("turn.media.svc.cluster.local.:3478", "media/turn"),
        ("turn.media.svc:3478", "media/turn"),
        ("Turn.media.SVC.corp.example", "media/turn"),
        ("turn.media", None),
        ("turn.example.com", None),
        ("svc.cluster.local", None),
        ("a.b.media.svc.cluster.local", None),
        ("192.0.2.1:3478", None),
    ],
)
def test_a_name_of_a_cluster_s_own_dns(text: str, ref: str | None) -> None:
    assert cluster_name(text) == ref
