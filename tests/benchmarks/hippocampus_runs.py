"""Table and Dice curves of the four trainings in bundles/README.md, from their run folders.

    python tests/benchmarks/hippocampus_runs.py runs --write bundles/hippocampus_mri_dendritic/docs

``runs`` holds ``full_plain``, ``full_dendrites``, ``compressed_plain``, ``compressed_dendrites``.
Prints a Markdown table and writes ``dice_curves.png``. One seed: the table describes these runs, it
compares nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perforated_monai.training.dice_plot import dice_axes
from perforated_monai.training.run_folder import RunFolder

RUNS = {
    "full_plain": "full, plain",
    "full_dendrites": "full, dendrites",
    "compressed_plain": "compressed, plain",
    "compressed_dendrites": "compressed, dendrites",
}


def main() -> None:
    """Print the table, draw the curves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--write", type=Path, required=True)
    arguments = parser.parse_args()
    found = {
        n: RunFolder(arguments.runs / n).history() for n in RUNS if (arguments.runs / n).is_dir()
    }
    print(table(found))
    draw(found, arguments.write / "dice_curves.png")


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown, one row a run; all figures are those of the best epoch."""
    head = ["network", "anterior", "posterior", "mean Dice", "parameters", "dendrite sets"]
    head += ["best epoch", "epochs"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, events in found.items():
        end = next(e for e in events if e["event"] == "complete")
        epochs = [e for e in events if e["event"] == "epoch"]
        best = next(e for e in epochs if e["epoch"] == end["best_epoch"])
        cells = [
            RUNS[name],
            *(f"{v:.4f}" for v in best["dice_per_class"]),
            f"{best['dice']:.4f}",
            f"{_parameters(epochs, end):,}",
            str(end["integrated_dendrite_sets"]),
            str(end["best_epoch"]),
            str(len(epochs)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parameters(epochs: list[dict[str, Any]], end: dict[str, Any]) -> int:
    sets = end["integrated_dendrite_sets"]
    return next(e["parameters"] for e in epochs if e["dendrite_sets"] == sets)


def draw(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Two panels, one a network size; plain dashed grey, dendritic solid."""
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, size in zip(panels, ("full", "compressed"), strict=True):
        for name, color in ((f"{size}_plain", "0.55"), (f"{size}_dendrites", "C0")):
            if name in found:
                dice_axes(axes, found[name], label=RUNS[name], color=color)
        axes.set_title(f"{size} network")
        axes.set_ylim(0.80, 0.90)
        axes.legend(loc="lower right", fontsize=8, framealpha=1, edgecolor="none")
    figure.suptitle("Hippocampus MRI (MSD Task04), inner fold 0, one seed")
    figure.savefig(file)


if __name__ == "__main__":
    main()
