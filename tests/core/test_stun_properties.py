"""The STUN codec by property: round trips, bounds, and nothing but the documented error for any bytes."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.errors import StunError

transaction_ids = st.binary(min_size=12, max_size=12)
ports = st.integers(0, 65_535)
ipv4 = st.integers(0, (1 << 32) - 1).map(lambda number: str(IPv4Address(number)))
# An IPv4-mapped source is answered as the IPv4 address that it is, so it does not read back as IPv6.
ipv6 = st.integers(1 << 64, (1 << 128) - 1).map(lambda number: str(IPv6Address(number)))
sources = st.builds(TransportAddress, ipv4 | ipv6, ports)
printable = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
names = st.text(printable, min_size=1, max_size=63)
instances = st.binary(min_size=8, max_size=8)
keys = st.none() | st.binary(min_size=1, max_size=40)
sizes = st.integers(5, 375).map(lambda words: words * 4)
counts = st.integers(0, (1 << 32) - 1)
identities = st.builds(Identity, sources, names, st.none() | names, instances, names)
encoders = st.builds(stun.ResponseEncoder, names, st.none() | names, instances, names)
PREFIX = bytes.fromhex("2112a442") + bytes(12)


def encode(transaction_id: bytes, identity: Identity, count: int, key: bytes | None) -> bytes:
    """The whole reply, for a request that leaves room for all of it."""
    assert None not in (identity.reflexive, identity.pod, identity.instance, identity.software)
    encoder = stun.ResponseEncoder(identity.pod, identity.node, identity.instance, identity.software, key)
    return encoder.encode(transaction_id, identity.reflexive, count, 1200)


def framed(kind: int, body: bytes) -> bytes:
    """Bytes behind a right header, so that the walk over the attributes is reached."""
    body += bytes(-len(body) % 4)
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + PREFIX + body


datagrams = st.binary(max_size=400) | st.builds(
    framed, st.sampled_from((0x0001, 0x0101, 0x0111)), st.binary(max_size=400)
)


T = TypeVar("T")


def outcome(decode: Callable[[], T]) -> T | str:
    """What a decoder returns, or the reason of its one error; any other error fails the test."""
    try:
        return decode()
    except StunError as error:
        return error.reason


def only_the_documented_error(data: bytes, key: bytes | None) -> None:
    outcome(lambda: stun.decode_request(data, key))
    outcome(lambda: stun.decode_response(data, key))


@given(datagrams, keys)
def test_any_bytes_raise_only_the_documented_error(data: bytes, key: bytes | None) -> None:
    only_the_documented_error(data, key)


@given(transaction_ids, identities, keys, st.data())
def test_flipped_bytes_raise_only_the_documented_error(
    transaction_id: bytes, identity: Identity, key: bytes | None, data: st.DataObject
) -> None:
    request = stun.new_request(transaction_id, 88, key)
    for intact in (request, encode(transaction_id, identity, 1, key)):
        flipped = bytearray(intact)
        for at in data.draw(st.lists(st.integers(0, len(intact) - 1), min_size=1, max_size=4, unique=True)):
            flipped[at] ^= data.draw(st.integers(1, 255))
        only_the_documented_error(bytes(flipped), key)


@given(transaction_ids, sizes, keys)
def test_requests_read_back(transaction_id: bytes, size: int, key: bytes | None) -> None:
    if key is not None:
        size = max(size, 56)
    request = stun.new_request(transaction_id, size, key)
    assert len(request) == size
    assert stun.decode_request(request, key) == (transaction_id, size, ())


@given(datagrams)
def test_the_quick_pass_agrees_with_the_whole_decoder(data: bytes) -> None:
    if stun.is_plain_probe(data):
        assert stun.decode_request(data) == (data[8:20], len(data), ())


@given(transaction_ids, identities, counts, keys)
def test_replies_read_back(transaction_id: bytes, identity: Identity, count: int, key: bytes | None) -> None:
    reply = encode(transaction_id, identity, count, key)
    assert stun.decode_response(reply, key) == (transaction_id, identity, count)


@given(encoders, transaction_ids, sources, sizes)
def test_no_reply_with_identity_is_longer_than_its_request(
    encoder: stun.ResponseEncoder, transaction_id: bytes, source: TransportAddress, limit: int
) -> None:
    reply = encoder.encode(transaction_id, source, 1, limit)
    bare = 44 if source.is_ipv6 else 32
    assert len(reply) <= max(limit, bare)
    if len(reply) > limit:
        assert stun.decode_response(reply) == (transaction_id, Identity(source), None)


@given(encoders, transaction_ids, st.lists(st.integers(0, 0x7FFF), min_size=1, max_size=9).map(tuple), sizes)
def test_no_error_response_is_longer_than_its_request(
    encoder: stun.ResponseEncoder, transaction_id: bytes, unknown: tuple[int, ...], limit: int
) -> None:
    assert len(encoder.encode_unknown(transaction_id, unknown, limit) or b"") <= limit
