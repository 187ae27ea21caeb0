"""Who takes part: this tool's server and client, coturn, and the limit in C; each on loopback, on a port of its own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from affinity_tester.core.stun import ResponseEncoder, new_request
from benchmarks.machine import AFFINITY_TESTER, Child, Cores, program, udp_drops

POD = "affinity-tester-f7b7c454b-vvwtx"
OTHER_POD = "affinity-tester-f7b7c454b-wmd4l"
NODE = "pool1-000003"
PROBE, BARE = 288, 20
"""Bytes of the default probe, and of the shortest Binding request."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every benchmark gets."""

    scratch: Path
    """A temporary directory, with the compiled C programs in it."""
    cores: Cores
    rounds: int
    seconds: float
    """How long one measurement of a rate lasts."""
    hold_seconds: float
    """How long a client holds its rate."""
    memory_seconds: float
    """How long a client runs before its memory is read; its history is full after 60 s."""
    tracker_probes: int
    progress: Callable[[str], None]


class Running(NamedTuple):
    """A server that answers."""

    child: Child
    port: int


# --- servers ---------------------------------------------------------------------------------------------------------


def reply_hex(pod: str = POD, size: int = PROBE) -> str:
    """What this tool's server answers to a request of `size` bytes, for the C echo to send the same."""
    encoder = ResponseEncoder(pod, NODE, pod.encode()[-8:])
    return encoder.encode(bytes(12), ("127.0.0.1", 1), 1, size).hex()


@contextlib.contextmanager
def limit_echo(
    setup: Setup, *, change_after: int | None = None, core: int | None = None, size: int = PROBE
) -> Iterator[Running]:
    """The C echo, with the reply to a request of `size` bytes; after so many replies it names another pod."""
    command = [str(setup.scratch / "limit_echo"), reply_hex(size=size)]
    if change_after is not None:
        command += [reply_hex(OTHER_POD), str(change_after)]
    with Child(command, setup.cores.server if core is None else core) as child:
        yield Running(child, child.read_json()["port"])


@contextlib.contextmanager
def our_server(setup: Setup, *options: str, cores: tuple[int, ...] = ()) -> Iterator[Running]:
    """`affinity-tester server` with names of the usual lengths."""
    port = free_port()
    names = ["--pod-name", POD, "--node-name", NODE]
    command = [str(AFFINITY_TESTER), "server", "--host", "127.0.0.1", "--port", str(port), "--health-port", "0", *names]
    with Child([*command, "--drain", "0", *options], *(cores or (setup.cores.server,))) as child:
        _until_it_answers(child, port)
        yield Running(child, port)


@contextlib.contextmanager
def coturn(setup: Setup) -> Iterator[Running]:
    """Debian's turnserver for STUN alone: one thread that serves, no authentication, no log of requests."""
    turnserver = program("turnserver", "coturn")
    port = free_port()
    options = ["-n", "--stun-only", "--no-auth", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-rfc5780"]
    options += ["--relay-threads=1", "--no-stdout-log", "--log-file=/dev/null"]
    options += ["--listening-ip=127.0.0.1", f"--listening-port={port}"]
    options += [f"--pidfile={setup.scratch / 'turnserver.pid'}", f"--userdb={setup.scratch / 'turndb'}"]
    with Child([turnserver, *options], setup.cores.server, stderr=subprocess.DEVNULL, cwd=setup.scratch) as child:
        _until_it_answers(child, port)
        yield Running(child, port)


def coturn_version() -> str:
    """What is installed, as it says itself. Raises `UnavailableError`."""
    command = [program("turnserver", "coturn"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "of an unknown version"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _until_it_answers(child: Child, port: int) -> None:
    deadline_s = time.monotonic() + 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        while time.monotonic() < deadline_s:
            try:
                sock.sendto(new_request(bytes(12), BARE), ("127.0.0.1", port))
                sock.recv(2048)
            except OSError:
                continue
            return
    raise RuntimeError(f"{child.command[0]} does not answer at port {port}")


# --- who asks --------------------------------------------------------------------------------------------------------


class Load(NamedTuple):
    """One run of the C load generator, and what it cost the server."""

    result: dict[str, Any]
    server_cpu_s: float
    server_drops: int

    @property
    def replies_per_s(self) -> float:
        return float(self.result["received_per_s"])

    @property
    def replies_per_cpu_s(self) -> float:
        """Replies for each second of CPU that the server got: other work on its core does not lower it."""
        return self.replies_per_s * float(self.result["seconds"]) / self.server_cpu_s


def load(setup: Setup, server: Running, size: int, sockets: int, *mode: str | int, cores: tuple[int, ...] = ()) -> Load:
    """Run the C load generator: mode is ("rate", probes a second) or ("window", probes on their way a socket)."""
    command = [str(setup.scratch / "load"), *map(str, (server.port, size, sockets, setup.seconds, *mode))]
    drops = udp_drops(server.port)
    with Child(command, *(cores or (setup.cores.load,))) as child:
        child.read_json()
        cpu_before_s = server.child.cpu_s()
        time.sleep(0.9 * setup.seconds - 0.1)  # a signal must not disturb the end, so its own clock ends it
        cpu_s, sampled_ns = server.child.cpu_s(), time.monotonic_ns()
        result = child.read_json()
    # The CPU was read a little before the end.
    begun_ns = result["end_ns"] - result["seconds"] * 1e9
    server_cpu_s = (cpu_s - cpu_before_s) * result["seconds"] * 1e9 / (sampled_ns - begun_ns)
    return Load(result, server_cpu_s, udp_drops(server.port) - drops)


class ClientRun(NamedTuple):
    """A finished `affinity-tester client`."""

    summary: dict[str, Any]
    """The record's RunSummary."""
    steady_cpu_s: float
    """CPU seconds within `steady_s`, with all sessions sending."""
    steady_s: float
    rss_kb: int
    """Resident memory at the end of sending."""
    pss_kb: int
    max_rss_kb: int
    server_drops: int

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.summary["total"]
        return counts

    @property
    def p50_us(self) -> float:
        return float(self.summary["rtt"]["p50_ns"] or 0) / 1000

    @property
    def unanswered(self) -> float:
        """Share of probes without an answer: on loopback it is the client's own, but for what the echo dropped."""
        counts = self.counts
        return max(0, counts["sent"] - counts["answered"] - self.server_drops) / counts["sent"]

    @property
    def self_inflicted(self) -> float:
        """Share of probes that the client itself reports as its own loss."""
        counts = self.counts
        return (counts["socket_drops"] + counts["send_errors"]) / counts["sent"]

    @property
    def timer_misses(self) -> float:
        counts = self.counts
        return counts["timer_misses"] / (counts["sent"] + counts["timer_misses"])


def run_client(
    setup: Setup, sessions: int, rate: float, seconds: float, *options: str, settle_s: float | None = None
) -> ClientRun:
    """Our client with so many sessions at `rate` probes a second in all, against the C echo on the other core.

    Its CPU counts from `settle_s` after the first probe: until every session has sent, and a second at most unless told.
    """
    record = new_record(setup)
    with limit_echo(setup) as echo:
        command = client_command(echo.port, sessions, rate, seconds, "--record", str(record), *options)
        with Child(command, setup.cores.load, stderr=subprocess.DEVNULL) as child:
            echo.child.read_json()  # the first probe
            settle_s = min(1.0, seconds / 4) if settle_s is None else settle_s
            time.sleep(settle_s)
            before_s, before_ns = child.cpu_s(), time.monotonic_ns()
            time.sleep(seconds - settle_s - min(0.3, seconds / 8))
            steady_cpu_s, steady_s = child.cpu_s() - before_s, (time.monotonic_ns() - before_ns) / 1e9
            rss_kb, pss_kb = child.rss_kb(), child.pss_kb()
            cost = child.wait(seconds + 60)
        if cost.exit_code not in (0, 3):
            raise RuntimeError(f"the client ended with {cost.exit_code}: {' '.join(child.command)}")
        drops = udp_drops(echo.port)
    return ClientRun(read_summary(record), steady_cpu_s, steady_s, rss_kb, pss_kb, cost.max_rss_kb, drops)


def client_command(port: int, sessions: int, rate: float, seconds: float, *options: str) -> list[str | Path]:
    """The command line of our client."""
    interval_ns = round(sessions / rate * 1e9)
    load_options = ["--sessions", str(sessions), "--interval", f"{interval_ns}ns", "--duration", f"{seconds}s"]
    return [AFFINITY_TESTER, "client", f"127.0.0.1:{port}", *load_options, *options]


def new_record(setup: Setup) -> Path:
    """Where the next run's record goes; the client writes none over."""
    record = setup.scratch / "client.jsonl"
    record.unlink(missing_ok=True)
    return record


def read_summary(record: Path) -> dict[str, Any]:
    """The RunSummary of a run record."""
    with record.open() as file:
        for line in file:
            if '"RunSummary"' in line:
                summary: dict[str, Any] = json.loads(line)
                return summary
    raise RuntimeError(f"{record} has no summary")
