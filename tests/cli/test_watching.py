"""`affinity-tester client` beside a cluster: the installed command, an API server that can fail, and servers on loopback."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands import NO_KUBECONFIG, PATIENCE_S, TIME, Client, Ended, Run, Start, environment
from fakeapi import FakeApi, Json, endpoint, endpoint_slice, node, proxy, service, write_kubeconfig
from scripted import Probe, ScriptedServer, scripted

pytestmark = pytest.mark.busy

FAST = ("--sessions", 4, "--interval", "20ms", "--settle", "500ms", "--loss-threshold", "1s")
"""Some 200 pairs a second, each judged within a second or two."""

RUNNING = (*FAST, "--stats", "total", "--stats-interval", "500ms")

ESCAPE = re.compile(r"\x1b\[(\d+)m")

OPENING = r"TIME \[info\]  \d{4}-\d\d-\d\d UTC[+-]\d\d:\d\d, affinity-tester \S+"
PROBES = "TIME [info]  4 sessions to TARGET: a probe of 288 bytes every 20 ms each, lost after 1 s"
POOL = "TIME [event] the pool is watched: 2 of 2 endpoints ready"
WATCHED = 'TIME [info]  watching Service "media/turn" in context "kind-test", by its load-balancer'
BROKE = "TIME [event] the pool is not observed any more: the connection to the API server broke"
STOPPED = "TIME [info]  sending stopped; the last replies may still come, then the last judgements"
UNWATCHED = "TIME [info]  cluster not watched ({}): a change counts as a violation unless the client was idle"


class Stage:
    """A Service's address: its flows go where the test says."""

    def __init__(self) -> None:
        self.pod = "a"
        """Who answers; empty: nobody."""
        self.reflexive: str | None = None
        """The IP that the pod claims to see; None: what it sees."""

    def script(self, server: ScriptedServer, probe: Probe) -> None:
        if self.pod:
            seen = None if self.reflexive is None else (self.reflexive, probe.source[1])
            server.reply(probe, self.pod, reflexive=seen)


class Scene(NamedTuple):
    """All that a run needs."""

    stage: Stage
    server: ScriptedServer
    api: FakeApi
    environ: dict[str, str]
    """KUBECONFIG, which leads to the API server."""

    def put_service(self, name: str = "turn", **spec: Any) -> None:
        """A Service whose one port, and whose balancer's address, are the server's."""
        self.api.put("services", service(name, **{"ingress": ("127.0.0.1",), "ports": [self.port()], **spec}))

    def put_pool(self, *endpoints: Json, of: str = "turn", **more: Any) -> None:
        self.api.put("endpointslices", endpoint_slice(*endpoints, name=of, of=of, **{"ports": [self.port()], **more}))

    def port(self, **more: Any) -> Json:
        return {"name": "stun", "protocol": "UDP", "port": self.server.address.port, "targetPort": "stun", **more}

    def told(self, text: str) -> list[str]:
        """A log's lines up to the summary, and the verdict; what differs from run to run has a word instead."""
        text = ESCAPE.sub("", text)
        for pattern, word in (
            (re.escape(str(self.server.address)), "TARGET"),
            (TIME, "TIME"),
            (r"CLIENT-\d+", "CLIENT"),
            (r"(10\.0\.0\.\d):\d+", r"\1:PORT"),
            (r"\d+\.\d s (before|after)", r"N s \1"),
            (r"\b(again after|answered after|TIME for|at most|in the) [\d.]+ m?s\b", r"\1 N s"),
        ):
            text = re.sub(pattern, word, text)
        verdict = r"PASS|FAIL|INCONCLUSIVE|changes judged"
        lines = [line for line in text.splitlines() if re.match(rf"TIME|{verdict}", line)]
        # How soon the sessions are answered, and what else the log tells again and again, is no matter of the cluster's.
        beside = r"TIME \[info\]  4 sessions (sent|answered)|TIME \[\w+\] +in short: "
        return [line for line in lines if not re.match(beside, line)]


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Pods a and b on nodes n1 and n2 behind the Service media/turn, whose balancer has the server's address."""
    stage, api = Stage(), FakeApi()
    async with scripted(stage.script) as server:
        await api.start()
        path = folder / f"kubeconfig-{api.port}"
        write_kubeconfig(path, api.port)
        made = Scene(stage, server, api, {"KUBECONFIG": str(path)})
        made.put_service()
        made.put_pool(endpoint("a"), endpoint("b", "n2"))
        for number in (1, 2):
            api.put("nodes", node(f"n{number}", internal=f"10.0.0.{number}"))
        api.put("pods", proxy("kube-proxy-1"))
        try:
            yield made
        finally:
            api.hold.set()
            api.answering.set()
            await api.kill()


async def begun(client: Client) -> None:
    """Wait until the run is older than the settle time: what was before it explains nothing any more."""
    await client.until("watching Service")
    for _ in range(2):
        await client.until("4 sessions sent .* served by")


def colours(end: Ended, pattern: str) -> set[str]:
    """The colours of all lines of the log that have this."""
    lines = [line for line in end.out.splitlines() if re.search(pattern, ESCAPE.sub("", line))]
    return {";".join(ESCAPE.findall(line)[:-1]) for line in lines if line.startswith("\x1b")}


def code_of(end: Ended) -> int:
    """What a run without fault ends with: a machine that is too busy is no witness."""
    return 3 if "this client was too busy" in end.out else 0


# --- a change and what it is judged ------------------------------------------------------------------------------------


def is_folded(line: str, level: str, begins: str, ends: str = "") -> bool:
    """True if it is the one line of four alike judgements, whose cause may be more or less far from each."""
    tag = f"[{level}]".ljust(7)
    when = r"( [\d.N]+ s( before| after)?( to [\d.N]+ s)?)?" if ends else ""
    told = (
        rf"TIME {re.escape(tag)}     4 sessions: {re.escape(begins)}{when}{re.escape(ends)} \(changed TIME( to TIME)?\)"
    )
    return re.fullmatch(told, line) is not None


async def test_a_change_near_a_change_of_the_pool_is_explained(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.api.forbidden = {"list /api/v1/nodes"}
        async with start("--service", "turn", *RUNNING, FORCE_COLOR="1", **at.environ) as client:
            await begun(client)
            at.put_pool(endpoint("b", "n2"))
            await client.until('pod "a" left the pool')
            at.stage.pod = "b"
            await client.until("incident 1 ")
            for _ in range(2):
                await client.until("4 sessions sent")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (code_of(end), "")
    assert re.fullmatch(OPENING, lines.pop(0))
    assert lines[0] == PROBES
    assert set(lines[1:4]) == {"TIME [event] cannot list nodes: node events will be missing", POOL, WATCHED}
    assert lines[4] == 'TIME [event] pod "a" left the pool'
    assert lines[5:9] == ['TIME [error] CLIENT pod_name changed "a" -> "b"'] * 4
    assert is_folded(lines[9], "info", 'explained by: pod "a" left the pool', " before; old pod gone")
    assert lines[10:15] == [
        "TIME [info]  incident 1 at TIME for N s, 4 of 4 sessions: 4 changes (pod 4, instance 4)",
        "TIME [info]      judged: 4 explained",
        "TIME [info]      reflexive IP before: 127.0.0.1 (4 of 4)",
        'TIME [info]      near: pod "a" left the pool N s before',
        STOPPED,
    ]
    assert "changes judged: 4 explained" in lines[15:]
    assert colours(end, "pod_name changed") == {"31"}
    assert colours(end, 'pod "a" left the pool$') == {"36"}
    assert colours(end, "explained by: ") == {"2"}


async def test_a_node_event_explains_nothing_and_stands_near_the_violation(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.stage.reflexive = "10.0.0.1"
        async with start("--service", "media/turn", *RUNNING, FORCE_COLOR="1", **at.environ) as client:
            await begun(client)
            at.api.put("nodes", node("n3", internal="10.0.0.3"))
            await client.until('node "n3" added')
            at.stage.reflexive, at.stage.pod = "10.0.0.3", "b"
            await client.until("incident 1 ")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (1, "")
    assert lines[1:5] == [PROBES, POOL, WATCHED, 'TIME [event] node "n3" added']
    assert (
        lines[5:13]
        == [
            'TIME [error] CLIENT x_address changed 10.0.0.1:PORT (node "n1") -> 10.0.0.3:PORT (node "n3")',
            'TIME [error] CLIENT pod_name changed "a" -> "b"',
        ]
        * 4
    )
    assert is_folded(lines[13], "error", "VIOLATION: no endpoint had changed")
    assert lines[14:18] == [
        "TIME [error] incident 1 at TIME for N s, 4 of 4 sessions: 4 changes (reflexive_ip 4, pod 4, instance 4)",
        "TIME [error]     judged: 4 violations",
        'TIME [error]     came in through: 10.0.0.1, node "n1" (4 of 4)',
        'TIME [error]     near: node "n3" added N s before',
    ]
    assert 'TIME [error]         node "n3" was added N s before' in lines
    assert lines[-2:] == ["FAIL: 4 violations", "changes judged: 4 violations"]
    assert colours(end, 'node "n3" added$') == {"36"}
    assert colours(end, "VIOLATION: ") == colours(end, "incident 1 ") == {"1;31"}


async def test_rights_to_list_and_not_to_watch_are_enough(start: Start, tmp_path: Path) -> None:
    """It is said once, changes of the pool are dated by lists, and judged as else; nothing flaps."""
    async with scene(tmp_path) as at:
        at.api.forbidden = {"watch"}
        async with start("--service", "turn", *RUNNING, "--settle", "3s", **at.environ) as client:
            await begun(client)
            for _ in range(6):
                await client.until("4 sessions sent .* served by")
            at.put_pool(endpoint("b", "n2"))
            at.stage.pod = "b"
            await client.until('pod "a" left the pool')
            await client.until("incident 1 ")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert end.code in (0, 3)  # a busy machine may have too few pairs for more
    assert end.err == ""
    unwatchable = (
        "TIME [event] this account may list and not watch: lists every 2 s stand in, and date changes less exactly"
    )
    assert lines.count(f"{unwatchable} (k8s/rbac.yaml has the rights)") == 1
    assert not [line for line in lines if "observed" in line]
    told = [line for line in lines if 'explained by: pod "a" left the pool' in line]
    alike = [re.search(r" (\d+) sessions: explained", line) for line in told]
    assert sum(int(found[1]) if found else 1 for found in alike) == 4
    assert [line for line in lines if "left the pool" in line and "[event]" in line] == [
        'TIME [event] pod "a" left the pool'
    ]
    assert "changes judged: 4 explained" in lines


async def moved_unseen(at: Scene, client: Client) -> None:
    """The API server dies, and then all four sessions move to another pod."""
    await begun(client)
    await at.api.kill()
    await client.until("not observed any more")
    at.stage.pod = "b"
    for _ in range(4):
        await client.until("pod_name changed")


async def test_what_an_interrupted_watch_missed_is_unknown_and_it_resumes(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await moved_unseen(at, client)
            for _ in range(3):  # longer than the settle time
                await client.until("4 sessions sent")
            at.put_pool(endpoint("b", "n2"))
            await at.api.start()
            await client.until("incident 1 ")
            for _ in range(2):  # the gap lies farther back than the settle time
                await client.until("4 sessions sent")
            at.put_pool(endpoint("b", "n2"), endpoint("c"))
            await client.until('pod "c" joined the pool')
            at.stage.pod = "c"
            await client.until("incident 2 ")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (3, "")
    assert lines[1:5] == [PROBES, POOL, WATCHED, BROKE]
    assert lines[5:9] == ['TIME [error] CLIENT pod_name changed "a" -> "b"'] * 4
    assert lines[9:11] == [
        "TIME [event] the pool is observed again after N s",
        'TIME [event] pod "a" left the pool',
    ]
    assert is_folded(lines[11], "warn", 'unknown: pod "a" left the pool at some time in the N s up to', " after")
    assert lines[12:14] == [
        "TIME [info]  incident 1 at TIME for N s, 4 of 4 sessions: 4 changes (pod 4, instance 4)",
        "TIME [info]      judged: 4 unknown",
    ]
    avoidable = 'explained by: pod "c" joined the pool'
    assert any(is_folded(line, "info", avoidable, " before; old pod still ready") for line in lines)
    assert lines.count(BROKE) == 1
    judged = lines.index("changes judged: 4 unknown, 4 explained")
    assert lines[judged - 1] == "INCONCLUSIVE: 4 changes or outages could not be judged"
    (sent, answered, lost) = re.search(r"^all +(\d+) +(\d+) +(\d+) ", end.out, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert (answered, lost) == (sent, "0")


async def test_changes_that_the_api_server_forgot_are_said_in_words(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await begun(client)
            at.api.revision += 1
            at.api.compact()
            at.api.end("endpointslices")
            await client.until("observed again")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert end.err == ""
    assert [re.sub("after .*", "after N s", line) for line in lines if "[event]" in line] == [
        POOL,
        "TIME [event] the pool is not observed any more: the API server no longer has the changes since we last looked (410)",
        "TIME [event] the pool is observed again after N s",
    ]


async def test_a_gap_in_which_nothing_was_missed_excuses_nothing(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await begun(client)
            await at.api.kill()
            await client.until("not observed any more")
            at.stage.pod = "b"
            await client.until("pod_name changed")
            await at.api.start()
            await client.until("VIOLATION")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (1, "")
    assert [line for line in lines if "[event]" in line] == [
        POOL,
        BROKE,
        "TIME [event] the pool is observed again after N s, and nothing was missed",
    ]
    assert any(is_folded(line, "error", "VIOLATION: no endpoint had changed") for line in lines)


async def test_a_second_ctrl_c_leaves_what_is_open_unknown(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await moved_unseen(at, client)
            client.signal(signal.SIGINT)
            await client.until("still to come")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (3, "")
    stopped = lines.index(STOPPED)
    assert lines[stopped : stopped + 3] == [
        STOPPED,
        "TIME [info]  4 judgements still to come, in at most N s (Ctrl-C: leave them unknown)",
        "TIME [warn]  stopped at once: judgements still open are unknown",
    ]
    assert is_folded(lines[stopped + 3], "warn", "unknown: the run ended before the pool was confirmed")
    judged = lines.index("changes judged: 4 unknown")
    assert lines[judged - 1] == "INCONCLUSIVE: 4 changes or outages could not be judged"


async def test_answers_of_pods_that_never_were_in_the_pool_mean_that_it_is_not_watched(
    start: Start, tmp_path: Path
) -> None:
    async with scene(tmp_path) as at:
        at.stage.pod = "x"
        async with start("--service", "turn", *RUNNING, **at.environ) as client:
            await client.until("never in the watched pool")
            at.put_pool(endpoint("a"))
            await client.until('pod "b" left the pool')
            at.stage.pod = "y"
            await client.until("VIOLATION")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (1, "")
    wrong = "wrong cluster or Service; the pool counts as not watched"
    assert [line for line in lines if "[warn]" in line] == [
        f'TIME [warn]  pod "x" answers, which was never in the watched pool: {wrong}'
    ]
    assumed = "VIOLATION (cluster not watched, endpoints assumed unchanged)"
    assert any(is_folded(line, "error", assumed) for line in lines)
    assert "FAIL: 4 violations" in lines


async def test_a_silence_has_the_reason_that_the_cluster_knows(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.stage.pod = ""
        at.put_pool()
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await client.until("no session is answered")
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert (end.code, end.err) == (3, "")
    assert lines[2] == "TIME [event] the pool is watched: 0 of 0 endpoints ready"
    why = 'Service "media/turn" has no endpoints: no pod has the labels app=turn'
    assert next(line for line in lines if "[warn]" in line) == f"TIME [warn]  no session is answered after N s: {why}"
    assert lines[-1] == "INCONCLUSIVE: nothing answered"


async def test_a_slice_that_cannot_be_read_is_one_line_and_the_pool_unknown(start: Start, tmp_path: Path) -> None:
    """Once `ready: "false"` was told as ready."""
    async with scene(tmp_path) as at:
        at.put_service("odd", ports=[{"name": "x", "protocol": "UDP"}])
        async with start(at.server.address, *RUNNING, **at.environ) as client:
            await begun(client)
            at.put_pool({**endpoint("a"), "conditions": {"ready": "false"}}, endpoint("b", "n2"))
            await client.until("not observed any more")
            at.put_pool(endpoint("a", ready=False), endpoint("b", "n2"))
            await client.until('pod "a" became not ready')
            client.signal(signal.SIGINT)
            end = await client.end()
        lines = at.told(end.out)
    assert end.err == ""
    odd = 'EndpointSlice "media/turn" cannot be read: endpoints[0].conditions.ready is "false", not a boolean'
    assert [line for line in lines if "[event]" in line] == [
        POOL,
        f"TIME [event] the pool is not observed any more: {odd}",
        "TIME [event] the pool is observed again after N s",
        'TIME [event] pod "a" became not ready',
    ]


async def test_odd_services_hide_no_other(run: Run, tmp_path: Path) -> None:
    """Once a single odd Service anywhere ended every client at its start."""
    async with scene(tmp_path) as at, scene(tmp_path) as without:
        without.api.objects["services"].clear()
        for api in (at.api, without.api):
            api.put("services", service("a", ports=[{"name": "x", "protocol": "UDP"}]))
            api.put("services", service("b", ports="x"))
            api.put("services", {**service("c"), "status": {"loadBalancer": {"ingress": [None]}}})
            api.put("services", service("d", selector=["app"]))
        runs = [run(each.server.address, *FAST, "--duration", "100ms", **each.environ) for each in (at, without)]
        ends = await some_at_a_time(runs)
        named = await run("--service", "b", *FAST, **at.environ)
        lines = [each.told(end.out) for each, end in zip((at, without), ends, strict=True)]
        address = without.server.address
    assert [(end.code, end.err) for end in ends] == [(3, "")] * 2
    assert lines[0][2:4] == [POOL, WATCHED]
    odd = 'Service "media/a" cannot be read: spec.ports[0].port is missing'
    missing = f"no Service of context kind-test has the address {address} (name one: --service); {odd}"
    assert lines[1][2] == UNWATCHED.format(missing).replace(str(address), "TARGET")
    odd = 'Service "media/b" cannot be read: spec.ports is "x", not a list'
    looked = f'the Service "media/b" cannot be looked up ({odd}): give TARGET itself'
    assert (named.code, named.out, named.err) == (2, "", f"error: {looked}\n")


async def test_the_family_with_endpoints_and_a_route_is_taken(run: Run, tmp_path: Path) -> None:
    """Of two families the pods have one, and the address that comes first is of the other."""
    async with scene(tmp_path) as at:
        at.put_service(
            "dual", ipFamilies=["IPv6", "IPv4"], type="ClusterIP", ingress=(), externalIPs=["2001:db8::7", "127.0.0.1"]
        )
        at.put_pool(endpoint("a"), of="dual")
        end = await run("--service", "dual", "--via", "load-balancer", *FAST, "--duration", "100ms", **at.environ)
        lines = at.told(end.out)
    assert (end.code, end.err) == (3, "")
    assert lines[1].startswith("TIME [info]  4 sessions to TARGET: ")


async def test_every_address_of_the_balancer_is_probed(run: Run, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.put_service("zones", ingress=("127.0.0.1", "127.0.0.2", "2001:db8::7"))
        at.put_pool(endpoint("a"), of="zones")
        end = await run("--service", "zones", *FAST, "--duration", "100ms", **at.environ)
        lines = at.told(end.out)
    assert (end.code, end.err) == (3, "")
    where = f"2 addresses of TARGET (TARGET, 127.0.0.2:{at.server.address.port})"
    assert lines[1] == f"TIME [info]  4 sessions to {where}: a probe of 288 bytes every 20 ms each, lost after 1 s"


async def test_a_record_says_when_the_service_was_given_its_address(run: Run, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        made = service("turn", ports=[at.port()], ingress=("127.0.0.1",))
        age_s = 3600
        created = datetime.now(UTC) - timedelta(seconds=age_s)
        at.api.put("services", {**made, "metadata": {**made["metadata"], "creationTimestamp": created.isoformat()}})
        path = tmp_path / "record.jsonl"
        end = await run("--service", "turn", *FAST, "--duration", "100ms", "--record", path, **at.environ)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert (end.code, end.err) == (3, "")
    (begun,) = [line for line in lines if "addressed_ns" in line]
    assert age_s - 1 < (begun["at_ns"] - begun["addressed_ns"]) / 1e9 < age_s + 20


async def test_a_closed_output_ends_a_watched_run_quietly(start: Start, tmp_path: Path) -> None:
    async with scene(tmp_path) as at, start("--service", "turn", *RUNNING, **at.environ) as client:
        await client.until("watching Service")
        client.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        at.put_pool(endpoint("b", "n2"))
        async with asyncio.timeout(PATIENCE_S):
            assert await client.process.wait() == 141
        assert client.process.stderr is not None
        assert await client.process.stderr.read() == b""


# --- the first lines ---------------------------------------------------------------------------------------------------

SHORT = (*FAST, "--duration", "100ms")


async def some_at_a_time(runs: list[Awaitable[Ended]]) -> list[Ended]:
    """Each imports a large package."""
    gate = asyncio.Semaphore(3)

    async def one(run: Awaitable[Ended]) -> Ended:
        async with gate:
            return await run

    return await asyncio.gather(*map(one, runs))


async def test_the_first_lines_say_whether_the_pool_is_watched(run: Run, tmp_path: Path) -> None:
    async with scene(tmp_path) as at, scene(tmp_path) as refusing, scene(tmp_path) as slow, scene(tmp_path) as dead:
        target, port = at.server.address, at.server.address.port
        at.put_service("affinity-tester")
        at.put_pool(endpoint("a"), of="affinity-tester")
        at.put_service("by-node", type="NodePort", ingress=(), ports=[at.port(port=3478, nodePort=port)])
        at.put_pool(endpoint("a"), of="by-node")
        at.put_service("inside", type="ClusterIP", ingress=(), clusterIPs=["127.0.0.1"])
        at.put_pool(endpoint("a", ready=False), endpoint("b"), of="inside")
        several = [{"name": "sip", "protocol": "UDP", "port": 5060}, {**at.port(), "name": "media"}]
        at.put_service("several", ports=several)
        at.put_pool(endpoint("a"), of="several", ports=several)
        at.api.put("nodes", node("n1", internal="127.0.0.1"))
        refusing.api.forbidden = {"list /apis/discovery.k8s.io/v1/namespaces/media/endpointslices"}
        slow.api.hold.clear()
        dead.api.answering.clear()

        def watching(name: str, way: str) -> str:
            return f'TIME [info]  watching Service "media/{name}" in context "kind-test"{way}'

        def endpoints(ready: int, of: str) -> str:
            return f"TIME [event] the pool is watched: {ready} of {of} ready"

        no_cluster = f"no cluster: there is neither a kubeconfig ({NO_KUBECONFIG}) nor a pod's service account"
        no_rights = "cannot list endpointslices in namespace media (status 403)"
        cases: list[tuple[Scene, tuple[object, ...], dict[str, str], list[str]]] = [
            (at, ("--service", "turn", "--watch", "on"), {}, [POOL, WATCHED]),
            (
                at,
                ("--via", "load-balancer"),
                {},
                [endpoints(1, "1 endpoint"), watching("affinity-tester", ", by its load-balancer")],
            ),
            (at, ("--service", "by-node"), {}, [endpoints(1, "1 endpoint"), watching("by-node", ", by its node-port")]),
            (
                at,
                ("--service", "inside", "--via", "cluster-ip"),
                {},
                [endpoints(1, "2 endpoints"), watching("inside", ", by its cluster-ip")],
            ),
            (
                at,
                ("--service", "several", "--target-port", port),
                {},
                [endpoints(1, "1 endpoint"), watching("several", ", by its load-balancer")],
            ),
            (
                at,
                (target, "--service", "by-node", "--watch", "off"),
                {"KUBECONFIG": at.environ["KUBECONFIG"]},
                [UNWATCHED.format("--watch off")],
            ),
            (dead, (dead.server.address, "--watch", "off"), {}, [UNWATCHED.format("--watch off")]),
            (dead, (dead.server.address, "--service", "a", "--watch", "off"), {}, [UNWATCHED.format("--watch off")]),
            (at, (target,), {"KUBECONFIG": NO_KUBECONFIG}, [UNWATCHED.format(no_cluster)]),
            (
                at,
                (dead.server.address,),
                {},
                [
                    UNWATCHED.format(
                        f"no Service of context kind-test has the address {dead.server.address} (name one: --service)"
                    )
                ],
            ),
            (refusing, ("--service", "turn"), {}, [UNWATCHED.format(no_rights)]),
            (refusing, (refusing.server.address, "--service", "turn"), {}, [UNWATCHED.format(no_rights)]),
            (
                slow,
                (slow.server.address,),
                {},
                [UNWATCHED.format("the Services of context kind-test could not be listed within 3 s")],
            ),
            (
                dead,
                (dead.server.address,),
                {},
                [UNWATCHED.format("the cluster of context kind-test did not answer within 3 s")],
            ),
        ]
        ends = await some_at_a_time(
            [run(*arguments, *SHORT, **{**where.environ, **extra}) for where, arguments, extra, _ in cases]
        )
        told = [where.told(end.out) for (where, *_), end in zip(cases, ends, strict=True)]
        asked = {path for _, path, _ in dead.api.asked}
    for (_, arguments, _, lines), end, first in zip(cases, ends, told, strict=True):
        assert (end.code, end.err) == (3, ""), arguments
        assert re.fullmatch(OPENING, first[0])
        assert first[2 : 2 + len(lines)] == lines, arguments
        assert first[2 + len(lines)] == STOPPED, arguments
    assert asked == {"/apis/discovery.k8s.io/v1"}


# --- what a user can get wrong -----------------------------------------------------------------------------------------


async def test_what_is_missing_is_one_line(run: Run, tmp_path: Path) -> None:
    async with scene(tmp_path) as at, scene(tmp_path) as refusing, scene(tmp_path) as dead:
        at.put_service("pending", ingress=(), ports=[at.port(nodePort=30478)])
        at.put_pool(endpoint("a"), of="pending")
        at.put_service("tcp", ports=[{"name": "web", "protocol": "TCP", "port": 80}])
        at.put_service("empty")
        at.put_service("unready")
        at.put_pool(endpoint("a", ready=False), of="unready")
        several = [{**at.port(), "port": number, "name": f"p{number}"} for number in (5060, 19302)]
        at.put_service("several", ports=several)
        at.put_service("inside", type="ClusterIP", ingress=(), clusterIPs=["None"], clusterIP="None")
        at.put_pool(endpoint("a"), of="inside")
        refusing.api.forbidden = {
            "get /api/v1/namespaces/media/services/turn",
            "list /api/v1/services",
            "list /api/v1/namespaces/media/services",
        }
        dead.api.answering.clear()
        target = at.server.address
        make = "make one with 'make apply-deployment apply-service', or name one with --service NAMESPACE/NAME"
        pods = "see kubectl get pods --namespace media --selector app=turn"
        no_cluster = f"no cluster: there is neither a kubeconfig ({NO_KUBECONFIG}) nor a pod's service account"
        without = "without a cluster,"
        late = "the cluster of context kind-test did not answer within 3 s"
        no_target = (
            "no target: name it (affinity-tester client 203.0.113.7), or set TARGET_ADDR (make apply-service does)"
        )
        nowhere = {"KUBECONFIG": NO_KUBECONFIG}
        cases: list[tuple[dict[str, str], tuple[object, ...], str]] = [
            (at.environ, (), f'there is no Service "media/affinity-tester" (context kind-test): {make}'),
            (at.environ, ("--service", "live/turn"), f'there is no Service "live/turn" (context kind-test): {make}'),
            (at.environ, (target, "--service", "no"), f'there is no Service "media/no" (context kind-test): {make}'),
            (at.environ, ("--service", "a/b/c"), "--service wants [NAMESPACE/]NAME, not 'a/b/c'"),
            (
                at.environ,
                ("--service", "pending"),
                'the load balancer of Service "media/pending" has no address yet: wait for it '
                "(kubectl describe service pending --namespace media says why), or use --via node-port",
            ),
            (
                at.environ,
                ("--service", "tcp"),
                'Service "media/tcp" has no UDP port (its ports: 80/TCP): name another with --service',
            ),
            (
                at.environ,
                ("--service", "empty"),
                f'Service "media/empty" has no ready endpoints (it has none at all): {pods}',
            ),
            (
                at.environ,
                ("--service", "unready"),
                f'Service "media/unready" has no ready endpoints (none of its 1 is ready): {pods}',
            ),
            (
                at.environ,
                ("--service", "several"),
                'Service "media/several" has several UDP ports: choose one of 5060, 19302 with --target-port',
            ),
            (
                at.environ,
                ("--service", "several", "--target-port", "3478"),
                'Service "media/several" has no UDP port 3478: choose one of 5060, 19302 with --target-port',
            ),
            (
                at.environ,
                ("--service", "inside"),
                'Service "media/inside" has no cluster IP: it is headless; give a pod\'s address as TARGET',
            ),
            (
                at.environ,
                ("--service", "inside", "--via", "cluster-ip"),
                'Service "media/inside" has no cluster IP: it is headless; give a pod\'s address as TARGET',
            ),
            (
                at.environ,
                ("--service", "inside", "--via", "node-port"),
                'Service "media/inside" has no node port (type ClusterIP): choose another --via',
            ),
            (at.environ, ("a:b", "--service", "turn"), "the target is wrong: port 'b' is not a number from 1 to 65535"),
            (
                refusing.environ,
                ("--service", "turn"),
                'the Service "media/turn" cannot be looked up (status 403): '
                "give TARGET itself, or more rights (k8s/rbac.yaml)",
            ),
            (refusing.environ, (target, "--watch", "on"), "--watch on: Services could not be listed (status 403)"),
            (nowhere, (target, "--watch", "on"), f"--watch on: {no_cluster}; {without} say --watch off"),
            (nowhere, ("--service", "turn"), f"--service: {no_cluster}; {without} give TARGET and no --service"),
            (dead.environ, (target, "--watch", "on"), f"--watch on: {late}; {without} say --watch off"),
            (dead.environ, (), f"{no_target}; nor can its Service be looked up ({late})"),
        ]
        ends = await some_at_a_time([run(*arguments, *SHORT, **environ) for environ, arguments, _ in cases])
    for (_, arguments, line), end in zip(cases, ends, strict=True):
        assert (end.code, end.out, end.err) == (2, "", f"error: {line}\n"), arguments


# --- what it costs who asks no cluster -----------------------------------------------------------------------------------


def ended_by(number: int | None, arguments: list[object]) -> str:
    """What a command imported, one module a line; a command that goes on gets a signal after its first line."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "affinity_tester", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1", POD_NAME="a"),
    )
    try:
        if number is not None:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
        _, imported = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return imported


@pytest.mark.parametrize(
    ("arguments", "number", "proof"),
    [
        (["--help"], None, "click"),
        (["client", "--help"], None, "affinity_tester.cluster.discover"),
        (
            ["server", "--host", "127.0.0.1", "--port", 0, "--health-port", 0],
            signal.SIGINT,
            "affinity_tester.net.run_server",
        ),
        (
            ["client", "127.0.0.1:9", "--loss-threshold", "100ms", "--watch", "off"],
            signal.SIGINT,
            "affinity_tester.net.client",
        ),
        (["client", "127.0.0.1:9", "--loss-threshold", "100ms"], signal.SIGINT, "affinity_tester.net.client"),
    ],
)
def test_who_asks_no_cluster_does_not_import_its_package(
    arguments: list[object], number: int | None, proof: str
) -> None:
    imported = {line.rpartition("|")[2].strip() for line in ended_by(number, arguments).splitlines()}
    assert proof in imported
    assert not {name for name in imported if name.partition(".")[0] in {"kubernetes", "aiohttp"}}
