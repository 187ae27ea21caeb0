"""What a measurement of silence came to, as JSON for machines: times in seconds, shares from 0 to 1."""

from __future__ import annotations

from typing import Any

from affinity_tester import __version__
from affinity_tester.core.exact import binomial_interval
from affinity_tester.core.idle.advice import matching
from affinity_tester.core.idle.estimate import Curve, Estimate, KeptCount, StepSummary
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.report.idle_text import idle_lines
from affinity_tester.units import NS_PER_S


def idle_document(result: IdleResult) -> dict[str, Any]:
    """Return the whole result, each step included."""
    view = result.view
    return {
        "version": __version__,
        "longest_s": result.longest_ns / NS_PER_S,
        "keep_alive_s": _seconds(result.keep_alive_ns),
        "conclusive": result.is_conclusive,
        "watched": result.watched,
        "planned": result.planned,
        "ended": len(result.results),
        "void": result.void,
        "repeated": result.repeated,
        "fates": {fate.value: count for fate, count in sorted(result.fates.items())},
        "way": {
            "external_traffic_policy": view.policy or None,
            "session_affinity": view.affinity or None,
            "via": view.via or None,
            "pods": view.pods,
            "port_translated": view.translated,
            "port_tells": view.port_tells,
            "pod_tells": view.pod_tells,
        },
        "curves": [_curve(curve, result) for curve in result.curves],
        "text": [text for text, _ in idle_lines(result)],
    }


def _curve(curve: Curve, result: IdleResult) -> dict[str, Any]:
    return {
        "direction": curve.direction.value,
        "state": curve.state.value,
        "kept": {each.wanted.value: _estimate(each) for each in curve.estimates},
        "matches": [
            {"name": known.name, "timeout_s": known.timeout_ns / NS_PER_S} for known in matching(curve, result.known)
        ],
        "steps": [step_data(step) for step in curve.steps],
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "longest_kept_s": _seconds(estimate.kept_ns),
        "first_lost_s": _seconds(estimate.lost_ns),
        "odd_s": [ns / NS_PER_S for ns in estimate.odd_ns],
    }


def step_data(step: StepSummary) -> dict[str, Any]:
    """Return one step's samples in numbers."""
    return {
        "silence_s": step.step.silence_ns / NS_PER_S,
        "samples": step.samples,
        "usable": step.usable,
        "void": step.void,
        "restarted": step.restarted,
        "ambiguous": step.ambiguous,
        "unusable": {fate.value: count for fate, count in step.unusable},
        "new_pod": step.new_pod,
        "new_node": step.new_node,
        "new_port": step.new_port,
        "new_address": step.new_address,
        "unanswered": step.dead,
        "not_heard": step.unheard,
        "resent": step.resent,
        "kept": {count.wanted.value: _count(count) for count in step.counts},
    }


def _count(count: KeptCount) -> dict[str, Any]:
    low, high = binomial_interval(count.of - count.kept, count.of)
    return {
        "kept": count.kept,
        "of": count.of,
        "standing": count.standing.value,
        "lost_share_95": [round(low, 4), round(high, 4)],
        "alike_by_chance": round(count.alike, 4),
    }


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / NS_PER_S
