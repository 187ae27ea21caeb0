"""What a benchmark found: figures of each round, their medians and ratios, the bars, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bar:
    """What issue 5 asks of a figure's median."""

    limit: float
    at_least: bool = False
    """Whether the figure must not be below the limit; else it must not be above."""

    def met_by(self, value: float) -> bool:
        """Whether the bar is met."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured once in each round."""

    name: str
    unit: str
    values: tuple[float, ...]
    bar: Bar | None = None

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def spread(self) -> float:
        """From the smallest to the largest round, as a share of the median."""
        middle = self.median
        return (max(self.values) - min(self.values)) / abs(middle) if middle else 0.0


@dataclass(slots=True)
class Result:
    """One benchmark's figures."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, values: Sequence[float], bar: Bar | None = None) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, unit, tuple(values), bar))

    def add_ratio(self, name: str, ours: Sequence[float], theirs: Sequence[float], bar: Bar | None = None) -> None:
        """Add the ratio of two figures, taken round by round: what disturbs one round disturbs both sides of it."""
        self.add(name, "x", [a / b if b else float("inf") for a, b in zip(ours, theirs, strict=True)], bar)

    def table(self) -> str:
        """For people."""
        rows = [("", "median", "", "min", "max", "spread", "bar")]
        for figure in self.figures:
            bar = ""
            if figure.bar is not None:
                bar = f"{figure.bar}: {'met' if figure.bar.met_by(figure.median) else 'MISSED'}"
            low, high = min(figure.values), max(figure.values)
            spread = f"{figure.spread:.0%}" if len(figure.values) > 1 else ""
            rows.append((figure.name, _number(figure.median), figure.unit, _number(low), _number(high), spread, bar))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = (0, 2, 6)  # the columns of text
        lines = [
            "  ".join(
                cell.ljust(width) if at in left else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([f"{self.name}: {self.title}", *lines, *(f"  note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        figures = [
            {
                **asdict(figure),
                "median": figure.median,
                "met": figure.bar.met_by(figure.median) if figure.bar is not None else None,
            }
            for figure in self.figures
        ]
        return {"name": self.name, "title": self.title, "figures": figures, "notes": self.notes}


def alternate(
    contenders: Mapping[str, Callable[[], T]], rounds: int, progress: Callable[[str], None], warm_up: bool = True
) -> dict[str, list[T]]:
    """Run the contenders in turn, A B A B, so that what drifts meets all; a warm-up round is thrown away."""
    samples: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, measure in contenders.items():
            progress(f"{name}, {f'round {number} of {rounds}' if number else 'warm-up'}")
            sample = measure()
            if number:
                samples[name].append(sample)
    return samples


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
