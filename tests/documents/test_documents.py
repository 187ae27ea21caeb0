"""Documents with generated parts are what `make docs` writes, and the parts say what the code says."""

import subprocess
import sys
from dataclasses import dataclass

import failure_modes_page
import pytest
import record_page
from marked_text import MarkError, filled
from pages import PAGES

from affinity_tester.core.diagnosis import CATALOGUE

PAGE = "by hand\n<!-- generated: a -->\nold\n<!-- end -->\nbetween\n<!-- generated: b -->\n<!-- end -->\n"


@pytest.mark.parametrize("name", PAGES)
def test_a_document_is_what_the_code_makes_of_it(repo, name):
    text = (repo / "docs" / name).read_text(encoding="utf-8")
    assert text == filled(text, PAGES[name]()), (
        f"docs/{name} is not up to date: run `make docs`, and commit what it writes"
    )


def test_the_command_writes_the_parts_into_the_documents(repo, tmp_path):
    for name in PAGES:
        text = (repo / "docs" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(
            text.replace("| meaning |", "| old |").replace("- Try: ", "- Old: "), encoding="utf-8"
        )
    subprocess.run([sys.executable, repo / "tests/documents", tmp_path], check=True)
    for name in PAGES:
        assert (tmp_path / name).read_text(encoding="utf-8").replace("| old |", "| meaning |") == (
            (repo / "docs" / name).read_text(encoding="utf-8")
        )


def test_what_is_written_by_hand_stays():
    once = filled(PAGE, {"a": "1\n2", "b": "3"})
    assert once == (
        "by hand\n<!-- generated: a -->\n\n1\n2\n\n<!-- end -->\nbetween\n<!-- generated: b -->\n\n3\n\n<!-- end -->\n"
    )
    assert filled(once, {"a": "1\n2", "b": "3"}) == once


@pytest.mark.parametrize(
    ("text", "blocks", "said"),
    [
        (PAGE, {"a": ""}, "generated: b .*names nothing"),
        (PAGE, {"a": "", "b": "", "c": "", "d": ""}, "add the marks .* for: c, d"),
        (PAGE * 2, {"a": "", "b": ""}, "generated: a .*is there twice"),
        (PAGE.replace("<!-- end -->", "", 1), {"a": "", "b": ""}, "generated: b .*inside of another"),
        (PAGE + "<!-- end -->\n", {"a": "", "b": ""}, "without a beginning"),
        (PAGE.removesuffix("<!-- end -->\n"), {"a": "", "b": ""}, "'b' has no"),
    ],
)
def test_marks_and_parts_that_do_not_match_are_refused(text, blocks, said):
    with pytest.raises(MarkError, match=said):
        filled(text, blocks)


def test_every_fault_of_the_catalogue_is_named_by_a_rule():
    rules = failure_modes_page.rules_by_fault()
    assert rules.keys() == CATALOGUE.keys()
    assert [name for name, found in rules.items() if not found] == []


def test_the_record_page_has_every_event_that_the_record_can_hold():
    named = {event.__name__ for event in record_page.event_types()}
    assert {"RunStarted", "ChangeSeen", "Verdict"} <= named
    assert not named & {"Event", "SessionEvent"}
    section = record_page.blocks()["events"]
    assert all(f"### {name}\n" in section for name in named)


def test_every_field_and_value_of_the_record_has_a_meaning():
    parts = record_page.blocks()
    lines = "\n".join(parts[name] for name in ("base", "events", "objects", "values")).splitlines()
    section, blank = "", []
    for line in lines:
        section = line.removeprefix("### ") if line.startswith("### ") else section
        if line.endswith("|  |"):
            blank.append(f"{section}.{line.split('`')[1]}")
    assert not blank, "write a text below these fields, or name their meaning in tests/documents/record_page.py"


def test_fields_are_described_by_their_names_types_and_texts():
    @dataclass(frozen=True, slots=True)
    class Heard:
        """A thing was heard."""

        waited_ns: int
        """How long; None | never."""
        pairs: tuple[tuple[str, int], ...] = ()
        label: str | None = None

    assert record_page._object(Heard, own_only=True) == (
        "### Heard\n\nA thing was heard.\n\n"
        "| field | type | meaning |\n|---|---|---|\n"
        "| `waited_ns` | integer, ns | How long; null \\| never. |\n"
        "| `pairs` | list of [text, integer]; if missing: empty |  |\n"
        "| `label` | text or null; if missing: `null` |  |"
    )
