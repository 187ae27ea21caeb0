"""`affinity-tester server` as a process: its options in each form, its log, its ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from affinity_tester.cli import main
from affinity_tester.cli import server as server_cli
from affinity_tester.core import stun
from affinity_tester.settings import ServerSettings

NS = 1_000_000_000
OWN = ("AFFINITY_", "POD_", "NODE_NAME", "TARGET_ADDR", "NO_COLOR", "FORCE_COLOR")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what the tests' own surroundings may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OWN)} | extra


class Server:
    """A running `affinity-tester server`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.first = self.line()

    def line(self) -> str:
        """The next line of its log."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    @property
    def started(self) -> dict[str, object]:
        """The first line, as JSON."""
        found: dict[str, object] = json.loads(self.first)
        return found

    def ask(self) -> stun.BindingResponse:
        """Its answer to one probe."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.sendto(stun.new_request(bytes(12)), ("127.0.0.1", self.port))
            return stun.decode_response(sock.recv(2048))

    @property
    def port(self) -> int:
        """Where it answers on 127.0.0.1."""
        found = re.search(r"127\.0\.0\.1:(\d+)", self.first)
        assert found, self.first
        return int(found[1])

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, the rest of its log, stderr."""
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def running(affinity_tester: Path | list[str], *arguments: str, **extra: str) -> Iterator[Server]:
    command = affinity_tester if isinstance(affinity_tester, list) else [affinity_tester]
    process = subprocess.Popen(
        [*command, "server", "--port", "0", "--health-port", "0", "--host", "127.0.0.1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1", **extra),
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


def refused(affinity_tester: Path, *arguments: str, **extra: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [affinity_tester, *arguments], capture_output=True, text=True, timeout=30, check=False, env=environment(**extra)
    )
    return done.returncode, done.stdout, done.stderr


SUMMARY = r"received 1 datagram, answered 1, refused 0, dropped 0; 1 flow"


def test_ctrl_c_ends_it_at_once_with_its_summary(affinity_tester: Path) -> None:
    with running(affinity_tester, "--pod-name", "pod-a", "--node-name", "node-1") as server:
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{3} \[info\]  affinity-tester \S+, \d{4}-\d\d-\d\d UTC[+-]\d\d:\d\d: "
            r'pod "pod-a" on node "node-1" answers at 127\.0\.0\.1:\d+; health port off',
            server.first,
        )
        assert server.ask().identity.pod == "pod-a"
        server.process.send_signal(signal.SIGINT)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}} \[info\]  ended after \S+ \S+; in all {SUMMARY}\n", out)


def test_sigterm_lets_it_drain_and_a_second_one_ends_it(affinity_tester: Path) -> None:
    with running(affinity_tester, "--drain", "10m") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.line().endswith("[info]  draining for 10 min (still ready)")
        assert server.ask().received_count == 1
        server.process.send_signal(signal.SIGTERM)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    assert out.endswith(f"in all {SUMMARY}\n")


def test_it_drains_and_ends_by_itself(affinity_tester: Path) -> None:
    with running(affinity_tester, AFFINITY_DRAIN="10ms") as server:
        server.process.send_signal(signal.SIGTERM)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    assert "draining for 10 ms" in out


def test_its_log_as_json(affinity_tester: Path) -> None:
    with running(affinity_tester, "--log-format", "json", "--pod-name", "pod-a", AFFINITY_KEY="secret") as server:
        started = server.started
        server.process.send_signal(signal.SIGTERM)
        draining = json.loads(server.line())
        server.process.send_signal(signal.SIGINT)
        stopped = json.loads(server.end()[1])
    for line, begins in (
        (started, f"affinity-tester {started['version']}"),
        (draining, "draining"),
        (stopped, "ended"),
    ):
        assert str(line.pop("message")).startswith(begins)
    instance, version, time = started.pop("instance_id"), started.pop("version"), started.pop("time")
    assert re.fullmatch("[0-9a-f]{16}", str(instance))
    assert f"affinity-tester/{version}" == stun.SERVER_SOFTWARE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(time))
    assert started == {
        "level": "info",
        "event": "server.started",
        "pod_name": "pod-a",
        "node_name": None,
        "addresses": [f"127.0.0.1:{server.port}"],
        "health": [],
        "keyed": True,
        "workers": 1,
    }
    del draining["time"], stopped["time"], stopped["uptime_ns"]
    assert draining == {"level": "info", "event": "server.draining", "drain_ns": 5 * NS}
    counts = {"received": 0, "answered": 0, "refused": 0, "dropped": {}, "flows": 0, "evicted": 0, "send_errors": 0}
    counts |= {"delayed": 0, "not_delayed": {}}
    assert stopped == {"level": "info", "event": "server.stopped", "total": counts}


def children(process: subprocess.Popen[str]) -> list[int]:
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def wait_for_the_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_workers_answer_as_one_and_drain_together(affinity_tester: Path) -> None:
    with running(affinity_tester, AFFINITY_WORKERS="2") as server:
        assert re.search(r"answers at 127\.0\.0\.1:\d+ with 2 workers; health port off$", server.first)
        workers = children(server.process)
        assert len(workers) == 2
        assert len({server.ask().identity.instance for _ in range(20)}) == 1
        server.process.send_signal(signal.SIGTERM)
        assert "draining for" in server.line()
        assert server.ask().received_count is not None
        server.process.send_signal(signal.SIGINT)
        code, out, err = server.end()
        wait_for_the_end(workers)
    assert (code, err) == (0, "")
    assert "in all received 21 datagrams, answered 21, refused 0, dropped 0; 21 flows" in out


def test_workers_end_with_a_parent_that_is_killed(affinity_tester: Path) -> None:
    with running(affinity_tester, "--workers", "2") as server:
        workers = children(server.process)
        server.process.kill()
        wait_for_the_end(workers)


def test_a_worker_that_is_killed_is_replaced_once_in_a_minute(affinity_tester: Path) -> None:
    with running(affinity_tester, "--workers", "2") as server:
        first, second = children(server.process)
        os.kill(second, signal.SIGKILL)
        assert server.line().endswith(
            f"[warn]  worker 2 of 2 (process {second}) was killed by SIGKILL: another takes its place, and the counts of"
            " its sessions begin anew"
        )
        again = another(server.process, {first, second})
        assert len({server.ask().identity.instance for _ in range(20)}) == 1
        os.kill(again, signal.SIGKILL)
        code, out, err = server.end()
        wait_for_the_end([first, again])
    assert (code, out) == (2, "")
    why = "was killed by SIGKILL, less than a minute after it took another's place: start the server again"
    assert err == f"error: worker 2 of 2 (process {again}) {why} (out of memory?)\n"


def another(process: subprocess.Popen[str], known: set[int]) -> int:
    """The child that is none of the known ones, once it is there."""
    deadline = time.monotonic() + 20
    while not (new := set(children(process)) - known):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return new.pop()


def test_a_worker_that_hangs_is_said_and_replaced(affinity_tester: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    with running(affinity_tester, "--workers", "2", "--health-port", str(port)) as server:
        assert http(port, "/livez") == ("200", "ok\n")
        first, hung = children(server.process)
        os.kill(hung, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while (told := http(port, "/livez")) == ("200", "ok\n"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert told[0] == "503"
        assert re.fullmatch(rf"worker 2 of 2 \(process {hung}\) has not answered for [2-5] s\n", told[1])
        assert http(port, "/readyz") == ("200", "ok\n")
        assert server.line().endswith(
            f"[warn]  worker 2 of 2 (process {hung}) has not answered for 5 s: another takes its place, and the counts of"
            " its sessions begin anew"
        )
        wait_for_the_end([hung])
        another(server.process, {first, hung})
        assert len({server.ask().identity.instance for _ in range(40)}) == 1
        assert http(port, "/livez") == ("200", "ok\n")
        server.process.send_signal(signal.SIGINT)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    assert "in all received 40 datagrams, answered 40, refused 0, dropped 0; 40 flows" in out


def test_a_worker_that_hangs_holds_up_the_end_for_a_moment_only(affinity_tester: Path) -> None:
    with running(affinity_tester, "--workers", "2", "--drain", "100ms") as server:
        os.kill(children(server.process)[0], signal.SIGSTOP)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code, out, err = server.end()
        assert time.monotonic() - began < 8
    assert (code, err) == (0, "")
    assert "in all received 0 datagrams" in out


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def http(port: int, path: str) -> tuple[str, str]:
    """Status and body, within the kubelet's second."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        with sock.makefile(newline="") as answer:
            head, _, body = answer.read().partition("\r\n\r\n")
    return head.split(" ")[1], body


def test_a_crowd_on_the_health_port_harms_no_answer(affinity_tester: Path) -> None:
    """With fewer descriptors than connections at that."""
    port = free_port(socket.SOCK_STREAM)
    limited = ["bash", "-c", f'ulimit -n 24; exec "{affinity_tester}" "$@"', "affinity-tester"]
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(running(limited, "--health-port", str(port)))
        for _ in range(200):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        for path in ("/livez", "/readyz") * 5:
            assert http(port, path) == ("200", "ok\n")
            assert server.ask().identity.pod == socket.gethostname()
        held = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        server.process.send_signal(signal.SIGINT)
        code, out, err = server.end()
    assert held <= 24
    assert (code, err) == (0, "")
    cannot = r"\[warn\]  the health port cannot accept connections: Too many open files \(ulimit -n\)"
    assert re.fullmatch(rf"\S+ {cannot}\n\S+ \[info\]  ended after .*\n", out)


@pytest.mark.parametrize("format_", ["console", "json"])
def test_a_log_that_nobody_reads_holds_up_no_answer(affinity_tester: Path, format_: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 512)
    os.set_blocking(write, True)
    arguments = ["--port", str(port), "--health-port", "0", "--host", "127.0.0.1", "--stats-interval", "100ms"]
    process = subprocess.Popen(
        [affinity_tester, "server", *arguments, "--drain", "0", "--log-format", format_],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    os.close(write)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(("127.0.0.1", port))
            deadline = time.monotonic() + 20
            answered = 0
            while answered < 20:  # two seconds, after which many lines wait
                assert time.monotonic() < deadline
                try:
                    sock.send(stun.new_request(bytes(12)))
                    sock.recv(2048)
                except OSError:
                    assert not answered, "it no longer answers"
                else:
                    answered += 1
                    time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)  # though nobody takes its last lines
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
        process.communicate()
        os.close(read)


IN_A_TERMINAL = (
    "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execv(sys.argv[1], sys.argv[1:])"
)
"""Has its stdin as the terminal whose end sends SIGHUP."""


def test_a_terminal_that_closes_lets_it_drain(affinity_tester: Path) -> None:
    """SIGHUP comes, and the log cannot be written any more."""
    port = free_port(socket.SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        arguments = ["--port", str(port), "--health-port", "0", "--host", "127.0.0.1", "--drain", "3s"]
        terminal, inside = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, affinity_tester, "server", *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environment(),
            start_new_session=True,
        )
        os.close(inside)
        try:
            assert b"answers" in os.read(terminal, 1000)
            os.close(terminal)
            time.sleep(1)
            sock.send(stun.new_request(bytes(12)))
            assert stun.decode_response(sock.recv(2048)).received_count == 1
            assert process.wait(timeout=20) == 141
        finally:
            process.kill()
            process.wait()


def test_sighup_drains_as_sigterm_does(affinity_tester: Path) -> None:
    with running(affinity_tester, "--drain", "10ms") as server:
        server.ask()
        server.process.send_signal(signal.SIGHUP)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    assert "draining for 10 ms (still ready)\n" in out
    assert out.endswith(f"in all {SUMMARY}\n")


def test_without_a_name_it_takes_the_hosts(affinity_tester: Path) -> None:
    with running(affinity_tester, POD_NAME="") as server:
        assert server.ask().identity.pod == socket.gethostname()


def test_a_closed_output_ends_it_quietly(affinity_tester: Path) -> None:
    with running(affinity_tester, "--stats-interval", "100ms") as server:
        assert server.process.stdout is not None
        assert server.process.stderr is not None
        server.process.stdout.close()
        assert server.process.wait(timeout=20) == 141
        assert server.process.stderr.read() == ""


def test_a_port_in_use_is_one_line(affinity_tester: Path) -> None:
    with running(affinity_tester) as server:
        arguments = ("server", "--host", "127.0.0.1", "--port", str(server.port), "--health-port", "0")
        problem = "UDP port in use; end what uses it, or choose another --port"
        assert refused(affinity_tester, *arguments) == (
            2,
            "",
            f"error: cannot listen on 127.0.0.1:{server.port}: {problem}\n",
        )


HELP = r" \(see: affinity-tester server --help\)"


def invalid(option: str, why: str) -> str:
    """The pattern of click's line; its newer versions name the environment variable too."""
    return rf"error: Invalid value for '{option}'[^:]*(: '[A-Z_]+'\))?: {why}{HELP}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--port", "65536"), invalid("--port", r"'65536' is not a whole number from 0 to 65535")),
        (("--port", "stun"), invalid("--port", r"'stun' is not a whole number from 0 to 65535")),
        (("--prot", "1"), rf"error: No such option:? '?--prot'?\.? .*--port.*{HELP}"),
        (("--host", "pod-a"), "error: 'pod-a' is not an IP address: --host and POD_IPS take addresses, not names"),
        (("--pod-name", "p" * 254), invalid("--pod-name", "it has 254 bytes of UTF-8: 1 to 253 are possible")),
        (("--node-name", "é" * 127), invalid("--node-name", "it has 254 bytes of UTF-8: 1 to 253 are possible")),
        (
            ("--drain", "soon"),
            invalid(
                "--drain",
                r"'soon' is not a time: write seconds \(0\.1\) or a number with a unit \(100ms, 5s, 1h30m\)",
            ),
        ),
        (("--drain", "2h"), invalid("--drain", "2h is too long: at most 1h is possible")),
        (("--workers", "0"), invalid("--workers", r"'0' is not a whole number from 1 to 256")),
        (("--rate-limit", "-1"), invalid("--rate-limit", "'-1' is not a whole number from 0 to 100000000")),
        (("--workers", "all"), invalid("--workers", r"'all' is not a whole number from 1 to 256")),
        (("--stats-interval", "0"), invalid("--stats-interval", "0 is too short: at least 100ms is possible")),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    result = CliRunner().invoke(main, ["server", *arguments], env=dict.fromkeys(os.environ))
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(f"{line}\n", result.stderr), result.stderr


# --- each option as flag and as environment variable -----------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """What the command would have run with."""
    seen: list[ServerSettings] = []

    async def serve(settings: ServerSettings, _log: object) -> None:
        seen.append(settings)

    monkeypatch.setattr(server_cli, "serve", serve)
    monkeypatch.setattr(socket, "gethostname", lambda: "this-host")
    for name in list(os.environ):
        if name.startswith(OWN):
            monkeypatch.delenv(name)
    return seen


DEFAULTS = ServerSettings(pod_name="this-host")


def test_the_defaults_are_those_of_the_settings(settings: list[ServerSettings]) -> None:
    assert CliRunner().invoke(main, ["server"]).exit_code == 0
    assert settings == [DEFAULTS]


OPTIONS = [
    ("--host", "AFFINITY_HOST", "10.0.0.5", "hosts", ("10.0.0.5",)),
    ("--port", "AFFINITY_PORT", "5000", "port", 5000),
    ("--health-port", "AFFINITY_HEALTH_PORT", "0", "health_port", 0),
    ("--pod-name", "POD_NAME", "pod-a", "pod_name", "pod-a"),
    ("--node-name", "NODE_NAME", "node-1", "node_name", "node-1"),
    ("--drain", "AFFINITY_DRAIN", "1.5", "drain_ns", 1_500_000_000),
    ("--stats-interval", "AFFINITY_STATS_INTERVAL", "10m", "stats_interval_ns", 600 * NS),
    ("--max-flows", "AFFINITY_MAX_FLOWS", "10", "max_flows", 10),
    ("--workers", "AFFINITY_WORKERS", "3", "workers", 3),
    ("--rate-limit", "AFFINITY_RATE_LIMIT", "5000", "rate_limit", 5000),
    ("--rate-limit-prefix", "AFFINITY_RATE_LIMIT_PREFIX", "200", "rate_limit_prefix", 200),
    ("--key", "AFFINITY_KEY", "sécret", "key", "sécret".encode()),
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
@pytest.mark.parametrize("form", ["flag", "environment", "empty"])
def test_each_option_is_a_flag_and_an_environment_variable(
    settings: list[ServerSettings], option: tuple[str, str, str, str, object], form: str
) -> None:
    flag, variable, text, field, value = option
    arguments = [flag, text] if form == "flag" else []
    env = {variable: text if form == "environment" else ""}
    result = CliRunner().invoke(main, ["server", *arguments], env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    assert settings == [DEFAULTS if form == "empty" else replace(DEFAULTS, **{field: value})]


def test_workers_auto_looks_at_the_machine(settings: list[ServerSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_cli, "usable_cpus", lambda: 6)
    assert CliRunner().invoke(main, ["server", "--workers", "auto"]).exit_code == 0
    assert settings == [replace(DEFAULTS, workers=6)]


@pytest.mark.parametrize(
    ("env", "hosts"),
    [
        ({"POD_IPS": "10.0.0.5,fd00::5"}, ("10.0.0.5", "fd00::5")),
        ({"POD_IPS": " 10.0.0.5, fd00::5 ,"}, ("10.0.0.5", "fd00::5")),
        ({"AFFINITY_HOST": "127.0.0.1", "POD_IPS": "10.0.0.5"}, ("127.0.0.1",)),
        ({"AFFINITY_HOST": "", "POD_IPS": "10.0.0.5"}, ("10.0.0.5",)),
        ({"AFFINITY_HOST": "", "POD_IPS": ""}, ()),
    ],
)
def test_addresses_come_with_commas(
    settings: list[ServerSettings], env: dict[str, str], hosts: tuple[str, ...]
) -> None:
    assert CliRunner().invoke(main, ["server"], env=env).exit_code == 0
    assert settings[0].hosts == hosts


def test_host_is_repeatable(settings: list[ServerSettings]) -> None:
    arguments = ["server", "--host", "127.0.0.1", "--host", "::1", "--host", "::1"]
    assert CliRunner().invoke(main, arguments, env={"POD_IPS": "10.0.0.5"}).exit_code == 0
    assert settings[0].hosts == ("127.0.0.1", "::1")


def test_each_options_help_names_default_and_environment() -> None:
    shown = " ".join(CliRunner().invoke(main, ["server", "--help"]).stdout.split())
    for flag, variable, *_ in OPTIONS:
        assert re.search(rf"{flag} [^\[]*\[env var: {variable}\b", shown), flag
    assert re.search(r"--drain TIME [^\[]*\[env var: AFFINITY_DRAIN; default: 5s\]", shown)
    assert re.search(r"--stats-interval TIME [^\[]*\[env var: AFFINITY_STATS_INTERVAL; default: 1m\]", shown)


def test_the_help_of_the_rate_limits_says_whom_they_hit() -> None:
    shown = " ".join(CliRunner().invoke(main, ["server", "--help"]).stdout.split())
    assert "Under externalTrafficPolicy Cluster every client has a node's address" in shown


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_over_a_limit_is_dropped_and_in_the_totals(affinity_tester: Path, workers: int) -> None:
    limits = ("--rate-limit-prefix", "2", "--workers", str(workers))
    with running(affinity_tester, *limits) as server, contextlib.ExitStack() as opened:
        for token in range(200):
            sock = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.sendto(stun.new_request(stun.pack_transaction_id(token, 0)), ("127.0.0.1", server.port))
        server.process.send_signal(signal.SIGTERM)
        server.line()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        code, out, err = server.end()
    assert (code, err) == (0, "")
    found = re.search(
        r"received 200 datagrams, answered (\d), refused 0, dropped (\d+) \(rate-limit-prefix (\d+)\)", out
    )
    assert found, out
    answered, dropped, over = map(int, found.groups())
    assert 2 <= answered <= 5
    assert dropped == over == 200 - answered


def test_the_server_starts_with_nothing_that_the_client_needs() -> None:
    code = (
        "import sys, affinity_tester.cli.server\n"
        "own = ('lab', 'cluster', 'net.client', 'app.run', 'core.analysis', 'report.html')\n"
        "heavy = {'kubernetes', 'yaml', *(f'affinity_tester.{name}' for name in own)} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
