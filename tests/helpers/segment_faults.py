"""What a run over good and bad scans must leave behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.segment_bundle import (
    blocks,
    labels_of,
    reasons,
    segment,
)
from perforated_monai.inference.segment import Segmenter

GOOD = ("good1.nii.gz", "good2.nii")


def good_masks_are_right(output: Path) -> None:
    for seed, name in enumerate(GOOD):
        stem = name.split(".")[0]
        assert np.array_equal(labels_of(output / f"{stem}_seg.nii.gz"), np.round(blocks(seed=seed)))


def refuses(scans: Path, segmenter: Segmenter, expected: dict[str, str]) -> None:
    """k bad files of N give N - k right masks, k named reasons and exit code 3."""
    output = scans.parent / "out"
    summary = segment(scans, output, segmenter)
    found = reasons(summary)
    assert sorted(found) == sorted(expected)
    for name, reason in expected.items():
        assert reason in found[name], (name, found[name])
        assert str(scans.parent) not in found[name]
        assert not list(output.rglob(f"{name.split('.')[0]}_seg*"))
    good_masks_are_right(output)
    assert summary.exit_code == 3
    assert len(summary.rows) == len(GOOD) + len(expected)
