"""Comparisons of experiments in text and Markdown: what stands out, and what is folded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from affinity_tester.core.comparison.experiments import compare_experiments
from affinity_tester.core.comparison.results import Comparison
from affinity_tester.core.experiment.results import Held
from affinity_tester.report.comparison_json import json_text
from affinity_tester.report.comparison_markdown import markdown_text
from affinity_tester.report.comparison_text import text_lines
from affinity_tester.units import NS_PER_S
from comparing import RAN_ON, outcome, report, result

S = NS_PER_S


def text(comparison: Comparison) -> str:
    return "".join(f"{line}\n" for line, _ in text_lines(comparison))


def upgraded() -> Comparison:
    """Return what an upgrade did to a matrix."""
    short, long = (tuple(S * (1 + index / 100) * times for index in range(7)) for times in (1, 4))
    before = report(
        result("pod-delete", [outcome(lasted_ns=tuple(map(round, short)), lost=40)] * 4),
        result("scale-up", [outcome(), outcome(beyond=1), outcome(beyond=1), outcome()]),
        result("rollout", [outcome()] * 4),
        result("baseline", [outcome()] * 4),
    )
    wiped = outcome(beyond=15, names=("likely flow-wipe",))
    after = report(
        result("pod-delete", [outcome(lasted_ns=tuple(map(round, long)), lost=170)] * 4),
        result(
            "scale-up",
            [wiped, outcome(), outcome(beyond=2), outcome(beyond=1)],
        ),
        result("rollout", [outcome()] * 4, failure="the rollout did not end"),
        result("idle", [outcome(held=Held.UNKNOWN, reasons=("the pool was not watched",))]),
        ran_on=replace(RAN_ON, kubernetes="v1.36.0", proxy="kube-proxy, nftables mode", via="load-balancer"),
    )
    return compare_experiments(before, after, 0.95)


def test_says_what_an_upgrade_did(is_golden: Callable[..., None]) -> None:
    is_golden("compare-experiments.txt", text(upgraded()))


def test_a_narrow_terminal_gets_lines_that_it_need_not_break() -> None:
    comparison = upgraded()
    narrow = [line for line, _ in text_lines(comparison, 60)]
    notes = next(index for index, line in enumerate(narrow) if line.startswith("Chance: "))
    assert all(len(line) <= 60 for index, line in enumerate(narrow) if index >= notes or line.startswith("      "))


def test_says_so_in_markdown(is_golden: Callable[..., None]) -> None:
    is_golden("compare-experiments.md", markdown_text(upgraded()))


def test_says_so_in_json() -> None:
    told = json.loads(json_text(upgraded()))
    assert (told["result"], told["kind"]) == ("worse", "experiments")
    assert told["held"][0] == {
        "where": "scale-up (Cluster, None)",
        "requirement": "no session moves to the pod that joins, nor elsewhere",
        "before": "held",
        "after": "broken",
        "reasons": ["15 of 20 moved and need not have"],
        "proved": True,
    }


def test_shows_nothing_that_a_terminal_or_markdown_would_obey() -> None:
    evil = report(result("pod-delete", [outcome(names=("likely \x1b[31m|<b>",))]))
    comparison = compare_experiments(report(result("pod-delete", [outcome()])), evil, 0.95)
    assert "\x1b" not in text(comparison)
    assert "\\\\x1b\\[31m\\|\\<b\\>" in markdown_text(comparison)


def test_tells_a_chance_of_nothing_and_of_everything() -> None:
    comparison = compare_experiments(
        report(result("pod-delete", [outcome()])), report(result("pod-delete", [outcome(20, beyond=20)])), 0.95
    )
    assert "0 of 24 (at most 12 %) -> 20 of 20 (at least 86 %); chance: below 0.01 %" in text(comparison)
