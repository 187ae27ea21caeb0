"""What the server answers to one datagram, and what it counts."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core import echo, stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.echo import Responder
from affinity_tester.core.identity import Identity
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals

INSTANCE = bytes(range(8))
SOURCE = ("203.0.113.7", 40312)
COOKIE = bytes.fromhex("2112a442")


def responder(max_flows: int = 100, key: bytes | None = None) -> Responder:
    return Responder(stun.ResponseEncoder("pod-a", "node-1", INSTANCE, key=key), max_flows=max_flows, key=key)


def probe(token: int, seq: int, size: int = 288, key: bytes | None = None) -> bytes:
    return stun.new_request(stun.pack_transaction_id(token, seq), size, key)


def count(answering: Responder, token: int, source: tuple[str, int] = SOURCE, size: int = 288) -> int | None:
    reply = answering.respond(probe(token, 0, size), source)
    assert reply is not None
    return stun.decode_response(reply).received_count


def test_it_answers_with_its_identity_and_the_source() -> None:
    reply = responder().respond(probe(1, 9), SOURCE)
    assert reply is not None
    identity = Identity(TransportAddress(*SOURCE), "pod-a", "node-1", INSTANCE, stun.SERVER_SOFTWARE)
    assert stun.decode_response(reply) == (stun.pack_transaction_id(1, 9), identity, 1)


def test_it_counts_by_token_and_reflexive_address() -> None:
    answering = responder()
    counts = [count(answering, 1), count(answering, 1), count(answering, 2), count(answering, 1, ("203.0.113.7", 5))]
    assert counts == [1, 2, 1, 1]
    assert count(answering, 1) == 3
    assert answering.totals() == ServerTotals(received=5, answered=5, flows=3)


def test_the_size_of_a_probe_may_change_within_a_flow() -> None:
    answering = responder()
    assert [count(answering, 1, size=size) for size in (288, 20, 1000, 288)] == [1, None, 3, 4]


def test_what_it_remembers_is_bounded_and_the_longest_silent_goes_first() -> None:
    answering = responder(max_flows=2)
    counts = [count(answering, token) for token in (1, 2, 1, 3, 1, 2)]
    assert counts == [1, 1, 2, 1, 3, 1]
    assert answering.totals() == ServerTotals(received=6, answered=6, flows=2, evicted=2)


def test_a_new_flow_never_waits_for_a_look_at_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo, "MAX_EVICTION_SCAN", 2)
    answering = responder(max_flows=4)
    for token in (1, 2, 3, 4, 1, 2, 3):
        count(answering, token)
    count(answering, 5)  # 1 and 2 are passed over, and 3 goes, though it has spoken since and 4 has not
    assert [token for token, _ in answering._flows] == [token.to_bytes(8, "big") for token in (4, 1, 2, 5)]


@pytest.mark.parametrize("source", [SOURCE, ("2001:db8::7", 40312, 0, 0)])
@pytest.mark.parametrize("size", [20, 24, 32, 44, 60, 92, 288, 65_504])
def test_a_prepared_reply_is_that_of_the_encoder(source: tuple[str, int], size: int) -> None:
    answering = responder()
    encoder = stun.ResponseEncoder("pod-a", "node-1", INSTANCE)
    for seq in (0, 1, 0xFFFF_FFFF):
        transaction_id = stun.pack_transaction_id(2**64 - 3, seq)
        expected = encoder.encode(transaction_id, (source[0], source[1]), answering.totals().answered + 1, size)
        assert answering.respond(stun.new_request(transaction_id, size), source) == expected


def test_what_only_looks_like_its_flows_request_is_read_as_what_it_is() -> None:
    answering = responder()
    known = probe(1, 1)
    answering.respond(known, SOURCE)
    for at in (*range(8), *range(20, 24)):
        damaged = known[:at] + bytes((known[at] ^ 1,)) + known[at + 1 :]
        alone = responder()
        alone.respond(known, SOURCE)
        before = alone.totals()
        reply = alone.respond(damaged, SOURCE)
        fresh = responder()
        fresh.respond(damaged, SOURCE)
        dropped, answered = fresh.totals().dropped, fresh.totals().answered
        assert alone.totals().since(before).dropped == dropped
        assert (reply is not None) == (answered == 1)


def test_sessions_that_share_a_source_are_counted_apart() -> None:
    answering = responder(max_flows=3)
    assert [count(answering, token) for token in (1, 2, 1, 2, 2, 1)] == [1, 1, 2, 2, 3, 3]
    assert [count(answering, token) for token in (3, 4, 1, 5)] == [1, 1, 4, 1]
    assert answering.totals() == ServerTotals(received=10, answered=10, flows=3, evicted=2)


def test_sessions_that_share_a_source_are_evicted_one_by_one() -> None:
    answering = responder(max_flows=2)
    counts = [
        count(answering, token, ("203.0.113.7", port)) for token, port in ((1, 1), (2, 1), (3, 2), (4, 3), (2, 1))
    ]
    assert counts == [1, 1, 1, 1, 1]
    assert answering.totals() == ServerTotals(received=5, answered=5, flows=2, evicted=3)


def test_the_scope_of_an_ipv6_address_tells_sources_apart_and_is_not_told() -> None:
    answering = responder()
    sources = [("fe80::1", 40312, 0, scope) for scope in (2, 3, 2)]
    replies = [answering.respond(probe(1, 1), source) for source in sources]
    responses = [stun.decode_response(reply) for reply in replies if reply is not None]
    assert [response.received_count for response in responses] == [1, 1, 2]
    assert {response.identity.reflexive for response in responses} == {("fe80::1", 40312)}


def test_a_count_of_32_bits_starts_again() -> None:
    encoder = stun.ResponseEncoder("pod-a", "node-1", INSTANCE)
    answering = Responder(encoder, max_flows=1, counted_before=0xFFFF_FFFD)
    assert [count(answering, 1) for _ in range(4)] == [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1]


def test_forgotten_flows_are_counted_from_the_start() -> None:
    answering = responder()
    assert [count(answering, 1), count(answering, 1)] == [1, 2]
    answering.forget_flows()
    assert answering.totals() == ServerTotals(received=2, answered=2)
    assert count(answering, 1) == 1


def test_from_source_port_0_nothing_can_be_answered() -> None:
    answering = responder()
    assert answering.respond(probe(1, 1), ("203.0.113.7", 0)) is None
    assert answering.totals() == ServerTotals(received=1, dropped=(("source-port-0", 1),))


def test_what_is_over_the_limit_is_dropped_unread() -> None:
    encoder = stun.ResponseEncoder("pod-a", "node-1", INSTANCE)
    answering = Responder(encoder, max_flows=9, limit=RateLimit(3, 0, 0))
    for now_ns, datagram in ((0, probe(1, 1)), (0, b"?"), (0, probe(1, 2)), (0, b"?"), (10**9, probe(1, 3))):
        answering.respond_within_limit(datagram, SOURCE, bytes(4), now_ns)
    dropped = (("rate-limit", 1), ("too-short", 1))
    assert answering.totals() == ServerTotals(received=5, answered=3, dropped=dropped, flows=1)
    unlimited = responder()
    assert unlimited.respond_within_limit(probe(1, 1), SOURCE, bytes(4), 0) is not None


def test_a_reply_that_found_no_room_is_a_datagram_dropped() -> None:
    answering = responder()
    unknown = struct.pack("!HH", 0x0003, 4) + bytes(4) + struct.pack("!HH", 0xC5A0, 60) + bytes(60)
    for request in (probe(1, 1), struct.pack("!HH", 1, len(unknown)) + COOKIE + bytes(12) + unknown):
        reply = answering.respond(request, SOURCE)
        assert reply is not None
        answering.count_unsent(reply)
    answering.count_send_error()
    dropped = (("send-buffer-full", 2),)
    assert answering.totals() == ServerTotals(received=2, dropped=dropped, flows=1, send_errors=1)


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        responder(max_flows=0)


def test_an_unknown_required_attribute_gets_a_420_where_it_fits() -> None:
    answering = responder()
    unknown = struct.pack("!HH", 0x0003, 4) + bytes(4)
    padding = struct.pack("!HH", 0xC5A0, 60) + bytes(60)
    long, short = (
        struct.pack("!HH", 1, len(body)) + COOKIE + bytes(12) + body for body in (unknown + padding, unknown)
    )
    reply = answering.respond(long, SOURCE)
    assert reply is not None
    assert reply[:2] == b"\x01\x11"
    assert answering.respond(short, SOURCE) is None
    assert answering.totals() == ServerTotals(received=2, refused=1, dropped=(("unknown-attribute", 1),))


def test_every_dropped_datagram_is_counted_by_reason() -> None:
    answering = responder()
    for datagram in (b"", b"\x80" + bytes(19), probe(1, 1)[:-4], bytes(20), b"\x01\x01" + probe(1, 1)[2:], b"x"):
        assert answering.respond(datagram, SOURCE) is None
    dropped = (("bad-length", 1), ("legacy", 1), ("not-stun", 1), ("too-short", 2), ("wrong-type", 1))
    assert answering.totals() == ServerTotals(received=6, dropped=dropped)


def test_with_a_key_only_proven_requests_are_answered() -> None:
    answering = responder(key=b"secret")
    reply = answering.respond(probe(1, 1, key=b"secret"), SOURCE)
    assert reply is not None
    assert stun.decode_response(reply, b"secret").received_count == 1
    assert answering.respond(probe(1, 1), SOURCE) is None
    assert answering.respond(probe(1, 1, key=b"guess"), SOURCE) is None
    dropped = (("bad-integrity", 1), ("no-integrity", 1))
    assert answering.totals() == ServerTotals(received=3, answered=1, dropped=dropped, flows=1)


@given(st.lists(st.binary(max_size=120) | st.binary(max_size=80).map(lambda tail: probe(1, 1)[:20] + tail)))
def test_any_datagrams_are_either_answered_or_counted(datagrams: list[bytes]) -> None:
    answering = responder()
    replies = [answering.respond(datagram, SOURCE) for datagram in datagrams]
    totals = answering.totals()
    assert totals.received == len(datagrams) == totals.answered + totals.refused + sum(n for _, n in totals.dropped)
    assert sum(reply is not None for reply in replies) == totals.answered + totals.refused


@given(st.binary(max_size=400))
def test_nothing_that_a_server_sends_is_ever_answered(request: bytes) -> None:
    answering = responder()
    reply = answering.respond(request, SOURCE) or answering.respond(probe(1, 1), SOURCE)
    assert reply is not None
    assert answering.respond(reply, SOURCE) is None


def test_totals_since_earlier_ones() -> None:
    answering = responder()
    answering.respond(b"", SOURCE)
    answering.respond(bytes(20), SOURCE)
    before = answering.totals()
    answering.respond(b"", SOURCE)
    count(answering, 1)
    assert answering.totals().since(before) == ServerTotals(
        received=2, answered=1, dropped=(("too-short", 1),), flows=1
    )


def test_totals_since_an_earlier_reading_leave_out_what_did_not_happen() -> None:
    earlier = ServerTotals(10, 8, 0, (("legacy", 1), ("too-short", 1)), flows=3, evicted=0, send_errors=1)
    now = ServerTotals(15, 12, 0, (("legacy", 1), ("too-short", 2)), flows=2, evicted=4, send_errors=1)
    assert now.since(earlier) == ServerTotals(5, 4, 0, (("too-short", 1),), flows=2, evicted=4, send_errors=0)


def test_totals_of_two_workers() -> None:
    one = ServerTotals(10, 8, 0, (("legacy", 1), ("too-short", 1)), flows=3, evicted=0, send_errors=1)
    two = ServerTotals(4, 1, 1, (("bad-length", 1), ("too-short", 1)), flows=2, evicted=4, send_errors=0)
    dropped = (("bad-length", 1), ("legacy", 1), ("too-short", 2))
    assert one + two == ServerTotals(14, 9, 1, dropped, flows=5, evicted=4, send_errors=1)
