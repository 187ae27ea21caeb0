"""The journal: each line is in the file when it was written, and a full disk does not end the experiment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from affinity_tester.app.experiment_journal import Journal
from affinity_tester.errors import UserError
from affinity_tester.report.record import read_record


def test_each_line_is_there_at_once_with_its_time(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    journal = Journal(tmp_path / "journal.jsonl", shown.append)
    journal.write("phase", experiment="rollout", phase="steady")
    (line,) = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"])
    assert {**line, "at": ""} == {"at": "", "step": "phase", "experiment": "rollout", "phase": "steady"}
    journal.write("did", text="ä")
    journal.close()
    journal.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()] == [
        "phase",
        "did",
    ]
    assert [line["step"] for line in shown] == ["phase", "did"]


def test_a_full_disk_ends_the_file_and_nothing_else() -> None:
    shown: list[dict[str, Any]] = []
    journal = Journal(Path("/dev/full"), shown.append)
    journal.write("will", text="scale")
    journal.write("did", text="scale")
    journal.close()
    assert journal.failure == "No space left on device"
    assert len(shown) == 2


def test_a_file_that_cannot_be_made_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write the journal .*: No such file or directory"):
        Journal(tmp_path / "none" / "journal.jsonl")


def test_who_asks_for_a_report_of_it_is_told_where_the_records_are(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("experiment", experiment="rollout", number=1, of=1)
    journal.close()
    said = r"it is the journal of experiments, .* records .* beside it \(NAME\.jsonl\.gz\)"
    with pytest.raises(UserError, match=said):
        list(read_record(tmp_path / "journal.jsonl", on_truncated=lambda _: None))
