"""Pictures of a run; needs matplotlib (extra ``train``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Light enough to stand out on grey tissue, and apart for colour-blind readers (Okabe and Ito).
_CLASS_COLORS = ("#f0e442", "#56b4e9", "#e69f00", "#cc79a7")


def draw_dice(events: list[dict[str, Any]], file: Path) -> None:
    """Write a PNG of mean Dice per epoch, growth and the best epoch."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dice_axes(axes, events)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, format="png")


def draw_demo(
    file: Path,
    runs: dict[str, list[dict[str, Any]]],
    volumes: Sequence[np.ndarray],
    classes: Sequence[str],
    title: str,
) -> None:
    """Write a PNG of the demo: Dice of its runs, and three slices with outlines.

    Args:
        file: PNG to write.
        runs: history of each run by its name, the grown one first.
        volumes: image, true label and predicted label of one case, ``(X, Y, Z)`` each, RAS, 1 mm.
        classes: names of the label values 1, 2, ….
        title: of the slices.
    """
    figure = Figure(figsize=(9, 8.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(1.1, 1), squeeze=False)[:, 0]
    axes = above.add_subplot()
    for (name, events), (color, style) in zip(runs.items(), _RUN_STYLES, strict=False):
        dice_axes(axes, events, name, color, style)
    axes.set_title("Validation Dice of a compressed UNet on phantoms, one seed")
    axes.legend(loc="lower right", frameon=False)
    below.suptitle(title)
    _slices(below.subplots(1, 3), volumes, len(classes))
    colors = _CLASS_COLORS[: len(classes)]
    lines = [Line2D([], [], color=c, linewidth=6) for c in colors]
    styles = [Line2D([], [], color="0.25", lw=w, ls=s) for s, w in _OUTLINES]
    below.legend(
        [*lines, *styles],
        [*classes, "true outline", "predicted outline"],
        loc="outside lower center",
        ncols=len(classes) + 2,
        frameon=False,
    )
    figure.savefig(file, format="png")


_RUN_STYLES = (("C0", "-"), ("0.45", (0, (4, 1.5))))
# True, predicted; thick dashes stay visible where the two coincide.
_OUTLINES = (("-", 1.2), ((0, (2, 1.2)), 2.6))


def dice_axes(
    axes: Axes,
    events: list[dict[str, Any]],
    label: str = "mean",
    color: str = "C0",
    style: Any = "-",
) -> None:
    """Draw one run's mean Dice into ``axes``, with a dotted line where dendrites were added."""
    epochs = [e for e in events if e["event"] == "epoch" and e["dice"] is not None]
    end = next((e for e in events if e["event"] == "complete"), None)
    if end is not None:
        label += f", best {end['best_dice']:.4f} (epoch {end['best_epoch']})"
        axes.plot(end["best_epoch"], end["best_dice"], "o", color=color, markersize=8)
    x, y = [e["epoch"] for e in epochs], [e["dice"] for e in epochs]
    axes.plot(x, y, color=color, linestyle=style, linewidth=2, label=label)
    for i, event in enumerate(e for e in events if e["event"] == "grow"):
        name = "dendrites added" if i == 0 else None
        axes.axvline(event["epoch"] + 0.5, color=color, linestyle=":", linewidth=2, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation Dice, mean of classes")
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


_PLANES = (
    ("sagittal", "x", "posterior – anterior, mm", "inferior – superior, mm"),
    ("coronal", "y", "left – right, mm", "inferior – superior, mm"),
    ("axial", "z", "left – right, mm", "posterior – anterior, mm"),
)


def _slices(panels: Sequence[Axes], volumes: Sequence[np.ndarray], classes: int) -> None:
    """One plane along each axis, through the middle of the true object."""
    image, true, predicted = volumes
    for axis, (axes, (plane, letter, right, up)) in enumerate(zip(panels, _PLANES, strict=True)):
        index = int(np.median(np.nonzero(true)[axis]))
        tissue, a, b = (np.take(v, index, axis).T for v in (image, true, predicted))
        low, high = np.percentile(tissue, (1, 99.5))
        axes.imshow(tissue, cmap="gray", origin="lower", vmin=low, vmax=high * 1.15)
        for value in range(1, classes + 1):
            color = _CLASS_COLORS[value - 1]
            for mask, (style, width) in zip((a, b), _OUTLINES, strict=True):
                if (mask == value).any():
                    axes.contour(
                        mask == value, [0.5], colors=color, linestyles=[style], linewidths=width
                    )
        axes.set_title(f"{plane}, {letter} = {index} mm", fontsize="medium")
        axes.set_xlabel(right)
        axes.set_ylabel(up)
