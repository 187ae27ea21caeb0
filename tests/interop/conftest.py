"""A running coturn."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import HOSTS, ask, free_port, program

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.net.addresses import bind_udp


@pytest.fixture(params=HOSTS)
def coturn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransportAddress]:
    """A running turnserver that speaks STUN alone, on one loopback address."""
    turnserver = program("turnserver", "coturn")
    host = str(request.param)
    target = TransportAddress(host, free_port(host))
    arguments = [
        "-n", "--stun-only", "--no-auth", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli",
        f"--listening-ip={host}", f"--listening-port={target.port}",
        "--log-file=stdout", f"--pidfile={tmp_path / 'pid'}", f"--userdb={tmp_path / 'userdb'}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([turnserver, *arguments], stdout=log, stderr=log, cwd=tmp_path)
    try:
        with bind_udp(host, 0) as sock:
            deadline = time.monotonic() + 20
            while ask(sock, target, stun.new_request(bytes(12), 20), 0.1) is None:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        yield target
    finally:
        process.kill()
        process.wait()
