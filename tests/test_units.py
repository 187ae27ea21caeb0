"""How times, counts and names are written."""

import pytest

from affinity_tester.units import (
    NS_PER_H,
    NS_PER_MIN,
    NS_PER_MS,
    NS_PER_S,
    NS_PER_US,
    format_duration,
    format_exact,
    format_offset,
    format_seconds,
    format_share,
    format_span,
    noun_form,
    parse_duration,
    plural,
    quoted,
)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0.1", 100 * NS_PER_MS),
        (".5", 500 * NS_PER_MS),
        (" 2 s ", 2 * NS_PER_S),
        ("7ns", 7),
        ("3us", 3 * NS_PER_US),
        ("100ms", 100 * NS_PER_MS),
        ("10m", 10 * NS_PER_MIN),
        ("1h", NS_PER_H),
        ("1h30m", 90 * NS_PER_MIN),
        ("1h0m0.5s", NS_PER_H + 500 * NS_PER_MS),
        ("500us", 500 * NS_PER_US),
        ("500µs", 500 * NS_PER_US),
        ("1.5h", 90 * NS_PER_MIN),
        ("1.s", NS_PER_S),
        ("0.1000000000000001", 100 * NS_PER_MS),
        ("9007199.254740993", 9_007_199_254_740_993),
    ],
)
def test_a_time_is_read_in_any_unit(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text", ["", "s", ".", ".s", "1 d", "-1s", "1e3", "٣s", "1h30", "1s 2s", "5m-1s", "1,5s", "9" * 5_000]
)
def test_what_is_no_time_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write seconds"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "rounded", "span"),
    [
        (1_500, "1.5 us", "1.5e-06 s"),
        (333 * NS_PER_MS, "333 ms", "0.333 s"),
        (NS_PER_S, "1 s", "1 s"),
        (1_234 * NS_PER_MS, "1.23 s", "1.23 s"),
        (119 * NS_PER_S, "119 s", "119 s"),
        (120 * NS_PER_S, "2 min", "2 min"),
        (73 * NS_PER_MIN, "73 min", "73 min"),
    ],
)
def test_a_duration_is_rounded_and_a_span_never_goes_below_seconds(ns: int, rounded: str, span: str) -> None:
    assert (format_duration(ns), format_span(ns)) == (rounded, span)


def test_times_in_evidence_have_a_tenth_of_a_second_and_a_side() -> None:
    assert format_seconds(1_949 * NS_PER_MS) == "1.9 s"
    assert [format_offset(ms * NS_PER_MS) for ms in (-800, 0, 800)] == ["0.8 s before", "0.0 s before", "0.8 s after"]


@pytest.mark.parametrize("ns", [0, 1, 1_500, 2_000, 1_500 * NS_PER_MS, 5 * NS_PER_S, 10 * NS_PER_MIN, 2 * NS_PER_H])
def test_an_exact_time_is_read_as_it_is_written(ns: int) -> None:
    assert parse_duration(format_exact(ns)) == ns


@pytest.mark.parametrize(("noun", "several"), [("probe", "probes"), ("canary", "canaries"), ("address", "addresses")])
def test_a_noun_follows_its_number(noun: str, several: str) -> None:
    assert [plural(count, noun) for count in (0, 1, 1_200)] == [f"0 {several}", f"1 {noun}", f"1,200 {several}"]


def test_an_irregular_plural_is_given() -> None:
    assert noun_form(2, "line was", "lines were") == "lines were"
    assert noun_form(1, "line was", "lines were") == "line was"


def test_a_name_is_quoted_and_a_missing_one_is_unknown() -> None:
    assert (quoted("pod-a"), quoted(None)) == ('"pod-a"', "unknown")


def test_a_share_that_is_held_against_a_limit_keeps_its_digits():
    assert format_share(0.049, 2) == "4.90 %"
    assert format_share(0.672, 0) == "67 %"
