"""Strangers' bundles, grown once."""

from collections.abc import Callable

import pytest

from helpers.foreign_bundles import (
    train_with_overlay,
    tree_hash,
)
from helpers.grown_foreign import Grown, prepared
from perforated_monai.bundle.overlay.make import Choices


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Grown]:
    """``grown(style)``: trained once a module."""
    made: dict[str, Grown] = {}

    def make(style: str) -> Grown:
        if style not in made:
            folder = tmp_path_factory.mktemp(style)
            bundle, data = prepared(folder, style)
            before = tree_hash(bundle)
            # Its maps are smaller than a distal dendrite's kernel, which asks for larger windows.
            choices = Choices(kind="copy") if style == "swin" else None
            train_with_overlay(bundle, data, folder / "run", choices)
            made[style] = Grown(bundle, data, folder / "run", before)
        return made[style]

    return make
