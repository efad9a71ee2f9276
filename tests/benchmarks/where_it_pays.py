"""Where dendrites pay: Dice against what networks cost.

    python tests/benchmarks/where_it_pays.py --data Task04_Hippocampus --work WORK [--out docs]

WORK is the ``--work`` folder of ``study run …/dendrites_that_pay.yaml`` with its run folders. Every
trained network there is exported in memory and segments the validation cases of fold 0 by windows
of the training size and in one pass over the padded volume. Prints a Markdown table, mean over
seeds: parameters, operations and CPU time of a patch, Dice by windows and whole. With ``--out``
also ``where_it_pays.png``, three panels of cost.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from border import PATCH, dice, load, predict, read_cases
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from perforated_monai.networks.cost import count_flops, time_patches
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.study.figures import STYLES

STRIDE = 4  # a whole volume is padded to multiples of it
_OWN = {"distal": ("#009e73", "D"), "apical": ("#8c564b", "P")}


@dataclass
class Arm:
    """One arm over its seeds; Dice of a seed is a list of cases."""

    network: nn.Module
    windows: dict[int, list[float]]
    whole: dict[int, list[float]]
    milliseconds: float = 0.0

    @property
    def parameters(self) -> int:
        return count_parameters(self.network)

    @property
    def flops(self) -> int:
        return count_flops(self.network, torch.zeros(2, 1, *PATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--network", default="width8")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = read_cases(arguments.data)
    arms: dict[str, Arm] = {}
    for run in sorted(arguments.work.glob(f"{arguments.network}-*-fold0-seed*")):
        if not (run / "checkpoints" / "best.pt").is_file() or not (run / "test.json").is_file():
            continue
        name, seed = run.name.split("-")[1], int(run.name.rpartition("seed")[2])
        network = load(run)
        arm = arms.setdefault(name, Arm(network, {}, {}))
        arm.windows[seed] = [dice(predict(network, i), t) for i, t in cases]
        arm.whole[seed] = [dice(predict_whole(network, i), t) for i, t in cases]
        print(f"# {run.name}", file=sys.stderr, flush=True)
    networks: dict[str, Any] = {name: arm.network for name, arm in arms.items()}
    with torch.no_grad():
        times = time_patches(networks, torch.randn(2, 1, *PATCH), 41, time.process_time)
    print("| arm | parameters | MFLOP | CPU ms | Dice, windows | Dice, whole | seeds |")
    print("|---|---|---|---|---|---|---|")
    for name, arm in sorted(arms.items(), key=lambda pair: pair[1].parameters):
        arm.milliseconds = times[name]["median"]
        print(
            f"| {name} | {arm.parameters:,} | {arm.flops / 1e6:.0f} | {arm.milliseconds:.2f} | "
            f"{mean(arm.windows):.4f} | {mean(arm.whole):.4f} | {len(arm.windows)} |"
        )
    if arguments.out is not None:
        draw_costs(arms, arguments.out / "where_it_pays.png")


@torch.no_grad()
def predict_whole(network: nn.Module, image: Tensor) -> Tensor:
    """Labels in one pass over the volume, padded by reflection to what the strides need."""
    space = image.shape[1:]
    size = [math.ceil(n / STRIDE) * STRIDE for n in space]
    pad = [v for n, s in zip(reversed(space), reversed(size), strict=True) for v in (0, s - n)]
    logits = network(torch.nn.functional.pad(image[None], pad, mode="replicate"))
    return logits[(..., *(slice(n) for n in space))].argmax(1)


def mean(seeds: dict[int, list[float]]) -> float:
    return statistics.mean(statistics.mean(cases) for cases in seeds.values())


def draw_costs(arms: dict[str, Arm], file: Path) -> None:
    """Dice by windows against parameters, operations and time; every seed a small mark."""
    figure = Figure(figsize=(10, 3.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Sequence[Axes] = figure.subplots(1, 3, sharey=True)
    costs = (
        ("thousand parameters", lambda a: a.parameters / 1e3),
        ("million operations of a patch", lambda a: a.flops / 1e6),
        ("CPU milliseconds of a patch", lambda a: a.milliseconds),
    )
    for axes, (label, cost) in zip(panels, costs, strict=True):
        plain = [arms[n] for n in ("base", "wide", "wide_flops", "wide_time") if n in arms]
        for name, arm in arms.items():
            color, marker = STYLES[name][:2] if name in STYLES else _OWN[name]
            x, seeds = cost(arm), [statistics.mean(v) for v in arm.windows.values()]
            axes.plot([x] * len(seeds), seeds, ".", color=color, alpha=0.35, ms=5)
            size = 13 if name == "dendrites" else 8
            axes.plot(x, mean(arm.windows), marker, color=color, ms=size, label=name)
        line = sorted((cost(a), mean(a.windows)) for a in plain)
        axes.plot(*zip(*line, strict=True), color="0.75", lw=1, zorder=0)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("Dice, mean of classes")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    main()
