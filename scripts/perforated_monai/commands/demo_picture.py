"""The demo's picture: Dice of its runs, and slices of one case; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..training.dice_plot import dice_axes

# Light enough to stand out on grey tissue, and apart for colour-blind readers (Okabe and Ito).
_CLASS_COLORS = ("#f0e442", "#56b4e9", "#e69f00", "#cc79a7")
_RUN_STYLES = (("C0", "-"), ("0.45", (0, (4, 1.5))), ("#d55e00", (0, (1, 1))))
# True, predicted; thick dashes stay visible where the two coincide.
_OUTLINES = (("-", 1.2), ((0, (2, 1.2)), 2.6))
_PLANES = (
    ("sagittal", "x", "posterior – anterior, mm", "inferior – superior, mm"),
    ("coronal", "y", "left – right, mm", "inferior – superior, mm"),
    ("axial", "z", "left – right, mm", "posterior – anterior, mm"),
)


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
    axes.set_title("Validation Dice of a small UNet on phantoms, one seed")
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
