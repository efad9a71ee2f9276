"""The shipped bundles, and what MONAI's model zoo asks of their metadata."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from monai.bundle import (
    verify_metadata,
)

ROOT = Path(__file__).resolve().parents[2]


SCHEMA = Path(__file__).with_name("schema_20240725.json")


PHANTOM_KIND = {  # every bundle, and its test data
    "brain_tumor_mri_dendritic": "tumour",
    "glioma_t1c_mri_dendritic": "glioma",
    "hippocampus_mri_dendritic": "hippocampus",
}


BUNDLES = sorted(folder for folder in (ROOT / "bundles").iterdir() if folder.is_dir())


LARGEST_FILE = 25_000_000  # bytes; the zoo keeps what is larger outside, in large_files.yml


each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)


def check_metadata(file: Path, folder: Path) -> None:
    """MONAI's own check; a schema file that is already there is not downloaded."""
    shutil.copy(SCHEMA, folder / "schema.json")
    verify_metadata(meta_file=str(file), filepath=str(folder / "schema.json"))
