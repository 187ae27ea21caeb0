"""Prometheus metric families, and the page that a scrape gets of them (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, which every scraper reads."""

PREFIX = "affinity_tester_"
"""What every name begins with."""


@dataclass(frozen=True, slots=True)
class Described:
    """A metric family: its name without prefix, its type, its help and its labels."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    help: str
    labels: tuple[str, ...] = ()


INFO = Described("build_info", "gauge", "1, with the version.", ("version",))
"""What everybody tells."""


def family(described: Described, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Return a counter or a gauge with samples of (labels, value)."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as above

    cls = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    family = cls(PREFIX + described.name, described.help, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def exposition(families: Iterable[Metric]) -> bytes:
    """Return these families in Prometheus' text format, with those of this process (memory, CPU, descriptors)."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest  # noqa: PLC0415 - only for a scrape

    told = list(families)

    class Collected:
        def collect(self) -> list[Metric]:
            return told

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    ProcessCollector(registry=registry)
    return generate_latest(registry)
