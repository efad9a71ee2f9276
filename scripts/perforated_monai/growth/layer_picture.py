"""``layers.png``: what the probe expects of each layer, and which layers grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# These differ in grey too; bars of layers that do not grow are hatched besides.
_GROWS, _STAYS = "#d55e00", "#b0b0b0"


def draw_layers(record: dict[str, Any], file: Path) -> None:
    """Write a PNG of what ``ranking.choose_layers`` recorded: gain a parameter, and parameters.

    Args:
        record: what ``layers.json`` holds.
        file: PNG to write.
    """
    layers = record["layers"]
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(layers)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [("parameters", "parameters that one dendrite adds")]
    if record["ranking"] == "gradient":
        label = "expected fall of the loss for each added parameter"
        panels.insert(0, ("gain_per_parameter", label))
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (key, label) in zip(every, panels, strict=True):
        for i, layer in enumerate(layers):
            grows = layer["grows"]
            axes.barh(
                i,
                layer[key],
                color=_GROWS if grows else _STAYS,
                hatch=None if grows else "///",
                edgecolor="white",
            )
        axes.set_xlabel(label)
        axes.grid(alpha=0.25, axis="x")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    every[0].set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=8)
    every[0].invert_yaxis()
    every[0].set_ylabel("layer, best first" if len(panels) > 1 else "layer, in random order")
    figure.suptitle(_title(record), fontsize="medium")
    figure.legend(
        handles=[
            Patch(facecolor=_GROWS, label="grows"),
            Patch(facecolor=_STAYS, hatch="///", edgecolor="white", label="stays"),
        ],
        loc="outside lower right",
        ncols=2,
        frameon=False,
    )
    figure.savefig(file, format="png")


def _title(record: dict[str, Any]) -> str:
    count = sum(layer["grows"] for layer in record["layers"])
    budget = record["parameter_budget"]
    limit = f"budget {budget:,} parameters" if budget else f"the best {record['auto_layers']}"
    ranked = "at random"
    if record["ranking"] == "gradient":
        ranked = f"by a probe of {record['batches']} batches after epoch {record['epoch']}"
    added = (
        f"{count} of {len(record['layers'])} layers grow, {record['added_parameters']:,} parameters"
    )
    return f"Dendrites of kind {record['kind']}, ranked {ranked}\n{added} a set ({limit})"
