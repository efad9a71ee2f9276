"""Cross-validation of one recipe: Dice of each case by the network that did not train on it.

    python tests/benchmarks/folds.py a=runs/a_0,runs/a_1 b=runs/b_0 --data <Task04_Hippocampus>

Each group is a name and its run folders, one a fold; each run's best network segments the
validation cases of its own fold, or of ``--fold``. Run folders joined by ``+`` are an ensemble, as
``segment`` with several bundles. ``--tta GROUP`` averages a group's logits over left and right, as
``segment --tta``. Prints Markdown: a row a fold, the mean over all cases with its
95 % t interval, and the mean difference of the first group to others over the cases both have.

``--published NAME=FILE.csv:COLUMN`` adds somebody else's mean Dice of each case; the first column
of the file names it. nnU-Net's out-of-fold Dice is ``argmax_foreground_mean_dice`` of
evidence/datasets/Task004_Hippocampus/case_paired_deltas.csv in
https://github.com/rankseg/rankseg-nnunet-benchmark; only cases that the groups have are used.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from scipy import stats

from perforated_monai.data.dataset import CaseDataset
from perforated_monai.growth.trained import Trained, load_trained, make_spec
from perforated_monai.inference.segment.ensemble import MeanOfNetworks
from perforated_monai.inference.segment.predictor import mirrored

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
Cases = dict[str, np.ndarray]  # case -> Dice of each class


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("groups", nargs="+", help="name=run,run,...")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", type=int, help="of the cases; trials of studies name another")
    parser.add_argument("--tta", action="append", default=[], help="name of a group to mirror")
    parser.add_argument("--published", action="append", default=[], help="NAME=FILE.csv:COLUMN")
    arguments = parser.parse_args()
    found: dict[str, Cases] = {}
    print("| network | fold | cases | anterior | posterior | mean Dice | best epoch | sets |")
    print("|---|---|---|---|---|---|---|---|")
    for group in arguments.groups:
        name, _, runs = group.partition("=")
        found[name] = {}
        for joined in runs.split(","):
            members = [load_trained(Path(run)) for run in joined.split("+")]
            tta = name in arguments.tta
            fold, cases = score(members, arguments.data, arguments.fold, tta=tta)
            found[name] |= cases
            trained = members[0]
            sets = trained.best["growth"]["sets"] if trained.grown else 0
            print(f"| {name} | {fold} | {row(cases)} | {trained.best['epoch']} | {sets} |")
        print(f"| {name} | all | {row(found[name])} | | |")
    known = set().union(*found.values())
    for text in arguments.published:
        name, _, place = text.partition("=")
        file, _, column = place.rpartition(":")
        found[name] = {c: d for c, d in published(Path(file), column).items() if c in known}
    for name, cases in found.items():
        print(f"\n{name}: mean Dice {interval([float(d.mean()) for d in cases.values()])}")
    first, *others = found
    for name in others:
        both = sorted(found[first].keys() & found[name].keys())
        gaps = [float(found[first][c].mean() - found[name][c].mean()) for c in both]
        print(f"{first} - {name}: {interval(gaps)}, {len(both)} cases")


def score(
    members: list[Trained], data: Path, fold: int | None, tta: bool = False
) -> tuple[int, Cases]:
    """Fold of the cases, and their Dice by the mean of the runs' best networks."""
    fold, dataset, inferer = validation_of(members, data, fold)
    networks = [make_spec(run)[1].eval() for run in members]
    network = networks[0] if len(networks) == 1 else MeanOfNetworks(networks, exclusive=True)
    predict = mirrored(network, (0,)) if tta else network
    cases: Cases = {}
    with torch.no_grad():
        for i in range(len(dataset)):
            item: dict[str, Any] = dataset[i]
            logits = inferer(torch.as_tensor(item["image"])[None], predict)
            truth = one_hot(torch.as_tensor(item["label"])[None], logits.shape[1])
            labels = one_hot(logits.argmax(1, keepdim=True), logits.shape[1])
            cases[item["case"]] = compute_dice(labels, truth, include_background=False)[0].numpy()
    return fold, cases


def validation_of(
    members: list[Trained], data: Path, fold: int | None
) -> tuple[int, CaseDataset, SlidingWindowInferer]:
    """A fold, by default that of the run, its validation cases, and the windows of the training."""
    made = json.loads((members[0].run.path / "config.json").read_text())["config"]
    fold = int(made["fold"]) if fold is None else fold
    config = ConfigParser(ConfigParser.load_config_files([str(BUNDLE / "configs" / "train.json")]))
    config.update({"bundle_root": str(BUNDLE), "dataset_dir": str(data), "fold": fold})
    config["roi_size"] = made["roi_size"]
    dataset, inferer = (config.get_parsed_content(f"validate::{k}") for k in ("dataset", "inferer"))
    return fold, dataset, inferer


def published(file: Path, column: str) -> Cases:
    """Mean Dice of each case in a table of others."""
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or column not in rows[0]:
        sys.exit(
            f"{file} has no column {column!r}; it has {', '.join(rows[0]) if rows else 'none'}."
        )
    case = next(iter(rows[0]))
    return {line[case]: np.array([float(line[column])]) for line in rows}


def row(cases: Cases) -> str:
    """Number of cases, Dice of each class and their mean."""
    values = np.array(list(cases.values()))
    each = " | ".join(f"{v:.4f}" for v in np.nanmean(values, axis=0))
    return f"{len(values)} | {each} | {np.nanmean(values):.4f}"


def interval(values: list[float]) -> str:
    """Mean and 95 % t interval."""
    mean, half = float(np.mean(values)), float(stats.sem(values))
    half *= float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:.4f} (95 % {mean - half:.4f} to {mean + half:.4f})"


if __name__ == "__main__":
    main()
