"""What rules compare a volume or a folder with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..manifest import Manifest
from .volume import Volume


@dataclass
class Facts:
    """The manifest, and what was read of the cases.

    Attributes:
        root: dataset folder, resolved.
        manifest: expected cases, channels, labels, spacing; without split where there is none.
        listed: every volume in the manifest's folders, relative to the root.
        cases: the ids that are checked.
        pairs: id -> image and label of the cases that have both.
    """

    root: Path
    manifest: Manifest
    listed: set[str]
    cases: list[str]
    pairs: dict[str, tuple[Volume, Volume]] = field(default_factory=dict)

    @property
    def part_of(self) -> dict[str, str]:
        """Part of each case, "test" or "fold K"; empty without a split."""
        manifest = self.manifest
        folds = {case: f"fold {k}" for k, ids in enumerate(manifest.folds) for case in ids}
        return folds | dict.fromkeys(manifest.test, "test")

    def readable(self) -> dict[str, tuple[Volume, Volume]]:
        """The pairs whose headers both could be read."""
        return {
            case: pair
            for case, pair in self.pairs.items()
            if all(v.header is not None for v in pair)
        }
