"""What Dice depends on behind a training: windows, one pass, mirroring, smoothing, components.

    python tests/benchmarks/windows.py runs/tiny_0 runs/tiny_1 --data <Task04_Hippocampus>

Each run's best network segments the validation cases of its own fold in several ways. Prints
Markdown: a row a way with the voxels that the network sees of a volume (thousands) and mean Dice
over the cases of all runs; ``mirrored`` is a volume that is mirrored left and right beforehand, as
if it were of the other side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from folds import validation_of
from monai.inferers import SlidingWindowInferer
from monai.metrics import compute_dice
from monai.networks.layers import GaussianFilter
from monai.networks.utils import one_hot
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import pad

from perforated_monai.growth.trained import load_trained, make_spec
from perforated_monai.inference.segment.predictor import mirrored

STRIDE = 4  # sizes of a whole volume are multiples of it
SIDE = 2  # axis left to right of (B, C, *space)
Predict = Callable[[Tensor], Tensor]


class Counted(nn.Module):
    """A network that counts the voxels it has seen."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.voxels = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.voxels += x[:, 0].numel()
        return self.network(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    dice: dict[str, list[float]] = {}
    seen: dict[str, int] = {}
    for run in arguments.runs:
        trained = load_trained(run)
        network = Counted(make_spec(trained)[1].eval())
        _, dataset, inferer = validation_of([trained], arguments.data, None)
        for name, predict in ways(network, list(inferer.roi_size)).items():
            network.voxels = 0
            for i in range(len(dataset)):
                image = torch.as_tensor(dataset[i]["image"])[None]
                truth = one_hot(torch.as_tensor(dataset[i]["label"])[None], 3)
                with torch.no_grad():
                    found = one_hot(predict(image), 3)
                score = compute_dice(found, truth, include_background=False)
                dice.setdefault(name, []).append(float(score.mean()))
            seen[name] = seen.get(name, 0) + network.voxels
    print("| way | thousand voxels a volume | mean Dice |\n|---|---|---|")
    for name, values in dice.items():
        print(f"| {name} | {seen[name] / len(values) / 1e3:.0f} | {np.mean(values):.4f} |")


def ways(network: nn.Module, size: list[int]) -> dict[str, Predict]:
    """Name -> image ``(1, C, *space)`` to labels ``(1, 1, *space)``."""

    def windows(roi: list[int], overlap: float = 0.25) -> Predict:
        inferer = SlidingWindowInferer(roi, 4, overlap, mode="gaussian")
        return lambda x: inferer(x, network)  # type: ignore[no-any-return]

    def whole(x: Tensor) -> Tensor:
        room = [part for n in reversed(x.shape[2:]) for part in (0, -n % STRIDE)]
        logits = network(pad(x, room, mode="replicate"))
        return logits[tuple(slice(n) for n in (*logits.shape[:2], *x.shape[2:]))]

    def smoothed(sigma: float) -> Predict:
        blur = GaussianFilter(3, sigma)
        return lambda x: blur(as_trained(x).softmax(1))  # type: ignore[no-any-return]

    def times(text: list[int]) -> str:
        return "×".join(map(str, text))

    as_trained = windows(size)
    larger = [n + STRIDE for n in size]
    largest = [n + 2 * STRIDE for n in size]
    scores = {
        f"windows of {times(size)}, as trained": as_trained,
        "the same, overlapping by half": windows(size, 0.5),
        f"windows of {times(larger)}": windows(larger),
        f"windows of {times(largest)}, smaller volumes padded with zeros": windows(largest),
        f"whole, its border repeated to multiples of {STRIDE}": whole,
        "mean of the logits of both sides": mirrored(as_trained, (0,)),
        "mirrored": lambda x: as_trained(x.flip(SIDE)).flip(SIDE),
    } | {f"probabilities smoothed by {s} voxels": smoothed(s) for s in (0.4, 0.6, 0.8)}
    found: dict[str, Predict] = {
        name: lambda x, score=score: score(x).argmax(1, keepdim=True)  # type: ignore[misc]
        for name, score in scores.items()
    }
    found["largest component alone"] = lambda x: component(as_trained(x).argmax(1, keepdim=True))
    return found


def component(labels: Tensor) -> Tensor:
    """The largest connected part of the foreground, neighbours by corners included."""
    parts, count = ndimage.label(labels[0, 0].numpy() > 0, np.ones((3, 3, 3)))
    if count < 2:
        return labels
    best = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return labels * torch.as_tensor(parts == best)


if __name__ == "__main__":
    main()
