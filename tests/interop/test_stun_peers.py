"""Independent STUN makers read what this tool writes, and it reads what they write: coturn, aioice, Wireshark."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aioice import stun as aioice_stun
from peers import HOSTS, ask, program

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.errors import StunError
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.server import EchoServer

TXID = stun.pack_transaction_id(0x0102030405060708, 9)
PROBE = stun.new_request(TXID)


@asynccontextmanager
async def our_server(host: str) -> AsyncIterator[EchoServer]:
    server = await EchoServer.start((host,), 0, pod_name="pod-a", node_name="node-1")
    try:
        yield server
    finally:
        await server.close()


# --- coturn ----------------------------------------------------------------------------------------------------------


@pytest.mark.debian
def test_our_codec_reads_coturns_answers(coturn: TransportAddress) -> None:
    with bind_udp(coturn.ip, 0) as sock:
        reflexive = TransportAddress(*sock.getsockname()[:2])
        answer = ask(sock, coturn, PROBE, 5)
        assert answer is not None
        response = stun.decode_response(answer)
        software = response.identity.software
        assert response == (TXID, Identity(reflexive=reflexive, software=software), None)
        assert software is not None
        assert "turn" in software.lower()


@pytest.mark.debian
def test_our_codec_reads_coturns_refusal(coturn: TransportAddress) -> None:
    with bind_udp(coturn.ip, 0) as sock:
        unknown = bytes.fromhex("7ffe000400000000")
        answer = ask(sock, coturn, PROBE[:2] + b"\x00\x08" + PROBE[4:20] + unknown, 5)
        assert answer is not None
        with pytest.raises(StunError, match="error-response: 420"):
            stun.decode_response(answer)


@pytest.mark.debian
@pytest.mark.parametrize("host", HOSTS)
async def test_coturns_client_reads_our_server(host: str) -> None:
    stunclient = program("turnutils_stunclient", "coturn")
    async with our_server(host) as server:
        command = (stunclient, "-p", str(server.addresses[0].port), "-L", host, host)
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
    assert process.returncode == 0
    family = "IPv6" if ":" in host else "IPv4"
    assert f"{family}. UDP reflexive addr: {host}:" in output.decode()
    assert (server.counters.answered, server.counters.dropped) == (1, ())


# --- aioice ----------------------------------------------------------------------------------------------------------


async def answer_of_ours(host: str, request: bytes) -> tuple[aioice_stun.Message, tuple[str, int]]:
    """Our server's answer as aioice reads it, and the address that asked."""
    loop = asyncio.get_running_loop()
    async with our_server(host) as server:
        with bind_udp(host, 0) as sock:
            await loop.sock_sendto(sock, request, server.addresses[0])
            async with asyncio.timeout(5):
                return aioice_stun.parse_message(await loop.sock_recv(sock, 2048)), sock.getsockname()[:2]


@pytest.mark.parametrize("host", HOSTS)
async def test_aioice_reads_our_servers_reply(host: str) -> None:
    message, reflexive = await answer_of_ours(host, PROBE)
    assert message.message_class == aioice_stun.Class.RESPONSE
    assert message.message_method == aioice_stun.Method.BINDING
    assert message.transaction_id == TXID
    assert message.attributes == {"XOR-MAPPED-ADDRESS": reflexive, "SOFTWARE": stun.SERVER_SOFTWARE}


def test_aioice_reads_our_request() -> None:
    message = aioice_stun.parse_message(PROBE)
    assert (message.message_class, message.message_method) == (aioice_stun.Class.REQUEST, aioice_stun.Method.BINDING)
    assert message.transaction_id == TXID
    assert message.attributes == {}


@pytest.mark.parametrize("host", HOSTS)
async def test_our_server_answers_aioices_request(host: str) -> None:
    """With its integrity (SHA-1) and fingerprint, which need no key of ours."""
    request = aioice_stun.Message(
        aioice_stun.Method.BINDING, aioice_stun.Class.REQUEST, TXID, {"USERNAME": "a:b", "SOFTWARE": "aioice"}
    )
    request.add_message_integrity(b"key")
    message, reflexive = await answer_of_ours(host, bytes(request))
    assert (message.transaction_id, message.attributes["XOR-MAPPED-ADDRESS"]) == (TXID, reflexive)


def test_our_codec_knows_ices_attributes_as_unknown() -> None:
    request = aioice_stun.Message(aioice_stun.Method.BINDING, aioice_stun.Class.REQUEST, TXID, {"PRIORITY": 5})
    assert stun.decode_request(bytes(request)) == (TXID, 28, (0x0024,))


@pytest.mark.parametrize("address", [("203.0.113.7", 40312), ("2001:db8::1", 40312)])
def test_our_codec_reads_aioices_response(address: tuple[str, int]) -> None:
    response = aioice_stun.Message(
        aioice_stun.Method.BINDING, aioice_stun.Class.RESPONSE, TXID, {"XOR-MAPPED-ADDRESS": address, "SOFTWARE": "x"}
    )
    response.add_message_integrity(b"key")
    identity = Identity(reflexive=TransportAddress(*address), software="x")
    assert stun.decode_response(bytes(response)) == (TXID, identity, None)


def test_our_codec_reads_aioices_error() -> None:
    response = aioice_stun.Message(
        aioice_stun.Method.BINDING, aioice_stun.Class.ERROR, TXID, {"ERROR-CODE": (487, "Role Conflict")}
    )
    with pytest.raises(StunError, match="error-response: 487 Role Conflict"):
        stun.decode_response(bytes(response))


# --- Wireshark -------------------------------------------------------------------------------------------------------

LINKTYPE_RAW = 101
"""A capture file's packets begin with the IP header."""


def ip_packet(source: TransportAddress, target: TransportAddress, payload: bytes) -> bytes:
    """One UDP datagram, with neither checksum filled in (Wireshark checks none by default)."""
    udp = struct.pack("!HHHH", source.port, target.port, 8 + len(payload), 0) + payload
    if source.is_ipv6:
        addresses = socket.inet_pton(socket.AF_INET6, source.ip) + socket.inet_pton(socket.AF_INET6, target.ip)
        return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + addresses + udp
    addresses = socket.inet_aton(source.ip) + socket.inet_aton(target.ip)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp


def decoded_by_tshark(capture: Path, packets: list[bytes], *fields: str) -> list[list[str]]:
    """What Wireshark shows of each packet."""
    records = b"".join(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet for packet in packets)
    capture.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, LINKTYPE_RAW) + records)
    command = [program("tshark", "tshark"), "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.debian
@pytest.mark.parametrize("ips", [("203.0.113.7", "198.51.100.1"), ("2001:db8::7", "2001:db8::1")])
@pytest.mark.parametrize("key", [None, b"secret"])
def test_wireshark_decodes_both_directions(ips: tuple[str, str], key: bytes | None, tmp_path: Path) -> None:
    client, server = TransportAddress(ips[0], 40312), TransportAddress(ips[1], 3478)
    encoder = stun.ResponseEncoder("pod-a", "node-1", bytes(8), key=key)
    reply = encoder.encode(TXID, client, 1, 288)
    refusal = encoder.encode_unknown(TXID, (0x7FFE,), 288)
    assert refusal is not None
    packets = [
        ip_packet(client, server, stun.new_request(TXID, key=key)),
        ip_packet(server, client, reply),
        ip_packet(server, client, refusal),
    ]
    version = "ipv6" if client.is_ipv6 else "ipv4"
    shown = decoded_by_tshark(
        tmp_path / "probe.pcap", packets,
        "frame.protocols", "stun.type", "stun.id", f"stun.att.{version}", "stun.att.port", "stun.att.software",
        "stun.att.error", "stun.att.type", "_ws.malformed",
    )  # fmt: skip
    layers = "raw:ipv6:udp:stun" if client.is_ipv6 else "raw:ip:udp:stun"
    # Wireshark lists the types that it has a name for; ours are "Unknown" to it, and pass over no other.
    sealed = "0x001c" if key else ""
    assert shown == [
        [layers, "0x0001", TXID.hex(), "", "", "", "", sealed, ""],
        [
            layers, "0x0101", TXID.hex(), client.ip, "40312", stun.SERVER_SOFTWARE, "",
            ",".join(filter(None, ("0x0020", "0x8022", sealed))), "",
        ],
        [layers, "0x0111", TXID.hex(), "", "", "", "20", ",".join(filter(None, ("0x0009", "0x000a", sealed))), ""],
    ]  # fmt: skip
