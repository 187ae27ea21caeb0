"""The probe socket: what it asks of the kernel, and what it reads there."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from running import kernel_stamps

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.net import limits, probe_socket
from affinity_tester.net.addresses import bind_udp, bound_address
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.limits import SPARE_DESCRIPTORS, raise_descriptor_limit
from affinity_tester.net.probe_socket import (
    IcmpError,
    bound_source_for,
    drop_count,
    local_source_for,
    missing_capabilities,
    open_probe_socket,
    read_error_queue,
    receive,
    socket_address,
)
from scripted import closed_port

HOSTS = ["127.0.0.1", "::1"]


@contextmanager
def pair(host: str, *, connected: bool = False) -> Iterator[tuple[socket.socket, socket.socket, TransportAddress]]:
    """(probe socket, server's socket, server's address)"""
    with bind_udp(host, 0) as server:
        address = bound_address(server)
        with open_probe_socket(host, address, scope_id=0, connected=connected) as probe:
            yield probe, server, address


def wait_for(sock: socket.socket, what: int) -> None:
    poller = select.poll()
    poller.register(sock, what)
    assert poller.poll(10_000)


@pytest.mark.parametrize("host", HOSTS)
def test_the_kernel_says_when_a_datagram_came(host: str) -> None:
    with kernel_stamps(), pair(host) as (probe, server, _):
        assert not probe.getblocking()
        before_ns = time.time_ns()
        server.sendto(b"reply", probe.getsockname())
        wait_for(probe, select.POLLIN)
        time.sleep(0.1)
        buffer = bytearray(2048)
        size, wall_ns, source = receive(probe, (buffer,))
        assert (buffer[:size], source[:2]) == (b"reply", server.getsockname()[:2])
        assert wall_ns is not None
        assert before_ns - 10_000_000 <= wall_ns <= time.time_ns() - 90_000_000
        with pytest.raises(BlockingIOError):
            receive(probe, (bytearray(2048),))


PORT_UNREACHABLE = {"127.0.0.1": (3, 3), "::1": (1, 4)}
"""ICMP and ICMPv6 type and code (RFC 792, RFC 4443)."""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [False, True])
def test_a_refused_probe_is_read_from_the_error_queue_with_its_offender(host: str, *, connected: bool) -> None:
    nowhere = closed_port(host)
    with open_probe_socket(host, nowhere, scope_id=0, connected=connected) as probe:
        for payload in (b"first", b"second"):
            probe.sendto(payload, socket_address(nowhere)) if not connected else probe.send(payload)
            wait_for(probe, select.POLLERR)
            assert read_error_queue(probe) == [
                IcmpError("ECONNREFUSED", host, payload, nowhere, *PORT_UNREACHABLE[host])
            ]
            assert read_error_queue(probe) == []


def test_sockets_each_have_a_port_of_their_own() -> None:
    with (
        pair("127.0.0.1") as (first, _, address),
        open_probe_socket("127.0.0.1", address, scope_id=0, connected=False) as second,
    ):
        assert first.getsockname()[1] != second.getsockname()[1]


def test_a_socket_that_cannot_be_bound_is_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted alone
    with pytest.raises(OSError, match="Cannot assign") as caught:
        open_probe_socket("192.0.2.1", TransportAddress("127.0.0.1", 9), scope_id=0, connected=False)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


def test_the_kernel_counts_what_a_full_buffer_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_socket, "RECEIVE_BUFFER", 1)
    with pair("127.0.0.1") as (probe, server, _):
        assert drop_count(probe) == 0
        for _ in range(50):
            server.sendto(bytes(288), probe.getsockname())
        read = 0
        while True:
            try:
                receive(probe, (bytearray(2048),))
            except BlockingIOError:
                break
            read += 1
        assert 0 < read < 50
        assert drop_count(probe) == 50 - read


@pytest.mark.parametrize("host", HOSTS)
def test_the_source_towards_loopback_is_loopback(host: str) -> None:
    assert local_source_for(TransportAddress(host, 9)) == host


def test_no_route_and_no_descriptor_are_errors_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENETUNREACH, errno.EMFILE):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(probe_socket.socket, "socket", refuse)
        with pytest.raises(UserError, match=rf"no route from this machine to 127.0.0.1:9 \({os.strerror(number)}\)"):
            local_source_for(TransportAddress("127.0.0.1", 9))


def test_another_platform_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_capabilities() == ()
    monkeypatch.setattr(probe_socket, "LINUX", False)
    assert len(missing_capabilities()) == 3
    with pair("127.0.0.1") as (probe, server, _):
        server.sendto(b"reply", probe.getsockname())
        wait_for(probe, select.POLLIN)
        buffer = bytearray(2048)
        assert receive(probe, (buffer,)) == (5, None, server.getsockname())
        assert buffer.startswith(b"reply")
        assert (drop_count(probe), read_error_queue(probe)) == (0, [])


def test_the_clocks_are_paired_to_the_present() -> None:
    error_ns = time.time_ns() + wall_to_run_ns() - clock.now_ns()
    assert abs(error_ns) < 1_000_000_000


# --- file descriptors ------------------------------------------------------------------------------------------------


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[tuple[int, int]]]:
    """Pretend to have these soft and hard limits; what is set is returned, not done."""
    import resource  # noqa: PLC0415 - Unix only

    def pretend(soft: int, hard: int) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, both: made.append(both))
        return made

    return pretend


def test_the_soft_limit_is_raised_when_it_must_be(limit: Callable[[int, int], list[tuple[int, int]]]) -> None:
    made = limit(1024, 4096)
    raise_descriptor_limit(1024 - SPARE_DESCRIPTORS)
    assert made == []
    raise_descriptor_limit(1024)
    assert made == [(1024 + SPARE_DESCRIPTORS, 4096)]
    assert limits.SPARE_DESCRIPTORS == SPARE_DESCRIPTORS
    made = limit(1024, -1)
    raise_descriptor_limit(60_000)
    assert made == [(60_000 + SPARE_DESCRIPTORS, -1)]
    made = limit(-1, -1)
    raise_descriptor_limit(60_000)
    assert made == []


def test_a_hard_limit_that_is_too_low_says_how_many_fit(limit: Callable[[int, int], list[tuple[int, int]]]) -> None:
    made = limit(1024, 4096)
    with pytest.raises(UserError, match=r"^5000 sessions need 5064 .* may have 4096: take at most 4032 --sessions, or"):
        raise_descriptor_limit(5000)
    assert made == []


RAISE = (
    r"raise the hard limit to 65 or more \(ulimit -Hn as root, LimitNOFILE= of systemd, --ulimit nofile= of docker\)"
)


@pytest.mark.parametrize("hard", [16, 63, 64])
def test_a_hard_limit_too_low_for_any_session_says_how_to_raise_it(
    limit: Callable[[int, int], list[tuple[int, int]]], hard: int
) -> None:
    limit(16, hard)
    with pytest.raises(UserError, match=rf"^1 session needs 65 file descriptors, .* may have {hard}: {RAISE}$"):
        raise_descriptor_limit(1)


@pytest.mark.parametrize(
    ("ip", "level", "name"),
    [("127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS), ("::1", socket.IPPROTO_IPV6, socket.IPV6_TCLASS)],
)
@pytest.mark.parametrize(("dscp", "traffic_class"), [(None, 0), (0, 0), (46, 0xB8), (63, 0xFC)])
def test_probes_are_marked_with_the_codepoint(
    ip: str, level: int, name: int, dscp: int | None, traffic_class: int
) -> None:
    with open_probe_socket(ip, TransportAddress(ip, 9), scope_id=0, connected=False, dscp=dscp) as sock:
        assert sock.getsockopt(level, name) == traffic_class


def test_a_bound_source_is_the_one_that_was_named_as_long_as_it_can_be() -> None:
    assert bound_source_for("127.0.0.9")(TransportAddress("127.0.0.1", 9), 0) == "127.0.0.9"
    with pytest.raises(UserError, match=r"--bind 192\.0\.2\.77: no probe can go from it to 127\.0\.0\.1:9"):
        bound_source_for("192.0.2.77")(TransportAddress("127.0.0.1", 9), 0)
    with pytest.raises(UserError, match="an address of the other family"):
        bound_source_for("::1")(TransportAddress("127.0.0.1", 9), 0)
