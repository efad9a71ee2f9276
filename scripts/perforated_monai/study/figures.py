"""Figures of a study's report: every arm has its own colour, marker and line, so grey is enough."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from .comparisons import Comparisons
from .statistics import t_interval
from .trial_rows import PREFIX, Event, Measurement

# Okabe and Ito; the lightness differs too. Marker and line style say the same again.
STYLES: dict[str, tuple[str, str, Any]] = {
    "base": ("#000000", "o", "-"),
    "base_long": ("#7a7a7a", "s", (0, (5, 2))),
    "wide": ("#0072b2", "^", (0, (1, 1.2))),
    "wide_flops": ("#56b4e9", "v", (0, (3, 1, 1, 1))),
    "wide_long": ("#0072b2", "X", (0, (1, 1))),
    "wide_time": ("#56b4e9", "d", (0, (5, 1))),
    "deeper": ("#cc79a7", "p", (0, (3, 1))),
    "from_start": ("#e69f00", "h", (0, (2, 2))),
    "branch": ("#009e73", "D", (0, (8, 2, 1, 2))),
    "dendrites": ("#d55e00", "*", "-"),
    "dendrites_init": ("#e69f00", "P", (0, (4, 1.5))),
}
# Of a study's own arms, in their order; more than there are begin again.
_VARIANTS: tuple[tuple[str, str, Any], ...] = (
    ("#d55e00", "*", "-"),
    ("#0072b2", "^", (0, (1, 1.2))),
    ("#009e73", "D", (0, (8, 2, 1, 2))),
    ("#e69f00", "P", (0, (4, 1.5))),
    ("#cc79a7", "X", (0, (6, 1.5))),
    ("#56b4e9", "v", (0, (3, 1, 1, 1))),
    ("#7a7a7a", "p", (0, (2, 2))),
)
_OUTLINE = {"true": ("-", 1.4), "predicted": ((0, (2, 1.2)), 2.4)}
_CLASS_COLORS = ("#0072b2", "#e69f00", "#000000", "#cc79a7")  # apart in grey, too


def score_against_cost(data: Comparisons, networks: Sequence[str], metric: str) -> Figure:
    """Mean test score of every arm against parameters and FLOPs: each seed, and their mean.

    Several networks (a width ladder) are joined by a line an arm, on a logarithmic axis.
    """
    figure = _figure(9, 3.8)
    for axes, (key, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (("parameters", "parameters"), ("flops", "FLOPs of one patch")),
        strict=True,
    ):
        highest: dict[str, tuple[float, float]] = {}  # of each network's arms
        for arm in data.study.arms:
            color, marker, style = _style(data, arm)
            means = []
            cells = [data.cells[n, arm] for n in networks if (n, arm) in data.cells]
            for cell in (c for c in cells if c.measured):
                x = cell.numbers(key)
                y = [_score(data, m, metric) for m in cell.measured.values()]
                axes.plot(x, y, marker, color=color, markersize=4, alpha=0.45, markeredgewidth=0)
                means.append((float(np.mean(x)), float(np.mean(y))))
                known = highest.get(cell.network, means[-1])
                highest[cell.network] = max(known, means[-1], key=lambda point: point[1])
            if means:
                means.sort()
                axes.plot(
                    *zip(*means, strict=True),
                    marker=marker,
                    color=color,
                    linestyle=style,
                    linewidth=1.2,
                    markersize=11,
                    label=arm,
                    zorder=3,
                )
        axes.set_xlabel(label)
        if len(networks) > 1:
            axes.set_xscale("log")
            for network, place in highest.items():
                axes.annotate(
                    network,
                    place,
                    (10, 0),
                    textcoords="offset points",
                    va="center",
                    color="0.25",
                    zorder=4,
                )
            axes.margins(x=0.2)  # room for a name on the right
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _plain(axes)
    figure.axes[0].set_ylabel(f"test {NAMES[metric]}, mean of classes")
    figure.legend(*_handles(figure), loc="outside right center", frameon=False)
    return figure


def score_per_epoch(data: Comparisons, network: str) -> Figure:
    """Validation Dice per epoch: the mean over seeds and each seed, growth as vertical lines."""
    figure = _figure(9, 4.2)
    axes = figure.add_subplot()
    for arm in data.study.arms_of(network):
        cell, (color, _, style) = data.cells[network, arm], _style(data, arm)
        curves = [_curve(events) for events in cell.history.values()]
        if not curves:
            continue
        for x, y in curves:
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
        x = curves[0][0]
        alike = [y for other, y in curves if other == x]
        axes.plot(x, np.mean(alike, axis=0), color=color, linestyle=style, linewidth=2, label=arm)
        if arm in data.growing:
            first = True
            for events in cell.history.values():
                for event in events:
                    if event["event"] == "grow":
                        name = f"{arm} grew" if first else None
                        axes.axvline(event["epoch"] + 0.5, color=color, lw=1, ls=":", label=name)
                        first = False
    scores = [y for c in data.cells.values() if c.network == network for y in _late(c.history)]
    if scores:
        low, high = min(scores), max(scores)
        axes.set_ylim(low - 0.15 * (high - low), high + 0.1 * (high - low))
    axes.set_xlabel("epoch (rolled-back ones count)")
    axes.set_ylabel("validation Dice, mean of classes")
    _plain(axes)
    figure.legend(*_handles(figure), loc="outside right center", frameon=False)
    return figure


def seed_spread(data: Comparisons, network: str, metric: str) -> Figure:
    """Differences to each control: every seed's mean, and both intervals."""
    judged = data.judged(network, metric)
    figure = _figure(9, 1.1 + 0.55 * max(len(judged), 1))
    axes = figure.add_subplot()
    scale = 1 if metric == "hd95" else 100
    for i, ((arm, control), comparison) in enumerate(judged.items()):
        table, _, _ = data.difference(network, arm, control, metric)
        color, marker, _ = _style(data, arm)
        for offset, interval, style in (
            (0.14, comparison.over_seeds, "-"),
            (-0.14, comparison.over_cases, (0, (3, 1.5))),
        ):
            if np.isfinite(interval.half):
                ends = [scale * interval.low, scale * interval.high]
                axes.plot(ends, [i + offset] * 2, color=color, ls=style, lw=2)
        means = scale * np.nanmean(table, axis=1)
        axes.plot(means, [i] * len(means), marker, color=color, ms=7, mec="white", mew=0.5)
    axes.axvline(0, color="black", lw=1)
    if metric == "dice":
        axes.axvline(-0.5, color="0.5", lw=1, ls=":")
        axes.text(-0.5, len(judged) - 0.45, " margin", ha="left", va="center", color="0.35")
    axes.set_yticks(range(len(judged)), [f"{a} − {b}" for a, b in judged])
    axes.set_ylim(len(judged) - 0.3, -0.7)
    unit = "mm; left" if metric == "hd95" else "points of 0.01; right"
    axes.set_xlabel(f"difference of test {NAMES[metric]}, {unit} of 0: the first arm better")
    _plain(axes)
    return figure


def paired_cases(data: Comparisons, network: str, arm: str, control: str, metric: str) -> Figure:
    """Difference of each test case: mean over seeds, and the span of the seeds."""
    table, _, cases = data.difference(network, arm, control, metric)
    figure = _figure(9, 3.6)
    axes = figure.add_subplot()
    scale = 1 if metric == "hd95" else 100
    order = np.argsort(np.nanmean(table, axis=0))
    x = np.arange(len(cases))
    low, high = np.nanmin(table, axis=0)[order], np.nanmax(table, axis=0)[order]
    axes.vlines(x, scale * low, scale * high, color="0.7", lw=2, label="span of the seeds")
    mean = np.nanmean(table, axis=0)[order]
    axes.plot(x, scale * mean, "o", color=_style(data, arm)[0], ms=5, label="mean of the seeds")
    axes.axhline(0, color="black", lw=1)
    axes.set_xticks(x, [cases[i] for i in order], rotation=90, fontsize=6)
    axes.set_ylabel(f"{arm} − {control}, {'mm' if metric == 'hd95' else 'points'}")
    axes.legend(frameon=False, loc="upper left")
    _plain(axes)
    return figure


def worst_cases(data: Comparisons, network: str, arm: str, images: bool = False) -> Figure | None:
    """The three worst test cases of an arm's first seed, true and predicted outlines.

    Args:
        data: the study.
        network: of its networks.
        arm: of its arms.
        images: draw the slice below the outlines; it lies in the run folder, not in the results.
    """
    cell = data.cells[network, arm]
    trial = next((t for t in cell.measured if t not in cell.same), None)
    if trial is None or not (data.results.places.kept(trial) / "worst.npz").exists():
        return None
    outlines = dict(np.load(data.results.places.kept(trial) / "worst.npz"))
    outlines.setdefault("regions", np.array(False))
    image_file = data.results.places.run(trial) / "worst_image.npz"
    slices = np.load(image_file) if images and image_file.exists() else None
    classes = data.classes("dice")
    figure = _figure(9, 4.2)
    panels = figure.subplots(1, len(outlines["cases"]), squeeze=False)[0]
    for i, (axes, case) in enumerate(zip(panels, outlines["cases"], strict=True)):
        true, predicted = outlines[f"label_{i}"].T, outlines[f"pred_{i}"].T
        if slices is not None:
            shown = slices[f"image_{i}"].astype(float).T
            axes.imshow(shown, cmap="gray", origin="lower")
        else:
            axes.imshow(np.full(true.shape, 0.93), cmap="gray", origin="lower", vmin=0, vmax=1)
        for value in range(1, len(classes) + 1):
            color = _CLASS_COLORS[(value - 1) % len(_CLASS_COLORS)]
            for mask, name in ((true, "true"), (predicted, "predicted")):
                style, width = _OUTLINE[name]
                shape = mask >= value if outlines["regions"] else mask == value
                if shape.any():
                    axes.contour(shape, [0.5], colors=color, linestyles=[style], linewidths=width)
        scores = next(row.values for row in cell.cases[trial] if row.case == case)
        axes.set_title(
            f"{case}\n" + ", ".join(f"{c} {scores[f'dice_{c}']:.3f}" for c in classes),
            fontsize="medium",
        )
        axes.set_xticks([])
        axes.set_yticks([])
    lines = [mpl.lines.Line2D([], [], color=c, lw=6) for c in _CLASS_COLORS[: len(classes)]]
    styles = [mpl.lines.Line2D([], [], color="0.25", ls=s, lw=w) for s, w in _OUTLINE.values()]
    names = [*classes, *(f"{n} outline" for n in _OUTLINE)]
    figure.legend(
        [*lines, *styles], names, loc="outside lower center", ncols=len(names), frameon=False
    )
    return figure


def as_svg(figure: Figure, tight: bool = False) -> str:
    """The figure as an SVG element; the same figure gives the same text.

    Args:
        tight: grow to what is drawn, for figures of other libraries whose labels run out of them.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "study", "svg.fonttype": "path"}):
        metadata = {"Date": None, "Creator": None}
        box = "tight" if tight else None
        figure.savefig(buffer, format="svg", metadata=metadata, bbox_inches=box)
    text = buffer.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", text, flags=re.S)


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def as_uri(figure: Figure) -> str:
    """The figure as a data URI."""
    return "data:image/png;base64," + base64.b64encode(as_png(figure)).decode()


NAMES = {"dice": "Dice", "hd95": "HD95", "nsd": "surface Dice at 1 mm"}


def _style(data: Comparisons, arm: str) -> tuple[str, str, Any]:
    """Colour, marker and line of an arm."""
    if arm in STYLES:
        return STYLES[arm]
    taken = [STYLES[a][:2] for a in data.study.arms if a in STYLES]
    free = [style for style in _VARIANTS if style[:2] not in taken] or list(_VARIANTS)
    return free[list(data.study.variants).index(arm) % len(free)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _handles(figure: Figure) -> tuple[list[Any], list[str]]:
    return figure.axes[0].get_legend_handles_labels()


def _score(data: Comparisons, measured: Measurement, metric: str) -> float:
    values = [measured.scores[PREFIX[metric] + c] for c in data.classes(metric)]
    return t_interval(values).mean


def _curve(events: list[Event]) -> tuple[list[int], list[float]]:
    epochs = [e for e in events if e["event"] == "epoch" and e["dice"] is not None]
    return [e["epoch"] for e in epochs], [e["dice"] for e in epochs]


def _late(history: Mapping[Any, list[Event]]) -> list[float]:
    """Scores of the last two thirds of the epochs: the start would flatten the rest."""
    late: list[float] = []
    for events in history.values():
        scores = _curve(events)[1]
        late += scores[len(scores) // 3 :]
    return late
