"""Are hippocampi of a folder left ones, right ones or both, and which are of one subject?

    python tests/benchmarks/handedness.py Task04_Hippocampus [--pairs 300] [--runs runs/tiny_0 …]

Two looks at volumes in MSD layout, by labels and by images. The tail of a hippocampus (label 2)
lies farther from the midline than its head (label 1): to the left of it in a left one. And two
volumes are compared by normalised cross-correlation at half resolution, at the best shift that
overlaps by more than half, as they are and with one of them mirrored: mirrored fits better where
one is left and the other right. Neighbours in number (1 and 2, 3 and 4, …) stand beside random
pairs. With run folders, one a fold: is Dice higher where the neighbour (1 and 2, 3 and 4, …) was
trained on?
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from folds import interval, score
from scipy.fft import irfftn, rfftn
from scipy.ndimage import zoom

from perforated_monai.growth.trained import load_trained

SHAPE = (48, 64, 48)  # holds two volumes of half resolution beside each other without wrapping
OVERLAP = 0.55  # of the smaller volume


@dataclass(frozen=True)
class Spectra:
    """Fourier transforms of a volume, of its voxels' places, and of its squares."""

    voxels: int
    value: np.ndarray
    mask: np.ndarray
    square: np.ndarray

    @classmethod
    def of(cls, volume: np.ndarray) -> Spectra:
        return cls(
            volume.size,
            *(rfftn(v, SHAPE) for v in (volume, np.ones_like(volume), volume**2)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--pairs", type=int, default=300, help="random pairs")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="one a fold")
    arguments = parser.parse_args()
    files = sorted((arguments.data / "imagesTr").glob("hippocampus_*.nii.gz"))
    sides = [tail_side(arguments.data / "labelsTr" / file.name) for file in files]
    print(f"tail left of the head in {sum(s < 0 for s in sides)} of {len(sides)} volumes, ", end="")
    print(f"{-np.mean(sides):.1f} mm on average (standard deviation {np.std(sides):.1f})\n")
    plain, mirrored = {}, {}
    for file in files:
        number = int(file.name[12:15])
        volume = halved(file)
        plain[number], mirrored[number] = Spectra.of(volume), Spectra.of(volume[::-1])
    numbers = sorted(plain)
    chosen = random.Random(0)
    groups = {
        "1 and 2, 3 and 4, …": [(n, n + 1) for n in numbers if n % 2 and n + 1 in plain],
        "2 and 3, 4 and 5, …": [(n, n + 1) for n in numbers if not n % 2 and n + 1 in plain],
        "random": [tuple(chosen.sample(numbers, 2)) for _ in range(arguments.pairs)],
    }
    print("| pairs | number | correlation | mirrored | mirrored fits better in |")
    print("|---|---|---|---|---|")
    for name, pairs in groups.items():
        same = np.array([likeness(plain[a], plain[b]) for a, b in pairs])
        other = np.array([likeness(plain[a], mirrored[b]) for a, b in pairs])
        print(f"| {name} | {len(pairs)} | {spread(same)} | {spread(other)} | {sum(other > same)} |")
    if arguments.runs:
        print(f"\n{by_neighbour(arguments.runs, arguments.data)}")


def by_neighbour(runs: list[Path], data: Path) -> str:
    """Mean Dice of cases whose neighbour was trained on, and of the others."""
    trained = {run: load_trained(run) for run in runs}
    scored = [score([run], data, None) for run in trained.values()]
    fold_of = {int(case[-3:]): fold for fold, cases in scored for case in cases}
    groups: dict[bool, list[float]] = {True: [], False: []}
    for fold, cases in scored:
        for case, dice in cases.items():
            number = int(case[-3:])
            neighbour = number + 1 if number % 2 else number - 1
            groups[fold_of.get(neighbour, fold) != fold].append(float(dice.mean()))
    return "; ".join(
        f"neighbour {'trained on' if known else 'not seen'}: mean Dice {interval(values)}, "
        f"{len(values)} cases"
        for known, values in groups.items()
    )


def tail_side(file: Path) -> float:
    """Millimetres of the tail's centre to the right of the head's."""
    image = nib.as_closest_canonical(nib.load(file))  # axes to the right, front and top
    label = np.asarray(image.dataobj)
    head, tail = (np.argwhere(label == part).mean(0) for part in (1, 2))
    return float(((tail - head) * image.header.get_zooms())[0])


def halved(file: Path) -> np.ndarray:
    """A volume at half resolution, mean 0 and standard deviation 1."""
    values = np.asarray(nib.as_closest_canonical(nib.load(file)).dataobj, dtype=np.float64)
    small = zoom(values, 0.5, order=1)
    return (small - small.mean()) / small.std()


def likeness(a: Spectra, b: Spectra) -> float:
    """Normalised cross-correlation at the best shift with enough overlap."""

    def over(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return irfftn(np.conj(x) * y, SHAPE)

    voxels = over(a.mask, b.mask)
    enough = voxels > OVERLAP * min(a.voxels, b.voxels)
    n = voxels[enough]
    product, of_a, of_b = (
        over(x, y)[enough] / n
        for x, y in ((a.value, b.value), (a.value, b.mask), (a.mask, b.value))
    )
    squares_a, squares_b = (
        over(x, y)[enough] / n for x, y in ((a.square, b.mask), (a.mask, b.square))
    )
    variance = (squares_a - of_a**2) * (squares_b - of_b**2)
    return float(np.max((product - of_a * of_b) / np.sqrt(np.maximum(variance, 1e-9))))


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


if __name__ == "__main__":
    main()
