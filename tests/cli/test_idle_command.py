"""`affinity-tester idle`: the installed command against servers on loopback."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.server import EchoServer
from commands import PATIENCE_S, TIME, Ended, environment

pytestmark = pytest.mark.busy


@pytest.fixture
async def target() -> AsyncIterator[TransportAddress]:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a", node_name="node-1")
    yield server.addresses[0]
    await server.close()


async def idle(
    command: Path,
    *arguments: object,
    interrupt_s: float | None = None,
    number: signal.Signals = signal.SIGINT,
    **extra: str,
) -> Ended:
    """Run it to its end, or send it a signal after some seconds."""
    process = await asyncio.create_subprocess_exec(
        command,
        "idle",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**extra),
    )
    if interrupt_s is not None:
        asyncio.get_running_loop().call_later(interrupt_s, process.send_signal, number)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def test_a_signal_that_asks_how_far_it_is_ends_nothing(affinity_tester: Path, target: TransportAddress) -> None:
    options = ("--longest", "2s", "--watch", "off")
    ended = await idle(affinity_tester, target, *options, interrupt_s=2.5, number=signal.SIGUSR1)
    assert (ended.code, ended.err) == (0, "")
    so_far = r"so far: first round: [\d,]+ of \d+ samples ended, \d+ s left at most"
    assert re.search(rf"^{TIME} \[info\]  {so_far}$", ended.out, re.MULTILINE)
    assert "keep-alive: every 1 s is safe" in ended.out


async def test_without_a_nat_it_is_longer_than_the_longest(
    affinity_tester: Path, target: TransportAddress, tmp_path: Path
) -> None:
    file = tmp_path / "idle.json"
    ended = await idle(affinity_tester, target, "--longest", "2s", "--watch", "off", "--json", file)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert re.fullmatch(
        rf"{TIME} \[info\]  affinity-tester \S+: how long may a flow to {target} be silent\? .*", lines[0]
    )
    assert re.fullmatch(rf"{TIME} \[warn\]  the pool is not watched \(--watch off\): .*", lines[1])
    # A busy machine sends some of them late, and says so.
    shown = [re.sub(r"\b\d\d of \d\d kept \(at most \d\d %", "N of N kept (at most P %", line) for line in lines[2:]]
    paragraph = [
        "  longer than 2 s",
        "  silent for 2 s: N of N kept (at most P % lost, 95 %)",
        "  as far as can be seen: no address is translated, and one pod answers",
        "  1 s #### 2 s (# kept, + some lost, . lost, ? unknown)",
    ]
    assert [line for line in shown if not line.endswith("sent late by this machine")] == [
        "after one exchange (a request and its reply), the client speaks first after the silence:",
        *paragraph,
        "after a stream (traffic both ways for 3 s), the client speaks first after the silence:",
        *paragraph,
        "keep-alive: every 1 s is safe, half of the longest silence tried; a longer --longest may allow more",
    ]
    document = json.loads(file.read_text())
    assert document["keep_alive_s"] == 1
    assert document["text"] == lines[2:]
    assert [curve["kept"]["flow"]["longest_kept_s"] for curve in document["curves"]] == [2, 2]
    assert len(document["curves"][0]["steps"]) == 4


async def test_ctrl_c_gives_the_result_so_far_as_json_lines(affinity_tester: Path, target: TransportAddress) -> None:
    arguments = ("--longest", "10m", "--watch", "off", "--log-format", "json")
    ended = await idle(affinity_tester, target, *arguments, interrupt_s=20)
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["event"] for line in told[:2]] == ["idle.started", "idle.warning"]
    assert {line["event"] for line in told[2:-1]} == {"idle.step"}
    assert told[-1]["event"] == "idle.result"
    assert 0 < told[-1]["ended"] < told[-1]["planned"]
    assert ended.code == 0
    assert told[-1]["keep_alive_s"] >= 0.5


async def test_the_pod_speaks_first_where_both_have_the_key(affinity_tester: Path, tmp_path: Path) -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a", key=b"secret")
    arguments = ("--longest", "1.25s", "--watch", "off", "--direction", "both")
    ended = await idle(affinity_tester, server.addresses[0], *arguments, AFFINITY_KEY="secret")
    totals = await server.close()
    assert ended.code == 0
    assert ended.out.count("the pod speaks first after the silence:\n  longer than 1.25 s\n") == 2
    assert totals.delayed >= 80
    assert totals.not_delayed == ()


async def test_a_server_without_the_key_delays_nothing(affinity_tester: Path, target: TransportAddress) -> None:
    arguments = ("--longest", "1s", "--watch", "off", "--direction", "pod", "--key", "secret")
    ended = await idle(affinity_tester, target, *arguments)
    assert ended.code == 3
    assert "nothing is known: the samples were never answered" in ended.out


async def test_nobody_there_is_inconclusive(affinity_tester: Path, target: TransportAddress) -> None:
    ended = await idle(affinity_tester, "127.0.0.1:9", "--longest", "1s", "--watch", "off")
    assert ended.code == 3
    assert "  nothing is known: the samples were never answered" in ended.out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("127.0.0.1", "--longest", "0.5s"), "0.5s is too short: at least 1s is possible"),
        (("127.0.0.1", "--samples", "5"), "'5' is not a whole number from 20 to 1000"),
        (
            ("127.0.0.1", "--samples", "1000", "--watch", "off"),
            "60 steps with 1000 samples each are more than 20,000 sockets",
        ),
        (("127.0.0.1", "--direction", "pod"), "--direction pod needs --key (AFFINITY_KEY)"),
        ((), "no target"),
        (("127.0.0.1", "--via", "node-port"), "--via node-port (AFFINITY_VIA) says how to reach --service"),
        (("127.0.0.1:1", "--longest", "1s", "--watch", "off", "--json", "/nonexistent/x"), "--json /nonexistent/x"),
    ],
)
def test_what_a_user_can_mend_is_one_line(affinity_tester: Path, arguments: tuple[str, ...], line: str) -> None:
    done = subprocess.run(
        [affinity_tester, "idle", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: ")
    assert line in told
