"""A cluster in network namespaces: a client, a balancer, nodes and pods, joined by veth, with the kernel's own conntrack.

    client 10.20.0.2 --- balancer --- 10.30.1.2 node-1 cni0 10.40.1.1 --- 10.40.1.11, .12, ... pods
                            |-------- 10.30.2.2 node-2 cni0 10.40.2.1 --- ...
                            `-------- ...

The balancer routes probes of the VIP to a node and leaves their destination alone ("dsr"); nodes reach each other's pods
through it. A pod's default route is its node. Every namespace is named `at<pid>-<lab>-<host>`, so that those of a dead
test run can be told and removed.

Where it is asked for, the client is behind a NAT of its own (what the NAT does is up to the case), and there is a STUN server
that is not in the cluster:

    client 10.20.0.2 --- nat 198.51.100.2, 198.51.100.3 --- balancer --- 192.0.2.2 reference

All of it can be IPv6: then fd00:10:20:0::2 stands for 10.20.0.2.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import rules
from prober import Client, LabError

PROGRAMS = {"ip": "iproute2", "nft": "nftables", "conntrack": "conntrack"}
"""What it runs, and the Debian package of each."""

CLIENT_IP = "10.20.0.2"
NAT_IPS = ("198.51.100.2", "198.51.100.3")
"""The public addresses of the client's NAT (TEST-NET-2, RFC 5737)."""
REFERENCE_IP = "192.0.2.2"
SESSIONS = 24
"""Enough that a cohort is never empty by chance, and few enough for a slow machine."""

_ENDS_WITHIN_S = 30
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Pod:
    """One echo server in a namespace of its own."""

    name: str
    node: int
    """The number of its node, from 1."""
    address: str
    """As in IPv4, whatever the lab's family."""
    server: subprocess.Popen[str]


class Lab:
    """The namespaces and what runs in them. Use it as a context manager: it removes what it made."""

    def __init__(self, command: Path, scratch: Path, *, ipv6: bool = False) -> None:
        """`command` is the installed affinity-tester; `scratch` takes the records; `ipv6` is the lab's family."""
        self._command = str(command)
        self._scratch = scratch
        self._prefix = f"at{os.getpid()}-{next(_numbers)}-"
        self._undo = ExitStack()
        self._records = itertools.count(1)
        self._is_ipv6 = ipv6
        self._has_nat = False
        self.pods: dict[str, Pod] = {}
        self.nodes: list[str] = []
        """Their hosts, `node-1` first."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # --- building --------------------------------------------------------------------------------------------------

    def build(self, *pods: Sequence[str], nat: bool = False) -> None:
        """Make client, balancer and a node for each group of pods (which may be empty), and start the pods' servers.

        `nat` puts a NAT before the client, and makes a reference.
        """
        self._has_nat = nat
        self._network(pods)
        for node, names in enumerate(pods, start=1):
            for place, name in enumerate(names):
                address = f"10.40.{node}.{11 + place}"
                self.pods[name] = Pod(name, node, address, self.serve(name, node, "--host", address))
        for pod in self.pods.values():
            self._started(pod.server)

    def _network(self, pods: Sequence[Sequence[str]]) -> None:
        # `ip -batch` can't enter a namespace half-way, so links first and addresses after, a batch for each host.
        self.nodes = [f"node-{node}" for node in range(1, len(pods) + 1)]
        outside = ["nat", "reference"] if self._has_nat else []
        hosts = ["client", "balancer", *outside, *self.nodes, *itertools.chain(*pods)]
        links = self._links_outside()
        for node, names in enumerate(pods, start=1):
            ns = self.ns(f"node-{node}")
            links.append(f"link add eth0 netns {ns} type veth peer name node-{node} netns {self.ns('balancer')}")
            links += [f"link add eth0 netns {self.ns(name)} type veth peer name {name} netns {ns}" for name in names]
        for host in hosts:
            run("ip", "netns", "add", self.ns(host))
            self._undo.callback(_remove, self.ns(host))
        # Interfaces take these when they are made. The balancer knows no way back to the VIP, and nobody has its address.
        for host in hosts if self._is_ipv6 else ():
            self.write(host, 0, "net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad")
        for host in ("balancer", *outside[:1], *self.nodes):
            self.write(host, 0, "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter")
            self.write(host, 1, "net/ipv6/conf/all/forwarding" if self._is_ipv6 else "net/ipv4/ip_forward")
        run("ip", "-batch", "-", stdin="\n".join(links))
        self.ip("client", f"address add {CLIENT_IP}/24 dev eth0", *_up("lo", "eth0"), "route add default via 10.20.0.1")
        if self._has_nat:
            self._outside()
        else:
            self.ip("balancer", "address add 10.20.0.1/24 dev client", *_up("lo", "client"))
        for node, names in enumerate(pods, start=1):
            self._node(node, names)
        # A link is up for a while before it carries anything; by default a neighbour is asked for again after 1 s.
        soon = "echo 50 > $each/retrans_time_ms; echo 40 > $each/mcast_solicit"
        for host in hosts if self._is_ipv6 else ():
            run(*self._in(host, "sh", "-c", f"for each in /proc/sys/net/ipv6/neigh/*; do {soon}; done"))

    def _links_outside(self) -> list[str]:
        client, balancer = self.ns("client"), self.ns("balancer")
        if not self._has_nat:
            return [f"link add eth0 netns {client} type veth peer name client netns {balancer}"]
        nat, reference = self.ns("nat"), self.ns("reference")
        return [
            f"link add eth0 netns {client} type veth peer name lan netns {nat}",
            f"link add wan netns {nat} type veth peer name client netns {balancer}",
            f"link add eth0 netns {reference} type veth peer name reference netns {balancer}",
        ]

    def _outside(self) -> None:
        """Address the NAT and the reference, and start the reference's server."""
        self.ip(
            "nat",
            "address add 10.20.0.1/24 dev lan",
            *(f"address add {address}/24 dev wan" for address in NAT_IPS),
            *_up("lo", "lan", "wan"),
            "route add default via 198.51.100.1",
        )
        self.ip(
            "balancer",
            "address add 198.51.100.1/24 dev client",
            "address add 192.0.2.1/24 dev reference",
            *_up("lo", "client", "reference"),
        )
        self.ip(
            "reference",
            f"address add {REFERENCE_IP}/24 dev eth0",
            *_up("lo", "eth0"),
            "route add default via 192.0.2.1",
        )
        self._started(self.serve("reference", 0, "--host", REFERENCE_IP))

    def _node(self, node: int, names: Sequence[str]) -> None:
        self.ip(
            "balancer",
            f"address add 10.30.{node}.1/24 dev node-{node}",
            *_up(f"node-{node}"),
            f"route add 10.40.{node}.0/24 via 10.30.{node}.2",
            f"route add default via 10.30.{node}.2 table {100 + node}",
            f"rule add fwmark {node} table {100 + node}",
        )
        self.ip(
            f"node-{node}",
            f"address add 10.30.{node}.2/24 dev eth0",
            f"link add cni0 address 0a:58:0a:28:{node:02x}:01 type bridge",  # else it is a pod's, and goes with that
            f"address add 10.40.{node}.1/24 dev cni0",
            *(f"link set {name} master cni0" for name in names),
            *_up("lo", "eth0", "cni0", *names),
            f"route add default via 10.30.{node}.1",
        )
        for place, name in enumerate(names):
            address = f"address add 10.40.{node}.{11 + place}/24 dev eth0"
            self.ip(name, address, *_up("lo", "eth0"), f"route add default via 10.40.{node}.1")

    # --- what runs ---------------------------------------------------------------------------------------------------

    def serve(self, name: str, node: int, *options: str) -> subprocess.Popen[str]:
        """Start an echo server in the pod's namespace."""
        identity = ("--pod-name", name, "--node-name", f"node-{node}", "--health-port", "0", "--log-format", "json")
        argv = self._in(name, self._command, "server", *identity, *map(self.address, options))
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._undo.callback(_end, server)
        return server

    def _started(self, server: subprocess.Popen[str]) -> None:
        assert server.stdout is not None
        line = server.stdout.readline()
        if '"server.started"' not in line:
            raise LabError(f"no server: {line}")

    def restart(self, name: str, *, host: str | None = None, address: str | None = None) -> None:
        """Kill a pod's server and start another, bound to `host`; `address` is the pod's from now on."""
        pod = self.pods[name]
        _end(pod.server)
        server = self.serve(name, pod.node, "--host", host or pod.address)
        self.pods[name] = Pod(name, pod.node, address or pod.address, server)
        self._started(server)

    def delete_pod(self, name: str) -> None:
        """Take its link, its server and its namespace away, in an order that lets no port be seen closed."""
        pod = self.pods.pop(name)
        self.ip(f"node-{pod.node}", f"link delete {name}")
        _end(pod.server)
        _remove(self.ns(name))

    def client(self, *options: str, sessions: int = SESSIONS, kubeconfig: Path | None = None) -> Client:
        """Start a client of the VIP: probes every 100 ms, lost after 1 s, judged at once, until it is stopped.

        With a `kubeconfig` it watches the cluster that this leads to.
        """
        record = self._scratch / f"{self._prefix}{next(self._records)}.jsonl"
        shown = ("--log-format", "json", "--stats", "session", "--stats-interval", "250ms", "--record", str(record))
        pace = ("--sessions", str(sessions), "--interval", "100ms", "--loss-threshold", "1s", "--settle", "0")
        if kubeconfig is not None:
            pace = (*pace, "--watch", "on")
        target = self.address(rules.VIP)
        argv = self._in("client", self._command, "client", target, *shown, *pace, *options)
        return Client(argv if kubeconfig is None else ["env", f"KUBECONFIG={kubeconfig}", *argv], record, sessions)

    def idle(self, *options: str) -> dict[str, Any]:
        """Measure how long flows to the VIP may be silent; return the whole result."""
        file = self._scratch / f"{self._prefix}{next(self._records)}.json"
        asked = (self.address(rules.VIP), "--watch", "off", "--json", str(file), *options)
        run(*self._in("client", self._command, "idle", *asked), fine=(0, 3), within_s=120)
        document: dict[str, Any] = json.loads(file.read_text())
        return document

    def _in(self, host: str, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.ns(host), *argv]

    # --- what is done to it ------------------------------------------------------------------------------------------

    def ns(self, host: str) -> str:
        """The namespace of a host: `client`, `balancer`, `node-<number>`, or a pod's name."""
        return self._prefix + host

    def address(self, ipv4: str) -> str:
        """The address that stands for this one, which is of the lab's family."""
        return rules.as_ipv6(ipv4) if self._is_ipv6 else ipv4

    def ip(self, host: str, *commands: str) -> None:
        """Run ip commands in a host."""
        family = "-6" if self._is_ipv6 else "-4"
        run("ip", family, "-netns", self.ns(host), "-batch", "-", stdin=self.address("\n".join(commands)))

    def nft(self, host: str, commands: str) -> None:
        """Load nft commands in a host, all or none."""
        run(*self._in(host, "nft", "-f", "-"), stdin=self.address(commands))

    def write(self, host: str, value: int, *settings: str) -> None:
        """Set sysctls in a host, all to the same value."""
        run(*self._in(host, "tee", *(f"/proc/sys/{setting}" for setting in settings)), stdin=str(value))

    def flush(self, host: str) -> None:
        """Make a host forget all its flows."""
        run(*self._in(host, "conntrack", "--flush"))

    def forget(self, address: str) -> None:
        """Make all nodes forget the Service's flows to an endpoint, as kube-proxy does when one is removed."""
        for host in self.nodes:
            self.delete(host, "--orig-dst", rules.VIP, "--reply-src", address)

    def delete(self, host: str, *which: str) -> None:
        """Make a host forget the UDP flows that conntrack's options name."""
        family = "ipv6" if self._is_ipv6 else "ipv4"
        delete = ("conntrack", "--delete", "--family", family, "--proto", "udp", *map(self.address, which))
        run(*self._in(host, *delete), fine=(0, 1))  # it ends with 1 where there was none

    def proxy(self, *, policy: str = "Cluster", client_ip: bool = False, without: Iterable[str] = ()) -> None:
        """Sync every node's kube-proxy to the pods there are, less those `without`."""
        pods = [pod for pod in self.pods.values() if pod.name not in set(without)]
        for node, host in enumerate(self.nodes, start=1):
            endpoints = {pod.name: pod.address for pod in pods if policy == "Cluster" or pod.node == node}
            self.nft(host, rules.kube_proxy(endpoints, masquerade=policy == "Cluster", client_ip=client_ip))

    def remember(self, host: str, pod: str) -> None:
        """Give a node the client's affinity to a pod, as earlier traffic would have."""
        self.nft(host, f"add element ip kube-proxy affinity-{pod} {{ {CLIENT_IP} }}\n")

    def balance(self, *nodes: int, spray: bool = False) -> None:
        """Let the balancer hash over these nodes from now on."""
        self.nft("balancer", rules.balancer(nodes, spray=spray))


def _up(*links: str) -> list[str]:
    return [f"link set {link} up" for link in links]


def _end(server: subprocess.Popen[str]) -> None:
    if server.stdout is not None and not server.stdout.closed:
        server.kill()
        server.communicate()


def _remove(namespace: str) -> None:
    if Path("/run/netns", namespace).exists():
        run("ip", "netns", "delete", namespace)


def run(*argv: str, stdin: str = "", fine: tuple[int, ...] = (0,), within_s: float = _ENDS_WITHIN_S) -> str:
    """Run a command; returns what it printed. Raises `LabError` with what it complained of."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=within_s)
    if done.returncode not in fine:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}\n{stdin}")
    return done.stdout


def why_not() -> str | None:
    """Why a lab can't be built here; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    probe = f"at{os.getpid()}-0-probe"
    try:
        run("ip", "netns", "add", probe)
        try:
            run(
                "ip",
                "netns",
                "exec",
                probe,
                "nft",
                "-f",
                "-",
                stdin=rules.kube_proxy({}, masquerade=True, client_ip=True),
            )
            run("ip", "-netns", probe, "link", "add", "cni0", "type", "bridge")
        finally:
            run("ip", "netns", "delete", probe)
    except LabError as error:
        return f"this kernel or container does not let a lab be built: {error}"
    return None


def sweep() -> list[str]:
    """Remove the namespaces of test runs that were killed, with the processes in them; returns their names."""
    removed = []
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = re.match(r"at(\d+)-\d+-", name)
        if owner is None or Path("/proc", owner[1]).exists():
            continue
        for pid in run("ip", "netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "delete", name)
        removed.append(name)
    return removed
