"""The picture of a run, Dice by epoch; needs matplotlib (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_dice(events: list[dict[str, Any]], file: Path) -> None:
    """Write a PNG of mean Dice per epoch, growth and the best epoch."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dice_axes(axes, events)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, format="png")


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
    name = next((e["metric"] for e in epochs if e.get("metric")), "Dice")
    axes.set_ylabel("validation Dice, mean of classes" if name == "Dice" else f"validation {name}")
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
