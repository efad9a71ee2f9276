"""Tables of a report: arms with their costs, differences with their intervals."""

from __future__ import annotations

import math

from . import figures
from .comparisons import Cell, Comparisons
from .statistics import Comparison, TInterval

NONE = "not measured"

DIFFERENCE_HEADER = (
    "comparison",
    "mean",
    "95 % over seeds",
    "95 % over cases",
    "p (larger)",
    "p after Holm",
    "verdict",
)


def header(data: Comparisons) -> list[str]:
    """Column names of ``arm_row``."""
    scores = [
        f"{figures.NAMES[m]} {c}" for m in data.study.metrics for c in data.classes(m) or ["…"]
    ]
    costs = ["parameters", "FLOPs a patch", "file", "ms a patch, one thread", "peak MiB"]
    return ["arm", "runs", *scores, *costs, "training, min", "CPU, min", "energy"]


def arm_row(data: Comparisons, cell: Cell) -> list[str]:
    """An arm: scores with their interval over seeds, and costs."""
    width = len(header(data))
    if not cell.measured:
        return [cell.arm, "0", NONE, *[""] * (width - 3)]
    scores = [
        _with_interval(i, m)
        for m in data.study.metrics
        for i in data.per_class(cell.network, cell.arm, m).values()
    ]
    energy = cell.numbers("energy_joule")
    return [
        cell.arm,
        str(len(cell.measured)),
        *scores,
        _span(cell.numbers("parameters"), "{:,.0f}"),
        _span([v / 1e9 for v in cell.numbers("flops")], "{:.3f} G"),
        _span([v / 1024 for v in cell.numbers("file_bytes")], "{:,.0f} KiB"),
        _span(cell.numbers("latency_ms"), "{:.2f}", median=True),
        _span(cell.numbers("peak_memory_mib"), "{:.1f}", median=True),
        _span(cell.numbers("train_minutes"), "{:.1f}", median=True),
        _span(cell.numbers("cpu_minutes"), "{:.1f}", median=True),
        _span(energy, "{:,.0f} J", median=True),
    ]


def difference_row(
    pair: tuple[str, str], comparison: Comparison, metric: str, judged: bool
) -> list[str]:
    """A comparison, see ``DIFFERENCE_HEADER``; ``judged`` shows its verdict."""
    a, b = comparison.over_seeds, comparison.over_cases
    return [
        f"{pair[0]} − {pair[1]}",
        points(comparison.reported.mean, metric),
        ends(a, metric),
        ends(b, metric),
        f"{comparison.p:.3g}",
        f"{comparison.p_holm:.3g}",
        comparison.verdict if judged else "–",
    ]


def ends(interval: TInterval, metric: str) -> str:
    """Both ends of an interval, in the metric's unit; in words where there is one value."""
    if not math.isfinite(interval.half):
        return "one value"
    return f"{points(interval.low, metric, '')} to {points(interval.high, metric, '')}"


def _with_interval(interval: TInterval, metric: str) -> str:
    digits = 2 if metric == "hd95" else 4
    if not math.isfinite(interval.half):
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {interval.half:.{digits}f}"


def points(value: float, metric: str, unit: str | None = None) -> str:
    """A difference with its sign: Dice in points of 0.01, HD95 in mm."""
    if metric == "hd95":
        return f"{value:+.2f}{' mm' if unit is None else unit}"
    return f"{100 * value:+.2f}{' points' if unit is None else unit}"


def middle(values: list[float]) -> float:
    """The upper median of at least one value: one that was measured."""
    return sorted(values)[len(values) // 2]


def _span(values: list[float], form: str, median: bool = False) -> str:
    if not values:
        return NONE
    if median:
        return form.format(middle(values))
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
