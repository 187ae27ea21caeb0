"""Random worlds of a client's NAT and a cluster behind it, in which the truth of each change is known.

    session  ->  the client's NAT (maps endpoint-independently or not, one or several public addresses)
             ->  a balancer that hashes source addresses over nodes, or one node that holds the service's address
             ->  a node with its table; it masquerades from its own address or its bridge's, or keeps the source (Local)

One thing happens at a time: at the NAT (`NAT`) or in the cluster (`CLUSTER`). A new mapping is a new source, so balancer,
node and proxy choose anew, as RFC 4787 and kube-proxy have it; the masquerade draws a random port (`random-fully`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CaseJudged,
    Change,
    Event,
    Judgement,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    ReferenceResult,
    RunEnded,
    RunStarted,
    SendingStopped,
    SessionStarted,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.core.session.tracker import SessionTracker
from pools import ComparingAnalysis, judged_cases

MS = 1_000_000
S = 1_000 * MS
SETTLE = 4 * S
END = 30 * S
RTT = 2 * MS
TARGET = TransportAddress("203.0.113.7", 3478)
REFERENCE = TransportAddress("198.18.0.1", 3478)
CLIENT = "192.168.0.9"

NAT = ("flush", "renew", "move", "flush twice", "some", "forget")
"""The table is flushed; ports are renewed every 13 s; all flows get another public address; flushed again after 0.7 s; some
of several public addresses are taken away; mappings to the cluster are forgotten, where they are not also the reference's."""

CLUSTER = ("wipe one", "wipe all", "wipe twice", "rehash", "failover")
"""A node's table is flushed, all are, all again after 0.7 s; a node joins the hash; the address goes to another node."""


@dataclass
class NatWorld:
    """One run, played on construction."""

    seed: int
    what: str
    """What happens, of `NAT` or `CLUSTER`."""
    sessions: int = 16
    nat: bool = True
    """False: the client's own address is seen by whoever it sends to."""
    independent: bool = True
    """The NAT maps a socket to the same address whatever it sends to."""
    public: int = 1
    local: bool = False
    """Policy Local."""
    client_ip: bool = False
    """Affinity ClientIP."""
    nodes: int = 3
    vip: bool = False
    watched: bool = True
    reference: bool = False
    own: str = CLIENT
    silent: int = 0
    """Sessions that are never answered."""
    loss: float = 0.0
    interval: int = 200 * MS
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.what}")
        self.pods = [f"p{n}" for n in range(1, 2 * self.nodes + 1)]
        self.publics = [f"198.51.100.{n + 1}" for n in range(self.public)]
        self.mapped: dict[tuple[int, str], TransportAddress] = {}
        self.hashed: dict[tuple[str, int], int] = {}
        self.tables: dict[int, dict[tuple[str, int], Identity]] = {}
        self.affinity: dict[tuple[int, str], str] = {}
        self.holder = 1
        self.last_node = self.nodes
        self.happened: list[int] = []
        self.analysis = ComparingAnalysis(Rules(settle_ns=SETTLE))
        self.told: list[CaseJudged] = []
        self._play()

    # --- the network ---------------------------------------------------------------------------------------------------

    def _port(self) -> int:
        return self.rng.randrange(1024, 65536)

    def _source(self, session: int, to: str) -> TransportAddress:
        """Return the address from which a session's packets leave the NAT."""
        if not self.nat:
            return TransportAddress(self.own, 50_000 + session)
        key = (session, "any" if self.independent else to)
        if key not in self.mapped:
            self.mapped[key] = TransportAddress(self.rng.choice(self.publics), self._port())
        return self.mapped[key]

    def _node(self, source: TransportAddress) -> int:
        if self.vip:
            return self.holder
        return self.hashed.setdefault(source, self.rng.randrange(1, self.last_node + 1))

    def _answer(self, session: int) -> Identity:
        source = self._source(session, "cluster")
        node = self._node(source)
        table = self.tables.setdefault(node, {})
        if source not in table:
            pods = [pod for pod in self.pods if self._home(pod) == node] if self.local else self.pods
            pod = self.rng.choice(pods)
            if self.client_ip:
                pod = self.affinity.setdefault((node, source.ip), pod)
            bridge = "9" if self._home(pod) == node else "0"
            seen = source if self.local else TransportAddress(f"10.{bridge}.0.{node}", self._port())
            table[source] = Identity(seen, pod, f"n{self._home(pod)}", pod.encode())
        return table[source]

    def _home(self, pod: str) -> int:
        return (int(pod[1:]) - 1) % self.nodes + 1

    def _happen(self, at: int) -> None:
        self.happened.append(at)
        busiest = max(self.tables, key=lambda node: len(self.tables[node]))
        match self.what:
            case "flush" | "flush twice" | "renew":
                self.mapped.clear()
            case "move":
                self.publics = ["198.51.100.99"]
                self.mapped.clear()
            case "forget":
                self.mapped = {key: mapped for key, mapped in self.mapped.items() if key[1] == "reference"}
            case "some":
                gone = self.publics.pop()
                self.mapped = {key: mapped for key, mapped in self.mapped.items() if mapped.ip != gone}
            case "wipe one":
                self.tables[busiest].clear()
            case "wipe all" | "wipe twice":
                self.tables.clear()
            case "rehash":
                for source in list(self.hashed):
                    if self.rng.random() < 1 / self.nodes:
                        self.hashed[source] = self.hashed[source] % self.nodes + 1
            case _:  # failover
                self.holder = self.holder % self.nodes + 1

    # --- the run -------------------------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._keep(self.analysis.feed(event))

    def _keep(self, told: list[Event]) -> None:
        self.told += [event for _, event in judged_cases(told, Change)]

    def _snapshot(self) -> PoolSnapshot:
        endpoints = frozenset(Endpoint(f"uid-{p}", p, f"10.1.0.{p[1:]}", f"n{self._home(p)}") for p in self.pods)
        spec = {
            "externalTrafficPolicy": "Local" if self.local else "Cluster",
            "sessionAffinity": "ClientIP" if self.client_ip else "None",
        }
        return PoolSnapshot(endpoints, tuple(spec.items()))

    def _play(self) -> None:
        rng = self.rng
        reference = REFERENCE if self.reference else None
        started = RunStarted(0, 0, 0, "0", TARGET, "x", self.sessions, self.interval, 2 * S, 288, False, ())
        self._emit(replace(started, reference=reference, rules=self.analysis.rules))
        if self.watched:
            self._emit(NodeAddresses(0, tuple((f"10.0.0.{n}", f"n{n}") for n in range(1, self.nodes + 1))))
            self._emit(PoolObserved(0, 0, 0, self._snapshot(), 0))
        for n in range(self.sessions):
            self._emit(SessionStarted(0, f"CLIENT-{n}", TransportAddress(self.own, 50_000 + n)))
        trackers = [SessionTracker(f"CLIENT-{n}", 2 * S, self._emit) for n in range(self.sessions)]

        begin = rng.randrange(6 * S, 9 * S)
        times = {"renew": [begin, begin + 13 * S], "flush twice": [begin, begin + 700 * MS]}
        times["wipe twice"] = times["flush twice"]
        agenda = [(at, 0, "happen", 0) for at in times.get(self.what, [begin])]
        for n in range(self.sessions):
            phase = self.interval * n // self.sessions
            agenda += [(at + phase, 1, "send", n) for at in range(0, END, self.interval)]
        if self.reference:
            asked = min(8, self.sessions)
            agenda += [(at, 1, "ask", at // (100 * MS) % asked) for at in range(0, END, 100 * MS)]
        agenda += [(at, 2, "sweep", 0) for at in range(0, END + 12 * S, 250 * MS)]
        agenda.append((END, 3, "stop", 0))
        for at, _, what, n in sorted(agenda):
            if what == "happen":
                self._happen(at)
            elif what == "send":
                seq, who = trackers[n].sent(at), self._answer(n)
                if n >= self.silent and rng.random() >= self.loss:
                    trackers[n].replied(seq, who, None, at + RTT)
            elif what == "ask":
                self._emit(ReferenceResult(at + RTT, f"CLIENT-{n}", at, self._source(n, "reference")))
            elif what == "stop":
                self._emit(SendingStopped(at, interrupted=False))
            else:
                for tracker in trackers:
                    tracker.expire(at)
                if self.watched and at % S == 0:
                    self._emit(PoolConfirmed(at, at - 1))
                self._keep(self.analysis.advance(at))
        self._emit(RunEnded(END + 12 * S, aborted=False))

    # --- the truth -----------------------------------------------------------------------------------------------------

    @property
    def judgements(self) -> dict[tuple[str, int], tuple[Change, Judgement]]:
        """Each change with its last judgement."""
        return {(e.session, c.number): (c, e.judgement) for c, e in judged_cases(self.told, Change)}

    @property
    def ends(self) -> list[tuple[str, str]]:
        """The reflexive IPs of each session that changed, before what happened and after it."""
        found: dict[str, tuple[str, str]] = {}
        for (session, _), (change, _) in sorted(self.judgements.items()):
            old, new = change.before.identity.reflexive, change.after.identity.reflexive
            assert old is not None
            assert new is not None
            found[session] = (found.get(session, (old.ip, ""))[0], new.ip)
        return list(found.values())

    @property
    def chance_hides(self) -> bool:
        """True if new sources were hashed as seldom happens: all to their old nodes, or all to one."""
        nodes = [(old.rpartition(".")[2], new.rpartition(".")[2]) for old, new in self.ends]
        return all(old == new for old, new in nodes) or len({new for _, new in nodes}) == 1
