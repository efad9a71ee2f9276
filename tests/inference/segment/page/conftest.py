"""A finished run with hostile names, a failed case and an unusual volume, to read only."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import blocks, change, labels_of, make_rounding_bundle, read, save
from helpers.segment_bundle import segment as run_segment
from perforated_monai.inference.segment.volumes import measure_volumes

# A folder name ends in "<" and the file's name goes on with "script>": together they close a tag.
HOSTILE = ("<img src=x onerror=alert(1)>.nii.gz", "<", "script><script>alert(2)<")


@dataclass(frozen=True)
class Done:
    """``source`` was segmented into ``masks``, which lie beside each other."""

    source: Path
    masks: Path

    def copy(self, folder: Path) -> Done:
        """The same, to change."""
        shutil.copytree(self.source.parent, folder, dirs_exist_ok=True)
        return Done(folder / self.source.name, folder / self.masks.name)


@pytest.fixture(scope="package")
def done(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("run")
    bundle, source = make_rounding_bundle(folder / "bundle"), folder / "in"
    labels = tmp_path_factory.mktemp("labels")
    for k in range(5):  # training labels of different size; 15 mL is far beyond
        values = np.zeros((10, 10, 10), "u1")
        values[:5, :5, : 2 + k % 3], values[5:, 5:, :4] = 1, 2
        save(labels / f"{k}.nii.gz", values)
    ranges = {"training_volumes": measure_volumes(sorted(labels.iterdir()), LABELS)}
    change(bundle, "metadata.json", segment=read(bundle, "metadata.json")["segment"] | ranges)
    for k in range(2):
        save(source / f"case_{k}.nii.gz", blocks(seed=k) * (1 - 0.9 * k), np.diag([2, 1, 0.5, 1]))
    save(source / "large.nii.gz", blocks((34, 30, 28), seed=3))
    save(source / HOSTILE[0], blocks(seed=4))
    save(source / HOSTILE[1] / f"{HOSTILE[2]}" / "x.nii.gz", blocks(seed=5))
    (source / "cut.nii.gz").write_bytes((source / "case_0.nii.gz").read_bytes()[:200])
    summary = run_segment(source, folder / "masks", bundle)
    assert summary.exit_code == 3 and len(summary.rows) == 6
    assert labels_of(folder / "masks" / "case_0_seg.nii.gz").any()
    return Done(source, folder / "masks")


LABELS = {1: "anterior hippocampus", 2: "posterior hippocampus"}
