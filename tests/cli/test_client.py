"""`affinity-tester client` as its users run it: the installed command, its options in each form, its log, its ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from affinity_tester.app import client_run
from affinity_tester.app.target import TargetOptions
from affinity_tester.cli import client as client_cli
from affinity_tester.cli import main
from affinity_tester.cluster.connect import ClusterOptions
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    Event,
    OutageStarted,
    Outcome,
    RunEnded,
    RunStarted,
    RunSummary,
    SessionStarted,
    SessionSummary,
    Verdict,
)
from affinity_tester.errors import UserError
from affinity_tester.report.record import read_record
from affinity_tester.report.reporter import Reporter
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S
from commands import MS, OWN, PATIENCE_S, TIME, Ended, Run, Start, environment
from scripted import Probe, ScriptedServer, answer, closed_port, foreign_reply, scripted

pytestmark = pytest.mark.busy


def recorded(path: Path) -> list[Event]:
    """A record's events; one that breaks off fails the test."""
    return list(read_record(path, on_truncated=pytest.fail))


def only(events: list[Event], kind: type[Any]) -> Any:
    (event,) = [event for event in events if isinstance(event, kind)]
    return event


# --- how it ends -----------------------------------------------------------------------------------------------------


def moves(server: ScriptedServer, probe: Probe) -> None:
    server.reply(probe, "pod-a" if probe.seq < 5 else "pod-b")


async def test_the_exit_code_is_the_verdicts(run: Run, tmp_path: Path) -> None:
    async with (
        scripted(answer) as sound,
        scripted(answer, "::1") as sound_6,
        scripted(moves) as moving,
        scripted(lambda *_: None) as silent,
        scripted(lambda server, probe: server.send(foreign_reply(probe), probe.source)) as foreign,
    ):
        record = tmp_path / "run.jsonl"
        failed, inconclusive, nothing, closed = await asyncio.gather(
            run(moving.address, "--duration", "1"),
            run(sound.address, "--duration", "0.5"),
            run(silent.address, "--duration", "0.5", "--loss-threshold", "0.5"),
            run(closed_port(), "--duration", "0.5", "--loss-threshold", "0.5", "--sessions", "2"),
        )
        # Those that pass come after: beside the start of other commands a client is late, and that is no proof.
        passed, passed_6, other = await asyncio.gather(
            run(sound.address, "--duration", "5", "--record", record),
            run(sound_6.address, "--duration", "2", "--interval", "20ms"),
            run(foreign.address, "--duration", "2", "--interval", "20ms"),
        )
    ends = (passed, passed_6, failed, inconclusive, nothing, closed, other)
    assert [(end.code, end.err) for end in ends] == [(code, "") for code in (0, 0, 1, 3, 3, 3, 0)]

    pairs = r"0 violations in \d+ judged pairs over [\d.]+ s"
    strength = rf"PASS: {pairs}: 95 % confident: fewer than 1 incident per [\d.]+ s \(run longer for a stronger claim\)"
    for end in (passed, passed_6, other):
        assert re.fullmatch(strength, end.last)
        assert "no violation (cluster not watched)" in end.out
    assert failed.last == "FAIL: 10 violations"
    assert re.fullmatch(
        r"INCONCLUSIVE: only \d+ judged pairs that could have failed, fewer than 300: run for longer, or with more sessions",
        inconclusive.last,
    )
    assert (nothing.last, closed.last) == ("INCONCLUSIVE: nothing answered",) * 2

    red = [line for line in failed.out.splitlines() if 'pod_name changed "pod-a" -> "pod-b"' in line]
    assert len(red) == 10
    assert all(re.match(rf"{TIME} \[error\] CLIENT-\d+ pod_name changed", line) for line in red)
    assert len(re.findall(r"CLIENT-\d+ heard ICMP error ECONNREFUSED \(.*\) from 127\.0\.0\.1", closed.out)) == 2
    assert 'answered by "coturn", which names no pod: only x_address and SOFTWARE are tracked' in other.out

    events = recorded(record)
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], Verdict)
    assert only(events, RunEnded).aborted is False
    assert events[-1].outcome is Outcome.PASS
    sessions = {event.session for event in events if isinstance(event, SessionStarted)}
    assert len(sessions) == 10
    assert {event.session for event in events if isinstance(event, SessionSummary)} == sessions
    total = only(events, RunSummary).total
    assert total.sent == total.answered + total.lost
    assert 400 <= total.sent + total.timer_misses <= 520


async def test_max_loss_fails_the_run(run: Run) -> None:
    async with scripted(lambda server, probe: probe.seq % 4 == 3 or server.reply(probe)) as lossy:
        common = (lossy.address, "--duration", "1", "--interval", "20ms", "--loss-threshold", "1")
        strict, lax = await asyncio.gather(run(*common, "--max-loss", "5"), run(*common, "--max-loss", "60"))
    assert (strict.code, lax.code) == (1, 0)
    assert re.fullmatch(r"FAIL: 2\d\.\d\d % of the probes were lost, more than --max-loss 5\.00 %", strict.last)


async def test_ctrl_c_and_sigterm_end_it_with_its_summary_and_the_verdicts_code(start: Start, tmp_path: Path) -> None:
    async def interrupted(number: signal.Signals, server: ScriptedServer, record: Path) -> Ended:
        async with start(server.address, "--interval", "20ms", "--stats-interval", "1", "--record", record) as client:
            await client.until("served by")
            client.signal(number)
            return await client.end()  # type: ignore[no-any-return]

    records = [tmp_path / f"{number}.jsonl" for number in range(3)]
    async with scripted(answer) as sound, scripted(moves) as moving:
        ends = await asyncio.gather(
            interrupted(signal.SIGINT, sound, records[0]),
            interrupted(signal.SIGTERM, sound, records[1]),
            interrupted(signal.SIGINT, moving, records[2]),
        )
    # A machine that is too busy for a PASS has another verdict, and its code; a violation fails whatever else is so.
    codes = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
    assert [(end.code, end.err) for end in ends] == [(codes[end.last.partition(":")[0]], "") for end in ends]
    assert ends[2].code == 1
    assert 1 not in (ends[0].code, ends[1].code)
    for end, record in zip(ends, records, strict=True):
        assert "sending stopped" in end.out
        assert re.search(r"^all +\d+ +\d+ +0 ", end.out, re.MULTILINE)
        assert isinstance(recorded(record)[-1], Verdict)


async def test_a_second_ctrl_c_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    async with (
        scripted(lambda *_: None) as silent,
        start(silent.address, "--loss-threshold", "30", "--record", record) as client,
    ):
        await client.until("10 sessions to")
        client.signal(signal.SIGINT)
        await client.until("sending stopped")
        client.signal(signal.SIGINT)
        end = await client.end()
    assert (end.code, end.err) == (3, "")
    assert "stopped at once: judgements still open are unknown" in end.out
    events = recorded(record)
    assert only(events, RunEnded).aborted is True
    total = only(events, RunSummary).total
    assert total.pending == total.sent


async def test_ctrl_c_after_the_duration_waits_no_longer(start: Start) -> None:
    async with (
        scripted(lambda *_: None) as silent,
        start(silent.address, "--duration", "0.1", "--loss-threshold", "30") as client,
    ):
        await client.until("sending stopped")
        client.signal(signal.SIGINT)
        end = await client.end()
    assert (end.code, end.err) == (3, "")
    assert "stopped at once" in end.out


async def test_a_closed_output_ends_it_quietly(affinity_tester: Path, start: Start) -> None:
    async with scripted(answer) as server:
        async with start(server.address, "--stats-interval", "100ms") as client:
            await client.line()
            client.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
            async with asyncio.timeout(PATIENCE_S):
                assert await client.process.wait() == 141
            assert client.process.stderr is not None
            assert await client.process.stderr.read() == b""
        piped = await asyncio.create_subprocess_shell(
            f"{affinity_tester} client {server.address} --stats-interval 100ms --sessions 2 | head -1",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        async with asyncio.timeout(PATIENCE_S):
            out, err = await piped.communicate()
    assert (len(out.splitlines()), err) == (1, b"")


async def test_a_stopped_process_sends_no_burst_and_calls_nothing_lost(start: Start, tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    async with (
        scripted(lambda server, probe: server.later(0.5, probe)) as slow,
        start(
            slow.address, "--sessions", "5", "--stats-interval", "300ms", "--record", record, "--log-format", "json"
        ) as client,
    ):
        await client.until("session.stats")
        client.signal(signal.SIGSTOP)
        await asyncio.sleep(0.3)  # what it had sent when it stopped has arrived
        before = len(slow.probes)
        await asyncio.sleep(2.7)
        assert len(slow.probes) == before
        client.signal(signal.SIGCONT)
        await asyncio.sleep(1)
        client.signal(signal.SIGINT)
        end = await client.end()
    assert (end.code, end.err) == (3, "")  # so many slots missed that it is no witness
    events = recorded(record)
    total = only(events, RunSummary).total
    # Replies that came while it stood still were in time, by the kernel's clock, though they were read later.
    assert (total.lost, total.late, total.pending, total.answered) == (0, 0, 0, total.sent)
    assert total.timer_misses >= 5 * 20
    assert any(reason.startswith("this client was too busy") for reason in only(events, Verdict).reasons)
    assert 500 * MS <= only(events, RunSummary).rtt.max_ns < 2 * NS_PER_S


# --- what a user can get wrong ---------------------------------------------------------------------------------------

HELP = r" \(see: affinity-tester client --help\)"


def invalid(option: str, why: str) -> str:
    """The pattern of click's line; its newer versions name the environment variable too."""
    return rf"Invalid value for ('-\w' / )?'{option}'[^:]*(: 'AFFINITY_\w+'\))?: {why}{HELP}"


def few_descriptors() -> None:
    import resource  # noqa: PLC0415 - Unix only, and in the child

    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))


async def test_what_a_user_can_get_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    there = "127.0.0.1"
    no_target = (
        r"no target: name it \(affinity-tester client 203\.0\.113\.7\), or set TARGET_ADDR .make apply-service does.;"
        r" nor can its Service be looked up \(no cluster: there is neither a kubeconfig .* nor a pod's service account\)"
    )
    size = r"{}: a probe cannot have {} bytes: take multiples of 4 from {} to {}"
    listed = invalid("--sizes", r"'<>' is not a list of sizes such as 288,1400")
    both = r"--size and --sizes \(AFFINITY_SIZE, AFFINITY_SIZES\) both say how long a probe is: give one of them"
    label = r"Kubernetes allows lower-case letters, digits and '-' between them, at most 63"
    wants = r"--service wants \[NAMESPACE/\]NAME, not '{}'"
    wrong: list[tuple[tuple[object, ...], dict[str, Any], str]] = [
        ((), {}, no_target),
        ((), {"TARGET_ADDR": ""}, no_target),
        (("  ",), {}, no_target),
        (
            ("no-such-host.invalid",),
            {},
            r"the target 'no-such-host\.invalid' does not resolve \(.*\): check the name, or.*",
        ),
        (("127.0.0.1:65536",), {}, r"the target is wrong: port '65536' is not a number from 1 to 65535"),
        (("fe80::1",), {}, r"the target fe80::1 is link-local and names no interface: write fe80::1%eth0, or so"),
        (
            (there, "--target-port", "65536"),
            {},
            invalid("--target-port", r"'65536' is not a whole number from 1 to 65535"),
        ),
        ((there, "--sessions", "0"), {}, invalid("--sessions", r"'0' is not a whole number from 1 to 60000")),
        (
            (there,),
            {"AFFINITY_SESSIONS": "many"},
            invalid("--sessions", r"'many' is not a whole number from 1 to 60000"),
        ),
        ((there, "--interval", "0"), {}, invalid("--interval", r"0 is too short: at least 2ms is possible")),
        ((there, "--duration", "soon"), {}, invalid("--duration", r"'soon' is not a time: .*")),
        (
            (there, "--loss-threshold", "1m"),
            {},
            invalid("--loss-threshold", r"1m is too long: at most 30s is possible"),
        ),
        ((there, "--max-loss", "101"), {}, invalid("--max-loss", r"'101' is not a percentage from 0 to 100")),
        ((there, "--max-loss", "nan"), {}, invalid("--max-loss", r"'nan' is not a percentage from 0 to 100")),
        ((there, "--size", "21"), {}, size.format("--size", 21, 20, 65504)),
        ((there, "--size", "16"), {}, invalid("--size", r"'16' is not a whole number from 20 to 65504")),
        ((there, "--sizes", "288,290"), {}, size.format("--sizes", 290, 20, 65504)),
        ((there, "--sizes", "288;292"), {}, listed.replace("<>", "288;292")),
        ((there, "--sizes", "288,,"), {}, listed.replace("<>", "288,,")),
        ((there,), {"AFFINITY_SIZES": ",288"}, listed.replace("<>", ",288")),
        ((there, "--size", "300", "--sizes", "288"), {}, both),
        ((there,), {"AFFINITY_SIZE": "300", "AFFINITY_SIZES": "288"}, both),
        (("--service", "a/b/c"), {}, wants.format("a/b/c")),
        (("--service", ""), {}, wants.format("")),
        ((there, "--service", "/turn"), {}, wants.format("/turn")),
        (("--service", "media/TURN"), {}, rf"--service: 'TURN' can be no Service's name: {label}"),
        (("--service", "Media/turn"), {}, rf"--service: 'Media' can be no namespace's name: {label}"),
        (("--service", "t" * 64), {}, rf"--service: 't{{64}}' can be no Service's name: {label}"),
        ((), {"AFFINITY_SERVICE": "turn-"}, rf"--service: 'turn-' can be no Service's name: {label}"),
        (
            (there, "--service", "turn", "--watch", "off"),
            {},
            r"--service: no cluster: there is neither a kubeconfig .* nor a pod's service account; "
            r"it is asked for the port alone: name that, as in TARGET:3478",
        ),
        (
            ("2001:db8:0:0:0:0:0:1:4000",),
            {},
            r"the target is wrong: '2001:db8:0:0:0:0:0:1:4000' is not an IPv6 address: "
            r"with a port, write \[2001:db8:0:0:0:0:0:1\]:4000",
        ),
        (
            ("turn:turn.example.org:3478?transport=udp",),
            {},
            r"the target is wrong: 'turn:turn\.example\.org:3478\?transport=udp' is a URI: "
            r"leave 'turn:' out, and what is behind host and port",
        ),
        (("http://127.0.0.1",), {}, r"the target is wrong: .* is a URI: leave 'http://' out, and .*"),
        (("stun:65536",), {}, r"the target is wrong: port '65536' is not a number from 1 to 65535"),
        (
            ("fe80::1%eth0:40000",),
            {},
            r"the target is wrong: 'fe80::1%eth0:40000' is not an IPv6 address: with a port, write \[fe80::1%eth0\]:40000",
        ),
        ((there, "--size", "52"), {"AFFINITY_KEY": "secret"}, size.format("--size", 52, 56, 2048) + " with --key"),
        ((there, "--size", "4000"), {"AFFINITY_KEY": "secret"}, size.format("--size", 4000, 56, 2048) + " with --key"),
        ((there, "--sesions", "1"), {}, rf"No such option:? '?--sesions'?\.? .*--sessions.*{HELP}"),
        (
            (there, "--connected", "--reference", "192.0.2.1"),
            {},
            r"--reference \(AFFINITY_REFERENCE\) cannot be asked from sockets that are --connected \(AFFINITY_CONNECTED\) to "
            r"the target: leave one of them out",
        ),
        ((there, "--reference", "x:y"), {}, "the reference is wrong: port 'y' is not a number from 1 to 65535"),
        (
            (there, "--reference", "::1", "--watch", "off"),
            {},
            "the reference ::1 has no IPv4 address, and the target .* is probed over IPv4: name a server that has one",
        ),
        (
            (there, "--reference", there, "--watch", "off"),
            {},
            "the reference .* is the target: name a server that is not in this cluster",
        ),
        (
            (there, "--record", tmp_path / "no" / "run"),
            {},
            r"cannot write the record .*: No such file or directory; name.*",
        ),
        (
            (there, "--sessions", "65"),
            {"before": few_descriptors},
            r"65 sessions need 129 file descriptors, and this process may have 128: "
            r"take at most 64 --sessions, or raise the hard limit to 129 or more \(ulimit -Hn as root, .*\)",
        ),
    ]
    gate = asyncio.Semaphore(4)

    async def one(arguments: tuple[object, ...], extra: dict[str, Any]) -> Ended:
        async with gate:
            return await run(*arguments, **extra)  # type: ignore[no-any-return]

    ends = await asyncio.gather(*(one(arguments, extra) for arguments, extra, _ in wrong))
    for (arguments, _, line), end in zip(wrong, ends, strict=True):
        assert (end.code, end.out) == (2, ""), arguments
        assert re.fullmatch(f"error: {line}\n", end.err), end.err


async def test_an_ipv6_address_whose_end_may_be_meant_as_a_port_gets_a_warning(run: Run) -> None:
    short = ("--duration", "0.1", "--sessions", "1", "--loss-threshold", "0.1")
    meant, clear = await asyncio.gather(run("::1:4000", *short), run("[::1]:4000", *short))
    taken = "::1:4000 is taken as an IPv6 address without a port: if its end is the port, write [::1]:4000"
    assert meant.err.splitlines()[0] == f"warning: {taken}"
    assert "1 session to [::1]:4000: " in clear.out
    assert clear.err == ""


async def test_watch_off_with_a_named_port_asks_no_cluster_though_a_service_is_named(run: Run) -> None:
    async with scripted(answer) as server:
        short = ("--duration", "0.1", "--sessions", "1", "--service", "turn", "--watch", "off")
        own, said = await asyncio.gather(
            run(server.address, *short), run(server.address.ip, "--target-port", server.address.port, *short)
        )
    for end in (own, said):
        assert (end.code, end.err) == (3, "")
        assert f"1 session to {server.address}: " in end.out
        assert "cluster not watched (--watch off)" in end.out


# --- how it looks ----------------------------------------------------------------------------------------------------


async def test_forms_of_the_log(run: Run) -> None:
    def play(server: ScriptedServer, probe: Probe) -> None:
        server.reply(probe, "pod-a" if probe.seq < 5 else "pod-b")

    async with scripted(play) as server:
        common = (server.address, "--sessions", "2", "--duration", "1", "--stats-interval", "500ms")
        plain, coloured, neither, as_json, total = await asyncio.gather(
            run(*common),
            run(*common, FORCE_COLOR="1"),
            run(*common, FORCE_COLOR="1", NO_COLOR="1"),
            run(*common, "--log-format", "json", FORCE_COLOR="1"),
            run(*common, "--stats", "total"),
        )
    assert {end.code for end in (plain, coloured, neither, as_json, total)} == {1}
    assert {end.err for end in (plain, coloured, neither, as_json, total)} == {""}

    lines = plain.out.splitlines()
    assert re.fullmatch(rf"{TIME} \[info\]  \d{{4}}-\d\d-\d\d UTC[+-]\d\d:\d\d, affinity-tester \S+", lines[0])
    assert re.fullmatch(
        rf"{TIME} \[info\]  2 sessions to {server.address}: a probe of 288 bytes every 100 ms each, lost after 2 s",
        lines[1],
    )
    told = r'\[info\]  CLIENT-\d+ sent \d+ messages of which 0 message\(s\) lost, served by pod "pod-[ab]"'
    assert len(re.findall(rf"^{TIME} {told}", plain.out, re.MULTILINE)) >= 2
    assert not re.search("2 sessions sent", plain.out)
    assert re.search(rf"^{TIME} \[info\]  2 sessions sent \d+ messages of which 0 message", total.out, re.MULTILINE)
    assert not re.search(r"CLIENT-\d+ sent", total.out)

    escape = "\x1b["
    assert escape not in plain.out + neither.out + as_json.out + total.out
    red = [line for line in coloured.out.splitlines() if "pod_name changed" in line]
    assert len(red) == 2
    assert all(line.startswith(f"{escape}31m") and line.endswith(f"{escape}0m") for line in red)

    events = [json.loads(line) for line in as_json.out.splitlines()]
    assert all({"time", "level", "event", "message", "run"} <= set(event) for event in events)
    names = [event["event"] for event in events]
    assert names[0] == "run.started"
    assert names[-1] == "run.verdict"
    assert {"session.started", "session.stats", "run.stats", "session.pod_changed", "run.summary"} <= set(names)
    assert events[-1]["outcome"] == "FAIL"


async def test_target_addr_and_the_port_option_say_where(run: Run) -> None:
    async with scripted(answer) as server:
        port = str(server.address.port)
        short = ("--duration", "0.2", "--sessions", "1")
        ends = await asyncio.gather(
            run(*short, TARGET_ADDR=str(server.address)),
            run(*short, "--target-port", port, TARGET_ADDR="127.0.0.1"),
            run("127.0.0.1", *short, AFFINITY_TARGET_PORT=port, TARGET_ADDR="203.0.113.7"),
            run(f"127.0.0.1:{port}", *short, "--target-port", "9"),
        )
    for end in ends:
        assert f"1 session to {server.address}: " in end.out
        assert re.fullmatch(
            r"INCONCLUSIVE: only \d judged pairs? that could have failed, fewer than 300: .*", end.last
        ), end


# --- each option as flag and as environment variable -----------------------------------------------------------------


STARTED = RunStarted(
    0, 1, 0, "0.1.0", TransportAddress("192.0.2.1", 9), "lb.example", 1, NS_PER_S, NS_PER_S, 288, False, ()
)  # fmt: skip


class Taken(NamedTuple):
    """What the command would have run with."""

    settings: ClientSettings
    options: TargetOptions
    metrics_at: TransportAddress | None = None
    on_violation: str | None = None
    fail_fast: bool = False
    form: tuple[object, ...] = (False, "auto", "usual")
    """Whether there is a status line, the statistics, and how much is told."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Taken]:
    seen: list[Taken] = []

    async def run(
        settings: ClientSettings,
        options: TargetOptions,
        reporter: Reporter,
        _warn: Callable[[str], None],
        metrics_at: TransportAddress | None,
        *,
        on_violation: str | None,
        fail_fast: bool,
    ) -> Verdict:
        form = tuple(opened[-1][name] for name in ("live", "stats", "verbosity"))
        seen.append(Taken(settings, options, metrics_at, on_violation, fail_fast, form))
        reporter.emit(STARTED)  # a run that never starts leaves no record
        return Verdict(0, Outcome.PASS, (), "", violations=0, judged_pairs=0, still_ns=0)

    opened: list[dict[str, Any]] = []
    open_reporter = Reporter.open

    def opens(**given: Any) -> Reporter:
        opened.append(given)
        return open_reporter(**given)

    monkeypatch.setattr(client_cli.Reporter, "open", opens)
    monkeypatch.setattr(client_cli, "run_against_target", run)
    for name in list(os.environ):
        if name.startswith(OWN):
            monkeypatch.delenv(name)
    return seen


DEFAULTS = Taken(
    ClientSettings(),
    TargetOptions(target="lb.example", service=None, via="auto", watch="auto", port=None),
    form=(True, "auto", "usual"),
)

OPTIONS: list[tuple[str, str, str, dict[str, object]]] = [
    ("--sessions", "AFFINITY_SESSIONS", "7", {"sessions": 7}),
    ("--interval", "AFFINITY_INTERVAL", "20ms", {"interval_ns": 20 * MS}),
    ("--duration", "AFFINITY_DURATION", "10m", {"duration_ns": 600 * NS_PER_S}),
    ("--stats-interval", "AFFINITY_STATS_INTERVAL", "1.5", {"stats_interval_ns": 1500 * MS}),
    ("--stats", "AFFINITY_STATS", "session", {"per_session_stats": True, "form": (True, "session", "usual")}),
    ("--loss-threshold", "AFFINITY_LOSS_THRESHOLD", "500ms", {"loss_threshold_ns": 500 * MS}),
    ("--target-port", "AFFINITY_TARGET_PORT", "5000", {"port": 5000}),
    ("--service", "AFFINITY_SERVICE", "media/turn", {"service": "media/turn"}),
    ("--via", "AFFINITY_VIA", "node-port", {"via": "node-port", "target": None}),  # a way to a Service
    ("--watch", "AFFINITY_WATCH", "off", {"watch": "off"}),
    ("--kubeconfig", "AFFINITY_KUBECONFIG", "there.yaml", {"cluster": ClusterOptions(kubeconfig="there.yaml")}),
    ("--context", "AFFINITY_CONTEXT", "kind-a", {"cluster": ClusterOptions(context="kind-a")}),
    ("--namespace", "AFFINITY_NAMESPACE", "media", {"cluster": ClusterOptions(namespace="media")}),
    ("--size", "AFFINITY_SIZE", "1200", {"request_size": 1200}),
    ("--sizes", "AFFINITY_SIZES", "288, 1400", {"sizes": (288, 1400)}),
    ("--connected", "AFFINITY_CONNECTED", "true", {"connected": True}),
    ("--reference", "AFFINITY_REFERENCE", "[2001:db8::7]:19302", {"reference": "[2001:db8::7]:19302"}),
    ("--affinity-window", "AFFINITY_AFFINITY_WINDOW", "2m", {"affinity_window_ns": 120 * NS_PER_S}),
    ("--settle", "AFFINITY_SETTLE", "0", {"settle_ns": 0}),
    ("--balancer-check", "AFFINITY_BALANCER_CHECK", "1m", {"balancer_check_ns": 60 * NS_PER_S}),
    ("--max-loss", "AFFINITY_MAX_LOSS", "0.5", {"max_loss": 0.005}),
    ("--fail-on", "AFFINITY_FAIL_ON", "avoidable", {"fail_on_avoidable": True}),
    ("--key", "AFFINITY_KEY", "sécret", {"key": "sécret".encode()}),
    ("--log-format", "AFFINITY_LOG_FORMAT", "json", {}),
    ("--record", "AFFINITY_RECORD", "run.jsonl", {}),
    ("--ipv4", "AFFINITY_IPV4", "true", {"version": 4}),
    ("--ipv6", "AFFINITY_IPV6", "true", {"version": 6}),
    ("--bind", "AFFINITY_BIND", "2001:DB8::1", {"bind": "2001:db8::1", "version": 6}),
    ("--dscp", "AFFINITY_DSCP", "ef", {"dscp": 46}),
    ("--fail-fast", "AFFINITY_FAIL_FAST", "true", {"fail_fast": True}),
    ("--on-violation", "AFFINITY_ON_VIOLATION", "cat > x", {"on_violation": "cat > x"}),
    ("--verbose", "AFFINITY_VERBOSE", "true", {"per_session_stats": True, "form": (True, "session", "verbose")}),
    ("--quiet", "AFFINITY_QUIET", "true", {"form": (True, "auto", "quiet")}),
    ("--live", "AFFINITY_LIVE", "true", {}),
    ("--metrics", "AFFINITY_METRICS", "9464", {"metrics_at": TransportAddress("127.0.0.1", 9464)}),
]

FLAGS = ("--connected", "--ipv4", "--ipv6", "--fail-fast", "--verbose", "--quiet", "--live")


@pytest.mark.parametrize(
    ("arguments", "env", "sizes"),
    [
        (["--size", "300"], {"AFFINITY_SIZES": "288,1400"}, ()),
        (["--sizes", "288,1400"], {"AFFINITY_SIZE": "300"}, (288, 1400)),
        (["--sizes", "288,1400", "--size", "300"], {"AFFINITY_SIZES": ""}, None),
    ],
)
def test_of_size_and_sizes_the_one_on_the_command_line_wins(
    taken: list[Taken], arguments: list[str], env: dict[str, str], sizes: tuple[int, ...] | None
) -> None:
    result = CliRunner().invoke(main, ["client", "lb.example", *arguments], env=env)
    assert result.exit_code == (2 if sizes is None else 0)
    assert [each.settings.sizes for each in taken] == ([] if sizes is None else [sizes])


@pytest.mark.parametrize(
    ("arguments", "env", "ends"),
    [
        (["lb.example", "--via", "node-port"], {}, 2),
        (["--via", "node-port"], {"TARGET_ADDR": "lb.example"}, 2),
        ([], {"TARGET_ADDR": "lb.example", "AFFINITY_VIA": "node-port"}, 2),
        (["lb.example"], {"AFFINITY_VIA": "node-port"}, 0),
        (["--via", "auto"], {"TARGET_ADDR": "lb.example"}, 0),
    ],
)
def test_a_way_to_a_service_is_not_ignored_beside_a_target_but_where_the_command_line_wins(
    taken: list[Taken], arguments: list[str], env: dict[str, str], ends: int
) -> None:
    result = CliRunner().invoke(main, ["client", *arguments], env=env)
    assert (result.exit_code, "give one of them" in result.stderr) == (ends, ends == 2)
    assert [each.options for each in taken] == ([] if ends else [DEFAULTS.options])


def with_these(defaults: Taken, fields: dict[str, object]) -> Taken:
    """`defaults` with the fields that are there, wherever they belong."""
    settings = {name: value for name, value in fields.items() if hasattr(defaults.settings, name)}
    rules = {name: value for name, value in fields.items() if hasattr(defaults.settings.rules, name)}
    options = {name: value for name, value in fields.items() if hasattr(defaults.options, name)}
    beside: dict[str, Any] = {name: value for name, value in fields.items() if hasattr(defaults, name)}
    assert len(settings) + len(rules) + len(options) + len(beside) == len(fields)
    return defaults._replace(
        **beside,
        settings=replace(
            defaults.settings,
            rules=replace(defaults.settings.rules, **rules),  # type: ignore[arg-type]
            **settings,  # type: ignore[arg-type]
        ),
        options=replace(defaults.options, **options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (["-n", "7", "-i", "20ms"], ["--sessions", "7", "--interval", "20ms"]),
        (["-d1h30m", "-t", "1.5"], ["--duration", "5400", "--loss-threshold", "1500ms"]),
        (["-v4"], ["--verbose", "--ipv4"]),
        (["-q6"], ["--quiet", "--ipv6"]),
    ],
)
def test_the_short_options_are_the_long_ones(taken: list[Taken], short: list[str], long: list[str]) -> None:
    for arguments in (short, long):
        result = CliRunner().invoke(main, ["client", "lb.example", *arguments])
        assert (result.exit_code, result.stderr) == (0, "")
    assert taken[0] == taken[1] != DEFAULTS


@pytest.mark.parametrize(
    ("arguments", "env", "line"),
    [
        (["-4", "-6"], {}, "--ipv4 and --ipv6 exclude each other: give one of them"),
        (["-v", "-q"], {}, "--verbose and --quiet exclude each other: give one of them"),
        ([], {"AFFINITY_IPV4": "1", "AFFINITY_IPV6": "1"}, "--ipv4 and --ipv6 exclude each other: give one of them"),
        (
            ["-6", "--bind", "192.0.2.1"],
            {},
            "--bind 192.0.2.1 is an IPv4 address, and -6 asks for IPv6: give one of them",
        ),
        (["-6"], {"AFFINITY_IPV4": "1"}, ""),
        (["-q"], {"AFFINITY_VERBOSE": "1"}, ""),
    ],
)
def test_of_two_that_exclude_each_other_the_command_lines_wins(
    taken: list[Taken], arguments: list[str], env: dict[str, str], line: str
) -> None:
    result = CliRunner().invoke(main, ["client", "lb.example", *arguments], env=env)
    assert result.stderr == (f"error: {line}\n" if line else "")
    assert len(taken) == (0 if line else 1)
    if not line:
        assert (taken[0].options.version == 6) == (arguments == ["-6"])
        assert (taken[0].form[2] == "quiet") == (arguments == ["-q"])


@pytest.mark.parametrize(
    ("said", "dscp"), [("0", 0), ("46", 46), ("63", 63), ("BE", 0), ("cs5", 40), ("AF41", 34), ("af13", 14), ("VA", 44)]
)
def test_a_codepoint_is_a_number_or_a_name(taken: list[Taken], said: str, dscp: int) -> None:
    assert CliRunner().invoke(main, ["client", "lb.example", "--dscp", said]).exit_code == 0
    assert taken[0].settings.dscp == dscp


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--dscp", "64", "'64' is no DSCP: take a name"),
        ("--dscp", "AF44", "'AF44' is no DSCP"),
        ("--dscp", "-1", "'-1' is no DSCP"),
        ("--bind", "eth0", "'eth0' is no numeric address"),
        ("--bind", "0.0.0.0", "0.0.0.0 is no address of one machine"),
    ],
)
def test_what_is_no_codepoint_and_no_address_is_refused(taken: list[Taken], option: str, value: str, why: str) -> None:
    result = CliRunner().invoke(main, ["client", "lb.example", option, value])
    assert (result.exit_code, taken) == (2, [])
    assert why in result.stderr


def test_every_option_has_a_heading_in_the_help() -> None:
    shown = CliRunner().invoke(main, ["client", "--help"]).stdout
    last = shown.partition("\nOptions:\n")[2].partition("\n\n")[0]
    assert re.fullmatch(r"  (-h, )?--help +Show this message and exit\.", last)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
@pytest.mark.parametrize("form", ["flag", "environment", "empty"])
def test_each_option_is_a_flag_and_an_environment_variable(
    taken: list[Taken],
    option: tuple[str, str, str, dict[str, object]],
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    flag, variable, text, fields = option
    target = [] if "target" in fields else ["lb.example"]
    arguments = ([flag] if flag in FLAGS else [flag, text]) if form == "flag" else []
    env = {variable: text if form == "environment" else ""}
    result = CliRunner().invoke(main, ["client", *target, *arguments], env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    unsaid = with_these(DEFAULTS, {} if target else {"target": None})
    assert taken == [unsaid if form == "empty" else with_these(DEFAULTS, fields)]
    assert (tmp_path / "run.jsonl").exists() == (flag == "--record" and form != "empty")


def test_every_option_is_tested_and_its_help_names_default_and_environment() -> None:
    options = {parameter.opts[-1] for parameter in client_cli.client.params if parameter.opts[-1].startswith("--")}
    assert options == {flag for flag, *_ in OPTIONS}
    shown = " ".join(CliRunner().invoke(main, ["client", "--help"], terminal_width=200).stdout.split())
    for flag, variable, *_ in OPTIONS:
        assert re.search(rf"{flag} (HOST\[:PORT\] )?[^\[]*(\[[A-Za-z|:-]+\][^\[]*)?\[env var: {variable}\b", shown), (
            flag
        )
    for flag, default in (
        ("--sessions", "10"),
        ("--interval", "100ms"),
        ("--stats-interval", "10s"),
        ("--stats", "auto"),
        ("--loss-threshold", "2s"),
        ("--target-port", "3478"),
        ("--size", "288"),
        ("--affinity-window", "30s"),
        ("--settle", "10s"),
        ("--balancer-check", "35s"),
        ("--fail-on", "violation"),
        ("--log-format", "console"),
    ):
        variable = next(variable for option, variable, *_ in OPTIONS if option == flag)
        assert re.search(rf"\[env var: {variable}; default: {default}[;\]]", shown), flag
    assert "How long to send. Default: until Ctrl-C." in shown
    assert "Default: loss alone never fails." in shown
    assert "Exit codes: 0 PASS, 1 FAIL, 2 usage, 3 INCONCLUSIVE, 70 internal error." in shown


# --- silences --------------------------------------------------------------------------------------------------------


async def test_a_flow_that_dies_is_told_as_soon_at_a_long_interval(run: Run, tmp_path: Path) -> None:
    def dies(server: ScriptedServer, probe: Probe) -> None:
        # Session 1 is dead from its second probe on; the canary of it comes later and is answered.
        if probe.session != 1 or probe.seq == 0:
            server.reply(probe)

    record = tmp_path / "run.jsonl"
    async with scripted(dies) as server:
        options = ["--sessions", "3", "--interval", "2s", "--duration", "11", "--settle", "0"]
        await run(server.address, *options, "--record", record)
    events = recorded(record)
    outage = only(events, OutageStarted)
    assert 5 * NS_PER_S <= outage.at_ns - outage.since_ns < 7 * NS_PER_S
    canary = next(event for event in events if isinstance(event, CanaryResult))
    assert canary.session == outage.session
    assert canary.identity is not None
    assert canary.identity.pod == "pod-a"
    assert 2 * NS_PER_S <= canary.sent_ns - outage.since_ns < 3 * NS_PER_S


def test_a_container_bridge_under_the_client_is_said_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a port of this machine, where nothing is listening: the warning comes all the same."""
    asked: list[str] = []

    def warning(source: str, _environ: object) -> str:
        asked.append(source)
        return "a bridge"

    monkeypatch.setattr(client_run, "bridge_warning", warning)
    done = CliRunner().invoke(main, ["client", "127.0.0.1:9", "--watch", "off", "--duration", "100ms", "--settle", "0"])
    assert done.stderr.splitlines()[0] == "warning: a bridge"
    assert asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        (
            "127.0.0.2",
            "warning: this machine reaches the reference 127.0.0.2:3478 from 127.0.0.9 and the target from 127.0.0.1: it may"
            " see another NAT than the target does",
        ),
        ("127.0.0.3:9", None),
        ("127.0.0.4", "error: no route from this machine to 127.0.0.4:3478"),
    ],
)
def test_a_reference_that_is_reached_in_another_way_is_said(
    monkeypatch: pytest.MonkeyPatch, reference: str, told: str | None
) -> None:
    def source(address: TransportAddress, _scope_id: int = 0) -> str:
        if address.ip == "127.0.0.4":
            raise UserError(f"no route from this machine to {address}")
        return "127.0.0.9" if address.ip == "127.0.0.2" else "127.0.0.1"

    monkeypatch.setattr("affinity_tester.app.reference.local_source_for", source)
    short = ("--watch", "off", "--duration", "100ms", "--settle", "0")
    done = CliRunner().invoke(main, ["client", "127.0.0.1:9", *short, "--reference", reference])
    assert done.stderr.splitlines()[:1] == ([told] if told else [])
    assert (done.exit_code == 2) == (told is not None and told.startswith("error"))


def test_an_ipv6_reference_whose_end_may_be_meant_as_a_port_gets_a_warning(taken: list[Taken]) -> None:
    done = CliRunner().invoke(main, ["client", "lb.example", "--reference", "2001:db8::1:4000"])
    assert done.stderr.splitlines() == [
        "warning: 2001:db8::1:4000 is taken as an IPv6 address without a port: if its end is the port, write"
        " [2001:db8::1]:4000"
    ]
    assert [each.options.reference for each in taken] == ["2001:db8::1:4000"]


# --- what a violation sets off ---------------------------------------------------------------------------------------


async def test_the_first_violation_ends_the_run_and_the_command_is_called_once(run: Run, tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    async with scripted(moves) as moving:
        ended = await run(
            moving.address, "-d", "10m", "-n", "3", "-i", "50ms", "--settle", "300ms", "-t", "500ms", "--fail-fast",
            "--on-violation", f"cat >> {told}; echo not shown; echo no such host >&2; exit 3",
        )  # fmt: skip
    assert ended.code == 1
    assert "the first violation ends the run (--fail-fast)\n" in ended.out
    assert "sending stopped" in ended.out
    assert ended.last.startswith("FAIL: ")
    [line] = told.read_text().splitlines()
    incident = json.loads(line)
    assert incident["event"] == "run.incident"
    assert incident["target"] == str(moving.address)
    assert incident["incident"]["judgements"]["violation"] >= 1
    assert "[warn]  --on-violation: the command ended with exit code 3: no such host" in ended.out
    assert "not shown" not in ended.out + ended.err


# --- where probes come from, and how they are marked -----------------------------------------------------------------


async def test_probes_come_from_the_bound_address(run: Run) -> None:
    seen: set[str] = set()

    def note(server: ScriptedServer, probe: Probe) -> None:
        seen.add(probe.source[0])
        answer(server, probe)

    async with scripted(note) as server:
        ended = await run(server.address, "-d", "0.5", "-n", "2", "--bind", "127.0.0.9", "--dscp", "EF")
    assert seen == {"127.0.0.9"}
    assert "a probe of 288 bytes every 100 ms each, marked with DSCP 46, lost after 2 s" in ended.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("127.0.0.1:9", "--bind", "192.0.2.77"), "--bind 192.0.2.77: no probe can go from it to 127.0.0.1:9 ("),
        (("127.0.0.1:9", "-6"), "the target '127.0.0.1' has no IPv6 address ("),
        (("[::1]:9", "-4"), "the target '::1' has no IPv4 address ("),
        (("[::1]:9", "--bind", "127.0.0.1"), "the target '::1' has no IPv4 address ("),
    ],
)
async def test_an_address_that_cannot_be_used_is_one_line(run: Run, arguments: tuple[str, ...], line: str) -> None:
    ended = await run(*arguments, "--watch", "off", "-d", "1")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {line}")
    assert ended.err.count("\n") == 1


# --- how much is told ------------------------------------------------------------------------------------------------


async def test_quiet_tells_what_is_red_and_the_summary(run: Run) -> None:
    there = ("-d", "1", "-n", "2", "--settle", "300ms", "-t", "500ms", "--watch", "off")
    async with scripted(moves) as moving:
        quiet = await run(moving.address, *there, "-q")
        machines = await run(moving.address, *there, "-q", "--log-format", "json")
    log, _, summary = quiet.out.partition("\n\n")
    assert all(re.match(TIME + r" \[error\] ", line) for line in log.splitlines())
    assert log.count("pod_name changed") == 2
    assert summary.startswith("FAIL: 2 violations")
    told = [json.loads(line) for line in machines.out.splitlines()]
    assert {line["level"] for line in told if line["event"] not in {"run.summary", "run.verdict"}} == {"error"}
    assert [line["event"] for line in told][-1] == "run.verdict"


async def test_verbose_tells_of_each_session(run: Run) -> None:
    there = ("-d", "1.5", "-n", "22", "--stats-interval", "500ms", "--watch", "off", "-t", "500ms")
    async with scripted(answer) as server:
        verbose, usual = await asyncio.gather(run(server.address, *there, "-v"), run(server.address, *there))
    assert re.search(r"CLIENT-\d+ sends from 127\.0\.0\.1:\d+\n", verbose.out)
    assert re.search(r'CLIENT-\d+ first answered by pod "pod-a", which sees it as 127\.0\.0\.1:\d+\n', verbose.out)
    assert re.search(r"CLIENT-\d+ sent \d+ messages", verbose.out)
    assert not re.search(r"CLIENT-\d+ s", usual.out)
