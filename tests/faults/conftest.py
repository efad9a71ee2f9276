"""Scans and a segmenter for the faults of segmentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.segment_bundle import (
    blocks,
    make_rounding_bundle,
    save,
)
from helpers.segment_faults import GOOD
from perforated_monai.inference.segment import Segmenter


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    return Segmenter(make_rounding_bundle(tmp_path_factory.mktemp("bundle") / "b"), device="cpu")


@pytest.fixture
def scans(tmp_path) -> Path:
    """Two good volumes, for bad ones to be put beside."""
    for seed, name in enumerate(GOOD):
        save(tmp_path / "in" / name, blocks(seed=seed))
    return tmp_path / "in"
