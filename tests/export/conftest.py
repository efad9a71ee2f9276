"""Strangers' bundles, grown once."""

from collections.abc import Callable

import pytest

from helpers.foreign_bundles import (
    train_with_overlay,
    tree_hash,
)
from helpers.grown_foreign import Grown, prepared


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Grown]:
    """``grown(style)``: trained once a module."""
    made: dict[str, Grown] = {}

    def make(style: str) -> Grown:
        if style not in made:
            folder = tmp_path_factory.mktemp(style)
            bundle, data = prepared(folder, style)
            before = tree_hash(bundle)
            train_with_overlay(bundle, data, folder / "run")
            made[style] = Grown(bundle, data, folder / "run", before)
        return made[style]

    return make
