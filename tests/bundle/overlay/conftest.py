"""The spleen-style bundle, with a change."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.foreign_bundles import spleen
from helpers.overlay_reading import Change


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """``bundle(change)``: the spleen-style bundle with its train.json changed by a function."""

    def make(change: Change | None = None) -> Path:
        folder = spleen(tmp_path / "spleen")
        if change is not None:
            file = folder / "configs" / "train.json"
            config = json.loads(file.read_text())
            change(config)
            file.write_text(json.dumps(config))
        return folder

    return make
