"""A bundle of a stranger with its run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.foreign_bundles import (
    brats,
    prostate,
    spleen,
    swin,
    write_cases,
)

# name: bundle, labels from shell to core
STYLES: dict[str, tuple[Callable[..., Path], tuple[int, ...]]] = {
    "spleen": (spleen, (1,)),
    "brats": (brats, (2, 1, 4)),
    "prostate": (prostate, (1,)),
    "swin": (swin, (1,)),
}


@dataclass(frozen=True)
class Grown:
    """A bundle, its data, the run of its overlay, and its files before that."""

    bundle: Path
    data: Path
    run: Path
    before: dict[str, str]


def prepared(folder: Path, style: str) -> tuple[Path, Path]:
    make, values = STYLES[style]
    if style == "swin":
        pytest.importorskip("einops", reason="SwinUNETR needs einops (extra dev)")
    data = write_cases(folder / "data", channels=4 if style == "brats" else 1, values=values)
    return make(folder / style), data
