"""A bundle, its segmenter and scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import (
    blocks,
    make_rounding_bundle,
    save,
)
from perforated_monai.inference.segment import Segmenter


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_rounding_bundle(tmp_path_factory.mktemp("rounding") / "bundle")


@pytest.fixture(scope="module")
def segmenter(bundle) -> Segmenter:
    return Segmenter(bundle, device="cpu")


@pytest.fixture
def scans(tmp_path) -> Path:
    for k in range(3):
        save(tmp_path / "in" / f"{k}.nii.gz", blocks(seed=k), np.diag([2, 1, 0.5, 1]))
    return tmp_path / "in"
