from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.identity import Identity
from affinity_tester.core.stun import (
    ProbeCodec,
    ResponseEncoder,
    decode_request,
    decode_response,
    new_request,
    pack_transaction_id,
    token_in,
)
from affinity_tester.core.stun.attributes import ERROR_CODE, ErrorCode
from affinity_tester.core.stun.message import BINDING_ERROR, pack_header
from affinity_tester.errors import StunError

TOKEN = 0x0123456789ABCDEF
ENCODERS = [ResponseEncoder("pod-a", "node-1", b"12345678"), ResponseEncoder("pod-b", None, b"87654321")]
SOURCES = [
    ("192.0.2.1", 40312),
    ("192.0.2.1", 40313),
    ("2001:db8::1", 40312),
    ("2001:db8::2", 40312),
    ("2001:db8::1", 7),
]


def new_codec(sizes: tuple[int, ...] = (288,), key: bytes | None = None) -> ProbeCodec:
    return ProbeCodec(TOKEN, sizes, key)


def read(codec: ProbeCodec, data: bytes) -> tuple[int, Identity, int | None]:
    """Read a reply at the start of a buffer that held something longer before."""
    buffer = bytearray(b"\xaa" * 1500)
    buffer[: len(data)] = data
    return codec.read(buffer, len(data))


@pytest.mark.parametrize("key", [None, b"secret"])
def test_probes_are_new_requests_of_each_size_by_turns(key: bytes | None) -> None:
    codec = new_codec((288, 1200), key)
    for seq in (0, 1, 2, 2**32 - 1):
        request = codec.request(seq)
        assert request == new_request(pack_transaction_id(TOKEN, seq), (288, 1200)[seq % 2], key)
        assert decode_request(request, key).transaction_id == pack_transaction_id(TOKEN, seq)


REPLIES = st.tuples(
    st.sampled_from(ENCODERS),
    st.sampled_from(SOURCES),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([20, 32, 60, 288]),
)


@given(st.lists(REPLIES, max_size=12))
def test_every_reply_is_read_as_by_the_full_decoder_whatever_came_before(
    replies: list[tuple[ResponseEncoder, tuple[str, int], int, int, int]],
) -> None:
    codec = new_codec()
    for encoder, source, seq, count, limit in replies:
        data = encoder.encode(pack_transaction_id(TOKEN, seq), source, count, limit)
        response = decode_response(data)
        assert read(codec, data) == (seq, response.identity, response.received_count)


@pytest.mark.parametrize("source", [SOURCES[0], SOURCES[2]])
def test_a_like_reply_gives_the_very_same_identity(source: tuple[str, int]) -> None:
    codec = new_codec()
    first, second = (ENCODERS[0].encode(pack_transaction_id(TOKEN, n), source, n, 288) for n in (1, 2))
    assert read(codec, first)[1] is read(codec, second)[1]


def test_an_ipv6_address_that_differs_only_where_the_sequence_number_hides_it_is_another() -> None:
    codec = new_codec()
    for seq, source in enumerate([("2001:db8::1", 7), ("2001:db8::2", 7), ("2001:db8::1", 7)]):
        identity = read(codec, ENCODERS[0].encode(pack_transaction_id(TOKEN, seq), source, 1, 288))[1]
        assert identity.reflexive == source


def test_an_ipv6_address_that_does_not_come_first_is_read_all_the_same() -> None:
    codec = new_codec()
    for seq in (1, 2):
        data = ENCODERS[0].encode(pack_transaction_id(TOKEN, seq), SOURCES[2], seq, 288)
        moved = data[:20] + data[44:-8] + data[20:44] + data[-8:]
        assert read(codec, moved) == (seq, decode_response(data).identity, seq)


def test_sessions_share_the_padding_of_their_probes() -> None:
    one, two = ProbeCodec(1, (288, 20)), ProbeCodec(2, (288, 20))
    assert one._parts is two._parts


def test_a_keyed_codec_reads_only_signed_replies() -> None:
    codec = new_codec(key=b"secret")
    signed = ResponseEncoder("pod-a", None, b"12345678", key=b"secret")
    assert read(codec, signed.encode(pack_transaction_id(TOKEN, 9), SOURCES[0], 1, 288))[0] == 9
    with pytest.raises(StunError, match="no-integrity"):
        read(codec, ENCODERS[0].encode(pack_transaction_id(TOKEN, 9), SOURCES[0], 1, 288))


@given(st.binary(max_size=400))
def test_what_is_no_reply_is_one_documented_error(data: bytes) -> None:
    codec = new_codec()
    read(codec, ENCODERS[0].encode(pack_transaction_id(TOKEN, 1), SOURCES[0], 1, 288))
    with pytest.raises(StunError):
        read(codec, data)


def test_a_reply_to_another_s_request_is_refused() -> None:
    with pytest.raises(StunError, match="other-transaction"):
        read(new_codec(), ENCODERS[0].encode(pack_transaction_id(TOKEN + 1, 1), SOURCES[0], 1, 288))


def test_a_quoted_probe_is_known_by_its_token() -> None:
    codec = new_codec()
    assert codec.seq_of_quoted(codec.request(77)[:20]) == 77
    assert codec.seq_of_quoted(codec.request(77)[:19]) is None
    foreign = codec.request(77)[:4] + bytes(4) + codec.request(77)[8:]
    for quote in (new_request(pack_transaction_id(TOKEN + 1, 77)), foreign):
        with pytest.raises(StunError, match="other-transaction"):
            codec.seq_of_quoted(quote)
    assert token_in(codec.request(77)) == codec.token == TOKEN
    assert Identity() == read(codec, _bare())[1]


def test_an_error_response_counts_for_the_session_that_asked() -> None:
    body = ERROR_CODE.encode(ErrorCode(401, "Unauthorized"))
    for token, error in ((TOKEN, "error-response: 401 Unauthorized"), (TOKEN + 1, "other-transaction")):
        message = pack_header(BINDING_ERROR, len(body)) + pack_transaction_id(token, 1) + body
        with pytest.raises(StunError) as raised:
            read(new_codec(), message)
        assert str(raised.value) == error
        assert raised.value.detail == ("401 Unauthorized" if token == TOKEN else "")


def _bare() -> bytes:
    """A success response that carries nothing."""
    return bytes.fromhex("010100002112a442") + pack_transaction_id(TOKEN, 0)
