"""A packed bundle, and a watch over what its verification leaves behind."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.share_bundle import Content, read_zip, small_bundle, without_package
from perforated_monai.bundle.pack import pack_bundle


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return pack_bundle(small_bundle(folder), folder / "small.zip").file


@pytest.fixture
def content(packed) -> Content:
    """The packed bundle without the package, which few cases are about."""
    return without_package(read_zip(packed))


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Iterator[Path]:
    """The only temporary folder; empty again after every test, whatever was refused."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    modules = set(sys.modules)
    yield folder
    assert list(folder.iterdir()) == []
    assert not [name for name in set(sys.modules) - modules if "evil" in name]
    assert not (tmp_path / "ran").exists()
