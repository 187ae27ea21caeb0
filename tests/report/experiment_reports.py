"""Reports of experiments, made by hand: a matrix in which all that can be said is said, and one Service alone."""

from __future__ import annotations

from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import (
    Blackouts,
    CellOutcome,
    CellResult,
    ExperimentReport,
    ExperimentResult,
    Held,
    PhaseSpan,
    RanOn,
)

MS = 1_000_000
S = 1_000 * MS
CELLS = (("Cluster", "None"), ("Cluster", "ClientIP"), ("Local", "None"), ("Local", "ClientIP"))

RAN_ON = RanOn(
    context="kind-udp",
    kubernetes="v1.36.0",
    nodes=3,
    os=(("Debian GNU/Linux 12 (bookworm)", 3),),
    kernels=(("6.12.9", 2), ("6.1.0", 1)),
    runtimes=(("containerd://2.1.1", 3),),
    kubelets=(("v1.36.0", 2), ("v1.35.2", 1)),
    proxy="kube-proxy, iptables mode",
    cni="kindnet",
    cloud="",
    balancer="",
    via="node-port",
    missing=("the balancer's class: services may not be listed in kube-system",),
)
NOTHING_KNOWN = RanOn("", "", None, (), (), (), (), "", "", "", "", "", ())


def sessions(*numbers: int) -> tuple[str, ...]:
    return tuple(f"CLIENT-{number}" for number in numbers)


def blackouts(*lasted_ns: int, still_silent: int = 0) -> Blackouts:
    if not lasted_ns:
        return Blackouts(0, None, None, None, still_silent, ())
    middle = lasted_ns[(len(lasted_ns) - 1) // 2]
    return Blackouts(len(lasted_ns), middle, lasted_ns[-1], lasted_ns[-1], still_silent, lasted_ns)


def outcome(**changed: object) -> CellOutcome:
    fields: dict[str, object] = {
        "sessions": 24,
        "moved": (),
        "moved_pod": 0,
        "moved_address": 0,
        "least": (),
        "least_reason": "no pod and no ingress node went away",
        "beyond": (),
        "twice": (),
        "blackouts": blackouts(),
        "sent": 1_200,
        "lost": 0,
        "violations": 0,
        "names": (),
        "held": Held.YES,
        "reasons": (),
        "claim": "0 of 24 sessions that had to stay moved: at most 12 % would (95 %)",
    }
    return CellOutcome(**{**fields, **changed})  # type: ignore[arg-type]


def deleted(own: int) -> CellOutcome:
    moved = sessions(*range(1, own + 1))
    return outcome(
        moved=moved,
        moved_pod=own,
        moved_address=own - 1,
        least=moved,
        least_reason='pod "affinity-tester-f7b7c454b-vvwtx" went away',
        blackouts=blackouts(*(1_000 * MS + 100 * MS * number for number in range(own))),
        lost=own * 6,
        names=("likely terminating-backend",),
        claim=f"0 of {24 - own} sessions that had to stay moved: at most 16 % would (95 %); 0 of {own} sessions that had to "
        "move did so wrongly, or stayed silent: at most 35 % would (95 %)",
    )


BROKEN = outcome(
    moved=sessions(3, 9, 17, 20),
    moved_pod=3,
    moved_address=4,
    beyond=sessions(3, 9, 17, 20),
    twice=sessions(9),
    blackouts=blackouts(400 * MS, still_silent=1),
    lost=31,
    violations=4,
    names=("likely flow-wipe", "possible node-rehash"),
    held=Held.NO,
    reasons=(
        "4 sessions moved that need not have: CLIENT-3, CLIENT-9, CLIENT-17 and 1 more",
        "1 session stayed silent: CLIENT-5",
    ),
    claim="4 of 24 sessions that had to stay moved: 4.7 % to 37 % would (95 %)",
)
UNKNOWN = outcome(
    least=None,
    least_reason="not known: the watch of the pool was down for a time",
    held=Held.UNKNOWN,
    reasons=("what had to move is not known: the watch of the pool was down for a time",),
    claim="nothing can be claimed",
)


def result(
    name: str, outcomes: list[CellOutcome], *, action: str = "", undone: str = "", failure: str = ""
) -> ExperimentResult:
    known = EXPERIMENTS[name]
    phases = (
        PhaseSpan("steady", 0, 10 * S),
        PhaseSpan("action", 10 * S, 10 * S + 120 * MS),
        PhaseSpan("recovery", 10 * S + 120 * MS, 24 * S),
        PhaseSpan("rollback", 24 * S, 30 * S),
        PhaseSpan("judgement", 30 * S, 42 * S),
    )
    cells = tuple(
        CellResult(f"affinity/affinity-{policy}-{affinity}".lower(), policy, affinity, each)
        for (policy, affinity), each in zip(CELLS, outcomes, strict=False)
    )
    return ExperimentResult(name, known.kind, known.requirement, known.source, action, undone, failure, phases, cells)


def matrix() -> ExperimentReport:
    return ExperimentReport(
        version="0.2.0",
        started_wall_ns=1_795_350_920 * S,
        matrix=True,
        sessions=24,
        interval_ns=200 * MS,
        ran_on=RAN_ON,
        results=(
            result("baseline", [outcome()] * 4, undone="nothing had to be"),
            result(
                "pod-delete",
                [deleted(7), deleted(5), deleted(1), deleted(12)],
                action='deleted pod "affinity-tester-f7b7c454b-vvwtx" (node "n1")',
                undone='its controller made pod "affinity-tester-f7b7c454b-wmd4l", ready after 3.1 s',
            ),
            result(
                "scale-up",
                [BROKEN, outcome(lost=2, blackouts=blackouts(200 * MS, 200 * MS)), UNKNOWN, outcome()],
                action='scaled Deployment "affinity-tester" from 3 to 4',
                undone="scaled back to 3",
            ),
            result("rollout", [], failure="the Deployment could not be patched: it is forbidden"),
        ),
    )


def one_service() -> ExperimentReport:
    """A Service of which nothing is known but what its sessions saw."""
    cell = CellResult("media/turn", "", "", outcome(sessions=4, excused=sessions(2), moved=sessions(2), moved_pod=1))
    known = result("baseline", [])
    only = ExperimentResult(known.name, known.kind, known.requirement, known.source, "", "", "interrupted", (), (cell,))
    return ExperimentReport(
        "0.2.0", 0, matrix=False, sessions=4, interval_ns=20 * MS, ran_on=NOTHING_KNOWN, results=(only,)
    )
