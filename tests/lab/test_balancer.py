"""The balancer with real sockets: what comes back is what a client behind it would get."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.balancer import Balancer, Diversion, Sources
from affinity_tester.lab.impairment import Impairment, Impairments
from affinity_tester.lab.model import Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.packet_log import Direction, Dropped, PacketEvent

FRONT = TransportAddress("127.0.0.1", 0)
FOREVER_NS = 1 << 62


class Echo(asyncio.DatagramProtocol):
    """A pod: it replies with its name, and with the address that it saw."""

    def __init__(self, name: str) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(f"{self.name} {TransportAddress(*addr)} {data.decode()}".encode(), addr)


class Client:
    """A socket that says and hears."""

    def __init__(self, target: TransportAddress) -> None:
        self.target = target
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(("127.0.0.1", 0))
        self.address = TransportAddress(*self.sock.getsockname())

    def say(self, text: str) -> None:
        self.sock.sendto(text.encode(), self.target)

    async def hear(self) -> list[str]:
        data, sender = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(self.sock, 2048), 10)
        assert sender == self.target, "replies come from the front"
        return data.decode().split()

    async def ask(self, text: str) -> list[str]:
        self.say(text)
        return await self.hear()


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the balancer tells nobody
        await asyncio.sleep(0.001)


class Lab:
    def __init__(self, policy: Policy) -> None:
        self.packets: list[PacketEvent] = []
        sources = Sources()
        self.network = NetworkModel(seed=1, log=self.packets.append, claim=sources.claim, policy=policy)
        self.impairments = Impairments(self.packets.append)
        for number in (1, 2):
            self.network.ingress.add_node(f"node-{number}", f"127.1.0.{number}")
        self.sources = sources
        self.balancer = Balancer.start(self.network, self.impairments, sources, FRONT, self.pod_socket)
        self.clients: list[Client] = []
        self.transports: list[asyncio.BaseTransport] = []

    async def add_pods(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (1, 2):
            name, local = f"pod-{number}", (f"127.2.0.{number}", 0)
            transport, _ = await loop.create_datagram_endpoint(lambda name=name: Echo(name), local_addr=local)
            self.transports.append(transport)
            address = TransportAddress(*transport.get_extra_info("sockname"))
            self.network.add_pod(Pod(name=name, node=f"node-{number}", address=address, instance=bytes(8)))

    def pod_socket(self, address: TransportAddress) -> socket.socket:
        """As a pod's own: the tests' transports do not give theirs away."""
        assert address in {pod.address for pod in self.network.pods.values()}
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.transports.append(cast("asyncio.BaseTransport", sock))  # closed with the others
        sock.bind((address.ip, 0))
        return sock

    def client(self) -> Client:
        client = Client(self.balancer.address)
        self.clients.append(client)
        return client

    def close(self) -> None:
        self.balancer.close()
        for client in self.clients:
            client.sock.close()
        for transport in self.transports:
            transport.close()


@pytest.fixture(params=[Policy.CLUSTER])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    made = Lab(request.param)
    await made.add_pods()
    yield made
    made.close()
    await asyncio.sleep(0)  # transports close in the loop's next turn


async def test_a_flow_keeps_its_pod_and_its_reflexive_address_until_the_path_changes(lab: Lab) -> None:
    client = lab.client()
    pod, seen, _ = await client.ask("0")
    assert seen.startswith("127.1.0.")
    for number in range(1, 5):
        assert await client.ask(str(number)) == [pod, seen, str(number)]
    lab.network.ingress.add_node("node-9", "127.1.0.9", lab.network.ingress.weight_to_move("node-9", 1))
    _, moved, _ = await client.ask("5")
    assert moved.startswith("127.1.0.9:")
    lab.network.rewrite_port(client.address, 0)
    _, rewritten, _ = await client.ask("6")
    assert rewritten.startswith("127.1.0.9:")
    assert rewritten != moved


async def test_clients_do_not_get_each_others_replies(lab: Lab) -> None:
    clients = [lab.client() for _ in range(20)]
    for number, client in enumerate(clients):
        client.say(str(number))
    answers = [await client.hear() for client in clients]
    assert [text for _, _, text in answers] == [str(number) for number in range(20)]
    assert len({seen for _, seen, _ in answers}) == 20
    assert {pod for pod, _, _ in answers} == {"pod-1", "pod-2"}


@pytest.mark.parametrize("lab", [Policy.LOCAL], indirect=True)
async def test_policy_local_shows_the_clients_port_on_its_stand_in_address(lab: Lab) -> None:
    client = lab.client()
    assert (await client.ask("0"))[1] == f"127.3.0.1:{client.address.port}"


async def test_probes_meet_the_mangler(lab: Lab) -> None:
    client = lab.client()
    await client.ask("warm")
    lab.impairments.add(
        Impairment(direction=Direction.UP, flows=None, until_ns=FOREVER_NS, rng=random.Random(1), drop=1.0)
    )
    client.say("lost")
    await until(lambda: bool(lab.packets))  # until the balancer read it
    (packet,) = lab.packets
    assert isinstance(packet, Dropped)
    assert (packet.flow, packet.direction) == (client.address, Direction.UP)


async def test_a_reply_is_duplicated_and_overtaken(lab: Lab) -> None:
    client = lab.client()
    await client.ask("warm")
    impairment = Impairment(
        direction=Direction.DOWN,
        flows=frozenset({client.address}),
        until_ns=FOREVER_NS,
        rng=random.Random(1),
        duplicate=1.0,
        delay=1.0,
        delay_ns=500_000_000,
    )
    lab.impairments.add(impairment)
    client.say("held")
    await until(lambda: bool(lab.packets))  # the reply came through
    lab.impairments._active.clear()
    client.say("quick")
    assert [(await client.hear())[2] for _ in range(3)] == ["quick", "held", "held"]


async def test_strangers_reach_no_client(lab: Lab) -> None:
    client, stranger = lab.client(), lab.client()
    _, seen, _ = await client.ask("0")
    stranger.sock.sendto(b"forged", TransportAddress.parse(seen))
    await until(lambda: bool(lab.balancer.unclaimed))
    assert (await client.ask("1"))[2] == "1"


async def test_a_taken_port_is_not_claimed_and_sockets_close_when_their_flow_is_forgotten(lab: Lab) -> None:
    client = lab.client()
    _, seen, _ = await client.ask("0")
    source = TransportAddress.parse(seen)
    assert not lab.sources.claim(source)
    for sock in lab.sources.release(lab.network.expire(FOREVER_NS)):
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
    with pytest.raises(KeyError):
        lab.sources[source]
    assert (await client.ask("1"))[1] != seen, "the flow begins as new"


async def test_what_the_machine_refuses_is_counted(lab: Lab) -> None:
    def out_of_sockets(_source: TransportAddress) -> bool:
        raise OSError(24, "Too many open files")

    lab.network.sources._claim = out_of_sockets
    client = lab.client()
    client.say("0")
    await until(lambda: bool(lab.balancer.refused))
    assert (lab.balancer.refused, lab.balancer.refusal) == (1, "Too many open files")


async def test_a_front_that_is_taken_says_so(lab: Lab) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        Balancer.start(lab.network, lab.impairments, Sources(), lab.balancer.address)


async def test_replies_astray_come_from_another_port_and_count_as_dropped(lab: Lab) -> None:
    client = lab.client()
    await client.ask("0")
    lab.balancer.wrong_source.add(client.address)
    client.say("1")
    data, sender = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(client.sock, 2048), 10)
    assert data.decode().split()[2] == "1"
    assert sender[0] == client.target.ip
    assert sender[1] != client.target.port
    (packet,) = lab.packets
    assert isinstance(packet, Dropped)
    assert (packet.flow, packet.direction, packet.reason) == (client.address, Direction.DOWN, "wrong-source")
    lab.balancer.wrong_source.clear()
    assert (await client.ask("2"))[2] == "2"


async def test_held_replies_come_when_they_are_released(lab: Lab) -> None:
    client = lab.client()
    await client.ask("0")
    lab.balancer.holding.add(client.address)
    client.say("1")
    await until(lambda: bool(lab.balancer._held))
    lab.balancer.release()
    assert (await client.hear())[2] == "1"


async def test_a_flood_leaves_no_room_for_the_held_replies(lab: Lab) -> None:
    client = lab.client()
    await client.ask("0")
    lab.balancer.holding.add(client.address)
    client.say("1")
    await until(lambda: bool(lab.balancer._held))
    lab.balancer.flood(5_000)
    (packet,) = lab.packets
    assert isinstance(packet, Dropped)
    assert (packet.flow, packet.direction, packet.reason) == (client.address, Direction.DOWN, "full-buffer")
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(client.sock.recv(2048))
    assert 0 < len(heard) < 5_000
    assert not any(heard[-1]), "the reply found no room"


async def test_replies_to_a_shared_source_reach_the_thief_alone(lab: Lab) -> None:
    def probe(token: bytes) -> bytes:
        return bytes(8) + token

    async def answered(client: Client) -> bytes:
        data, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(client.sock, 2048), 10)
        return data

    def echo(data: bytes, addr: tuple[str, int]) -> None:
        pod.sendto(data, addr)

    loop = asyncio.get_running_loop()
    for name in list(lab.network.pods):
        lab.network.remove_pod(name)
    pod = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    pod.bind(("127.2.0.9", 0))
    loop.add_reader(pod, lambda: echo(*pod.recvfrom(2048)))
    try:
        address = TransportAddress(*pod.getsockname())
        lab.network.add_pod(Pod(name="only", node="node-1", address=address, instance=bytes(8)))
        lab.network.ingress.vip = "node-1"
        owner, taker = lab.client(), lab.client()
        for client, token in ((owner, b"owner___"), (taker, b"taker___")):
            client.sock.sendto(probe(token), client.target)
            assert await answered(client) == probe(token)
        lab.network.share_source(taker.address, owner.address, 0)
        owner.sock.sendto(probe(b"owner___"), owner.target)
        assert await answered(taker) == probe(b"owner___")
        taker.sock.sendto(probe(b"taker___"), taker.target)
        assert await answered(taker) == probe(b"taker___")
        (drop,) = [packet for packet in lab.packets if isinstance(packet, Dropped)]
        assert (drop.flow, drop.direction, drop.reason) == (owner.address, Direction.DOWN, "snat-collision")
    finally:
        loop.remove_reader(pod)
        pod.close()


async def test_a_share_of_replies_is_delivered_to_another_client_and_counts_as_dropped(lab: Lab) -> None:
    owner, getter = lab.client(), lab.client()
    await owner.ask("0")
    await getter.ask("1")
    lab.balancer.diversions[owner.address] = Diversion(getter.address, 1.0, random.Random(1))
    owner.say("2")
    assert (await getter.hear())[2] == "2"
    (packet,) = lab.packets
    assert isinstance(packet, Dropped)
    assert (packet.flow, packet.direction, packet.reason) == (owner.address, Direction.DOWN, "cross-delivery")
    lab.balancer.diversions[owner.address] = Diversion(getter.address, 1e-9, random.Random(1))
    assert (await owner.ask("3"))[2] == "3"


async def test_replies_of_pods_that_no_flow_table_has_leave_from_the_pods_own_address(lab: Lab) -> None:
    client = lab.client()
    home, _, _ = await client.ask("0")
    lab.network.one_packet = True
    loop = asyncio.get_running_loop()
    for number in range(1, 20):
        client.say(str(number))
        data, (ip, _) = await asyncio.wait_for(loop.sock_recvfrom(client.sock, 2048), 10)
        pod = data.decode().split()[0]
        assert ip == ("127.0.0.1" if pod == home else lab.network.pods[pod].address.ip)
    drops = [packet for packet in lab.packets if isinstance(packet, Dropped)]
    assert 0 < len(drops) < 19
    assert {(packet.flow, packet.direction, packet.reason) for packet in drops} == {
        (client.address, Direction.DOWN, "wrong-source")
    }
