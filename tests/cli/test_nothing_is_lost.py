"""What a user already has is never written over."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from affinity_tester.cli import main


def test_a_record_is_never_recorded_over(tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    record.write_text("yesterday's evidence\n")
    result = CliRunner().invoke(main, ["client", "127.0.0.1:9", "--watch", "off", "--record", str(record)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: --record {record} has something in it already: name another file, or move that one away\n"
    )
    assert record.read_text() == "yesterday's evidence\n"


def test_a_report_is_never_written_over_its_record(tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    record.write_text("{}\n")
    (tmp_path / "link").symlink_to(record)
    for output in (record, tmp_path / "link"):
        result = CliRunner().invoke(main, ["report", str(record), "--output", str(output)])
        assert (result.exit_code, record.read_text()) == (2, "{}\n")
        assert "is the record itself" in result.stderr
