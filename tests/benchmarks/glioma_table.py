"""The table of the glioma bundle's page: Dice of patients, and tumours that were found, by size.

    python tests/benchmarks/glioma_table.py --data GliomaT1

It reads ``cases.csv`` of the study's results and counts the voxels of the labels. A patient's Dice
is the mean of the patient's visits, so that nobody counts twice. A tumour counts as found from a
Dice of 0.2 on; intervals of shares are Wilson's.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from perforated_monai.data.manifest import Manifest, load_manifest
from perforated_monai.data.scores import interval
from perforated_monai.study.result_tables import read_tables

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "glioma_t1c_mri_dendritic"
RESULTS = BUNDLE / "studies" / "results" / "dendrites"
FOUND = 0.2  # Dice
SIZES = (0, 1500, 3000, math.inf)  # voxels of a label


def read_dice(results: Path) -> dict[str, dict[str, float]]:
    """Arm -> case -> Dice of the tumour; each case is tested in one fold.

    A trial that has nothing to differ by from another arm's has that one's cases: ``same_as``.
    """
    tables = read_tables(results)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for trial, row in tables.rows.items():
        source = replace(trial, arm=row.same_as or trial.arm)
        found[trial.arm] |= {c.case: c.values["dice_tumour"] for c in tables.cases[source]}
    return found


def of_patients(dice: dict[str, float], manifest: Manifest) -> list[float]:
    """One mean a patient, over the patient's cases."""
    visits = defaultdict(list)
    for case, value in dice.items():
        visits[manifest.patients[case]].append(value)
    return [float(np.mean(values)) for values in visits.values()]


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    if of == 0:
        return 0.0, 1.0
    z, share = 1.959964, hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def rows(dice: dict[str, dict[str, float]], sizes: dict[str, int], manifest: Manifest) -> list[str]:
    """The table in Markdown, an arm a row."""
    bounds = list(itertools.pairwise(SIZES))
    head = ["network", "patients", "Dice of a patient, 95 % interval", "median"]
    for low, high in bounds:
        size = (
            f"below {high}" if low == 0 else f"{low} to {high}" if high < math.inf else f"{low} up"
        )
        head.append(f"found, {size} voxels")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for arm, cases in dice.items():
        values = of_patients(cases, manifest)
        mean = interval(values)
        assert mean is not None
        low, high = max(0.0, mean.low or 0.0), min(1.0, 1.0 if mean.high is None else mean.high)
        cells = [arm, str(len(values)), f"{mean.mean:.3f} ({low:.3f} to {high:.3f})"]
        cells.append(f"{np.median(values):.3f}")
        for least, most in bounds:
            inside = [value for case, value in cases.items() if least <= sizes[case] < most]
            hits = sum(value >= FOUND for value in inside)
            ends = wilson(hits, len(inside))
            cells.append(f"{hits} of {len(inside)} ({ends[0]:.0%} to {ends[1]:.0%})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def voxels(label: Path) -> int:
    """Voxels of a label that are not background."""
    return int((np.asarray(nib.load(label).dataobj) > 0).sum())  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with labelsTr")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of tables")
    arguments = parser.parse_args()
    manifest = load_manifest(BUNDLE / "configs" / "glioma_t1c.json")
    dice = read_dice(arguments.results)
    cases = {case for values in dice.values() for case in values}
    sizes = {case: voxels(arguments.data / manifest.files(case)[1]) for case in cases}
    print("\n".join(rows(dice, sizes, manifest)))


if __name__ == "__main__":
    main()
