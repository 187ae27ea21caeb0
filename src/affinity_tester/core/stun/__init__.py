"""The wire: STUN Binding requests and responses (RFC 8489), and this tool's own attributes (docs/protocol.md).

    request   header(20)  transaction id = session token (64 random bits) || sequence number (32 bits, from 0)
              REPLY-DELAY               0xC5A6  wants another reply so many milliseconds later (core.delayed_replies)
              PROBE-PADDING             0xC5A0  so that the request is never shorter than its reply
              MESSAGE-INTEGRITY-SHA256  0x001C  when a key is set
    response  header(20)  the same transaction id
              XOR-MAPPED-ADDRESS        0x0020  the reflexive address
              SOFTWARE                  0x8022
              POD-NAME                  0xC5A1
              NODE-NAME                 0xC5A2
              INSTANCE-ID               0xC5A3
              REPLY-DELAY               0xC5A6  where it was asked for: another reply follows so much later; 0: none
              RECEIVED-COUNT            0xC5A4  last, since it alone changes from reply to reply
              MESSAGE-INTEGRITY-SHA256  0x001C  when a key is set

Bytes in, values out; no socket and no clock. The one error a decoder raises is `errors.StunError(reason, detail)`:

    too-short            fewer bytes than a header
    not-stun             the first two bits are not zero (RFC 8489 section 5)
    bad-length           the header's length is not that of the datagram, or no multiple of 4
    legacy               no magic cookie: RFC 3489
    wrong-type           STUN, but not the message asked for
    too-long             more than 2,048 bytes, and no plain probe: it would cost too much to read
    too-many-attributes  more than 32
    malformed-attribute  an attribute runs past the end, or its value is not what its type demands
    unknown-attribute    a response with a comprehension-required attribute that is not understood (section 6.3.3)
    bad-fingerprint      FINGERPRINT does not match
    no-integrity         a key is set, and the message has no MESSAGE-INTEGRITY-SHA256
    bad-integrity        it has one, made with another key
    error-response       a Binding error response; the detail has its code
"""

from affinity_tester.core.stun.attributes import MAX_NAME_BYTES, check_name
from affinity_tester.core.stun.message import (
    HEADER_SIZE,
    MAX_WALKED_SIZE,
    pack_transaction_id,
    read_reply_delay,
    unpack_transaction_id,
)
from affinity_tester.core.stun.probe_codec import ProbeCodec, token_in
from affinity_tester.core.stun.request import (
    BindingRequest,
    decode_request,
    decode_request_and_delay,
    is_plain_probe,
    new_request,
    plain_probe_template,
)
from affinity_tester.core.stun.response import (
    MAX_COUNT,
    SERVER_SOFTWARE,
    WILDCARD_SOFTWARE,
    BindingResponse,
    ReplyTemplate,
    ResponseEncoder,
    decode_mapped_address,
    decode_response,
    is_error_response,
    listens_on_wildcard,
)

__all__ = [
    "HEADER_SIZE",
    "MAX_COUNT",
    "MAX_NAME_BYTES",
    "MAX_WALKED_SIZE",
    "SERVER_SOFTWARE",
    "WILDCARD_SOFTWARE",
    "BindingRequest",
    "BindingResponse",
    "ProbeCodec",
    "ReplyTemplate",
    "ResponseEncoder",
    "check_name",
    "decode_mapped_address",
    "decode_request",
    "decode_request_and_delay",
    "decode_response",
    "is_error_response",
    "is_plain_probe",
    "listens_on_wildcard",
    "new_request",
    "pack_transaction_id",
    "plain_probe_template",
    "read_reply_delay",
    "token_in",
    "unpack_transaction_id",
]
