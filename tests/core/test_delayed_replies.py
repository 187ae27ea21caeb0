"""Which requests the server answers once more, after the delay that they ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core import stun
from affinity_tester.core.delayed_replies import MAX_DELAY_MS, DelayedReplies, DelayedReply
from affinity_tester.core.echo import Responder
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.core.stun.attributes import REPLY_DELAY
from affinity_tester.core.stun.message import add_integrity
from affinity_tester.errors import StunError

KEY = b"secret"
SOURCE = ("203.0.113.7", 40312)
OTHER = ("2001:db8::7", 40313, 0, 0)


def responder(key: bytes | None = KEY, waiting: int = 10) -> Responder:
    encoder = stun.ResponseEncoder("pod-a", "node-1", bytes(range(8)), key=key)
    return Responder(encoder, max_flows=100, key=key, max_waiting=waiting)


def request(seq: int, delay_ms: int | None, size: int = 288, key: bytes | None = KEY) -> bytes:
    return stun.new_request(stun.pack_transaction_id(1, seq), size, key, delay_ms)


def said(reply: bytes | None) -> int | None:
    """The delay that a reply speaks of."""
    assert reply is not None
    return stun.read_reply_delay(reply)


@pytest.mark.parametrize("source", [SOURCE, OTHER])
def test_a_signed_request_is_answered_at_once_and_once_more_when_it_is_due(source: tuple[str, int]) -> None:
    answering = responder()
    now = answering.respond(request(7, 15_000), source)
    assert now is not None
    assert said(now) == 15_000
    (delayed,) = answering.accepted
    assert delayed == DelayedReply(stun.pack_transaction_id(1, 7), source, 288, 15_000)
    then = answering.render_delayed(delayed)
    answering.delayed.end(delayed)
    assert said(then) == 0
    assert stun.decode_response(then, KEY) == stun.decode_response(now, KEY)
    assert max(len(now), len(then)) <= 288
    assert answering.totals() == ServerTotals(received=1, answered=1, flows=1, delayed=1)
    assert answering.delayed.waiting == 0


def test_a_flow_that_was_forgotten_is_counted_anew() -> None:
    answering = responder()
    answering.respond(request(7, 15_000), SOURCE)
    answering.forget_flows()
    assert stun.decode_response(answering.render_delayed(answering.accepted[0]), KEY).received_count == 1


def test_without_a_key_nobody_is_answered_twice() -> None:
    answering = responder(key=None)
    assert not answering.keyed
    assert responder().keyed
    assert said(answering.respond(request(1, 15_000, key=None), SOURCE)) == 0
    assert answering.accepted == []
    assert answering.totals().not_delayed == (("no-key", 1),)


def test_a_request_with_a_wrong_key_is_dropped_as_any() -> None:
    answering = responder()
    assert answering.respond(request(1, 15_000, key=b"guess"), SOURCE) is None
    assert answering.totals() == ServerTotals(received=1, dropped=(("bad-integrity", 1),))


@pytest.mark.parametrize("delay_ms", [0, MAX_DELAY_MS + 1, 0xFFFF_FFFF])
def test_a_delay_has_its_bounds(delay_ms: int) -> None:
    answering = responder()
    assert said(answering.respond(request(1, delay_ms), SOURCE)) == 0
    assert answering.totals().not_delayed == (("too-long", 1),)


def test_the_same_request_is_delayed_once() -> None:
    answering = responder()
    assert said(answering.respond(request(1, 500), SOURCE)) == 500
    assert said(answering.respond(request(1, 500), SOURCE)) == 0
    assert said(answering.respond(request(1, 500), OTHER)) == 500
    assert answering.totals().not_delayed == (("repeated", 1),)
    assert answering.delayed.waiting == len(answering.accepted) == 2


def test_what_waits_is_bounded() -> None:
    answering = responder(waiting=2)
    assert [said(answering.respond(request(seq, 500), SOURCE)) for seq in range(4)] == [500, 500, 0, 0]
    answering.delayed.end(answering.accepted[0], "shutdown")
    assert said(answering.respond(request(9, 500), SOURCE)) == 500
    assert answering.totals().not_delayed == (("shutdown", 1), ("table-full", 2))


def test_a_request_too_short_for_it_is_answered_as_any_other() -> None:
    answering = responder()
    assert said(answering.respond(request(1, 500, size=64), SOURCE)) is None
    assert said(answering.respond(request(2, 0, size=64), SOURCE)) is None
    assert answering.accepted == []
    assert answering.totals().not_delayed == (("no-room", 1), ("too-long", 1))


@given(st.integers(16, 200).map(lambda words: 4 * words), st.sampled_from([SOURCE, OTHER]))
def test_neither_reply_is_longer_than_the_request(size: int, source: tuple[str, int]) -> None:
    answering = responder()
    now = answering.respond(request(1, 500, size=size), source)
    for delayed in answering.accepted:
        assert now is not None
        assert len(now) <= size
        assert len(answering.render_delayed(delayed)) <= size


def test_a_malformed_delay_is_no_request() -> None:
    answering = responder()
    attribute = REPLY_DELAY.type.to_bytes(2, "big") + b"\0\3abc\0"
    header = request(1, None, size=20, key=None)
    data = add_integrity(header[:2] + len(attribute).to_bytes(2, "big") + header[4:] + attribute, KEY)
    assert answering.respond(data, SOURCE) is None
    assert answering.totals() == ServerTotals(received=1, dropped=(("malformed-attribute", 1),))
    with pytest.raises(StunError, match="REPLY-DELAY has 3 bytes"):
        stun.read_reply_delay(data)


def test_padding_that_looks_like_a_delay_is_none() -> None:
    answering = responder()
    plain = request(1, None, size=60, key=None)
    data = add_integrity(plain[:24] + REPLY_DELAY.encode(500) + plain[32:], KEY)
    assert said(answering.respond(data, SOURCE)) is None
    assert answering.totals() == ServerTotals(received=1, answered=1, flows=1)


def test_reasons_are_summed_and_subtracted() -> None:
    one = ServerTotals(delayed=3, not_delayed=(("no-key", 2), ("too-long", 1)))
    other = ServerTotals(delayed=1, not_delayed=(("no-key", 2), ("shutdown", 1)))
    assert one + other == ServerTotals(delayed=4, not_delayed=(("no-key", 4), ("shutdown", 1), ("too-long", 1)))
    assert one.since(ServerTotals(delayed=1, not_delayed=(("no-key", 2),))) == ServerTotals(
        delayed=2, not_delayed=(("too-long", 1),)
    )


def test_what_does_not_wait_can_end() -> None:
    replies = DelayedReplies(keyed=True)
    replies.end(DelayedReply(bytes(12), SOURCE, 288, 1))
    assert (replies.sent, replies.waiting) == (1, 0)
