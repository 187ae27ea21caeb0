"""The run record: lossless, and distrustful when it is read."""

import gzip
import io
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import EVENT_CLASSES, any_event

from affinity_tester.core import events as ev
from affinity_tester.errors import UserError
from affinity_tester.report.event_json import CodecError, decode, encode
from affinity_tester.report.record import read_record
from affinity_tester.report.recorder import RecordWriter


def read(path: Path) -> tuple[list[ev.Event], list[str]]:
    """The events of a record, and what was said of its end."""
    said: list[str] = []
    return list(read_record(path, on_truncated=said.append)), said


def write(path: Path, events: list[ev.Event]) -> None:
    with RecordWriter(path, version="0.1.0") as writer:
        for event in events:
            writer.write(event)


@given(any_event)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_every_event_survives_the_record(event):
    again = decode(json.loads(json.dumps(encode(event))), ev.Event)
    assert again == event
    assert type(again) is type(event)


@pytest.mark.parametrize("cls", EVENT_CLASSES)
def test_every_event_class_can_be_coded(cls):
    with pytest.raises(CodecError, match="lacks or does not have"):
        decode({"event": cls.__name__}, ev.Event)


def test_the_form_of_an_event(story):
    assert encode(story.seen()) == {
        "event": "ChangeSeen",
        "at_ns": 5003002000000,
        "session": "CLIENT-1058228236",
        "change": {
            "number": 1,
            "kinds": ["reflexive_ip", "reflexive_port", "pod", "node", "instance"],
            "before": {
                "seq": 29,
                "sent_ns": 5002900000000,
                "identity": {
                    "reflexive": {"ip": "10.240.0.4", "port": 40312},
                    "pod": "pod-a",
                    "node": "node-1",
                    "instance": "0101010101010101",
                    "software": "affinity-tester/0.1.0",
                },
            },
            "after": {
                "seq": 30,
                "sent_ns": 5003000000000,
                "identity": {
                    "reflexive": {"ip": "10.240.0.7", "port": 61022},
                    "pod": "pod-b",
                    "node": "node-2",
                    "instance": "0202020202020202",
                    "software": "affinity-tester/0.1.0",
                },
            },
            "seen_ns": 5003002000000,
            "longest_pause_ns": 100000000,
            "settled_ns": 5005000000000,
        },
    }


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_a_run_is_read_as_it_was_written(story, tmp_path, name):
    write(tmp_path / name, story.run())
    assert read(tmp_path / name) == (story.run(), [])


def test_the_first_line_names_format_and_version(story, tmp_path):
    write(tmp_path / "run", [story.started()])
    assert (tmp_path / "run").read_text().splitlines(keepends=True)[
        0
    ] == '{"record":"affinity-tester","format":3,"version":"0.1.0"}\n'


def soon(path: Path, count: int) -> bool:
    """Whether so many events are in the file within 10 s: it is written beside the run."""
    for _ in range(1_000):
        if path.stat().st_size and len(read(path)[0]) == count:
            return True
        time.sleep(0.01)
    return False


def test_events_reach_the_file_within_a_second_of_the_run(story, tmp_path):
    writer = RecordWriter(tmp_path / "run", version="0.1.0")
    writer.write(story.started())
    assert soon(tmp_path / "run", 1)  # a fact of the run is handed on at once
    writer.write(story.stats("CLIENT-1", 0.9, None))
    writer.write(story.stats("CLIENT-1", 1, None))
    writer.advance(story.at(1.89))
    assert len(read(tmp_path / "run")[0]) == 1
    writer.advance(story.at(1.9))  # nothing more happened, and it gets there all the same
    assert soon(tmp_path / "run", 3)
    writer.close()
    writer.close()


@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_what_a_stalled_reader_does_not_take_is_left_out_and_the_record_says_where(story, tmp_path, name):
    os.mkfifo(tmp_path / name)
    reading = os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    writer = RecordWriter(tmp_path / name, version="0.1.0", most=100_000)
    writer.write(story.started())
    count = 0
    while writer.left_out < 100:  # events that do not compress
        count += 1
        writer.write(
            ev.ClusterEvent(story.at(1), ev.ClusterSubject.NODE, os.urandom(20_000).hex(), ev.ClusterAction.ADDED)
        )
    taken: list[bytes] = []
    with os.fdopen(reading, "rb") as file:
        reader = threading.Thread(target=lambda: taken.append(file.read()))
        reader.start()
        while writer._plain.waiting:
            time.sleep(0.01)
        writer.write(story.stats("CLIENT-1", 2, None))
        assert writer.close()
        reader.join()
    (tmp_path / "read").write_bytes(taken[0])
    events, said = read(tmp_path / "read")
    assert len(events) == 1 + count - 100 + 1
    assert events[-1] == story.stats("CLIENT-1", 2, None)
    missing = f"100 events are missing before line {len(events) + 1}, nobody took them in time"
    assert said == [f"the record {tmp_path / 'read'} is incomplete: {missing}"]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_killed_run_lacks_its_last_line_and_says_so(story, tmp_path, cut):
    path = tmp_path / "run"
    write(path, story.run())
    path.write_bytes(path.read_bytes()[: -cut - 1])
    number = len(story.run()) + 1
    assert read(path) == (
        story.run()[:-1],
        [f"the record {path} breaks off in line {number}: the run was killed while it wrote, or its disk was full"],
    )


def test_a_killed_run_lacks_nothing_when_only_the_line_end_is_missing(story, tmp_path):
    path = tmp_path / "run"
    write(path, story.run())
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path) == (story.run(), [])


def test_a_killed_run_leaves_a_compressed_record_that_is_read_as_far_as_it_goes(story, tmp_path):
    path = tmp_path / "run.gz"
    writer = RecordWriter(path, version="0.1.0")
    writer.write(story.started())
    writer.write(story.stats("CLIENT-1", 1, None))
    writer.advance(story.at(2))
    assert soon(path, 2)
    assert read(path) == (
        [story.started(), story.stats("CLIENT-1", 1, None)],
        [f"the record {path} breaks off after line 3: the run was killed while it wrote, or its disk was full"],
    )
    writer.close()


HEADER = '{"record":"affinity-tester","format":3,"version":"0.1.0"}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not a run record; `affinity-tester client --record FILE` writes one"),
        ("hello\n", "is not a run record"),
        ('{\n  "format": "affinity-tester experiments",\n', "--output` wrote, `affinity-tester compare` reads it"),
        ("[" * 900 + "\n", "is not a run record"),
        ("7\n", "is not a run record"),
        ('{"record":"affinity-tester"}\n', "is not a run record"),
        (
            '{"record":"affinity-tester","format":2,"version":"0.1.0"}\n',
            "has format 2 (affinity-tester '0.1.0'), and this program reads format 3: show it with the program",
        ),
        (HEADER + "{}\n", "is damaged in line 2: unknown event None"),
        (HEADER + "[]\n", "is damaged in line 2: not an object"),
        (HEADER + '{"event":["x"]}\n', "is damaged in line 2: unknown event"),
        (HEADER + '{"event":"Change"}\n', "is damaged in line 2: unknown event 'Change'"),
        (HEADER + "\n", "is damaged in line 2: Expecting value"),
        (HEADER + "[" * 200_000 + "\n", "is damaged in line 2: "),
        (HEADER + '{"event":"RunEnded","at_ns":1}\n', "line 2: RunEnded lacks or does not have: aborted"),
        (
            HEADER + '{"event":"RunEnded","at_ns":1,"aborted":false,"x":1}\n',
            "line 2: RunEnded lacks or does not have: x",
        ),
        (HEADER + '{"event":"RunEnded","at_ns":true,"aborted":false}\n', "line 2: RunEnded.at_ns: True is no int"),
        (HEADER + '{"event":"RunEnded","at_ns":1e3,"aborted":false}\n', "line 2: RunEnded.at_ns: 1000.0 is no int"),
        (HEADER + '{"event":"RunEnded","at_ns":9223372036854775808,"aborted":false}\n', "does not fit 64 bits"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, content, said):
    path = tmp_path / "run"
    path.write_text(content)
    with pytest.raises(UserError) as raised:
        read(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["before"], 7, "Change.before: 7 is no RepliedProbe"),
        (["kinds"], "pod", "Change.kinds: 'pod' is no list"),
        (["kinds"], ["cat"], "Change.kinds: 'cat' is no Kind"),
        (["kinds"], [[]], "Change.kinds: [] is no Kind"),
        (["before", "identity", "instance"], "zz", "Identity.instance: 'zz' is no hex text"),
        (["before", "identity", "instance"], 7, "Identity.instance: 7 is no hex text"),
        (["before", "identity", "pod"], 7, "Identity.pod: 7 is no str"),
    ],
)
def test_each_wrong_value_is_named(story, path, value, said):
    data = encode(story.seen())
    part = data["change"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(CodecError) as raised:
        decode(data, ev.Event)
    assert said in str(raised.value)


def test_a_field_with_a_default_may_be_missing_in_an_older_record(story):
    data = encode(story.stats("CLIENT-1", 1, None, sent=3))
    del data["total"]["stale"], data["delta"]["stale"]
    assert decode(data, ev.Event) == story.stats("CLIENT-1", 1, None, sent=3)


def test_a_reason_is_written_with_its_class_and_only_a_known_one_is_read(story):
    (judged,) = (
        event for event in story.run() if isinstance(event, ev.CaseJudged) and isinstance(event.case, ev.Change)
    )
    data = encode(judged)
    assert data["reasons"] == [{"kind": "NothingExplains", "pool": "not-watched"}]
    for damaged in ({"kind": "Reason"}, {"kind": "Event", "at_ns": 1}, {"kind": ["x"]}, {}, "NothingExplains", None):
        data["reasons"] = [damaged]
        with pytest.raises(CodecError, match=r"CaseJudged\.reasons: .*Reason"):
            decode(data, ev.Event)


def test_pairs_keep_their_length(story):
    data = encode(story.ending()[0])
    data["kinds"][0].append(3)
    with pytest.raises(CodecError, match="is no list of the right length"):
        decode(data, ev.Event)


@given(st.binary(max_size=200), st.integers(0, 3_000))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_a_user_error_comes_out_of_a_damaged_record(story, tmp_path, junk, at):
    path = tmp_path / "run"
    write(path, story.run())
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any outcome but another exception is right


@given(st.binary(max_size=100), st.integers(0, 500))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_a_user_error_comes_out_of_a_damaged_compressed_record(story, tmp_path, junk, at):
    path = tmp_path / "run.gz"
    write(path, story.run())
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any outcome but another exception is right


def test_a_file_that_is_not_there_or_not_ours(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the record .*nowhere: No such file or directory"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot write the record .*: Is a directory; name a file"):
        RecordWriter(tmp_path, version="0.1.0")
    (tmp_path / "text.gz").write_text("hello")
    with pytest.raises(UserError, match=r"text\.gz is not a run record"):
        read(tmp_path / "text.gz")
    (tmp_path / "no.gz").write_bytes(b"\x1f\x8bhello, this is none")
    with pytest.raises(UserError, match=r"is damaged in line 1: "):
        read(tmp_path / "no.gz")


def test_a_type_that_could_not_be_read_back_is_refused_when_it_is_made():
    @dataclass(frozen=True, slots=True)
    class Two:
        either: int | str

    with pytest.raises(TypeError, match="no event may have a field of type"):
        encode(Two(1))

    @dataclass(frozen=True, slots=True)
    class Odd:
        what: io.BytesIO

    with pytest.raises(TypeError, match="no event may have a field of type"):
        decode({"event": "Odd"}, Odd)


def test_compression_compresses(story, tmp_path):
    write(tmp_path / "run.gz", story.run() * 10)
    assert len(gzip.decompress((tmp_path / "run.gz").read_bytes())) > 5 * (tmp_path / "run.gz").stat().st_size
