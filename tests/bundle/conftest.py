"""A small bundle to pack."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.share_bundle import (
    TOP,
    small_bundle,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("source"))


@pytest.fixture
def bundle(source, tmp_path) -> Path:
    return shutil.copytree(source, tmp_path / TOP)
