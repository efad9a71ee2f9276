"""Dice against each cost, with the networks that nothing beats on both joined by a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from .subject import Subject

# key of a row -> label of the axis; a factor to the unit of the label
AXES = {
    "parameters": ("parameters", 1.0),
    "flops": ("FLOPs of a window", 1.0),
    "file_bytes": ("weights, bytes", 1.0),
    "ms_1": ("ms a window, one thread", 1.0),
    "ms_gpu": ("ms a window, GPU", 1.0),
    "peak_memory_mib": ("peak memory of a call, MiB", 1.0),
    "joules": ("J a window", 1.0),
}
# Okabe and Ito; the marker says the same again, and every point carries its name.
_GROWN, _PLAIN, _FRONT = ("#d55e00", "*", 13), ("#0072b2", "o", 7), "#555555"
_LINE = 0.06  # height of a name, as a share of a panel


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, score) that no other one beats, by rising cost.

    A point is beaten when another one costs no more and scores no less, and differs.
    """
    front = [
        name
        for name, (cost, score) in points.items()
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points.values())
    ]
    return sorted(front, key=lambda name: points[name])


def number(value: Any) -> float | None:
    """A figure of a row: itself, or the median of repeated measurements."""
    if isinstance(value, Mapping):
        value = value["median"]
    return None if value is None else float(value)


def draw(subjects: Sequence[Subject], rows: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """One panel a cost that was measured; None where no network has a Dice."""
    scored = [s for s in subjects if s.mean_dice is not None]
    keys = [k for k in AXES if any(number(rows[s.name][k]) is not None for s in scored)]
    if not scored or not keys:
        return None
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _panel(axes, key, scored, rows)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for row in range(lines):
        panels[row * columns].set_ylabel("Dice, mean of classes")
    _legend(figure, scored)
    return figure


def _panel(axes: Any, key: str, scored: Sequence[Subject], rows: Mapping[str, Any]) -> None:
    label, factor = AXES[key]
    points: dict[str, tuple[float, float]] = {}
    for subject in scored:
        cost, score = number(rows[subject.name][key]), subject.mean_dice
        if cost is None or cost <= 0 or score is None:
            continue
        x = cost * factor
        points[subject.name] = (x, score.mean)
        color, marker, size = _GROWN if subject.sets else _PLAIN
        if score.low is not None and score.high is not None:
            axes.plot([x, x], [score.low, score.high], color=color, lw=1.2, alpha=0.6)
        axes.plot(x, score.mean, marker, color=color, ms=size, mec="white", mew=0.6, zorder=3)
    front = [points[name] for name in pareto(points)]
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=_FRONT, ls=(0, (4, 2)), lw=1.2)
    axes.set_xscale("log")
    axes.margins(x=0.35, y=0.15)
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    costs = [x for x, _ in points.values()]
    wide = costs and max(costs) > 20 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    _names(axes, points)


def _names(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """The name of each point beside it, away from the middle; close ones are moved apart."""
    axes.autoscale_view()  # limits are set late otherwise
    to_axes = axes.transScale + axes.transLimits
    places = {name: to_axes.transform(point) for name, point in points.items()}
    for right in (False, True):
        side = {n: p for n, p in places.items() if (p[0] > 0.5) == right}
        heights = spread([float(y) for _, y in side.values()], _LINE)
        for (name, (x, _)), height in zip(side.items(), heights, strict=True):
            axes.annotate(
                *(name, points[name]),
                xytext=(x + 0.05 if right else x - 0.05, height),
                textcoords="axes fraction",
                ha="left" if right else "right",
                va="center",
                fontsize=8,
                zorder=2.5,
                bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
                arrowprops={"arrowstyle": "-", "color": "0.55", "lw": 0.7, "shrinkB": 3},
            )


def spread(heights: Sequence[float], least: float) -> list[float]:
    """The heights moved as little as a pass up and one down need to be ``least`` apart.

    Their order stays, and the middle of a crowd stays about where it was.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    up, down = [0.0] * len(order), [0.0] * len(order)
    for k, i in enumerate(order):
        up[k] = heights[i] if k == 0 else max(heights[i], up[k - 1] + least)
    for k in reversed(range(len(order))):
        last = k == len(order) - 1
        down[k] = heights[order[k]] if last else min(heights[order[k]], down[k + 1] - least)
    moved = [0.0] * len(order)
    for k, i in enumerate(order):
        moved[i] = (up[k] + down[k]) / 2  # both are least apart, so their mean is
    return moved


def _legend(figure: Figure, scored: Sequence[Subject]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=c, marker=m, ms=s, ls="", label=text)
        for (c, m, s), text in ((_GROWN, "with dendrites"), (_PLAIN, "plain"))
    ]
    handles.append(Line2D([], [], color=_FRONT, ls=(0, (4, 2)), label="Pareto front"))
    if any(s.cases for s in scored):
        handles.append(Line2D([], [], color="0.4", lw=1.2, label="95 % interval over cases"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
