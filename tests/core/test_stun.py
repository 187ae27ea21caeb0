"""The STUN codec by example: RFC 8489's test vector, exact bytes, and each reason to refuse a datagram."""

from __future__ import annotations

import hashlib
import struct
import zlib

import pytest

from affinity_tester import __version__
from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.stun.message import add_integrity
from affinity_tester.errors import StunError

TXID = stun.pack_transaction_id(0x0102030405060708, 9)
COOKIE = bytes.fromhex("2112a442")
SOURCE = TransportAddress("203.0.113.7", 40312)
SOURCE6 = TransportAddress("2001:db8::1", 40312)
INSTANCE = bytes.fromhex("a1a2a3a4a5a6a7a8")
ENCODER = stun.ResponseEncoder("pod-a", "node-1", INSTANCE, "soft/1")
FULL = Identity(SOURCE, "pod-a", "node-1", INSTANCE, "soft/1")

# RFC 8489 appendix B.1, as corrected by verified erratum 6268.
RFC8489_B1 = bytes.fromhex(
    "000100902112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    "001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39"
    "4653547679363473410000000014000b6578616d706c652e6f726700"
    "001d000400020000"
    "001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
)
RFC8489_B1_KEY = hashlib.sha256("マトリックス:example.org:TheMatrIX".encode()).digest()


def attribute(kind: int, value: bytes, pad: bytes = b"\0\0\0") -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + pad[: -len(value) % 4]


def message(*attributes: bytes, kind: int = 0x0001) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HH", kind, len(body)) + COOKIE + TXID + body


def with_fingerprint(data: bytes) -> bytes:
    data = data[:2] + struct.pack("!H", len(data) - 12) + data[4:]
    return data + attribute(0x8028, struct.pack("!I", zlib.crc32(data) ^ 0x5354554E))


def refusal(data: bytes, *, response: bool = False, key: bytes | None = None) -> str:
    with pytest.raises(StunError) as caught:
        (stun.decode_response if response else stun.decode_request)(data, key)
    return str(caught.value)


# --- transaction ids -------------------------------------------------------------------------------------------------


def test_a_transaction_id_is_the_token_and_the_sequence_number() -> None:
    assert bytes.fromhex("010203040506070800000009") == TXID
    assert stun.unpack_transaction_id(TXID) == (0x0102030405060708, 9)


@pytest.mark.parametrize(("token", "seq"), [(1 << 64, 0), (-1, 0), (0, 1 << 32), (0, -1)])
def test_numbers_that_do_not_fit_are_refused(token: int, seq: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        stun.pack_transaction_id(token, seq)


def test_a_transaction_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="12 bytes, not 11"):
        stun.unpack_transaction_id(bytes(11))


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_probe_is_a_header_and_padding() -> None:
    assert stun.new_request(TXID) == message(attribute(0xC5A0, bytes(264)))
    assert stun.new_request(TXID, 24) == message(attribute(0xC5A0, b""))
    assert stun.new_request(TXID, 20) == message()


@pytest.mark.parametrize("size", [20, 24, 28, 288, 1472, 65_504])
def test_a_probe_reads_back(size: int) -> None:
    assert stun.decode_request(stun.new_request(TXID, size)) == (TXID, size, ())


@pytest.mark.parametrize("size", [0, 16, 21, 22, 23, 289, 65_507, 65_508])
def test_sizes_that_cannot_be_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a probe cannot have {size} bytes: a multiple of 4 from 20 to 65504 can be"):
        stun.new_request(TXID, size)


def test_a_keyed_probe_is_signed_and_has_the_size_asked_for() -> None:
    probe = stun.new_request(TXID, 288, b"secret")
    assert len(probe) == 288
    assert probe[-36:-32] == bytes.fromhex("001c0020")
    assert stun.decode_request(probe, b"secret") == (TXID, 288, ())
    assert stun.decode_request(probe) == (TXID, 288, ())  # without a key it is understood and ignored
    assert stun.decode_request(stun.new_request(TXID, 56, b"secret"), b"secret") == (TXID, 56, ())


def test_a_keyed_probe_has_at_least_room_for_the_integrity() -> None:
    with pytest.raises(ValueError, match="from 56 to 2048"):
        stun.new_request(TXID, 52, b"secret")


def test_a_keyed_probe_is_no_longer_than_what_is_read() -> None:
    assert stun.decode_request(stun.new_request(TXID, 2048, b"secret"), b"secret") == (TXID, 2048, ())
    with pytest.raises(ValueError, match="from 56 to 2048"):
        stun.new_request(TXID, 2052, b"secret")


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("key", [None, b"secret"])
def test_what_reading_a_message_costs_is_bounded(response: bool, key: bytes | None) -> None:
    kind = 0x0101 if response else 0x0001
    empty = attribute(0x8022, b"")
    too_many = refusal(message(*[empty] * 33, kind=kind), response=response, key=key)
    assert too_many == "too-many-attributes: more than 32"
    too_long = refusal(message(empty, attribute(0xC5A0, bytes(2024)), kind=kind), response=response, key=key)
    assert too_long == "too-long: 2052 bytes, and at most 2048 are read"


def test_a_message_at_the_bounds_is_read() -> None:
    longest = message(attribute(0x8022, b""), attribute(0xC5A0, bytes(2020)))
    assert stun.decode_request(longest) == (TXID, 2048, ())
    unsigned = [attribute(0x8022, b"")] * 31
    signed = add_integrity(message(*unsigned), b"secret")
    assert stun.decode_request(signed, b"secret") == (TXID, 20 + 31 * 4 + 36, ())
    assert refusal(with_fingerprint(signed), key=b"secret") == "too-many-attributes: more than 32"
    required = message(*(attribute(0x2000 + number, b"") for number in range(32)))
    assert stun.decode_request(required).unknown_required == tuple(range(0x2000, 0x2020))


def test_a_forged_message_is_not_interpreted() -> None:
    """The key comes before what the attributes mean: a forger hears of no unknown one."""
    forged = add_integrity(message(attribute(0x0003, bytes(4))), b"guess")
    assert refusal(forged, key=b"secret") == "bad-integrity"


def test_a_probe_needs_a_transaction_id_of_12_bytes() -> None:
    with pytest.raises(ValueError, match="12 bytes, not 4"):
        stun.new_request(b"1234")


def test_the_quick_pass_knows_probes_from_everything_else() -> None:
    assert stun.is_plain_probe(stun.new_request(TXID))
    assert stun.is_plain_probe(message(attribute(0xC5A0, b"\xff" * 264)))
    assert stun.is_plain_probe(stun.new_request(TXID, 20))
    assert not stun.is_plain_probe(stun.new_request(TXID, 24)[:20])
    assert not stun.is_plain_probe(stun.new_request(TXID, 288, b"secret"))
    assert not stun.is_plain_probe(stun.new_request(TXID)[:-1])
    assert not stun.is_plain_probe(b"")


def test_rfc8489_appendix_b1() -> None:
    assert stun.decode_request(RFC8489_B1, RFC8489_B1_KEY) == (bytes.fromhex("78ad3433c6ad72c029da412e"), 164, ())
    assert refusal(RFC8489_B1, key=b"another") == "bad-integrity"


def test_rfc8489s_own_attributes_are_understood_and_ignored() -> None:
    kinds = (0x0001, 0x0006, 0x0009, 0x000A, 0x0014, 0x0015, 0x001D, 0x001E, 0x0020, 0x8002, 0x8003, 0x8022, 0x8023)
    request = message(*(attribute(kind, b"xyz") for kind in (*kinds, 0x0008)))
    assert stun.decode_request(request).unknown_required == ()


def test_unknown_required_attributes_are_listed_once_in_order_and_optional_ones_are_not() -> None:
    change_request, priority = attribute(0x0003, bytes(4)), attribute(0x0024, bytes(4))
    request = message(priority, change_request, priority, attribute(0x8070, b""), attribute(0xFFFF, b"x"))
    assert stun.decode_request(request).unknown_required == (0x0024, 0x0003)


def test_padding_bytes_may_hold_anything() -> None:
    assert stun.decode_request(message(attribute(0x8022, b"x", pad=b"\xde\xad\xbe"))).unknown_required == ()


def test_what_follows_the_integrity_is_ignored() -> None:
    unknown = attribute(0x0003, bytes(4))
    sha1, sha256 = attribute(0x0008, bytes(20)), attribute(0x001C, bytes(32))
    assert stun.decode_request(message(sha1, unknown)).unknown_required == ()
    assert stun.decode_request(message(sha256, unknown)).unknown_required == ()
    assert stun.decode_request(message(sha1, sha256, unknown, sha1)).unknown_required == ()
    assert stun.decode_request(message(unknown, sha1)).unknown_required == (3,)


def test_a_fingerprint_is_checked() -> None:
    good = with_fingerprint(stun.new_request(TXID, 64))
    assert stun.decode_request(good) == (TXID, 72, ())
    assert stun.decode_request(with_fingerprint(stun.new_request(TXID, 64, b"k")), b"k") == (TXID, 72, ())
    assert refusal(good[:-1] + bytes([good[-1] ^ 1])) == "bad-fingerprint"
    assert refusal(message(good[-8:], attribute(0x8022, b""))).startswith("malformed-attribute: FINGERPRINT is not")
    assert refusal(message(attribute(0x8028, b""))).startswith("malformed-attribute: FINGERPRINT is not")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too-short: 0 bytes"),
        (message()[:19], "too-short: 19 bytes"),
        (b"\x40" + message()[1:], "not-stun: the first two bits are not zero"),
        (b"\x80" + message()[1:], "not-stun: the first two bits are not zero"),
        (message() + b"\0\0\0\0", "bad-length: the header says 0, the datagram has 4"),
        (message()[:2] + b"\0\2" + message()[4:] + b"\0\0", "bad-length: the header says 2, the datagram has 2"),
        (stun.new_request(TXID)[:-4], "bad-length: the header says 268, the datagram has 264"),
        (message()[:4] + bytes(16), "legacy: no magic cookie"),
        (message(kind=0x0101), "wrong-type: 0x0101"),
        (message(kind=0x0111), "wrong-type: 0x0111"),
        (message(kind=0x0011), "wrong-type: 0x0011"),
        (message(kind=0x0003), "wrong-type: 0x0003"),
        (
            message(struct.pack("!HH", 0xC5A0, 1)),
            "malformed-attribute: attribute 0xC5A0 runs past the end of the message",
        ),
    ],
)
def test_datagrams_that_are_no_binding_request(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


def test_with_a_key_every_request_must_prove_it() -> None:
    assert refusal(stun.new_request(TXID), key=b"secret") == "no-integrity"
    assert refusal(stun.new_request(TXID, 288, b"other"), key=b"secret") == "bad-integrity"
    short = message(attribute(0x001C, bytes(16)))
    assert refusal(short, key=b"secret") == ("malformed-attribute: MESSAGE-INTEGRITY-SHA256 has 16 bytes instead of 32")


# --- responses -------------------------------------------------------------------------------------------------------


def test_a_reply_has_its_attributes_in_a_fixed_order_and_the_count_last() -> None:
    assert ENCODER.encode(TXID, SOURCE, 7, 288) == message(
        attribute(0x0020, bytes.fromhex("0001bc6aea12d545")),
        attribute(0x8022, b"soft/1"),
        attribute(0xC5A1, b"pod-a"),
        attribute(0xC5A2, b"node-1"),
        attribute(0xC5A3, INSTANCE),
        attribute(0xC5A4, bytes.fromhex("00000007")),
        kind=0x0101,
    )


@pytest.mark.parametrize("key", [None, b"secret"])
@pytest.mark.parametrize("source", [SOURCE, SOURCE6])
def test_a_reply_reads_back(source: TransportAddress, key: bytes | None) -> None:
    encoder = stun.ResponseEncoder("pod-a", "node-1", INSTANCE, "soft/1", key)
    reply = encoder.encode(TXID, source, 7, 288)
    assert stun.decode_response(reply, key) == (TXID, FULL._replace(reflexive=source), 7)


def test_what_does_not_fit_is_left_out_in_order() -> None:
    # XOR-MAPPED-ADDRESS 12, SOFTWARE 12, POD-NAME 12, NODE-NAME 12, INSTANCE-ID 12, RECEIVED-COUNT 8
    seen = {limit: stun.decode_response(ENCODER.encode(TXID, SOURCE, 7, limit)) for limit in range(20, 92, 4)}
    assert {limit: len(ENCODER.encode(TXID, SOURCE, 7, limit)) for limit in seen} == (
        dict.fromkeys(range(20, 44, 4), 32) | {44: 44, 48: 44, 52: 44} | {56: 56, 60: 56}
        | {64: 64, 68: 64, 72: 64} | {76: 76, 80: 76, 84: 76} | {88: 88}
    )  # fmt: skip
    nothing = Identity(reflexive=SOURCE)
    pod = nothing._replace(pod="pod-a")
    instance = pod._replace(instance=INSTANCE)
    assert [seen[limit][1:] for limit in (40, 44, 56, 64, 76, 88)] == [
        (nothing, None),
        (pod, None),
        (instance, None),
        (instance, 7),
        (instance._replace(software="soft/1"), 7),
        (FULL, 7),
    ]


def test_without_a_node_name_there_is_none() -> None:
    encoder = stun.ResponseEncoder("pod-a", None, INSTANCE)
    assert stun.decode_response(encoder.encode(TXID, SOURCE, 1, 288)).identity == Identity(
        SOURCE, "pod-a", None, INSTANCE, f"affinity-tester/{__version__}"
    )


def test_the_source_may_be_mapped_or_have_a_scope() -> None:
    def reflexive(ip: str) -> TransportAddress | None:
        return stun.decode_response(ENCODER.encode(TXID, (ip, 5), 1, 288)).identity.reflexive

    assert reflexive("::ffff:203.0.113.7") == ("203.0.113.7", 5)
    assert reflexive("fe80::1%eth0") == ("fe80::1", 5)


def test_the_count_wraps_at_32_bits() -> None:
    assert stun.decode_response(ENCODER.encode(TXID, SOURCE, (1 << 32) + 5, 288)).received_count == 5


@pytest.mark.parametrize(
    ("pod", "node", "problem"),
    [
        ("", None, "POD-NAME has 0 bytes of UTF-8: 1 to 253 are possible"),
        ("é" * 127, None, "POD-NAME has 254 bytes of UTF-8: 1 to 253 are possible"),
        ("p", "n" * 254, "NODE-NAME has 254 bytes of UTF-8: 1 to 253 are possible"),
        ("a\x1b[31m", None, "POD-NAME holds characters that cannot be printed"),
        ("\udc80", None, "POD-NAME is not valid text"),
    ],
)
def test_names_that_a_reply_cannot_carry_are_refused(pod: str, node: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        stun.ResponseEncoder(pod, node, INSTANCE)


def test_an_instance_id_has_8_bytes() -> None:
    with pytest.raises(ValueError, match="8 bytes, not 7"):
        stun.ResponseEncoder("p", None, bytes(7))


def test_a_420_names_the_unknown_attributes() -> None:
    reply = ENCODER.encode_unknown(TXID, (0x0024, 0x0003), 288)
    assert reply == message(
        attribute(0x0009, b"\0\0\x04\x14Unknown Attribute"), attribute(0x000A, bytes.fromhex("00240003")), kind=0x0111
    )
    assert refusal(reply, response=True) == "error-response: 420 Unknown Attribute"


def test_a_420_loses_its_words_before_it_is_left_out() -> None:
    short = ENCODER.encode_unknown(TXID, (3,), 36)
    assert short == message(attribute(0x0009, b"\0\0\x04\x14"), attribute(0x000A, b"\0\3"), kind=0x0111)
    assert refusal(short, response=True) == "error-response: 420"
    assert ENCODER.encode_unknown(TXID, (3,), 32) is None


def test_a_keyed_420_is_signed() -> None:
    reply = stun.ResponseEncoder("p", None, INSTANCE, key=b"secret").encode_unknown(TXID, (3,), 288)
    assert reply is not None
    assert reply[-36:-32] == bytes.fromhex("001c0020")


def test_a_reply_without_a_reflexive_address_is_read() -> None:
    mapped = attribute(0x0001, bytes.fromhex("00010d96cb007107"))
    assert stun.decode_response(message(mapped, kind=0x0101)) == (TXID, Identity(), None)


def test_the_first_of_a_repeated_attribute_counts() -> None:
    reply = message(attribute(0xC5A1, b"one"), attribute(0xC5A1, b"\xff"), kind=0x0101)
    assert stun.decode_response(reply).identity == Identity(pod="one")


def test_rfc3489_attributes_in_a_reply_are_tolerated() -> None:
    reply = message(attribute(0x0004, bytes(8)), attribute(0x0005, bytes(8)), kind=0x0101)
    assert stun.decode_response(reply).identity == Identity()


def test_a_remark_of_another_server_is_shown_as_far_as_it_can_be() -> None:
    reply = message(attribute(0x8022, b"caf\xc3\xa9 \xff\x1b[0m\0\0"), kind=0x0101)
    assert stun.decode_response(reply).identity.software == "café \ufffd\ufffd[0m"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(), "wrong-type: 0x0001"),
        (message(kind=0x0111), "error-response: no code"),
        (message(attribute(0x0009, b"\0\0\4"), kind=0x0111), "malformed-attribute: ERROR-CODE has 3 bytes"),
        (message(attribute(0x0009, b"\0\0\5\0Oops"), kind=0x0111), "error-response: 500 Oops"),
        (message(attribute(0x0003, b""), attribute(0x0024, b""), kind=0x0101), "unknown-attribute: 0x0003, 0x0024"),
        (
            message(attribute(0x0020, bytes.fromhex("0002bc6aea12d545")), kind=0x0101),
            "malformed-attribute: XOR-MAPPED-ADDRESS has family 2 and 8 bytes",
        ),
        (
            message(attribute(0x0020, bytes.fromhex("0001") + bytes(18)), kind=0x0101),
            "malformed-attribute: XOR-MAPPED-ADDRESS has family 1 and 20 bytes",
        ),
        (
            message(attribute(0x0020, b"\1"), kind=0x0101),
            "malformed-attribute: XOR-MAPPED-ADDRESS has family 0 and 1 bytes",
        ),
        (message(attribute(0xC5A1, b"\xff"), kind=0x0101), "malformed-attribute: POD-NAME is not UTF-8"),
        (
            message(attribute(0xC5A2, b"n" * 254), kind=0x0101),
            "malformed-attribute: NODE-NAME has 254 bytes of UTF-8: 1 to 253 are possible",
        ),
        (
            message(attribute(0xC5A1, b"\x1b[2J"), kind=0x0101),
            "malformed-attribute: POD-NAME holds characters that cannot be printed",
        ),
        (
            message(attribute(0xC5A3, bytes(7)), kind=0x0101),
            "malformed-attribute: INSTANCE-ID has 7 bytes instead of 8",
        ),
        (
            message(attribute(0xC5A4, bytes(3)), kind=0x0101),
            "malformed-attribute: RECEIVED-COUNT has 3 bytes instead of 4",
        ),
        (
            message(attribute(0x8022, bytes(764)), kind=0x0101),
            "malformed-attribute: SOFTWARE has 764 bytes: at most 763 are possible",
        ),
    ],
)
def test_datagrams_that_are_no_success_response(data: bytes, reason: str) -> None:
    assert refusal(data, response=True) == reason


def test_with_a_key_every_reply_must_prove_it() -> None:
    assert refusal(ENCODER.encode(TXID, SOURCE, 1, 288), response=True, key=b"secret") == "no-integrity"


@pytest.mark.parametrize(
    ("software", "wildcard"),
    [
        (stun.WILDCARD_SOFTWARE, True),
        ("affinity-tester/9.9.9 wildcard", True),
        (stun.SERVER_SOFTWARE, False),
        ("coturn/4.6 wildcard", False),
        ("affinity-tester wildcard", False),
        (None, False),
    ],
)
def test_a_server_on_a_wildcard_is_known_by_its_software(software: str | None, *, wildcard: bool) -> None:
    assert stun.listens_on_wildcard(software) is wildcard
