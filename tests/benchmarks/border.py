"""A slice with the border before and after dendrites, from two run folders.

    python tests/benchmarks/border.py BEFORE AFTER --data DATA [--manifest FILE] --out border.png

Both networks segment the validation cases of fold 0 by windows of the training size. Drawn is the
slice in which most voxels changed to the better, in the case that gains most; the title says what
the others do.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from perforated_monai import build_network
from perforated_monai.growth.trained import load_trained, make_spec
from perforated_monai.training.run_folder import RunFolder

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
PATCH = (32, 48, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--manifest", default="")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cases = read_cases(arguments.data, arguments.manifest)
    networks = [load(arguments.before), load(arguments.after)]
    scores = np.array([[dice(predict(n, i), t) for i, t in cases] for n in networks])
    draw(networks, scores, cases, arguments.out)


def load(run: Path) -> nn.Module:
    """The plain form of a run's best network; arm from_start has it from the first epoch on."""
    folder = RunFolder(run)
    definition = folder.provenance().config["base_network_def"]
    if not definition["_target_"].endswith("build_network"):
        return make_spec(load_trained(run))[1].eval()
    network = build_network(definition["spec"])
    network.load_state_dict(folder.checkpoints.load_best()["network"], strict=True)
    return network.eval()


def read_cases(data: str, manifest: str = "") -> list[tuple[Tensor, Tensor]]:
    """Validation cases of fold 0 as validation sees them: image and label, ``(1, *space)``."""
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "train.json")))
    parser.update({"bundle_root": str(BUNDLE), "dataset_dir": data, "fold": 0})
    if manifest:
        parser.update({"manifest": manifest})
    dataset = parser.get_parsed_content("validate::dataset")
    rows = [dataset[i] for i in range(len(dataset))]
    return [(torch.as_tensor(r["image"]), torch.as_tensor(r["label"])) for r in rows]


@torch.no_grad()
def predict(network: nn.Module, image: Tensor) -> Tensor:
    """Labels by windows of the training size, as the bundle does it."""
    logits = sliding_window_inference(image[None], PATCH, 4, network, 0.25, "gaussian")
    return torch.as_tensor(logits).argmax(1)


def dice(found: Tensor, true: Tensor) -> float:
    """Mean of both classes."""
    values = []
    for c in (1, 2):
        a, b = found == c, true == c
        values.append(float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1)))
    return statistics.mean(values)


def draw(
    networks: list[nn.Module], scores: np.ndarray, cases: list[tuple[Tensor, Tensor]], file: Path
) -> None:
    """Both masks of one slice; ``scores`` is ``(2, cases)``."""
    gains = scores[1] - scores[0]
    index = int(gains.argmax())
    image, true = cases[index]
    masks = [predict(network, image)[0].numpy() for network in networks]
    volume, label = image[0].numpy(), true[0].numpy()
    better = (masks[1] == label).astype(int) - (masks[0] == label)
    z = int(better.sum((0, 1)).argmax())
    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    titles = ("without dendrites", "with dendrites")
    was_wrong = masks[0] != label
    for axes, mask, title, score in zip(
        figure.subplots(1, 2), masks, titles, scores[:, index], strict=True
    ):
        axes.imshow(volume[:, :, z].T, cmap="gray", origin="lower")
        wrong = mask != label
        for what, color in ((wrong, "#d55e00"), (was_wrong & ~wrong, "#009e73")):
            shown = np.ma.masked_equal(what[:, :, z].T.astype(int), 0)
            axes.imshow(shown, cmap=ListedColormap([color]), origin="lower", alpha=0.6)
        for value, color in ((1, "#f0e442"), (2, "#56b4e9")):
            for what, style, width in ((label, "-", 1.2), (mask, (0, (2, 1.2)), 2.4)):
                region = (what == value)[:, :, z].T
                if region.any():
                    axes.contour(region, [0.5], colors=color, linestyles=[style], linewidths=width)
        axes.set_title(f"{title}\nDice of the case {score:.3f}", fontsize=10)
        axes.set_axis_off()
    figure.suptitle(
        "solid: true border, dashed: predicted; orange: wrong voxels, green: mended ones\n"
        f"the case that gains most of {len(gains)}; the median gain is {np.median(gains):+.4f}, "
        f"and {(gains > 0).sum()} gain",
        fontsize=9,
    )
    figure.savefig(file)


if __name__ == "__main__":
    main()
