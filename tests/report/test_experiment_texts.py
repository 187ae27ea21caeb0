"""What experiments came to, in every form; whole documents are in tests/data/golden/experiment."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from experiment_reports import NOTHING_KNOWN, matrix, one_service, outcome, result
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.experiment.results import ExperimentReport, Held
from affinity_tester.errors import UserError
from affinity_tester.report.experiment_html import experiment_html
from affinity_tester.report.experiment_json import experiment_document, read_experiment
from affinity_tester.report.experiment_junit import experiment_junit
from affinity_tester.report.experiment_markdown import experiment_markdown
from affinity_tester.report.experiment_text import experiment_lines
from affinity_tester.report.logging import Colour

Golden = Callable[[str, str], None]
EVIL = '\x1b[31m</td><script>alert("|")</script>\u202e'


def text_of(report: ExperimentReport, width: int = 100) -> str:
    return "\n".join(line for line, _ in experiment_lines(report, width)) + "\n"


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_gets_blocks_and_a_table(width: int, is_golden: Golden) -> None:
    text = text_of(matrix(), width)
    assert max(map(len, text.splitlines())) <= width
    is_golden(f"experiment/matrix-{width}.txt", text)


def test_one_service_needs_no_table(is_golden: Golden) -> None:
    is_golden("experiment/one-service.txt", text_of(one_service()))


def test_a_terminal_wider_than_the_text_changes_nothing() -> None:
    assert text_of(matrix(), 300) == text_of(matrix(), 100)


def test_lines_have_the_colours_of_what_they_say() -> None:
    colours = dict(experiment_lines(matrix()))
    assert colours["baseline: held"] is Colour.GOOD
    assert colours["scale-up: broken"] is Colour.VIOLATION
    assert colours["rollout: cannot tell"] is Colour.DOUBTFUL
    assert colours["  Cluster, None: broken"] is Colour.VIOLATION
    assert colours["4 experiments: 2 held, 1 broken, 1 cannot tell"] is Colour.VIOLATION


def test_no_experiment_was_made() -> None:
    report = replace(matrix(), results=())
    assert text_of(report).splitlines()[-1] == "0 experiments: none was made"
    assert ET.fromstring(experiment_junit(report)).tag == "testsuites"
    assert "0 experiments" in experiment_markdown(report)


def test_markdown_begins_with_what_it_ran_on(is_golden: Golden) -> None:
    is_golden("experiment/matrix.md", experiment_markdown(matrix()))


def test_junit_has_a_case_for_each_requirement_and_service(is_golden: Golden) -> None:
    text = experiment_junit(matrix())
    is_golden("experiment/matrix.xml", text)
    counts = [{key: suite.get(key) for key in ("name", "tests", "failures", "errors")} for suite in ET.fromstring(text)]
    assert counts == [
        {"name": "baseline", "tests": "4", "failures": "0", "errors": "0"},
        {"name": "pod-delete", "tests": "4", "failures": "0", "errors": "0"},
        {"name": "scale-up", "tests": "4", "failures": "1", "errors": "1"},
        {"name": "rollout", "tests": "1", "failures": "0", "errors": "1"},
    ]


def test_junit_shows_no_experiment_in_green_that_did_not_go_to_its_end() -> None:
    case = ET.fromstring(experiment_junit(one_service())).find("testsuite/testcase")
    assert case is not None
    error = case.find("error")
    assert error is not None
    assert error.get("message") == "interrupted (1 moved)"


def test_the_page_is_html_that_asks_for_nothing(is_golden: Golden) -> None:
    page = experiment_html(matrix())
    start, style_end = page.index("<style>"), page.index("</style>")
    is_golden("experiment/matrix.html", page[:start] + page[style_end:])
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert _unbalanced(page) == []
    assert _unbalanced(experiment_html(one_service())) == []


def _unbalanced(page: str) -> list[str]:
    """Tags that are closed in another order than they were opened, or never."""
    stack: list[str] = []
    wrong: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if not stack or stack.pop() != tag:
                wrong.append(tag)

    Tags().feed(page)
    return wrong + stack


# --- the document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [matrix(), one_service()], ids=["matrix", "one"])
def test_a_document_is_read_as_it_was_written(report: ExperimentReport) -> None:
    document = json.loads(json.dumps(experiment_document(report)))
    assert read_experiment(document) == report


def test_a_document_says_at_its_top_what_held() -> None:
    document = experiment_document(matrix())
    assert {key: document[key] for key in ("format", "version", "held", "experiments")} == {
        "format": "affinity-tester experiments",
        "version": 1,
        "held": "broken",
        "experiments": [
            {"name": "baseline", "held": "held"},
            {"name": "pod-delete", "held": "held"},
            {"name": "scale-up", "held": "broken"},
            {"name": "rollout", "held": "cannot tell"},
        ],
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: [], "this is no report of experiments"),
        (lambda document: {**document, "format": "x"}, "this is no report of experiments"),
        (lambda document: {**document, "version": 2}, "has version 2, and this program reads version 1"),
        (lambda document: {**document, "report": 7}, "is damaged: it has no report"),
        (lambda document: {**document, "report": {**document["report"], "sessions": "many"}}, "is damaged: .*sessions"),
        (lambda document: {**document, "report": {"version": "1"}}, "is damaged"),
    ],
)
def test_a_document_of_another_sort_is_refused_in_one_line(change: Callable[[dict], object], said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=said) as refused:
        read_experiment(change(json.loads(json.dumps(experiment_document(matrix())))))
    assert "\n" not in str(refused.value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.dictionaries(
            st.sampled_from(["format", "version", "report", "results", "ran_on", "x"]), inner, max_size=4
        ),
        max_leaves=8,
    )
)
def test_nothing_but_a_user_error_comes_of_any_document(report: object) -> None:
    with pytest.raises(UserError):
        read_experiment({"format": "affinity-tester experiments", "version": 1, "report": report})


# --- names from the cluster --------------------------------------------------------------------------------------------


def test_names_from_the_cluster_can_do_no_harm() -> None:
    evil = replace(
        matrix(),
        ran_on=replace(NOTHING_KNOWN, context=EVIL, missing=(EVIL,)),
        results=(
            result("scale-up", [outcome(held=Held.NO, reasons=(EVIL,), least_reason=EVIL)], action=EVIL, undone=EVIL),
        ),
    )
    text, page, markdown = text_of(evil), experiment_html(evil), experiment_markdown(evil)
    assert all(line.isprintable() for line in text.splitlines())
    assert "<script" not in page
    assert re.search(r"(?<!\\)<", markdown) is None
    assert re.search(r'(?<!\\)\|"', markdown) is None
    assert all(line.isprintable() for line in markdown.splitlines())
    ET.fromstring(experiment_junit(evil))


def test_what_was_not_counted_or_claimed_is_left_out() -> None:
    stopped = outcome(sent=0, least=None, least_reason="not known: there was no action", held=Held.UNKNOWN, claim="")
    report = replace(one_service(), results=(result("scale-up", [stopped]),))
    text = "\n".join(line for line, _ in experiment_lines(report, 100))
    assert "sessions moved" not in text
    assert "probes lost" not in text
    assert "claim" not in text
