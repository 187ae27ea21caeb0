"""Simulated runs and reports of experiments with known rates, for the tests of comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.comparison.run_figures import RunFigures
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import (
    Blackouts,
    CellOutcome,
    CellResult,
    ExperimentReport,
    ExperimentResult,
    Held,
    RanOn,
)
from affinity_tester.core.judging.rules import DEFAULT_RULES
from affinity_tester.units import NS_PER_MS, NS_PER_S

PERIOD_NS = 10 * NS_PER_S
START_NS = 5 * NS_PER_S
INTERVAL_NS = 100 * NS_PER_MS

STARTED = ev.RunStarted(
    START_NS,
    wall_ns=1_764_000_000 * NS_PER_S,
    utc_offset_s=0,
    version="1.0",
    target=TransportAddress("192.0.2.1", 3478),
    target_name="lb.example",
    sessions=24,
    interval_ns=INTERVAL_NS,
    loss_threshold_ns=2 * NS_PER_S,
    request_size=288,
    connected=False,
    lost_guarantees=(),
    rules=DEFAULT_RULES,
)


def incident(since_s: float, **fields: object) -> ev.IncidentClosed:
    """Return an incident of one second; its fields are those of a violation, but for those that are given."""
    from_ns = START_NS + round(since_s * NS_PER_S)
    whole = ev.Incident(
        number=1,
        from_ns=from_ns,
        to_ns=from_ns + NS_PER_S,
        continuing=False,
        sessions=5,
        total_sessions=24,
        changes=5,
        outages=0,
        bursts=0,
        strays=0,
        lost=0,
        kinds=(),
        cohorts=(),
        context=(),
        judgements=((ev.Judgement.VIOLATION, 5),),
        diagnoses=(ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, ("seen",)),),
    )
    return ev.IncidentClosed(from_ns + 4 * NS_PER_S, replace(whole, **fields))  # type: ignore[arg-type]


@dataclass
class World:
    """What a run's figures are drawn from."""

    periods: int = 60
    incidents_per_hour: float = 20.0
    loss: float = 0.002
    """Share of probes lost, in bursts."""
    burst: float = 12.0
    """Probes lost in a burst, on all sessions at once."""
    rtt_ns: float = 2e6
    rtt_drift: float = 0.0
    """How much of a period's deviation the next one has (the coefficient of an AR(1) process)."""
    extra: list[ev.Event] = field(default_factory=list)

    def run(self, random: Random) -> RunFigures:
        """Return one run."""
        figures = RunFigures()
        for event in self.events(random):
            figures.feed(event)
        return figures

    def events(self, random: Random) -> list[ev.Event]:
        """Return the events of one run."""
        duration_ns = self.periods * PERIOD_NS
        probes = 24 * duration_ns // INTERVAL_NS
        events: list[ev.Event] = [STARTED, *self.extra]
        events += [incident(at / NS_PER_S) for at in self._times(random, self.incidents_per_hour / 3600, duration_ns)]
        for at in self._times(random, self.loss * 240 / self.burst, duration_ns):
            count = max(1, round(random.expovariate(1 / self.burst)))
            events.append(
                ev.ProbesLost(START_NS + at + 2 * NS_PER_S, f"CLIENT-{at % 24}", 1, count, START_NS + at, START_NS + at)
            )
        total = ev.Counts(sent=probes, answered=probes)
        deviation = random.gauss(0, 1)
        for period in range(1, self.periods + 1):
            deviation = self.rtt_drift * deviation + random.gauss(0, (1 - self.rtt_drift**2) ** 0.5)
            p50 = round(self.rtt_ns * (1 + 0.1 * deviation))
            at_ns = START_NS + period * PERIOD_NS
            events.append(ev.StatsTick(at_ns, 24, total, total, p50_ns=p50, p99_ns=round(p50 * random.uniform(2, 6))))
        end_ns = START_NS + duration_ns
        events.append(ev.RunSummary(end_ns, duration_ns, total, ev.Losses(), ev.RttStats(), (), 0))
        events.append(ev.Verdict(end_ns, ev.Outcome.PASS, ("so",), "", 0, probes, duration_ns))
        return events

    @staticmethod
    def _times(random: Random, per_s: float, duration_ns: int) -> list[int]:
        """Return when something happens that comes independently, at so many a second."""
        times: list[int] = []
        at_s = random.expovariate(per_s) if per_s else duration_ns
        while at_s < duration_ns / NS_PER_S:
            times.append(round(at_s * NS_PER_S))
            at_s += random.expovariate(per_s)
        return times


RAN_ON = RanOn(
    context="prod",
    kubernetes="v1.35.2",
    nodes=3,
    os=(("Ubuntu 24.04", 3),),
    kernels=(("6.8.0", 3),),
    runtimes=(("containerd 2.1", 3),),
    kubelets=(("v1.35.2", 3),),
    proxy="kube-proxy, iptables mode",
    cni="",
    cloud="azure",
    balancer="",
    via="node-port",
    missing=(),
)

NAMES = tuple(f"CLIENT-{number}" for number in range(100))


def outcome(sessions: int = 24, beyond: int = 0, **fields: object) -> CellOutcome:
    """Return an outcome of a cell in which 4 sessions had to move, and did."""
    lasted: tuple[int, ...] = fields.pop("lasted_ns", ())  # type: ignore[assignment]
    silent: int = fields.pop("still_silent", 0)  # type: ignore[assignment]
    whole = CellOutcome(
        sessions=sessions,
        moved=NAMES[: 4 + beyond],
        moved_pod=4 + beyond,
        moved_address=0,
        least=NAMES[:4],
        least_reason="the sessions of pod a",
        beyond=NAMES[4 : 4 + beyond],
        twice=(),
        blackouts=Blackouts(len(lasted), None, None, None, silent, lasted),
        sent=10_000,
        lost=0,
        violations=beyond,
        names=(),
        held=Held.NO if beyond else Held.YES,
        reasons=(f"{beyond} of 20 moved and need not have",) if beyond else (),
        claim="",
    )
    return replace(whole, **fields)  # type: ignore[arg-type]


CELLS = (("Cluster", "None"), ("Cluster", "ClientIP"), ("Local", "None"), ("Local", "ClientIP"))


def result(name: str, outcomes: list[CellOutcome], failure: str = "") -> ExperimentResult:
    """Return the result of an experiment, a cell for each outcome."""
    experiment = EXPERIMENTS[name]
    cells = tuple(
        CellResult(f"default/echo-{policy}-{affinity}".lower(), policy, affinity, outcome)
        for (policy, affinity), outcome in zip(CELLS, outcomes, strict=False)
    )
    return ExperimentResult(
        name, experiment.kind, experiment.requirement, experiment.source, "did it", "undid it", failure, (), cells
    )


def report(*results: ExperimentResult, **fields: object) -> ExperimentReport:
    """Return a report."""
    whole = ExperimentReport(
        version="1.0",
        started_wall_ns=1_764_000_000 * NS_PER_S,
        matrix=True,
        sessions=24,
        interval_ns=INTERVAL_NS,
        ran_on=RAN_ON,
        results=results,
    )
    return replace(whole, **fields)  # type: ignore[arg-type]
