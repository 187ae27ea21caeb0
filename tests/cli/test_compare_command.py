"""`affinity-tester compare` as a user meets it."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import busy
from affinity_tester.report.experiment_json import experiment_document
from commands import environment
from comparing import outcome, report, result
from recorded_runs import Recorded

REAL = Path(__file__).parent.parent / "data" / "real"
QUIET = REAL / "05-kproxy-restart-all.cn.jsonl.gz"
WIPED = REAL / "60-nodeport-collision.np.jsonl.gz"
OFTEN = Recorded(wipes=tuple(range(15, 600, 40)), loss=0.004, rtt_ms=2.5, seed=9)

Compare = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def compare(affinity_tester: Path) -> Compare:
    """Runs the command."""

    def run(*arguments: object, stdin: bytes = b"", **extra: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [affinity_tester, "compare", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=environment(NO_COLOR="1", **extra),
            check=False,
        )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


def result_line(text: str) -> str:
    return next(
        line for line in text.splitlines() if line.split(":")[0] in ("WORSE", "BETTER", "NOT WORSE", "NOT COMPARED")
    )


# --- what it says ---------------------------------------------------------------------------------------------------------


def test_one_incident_of_real_runs_may_be_chance_and_is_told(compare: Compare, is_golden: Callable[..., None]) -> None:
    ended = compare(QUIET, WIPED)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "verdict: PASS -> FAIL (AFTER fails; that it is new cannot be told from runs so short)" in ended.stdout
    is_golden("compare-real.txt", ended.stdout)


def test_many_incidents_are_a_regression_and_the_other_way_round_better(
    compare: Compare, is_golden: Callable[..., None], tmp_path: Path
) -> None:
    before, after = Recorded().write(tmp_path / "before.jsonl.gz"), OFTEN.write(tmp_path / "after.jsonl")
    worse, better = compare(before, after), compare(after, before)
    assert (worse.returncode, worse.stderr) == (1, "")
    assert result_line(worse.stdout) == "WORSE: 5 of 7 comparisons"
    assert better.returncode == 0
    assert result_line(better.stdout) == "BETTER: 5 of 7 comparisons, and none is worse"
    is_golden("compare-worse.txt", worse.stdout)
    is_golden("compare-worse.md", compare(before, after, "--format", "markdown").stdout)


def test_tells_json_with_everything(compare: Compare, tmp_path: Path) -> None:
    before, after = Recorded().write(tmp_path / "before.jsonl"), OFTEN.write(tmp_path / "after.jsonl")
    ended = compare(before, after, AFFINITY_COMPARE_FORMAT="json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert (told["comparison"], told["format"], told["result"], told["compared"]) == ("affinity-tester", 1, "worse", 7)
    (violations,) = (row for row in told["rows"] if row["measure"] == "incidents with a violation")
    assert violations["direction"] == "worse"
    assert (violations["before"]["count"], violations["after"]["count"]) == (0, 15)
    assert violations["after"]["of"] == pytest.approx(1 / 6)
    assert violations["p"] == pytest.approx(2 / 2**15)


@pytest.mark.parametrize("recorded", [Recorded(), Recorded(wipes=(60, 300))], ids=["quiet", "wiped"])
def test_a_record_is_the_same_as_itself(compare: Compare, tmp_path: Path, recorded: Recorded) -> None:
    record = recorded.write(tmp_path / "run.jsonl")
    ended = compare(record, record)
    assert ended.returncode == 0
    assert result_line(ended.stdout).startswith("NOT WORSE: no difference in ")


def test_says_what_makes_it_unfair(compare: Compare, tmp_path: Path) -> None:
    before = Recorded().write(tmp_path / "before.jsonl")
    after = Recorded(sessions=48, version="0.2.0").write(tmp_path / "after.jsonl")
    ended = compare(before, after)
    assert "  affinity-tester: 0.1.0 -> 0.2.0\n" in ended.stdout
    assert "  sessions: 24 -> 48 (unfair: more sessions see more incidents)\n" in ended.stdout
    assert result_line(ended.stdout).endswith("(unfair: they differ in sessions)")


def test_more_confidence_asks_for_more(compare: Compare, tmp_path: Path) -> None:
    before = Recorded().write(tmp_path / "before.jsonl")
    after = Recorded(wipes=tuple(range(20, 500, 60))).write(tmp_path / "after.jsonl")
    assert compare(before, after, "--confidence", "0.9").returncode == 1
    assert compare(before, after, AFFINITY_COMPARE_CONFIDENCE="0.99").returncode == 0


def test_compares_reports_of_experiments(compare: Compare, tmp_path: Path) -> None:
    before, after = (tmp_path / name for name in ("before.json", "after.json.gz"))
    before.write_text(json.dumps(experiment_document(report(result("scale-up", [outcome()] * 4)))))
    broken = experiment_document(report(result("scale-up", [outcome(beyond=12)] * 4)))
    after.write_bytes(gzip.compress(json.dumps(broken, indent=2).encode()))
    worse, same = compare(before, after), compare(before, "-", stdin=before.read_bytes())
    assert (worse.returncode, worse.stderr) == (1, "")
    assert result_line(worse.stdout) == "WORSE: 5 of 13 comparisons"
    assert (same.returncode, same.stderr) == (0, "")


def test_compares_no_run_with_an_experiment(compare: Compare, tmp_path: Path) -> None:
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps(experiment_document(report())))
    ended = compare(path, QUIET)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: {path} is a report of experiments and {QUIET} is a run record: compare two of the same kind\n"
    )
    assert compare(path, path).returncode == 3


# --- what it reads --------------------------------------------------------------------------------------------------------


def test_reads_one_of_both_from_standard_input_packed_or_not(compare: Compare, tmp_path: Path) -> None:
    before, after = Recorded().write(tmp_path / "before.jsonl"), OFTEN.write(tmp_path / "after.jsonl")
    assert compare(before, "-", stdin=after.read_bytes()).returncode == 1
    assert compare("-", after, stdin=gzip.compress(before.read_bytes())).returncode == 1


def test_judges_a_record_that_breaks_off_and_says_so(compare: Compare, tmp_path: Path) -> None:
    before, after = Recorded().write(tmp_path / "before.jsonl"), OFTEN.write(tmp_path / "after.jsonl", whole=False)
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(after.read_bytes()[:-40])
    ended = compare(before, torn)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"warning: the record {torn} breaks off in line ")


@pytest.mark.busy
def test_compares_runs_of_the_lab(compare: Compare, affinity_tester: Path, tmp_path: Path) -> None:
    record = tmp_path / "lab.jsonl"
    command = [affinity_tester, "lab", "flow-wipe", "--record", record]
    lab = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    busy.look_at(lab.stdout)
    assert lab.returncode == 0
    ended = compare(record, record)
    assert ended.returncode == 0
    assert 'incidents named "flow-wipe"' in ended.stdout


def test_says_when_there_is_nothing_to_compare(compare: Compare, tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    whole = Recorded().write(tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    record.write_text("".join(whole[:10]))
    ended = compare(record, record)
    assert ended.returncode == 3
    assert result_line(ended.stdout) == "NOT COMPARED: there is nothing in both that can be compared"
    assert ended.stderr == f"warning: nothing was answered in {record}\n" * 2
    assert json.loads(compare(record, record, "--format", "json").stdout)["result"] == "not compared"


def errors(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """What a file may hold, and what is said of it."""
    path = tmp_path / "file"
    whole = Recorded(seconds=60).write(tmp_path / "whole.jsonl").read_bytes()
    first, _, rest = whole.partition(b"\n")
    return {
        "empty": (b"", f"{path} is empty: name a run record or a report of experiments in JSON"),
        "text": (b"hello\n", f"{path} is neither a run record"),
        "newer": (
            first.replace(b'"format":3', b'"format":4') + b"\n" + rest,
            f"the record {path} has format 4 (affinity-tester '0.1.0'), and this program reads format 3",
        ),
        "damaged": (first + b"\n{}\n" + rest, f"the record {path} is damaged in line 2"),
        "no run": (first + b"\n", f"the record {path} has no run in it"),
        "newer report": (
            b'{"format": "affinity-tester experiments", "version": 2, "report": {}}',
            f"{path}: this report of experiments has version 2, and this program reads version 1",
        ),
        "damaged report": (
            b'{"format": "affinity-tester experiments", "version": 1, "report": {}}',
            f"{path}: the report of experiments is damaged",
        ),
        "packed": (gzip.compress(b"")[:5], f"{path} is damaged, or breaks off"),
        "garbled": (b"\x1f\x8bgarbled, and no gzip", f"{path} is damaged, or breaks off"),
    }


@pytest.mark.parametrize(
    "name", ["empty", "text", "newer", "damaged", "no run", "packed", "garbled", "newer report", "damaged report"]
)
def test_says_in_one_line_what_is_wrong_with_a_file(compare: Compare, tmp_path: Path, name: str) -> None:
    content, said = errors(tmp_path)[name]
    (tmp_path / "file").write_bytes(content)
    ended = compare(tmp_path / "file", QUIET)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-", "-"), "only one of BEFORE and AFTER can be standard input (-)"),
        ((QUIET, "/nonexistent/run.jsonl"), "/nonexistent/run.jsonl: No such file"),
        ((QUIET, "/tmp"), "is a directory"),
        ((QUIET,), "Missing argument 'AFTER'"),
        ((QUIET, WIPED, "--confidence", "95"), "'95' is not a number from 0.8 to 0.9999, such as 0.95"),
        ((QUIET, WIPED, "--confidence", "much"), "'much' is not a number from 0.8 to 0.9999"),
    ],
)
def test_says_what_is_wrong_with_the_arguments(compare: Compare, arguments: tuple[object, ...], said: str) -> None:
    ended = compare(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
