"""Tiny datasets in MSD layout: twelve cases of 4 x 5 x 6 voxels."""

from pathlib import Path

import nibabel as nib
import numpy as np

from perforated_monai.data.check import NOTE, check_dataset


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def image_of(case: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(case).random(shape, dtype=np.float32)


def label_of(case: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(case).integers(0, 3, shape, dtype=np.uint8)


def fill(root: Path, cases: range = range(12), where: str = "Tr", suffix: str = ".nii.gz") -> Path:
    for case in cases:
        save(root / f"images{where}/case_{case:02d}{suffix}", image_of(case))
        save(root / f"labels{where}/case_{case:02d}{suffix}", label_of(case))
    return root


def problems(root: Path, manifest: object) -> list[str]:
    """Errors and warnings of a folder, one line each."""
    findings = check_dataset(root, manifest, workers=1).findings
    return [finding.text(root) for finding in findings if finding.severity != NOTE]
