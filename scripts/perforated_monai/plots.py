"""Pictures of a run; needs matplotlib (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_dice(events: list[dict[str, Any]], file: Path) -> None:
    """Write a PNG of Dice per epoch: each class, their mean, growth and the best epoch."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dice_axes(axes, events)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, format="png")


def dice_axes(axes: Axes, events: list[dict[str, Any]], label: str = "mean", color: str = "C0") -> None:
    """Draw one run's mean Dice into ``axes``, with a dashed line where dendrites were added."""
    epochs = [e for e in events if e["event"] == "epoch" and e["dice"] is not None]
    x = [e["epoch"] for e in epochs]
    axes.plot(x, [e["dice"] for e in epochs], color=color, linewidth=2, label=label)
    growth = [e for e in events if e["event"] == "grow"]
    for i, event in enumerate(growth):
        name = "dendrites added" if i == 0 else None
        axes.axvline(event["epoch"] + 0.5, color=color, linestyle="--", linewidth=1, label=name)
    end = next((e for e in events if e["event"] == "complete"), None)
    if end is not None:
        axes.plot(
            [end["best_epoch"]],
            [end["best_dice"]],
            "o",
            color=color,
            label=f"best {end['best_dice']:.4f} (epoch {end['best_epoch']})",
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation Dice, mean of classes")
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
