"""`affinity-tester report` as a user meets it."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.report.recorder import RecordWriter

S = 1_000_000_000
START = ev.RunStarted(
    0, 1_795_350_920 * S, 0, "0.1.0", TransportAddress("203.0.113.7", 3478), "udp.example.com",
    1, S // 10, 2 * S, 288, False, (),
)  # fmt: skip


@pytest.fixture
def record(tmp_path):
    """Writes a record that ends with this outcome (None: the run was killed) and returns its path."""

    def write(outcome: ev.Outcome | None, name: str = "run.jsonl") -> Path:
        path = tmp_path / name
        with RecordWriter(path, version="0.1.0") as writer:
            writer.write(START)
            writer.write(ev.SessionStarted(0, "CLIENT-1", TransportAddress("192.0.2.1", 50001)))
            if outcome is not None:
                writer.write(ev.Verdict(9 * S, outcome, ("because",), "", 0, 0, 0))
        return path

    return write


@pytest.fixture
def report(affinity_tester):
    """Runs the command; no setting of the tests' own environment reaches it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AFFINITY_", "NO_COLOR"))}

    def run(*arguments: object, stdin: Path = Path(os.devnull), **extra: str) -> subprocess.CompletedProcess[str]:
        command = [affinity_tester, "report", *map(str, arguments)]
        with stdin.open() as given:
            return subprocess.run(
                command, stdin=given, capture_output=True, text=True, env=environ | extra, check=False
            )

    return run


@pytest.mark.parametrize(
    ("outcome", "code", "last"),
    [
        (ev.Outcome.PASS, 0, "PASS: because"),
        (ev.Outcome.FAIL, 1, "FAIL: because"),
        (ev.Outcome.INCONCLUSIVE, 3, "INCONCLUSIVE: because"),
        (None, 3, "no verdict: the run was cut short before it was judged (report --rejudge does it)"),
    ],
)
def test_the_exit_code_is_the_verdicts(record, report, outcome, code, last):
    done = report(record(outcome))
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines() == [
        "2026-11-22 UTC+00:00, affinity-tester 0.1.0",
        "1 session to 203.0.113.7:3478 (udp.example.com): a probe of 288 bytes every 100 ms each, lost after 2 s",
        "",
        f"the record ends at {'12:35:29.000' if outcome else '12:35:20.000'}, before the run did, "
        "so there is no summary: 1 session had started",
        "",
        last,
    ]


def test_each_format_to_a_file_by_option_and_by_environment(record, report, tmp_path):
    path = record(ev.Outcome.PASS, "run.jsonl.gz")
    out = tmp_path / "out"
    for form, environ in (
        ("json", {}),
        ("json", {"AFFINITY_REPORT_FORMAT": "json", "AFFINITY_REPORT_OUTPUT": str(out)}),
    ):
        out.unlink(missing_ok=True)
        done = report(path, **environ) if environ else report(path, "--format", form, "--output", out)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert json.loads(out.read_text())["verdict"]["outcome"] == "PASS"
    assert report(path, "--format", "junit", "--output", out).returncode == 0
    assert ET.parse(out).getroot()[0].get("tests") == "2"
    assert report(path, "--format", "html", "--output", out).returncode == 0
    assert out.read_text().startswith("<!doctype html>\n")
    assert report(path, "--output", out).returncode == 0
    assert out.read_text().splitlines()[-1] == "PASS: because"


def test_formats_on_standard_output(record, report):
    path = record(ev.Outcome.PASS)
    assert json.loads(report(path, "--format", "json").stdout)["verdict"]["outcome"] == "PASS"
    assert report(path, "--format", "html").stdout.endswith("</body></html>\n")
    assert report(path, "--format", "junit").stdout.endswith("</testsuites>\n")


def test_colour_when_it_is_forced(record, report):
    assert (
        report(record(ev.Outcome.PASS), FORCE_COLOR="1").stdout.splitlines()[-1]
        == "\x1b[1m\x1b[32mPASS: because\x1b[0m"
    )


def test_a_record_that_breaks_off_is_shown_with_a_warning(record, report):
    path = record(ev.Outcome.PASS)
    path.write_bytes(path.read_bytes()[:-9])
    done = report(path)
    assert done.returncode == 3
    assert (
        done.stderr
        == f"warning: the record {path} breaks off in line 4: the run was killed while it wrote, or its disk was full\n"
    )


def test_what_the_user_can_mend_is_one_line(record, report, tmp_path):
    nowhere, text, unwritable = tmp_path / "nowhere", tmp_path / "text", tmp_path / "no" / "out"
    text.write_text("hello\n")
    for arguments, said in (
        ([nowhere], f"cannot read the record {nowhere}: No such file or directory"),
        ([text], f"{text} is not a run record; `affinity-tester client --record FILE` writes one"),
        (
            [record(ev.Outcome.PASS), "--output", unwritable],
            f"cannot write the report {unwritable}: No such file or directory; name a file that can be written",
        ),
        (
            [record(ev.Outcome.PASS), "--max-loss", "nan"],
            "Invalid value for '--max-loss': 'nan' is not a percentage from 0 to 100 (see: affinity-tester report --help)",
        ),
    ):
        done = report(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith(f"error: {said}\n")


def test_a_reader_that_goes_ends_it_quietly(record, affinity_tester):
    reading, writing = os.pipe()
    os.close(reading)
    command = [affinity_tester, "report", record(ev.Outcome.PASS)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_a_dash_reads_standard_input(record, report, name):
    path = record(ev.Outcome.FAIL, name)
    told, piped = report(path), report("-", stdin=path)
    assert (piped.returncode, piped.stdout, piped.stderr) == (1, told.stdout, "")


def test_what_is_wrong_with_standard_input_is_one_line(report, tmp_path):
    (tmp_path / "x").write_text("no record\n")
    done = report("-", stdin=tmp_path / "x")
    said = "error: (standard input) is not a run record; `affinity-tester client --record FILE` writes one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("outcome", [ev.Outcome.FAIL, None])
def test_exit_zero_leaves_the_verdict_to_the_text(record, report, outcome):
    path = record(outcome)
    asked, plain = report(path, "--exit-zero"), report(path)
    assert (asked.returncode, asked.stdout) == (0, plain.stdout)
    assert plain.returncode != 0


def test_exit_zero_does_not_hide_an_error(report, tmp_path):
    assert report(tmp_path / "missing", "--exit-zero").returncode == 2


def test_a_page_is_not_written_to_a_terminal(affinity_tester, record):
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [affinity_tester, "report", "--format", "html", record(ev.Outcome.PASS)],
        stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    said = "error: a page is not for a terminal: name its file with --output FILE\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_terminal_that_is_too_low_shows_the_verdict_last_too(affinity_tester, record):
    ours, theirs = pty.openpty()
    said = {}
    for rows in (5, 60):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
        subprocess.run([affinity_tester, "report", record(ev.Outcome.PASS)], stdout=theirs, timeout=60, check=True)
        said[rows] = os.read(ours, 65_536).decode()
    os.close(theirs)
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said[5]).splitlines()
    assert lines[-1].startswith("PASS")
    assert [line.startswith("PASS") for line in lines].count(True) == said[60].count("PASS") + 1
