"""One trial: its name, and the folders in which a study reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .study_file import Study

SWEEP_ARM = "sweep"  # trials of a sweep have no arm: sweep0000, sweep0001, …


@dataclass(frozen=True)
class Trial:
    """One arm of one network with one seed on one fold."""

    network: str
    arm: str
    fold: int
    seed: int

    @property
    def id(self) -> str:
        return f"{self.network}-{self.arm}-fold{self.fold}-seed{self.seed}"

    @property
    def leader(self) -> Trial:
        """The dendritic trial that this one follows."""
        return Trial(self.network, "dendrites", self.fold, self.seed)


@dataclass(frozen=True)
class Places:
    """Where a study reads and writes.

    Attributes:
        results: small files that are kept, one folder a trial.
        work: run folders with checkpoints; may be deleted when a study is done.
        dataset: folder of the data.
        manifest: manifest file, or None for the bundle's own.
        extra: handlers and keys laid over every trial (trackers).
    """

    results: Path
    work: Path
    dataset: Path
    manifest: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def cases(self) -> Path:
        """Folder of loaded and resampled cases, for all trials."""
        return self.work / "cases"

    @property
    def crops(self) -> Path:
        """Folder of augmented crops, for all trials."""
        return self.work / "crops"

    def kept(self, trial: Trial) -> Path:
        """Folder of what is kept of a trial."""
        return self.results / trial.id

    def run(self, trial: Trial) -> Path:
        """Run folder of a trial."""
        return self.work / trial.id


def places_of(
    study: Study, *, dataset: str = "", results: str = "", work: str = "", manifest: str = ""
) -> Places:
    """Folders of a study; by default results lie beside the study file."""
    folder = Path(results) if results else study.file.parent / "results" / study.name
    return Places(
        results=folder,
        work=Path(work) if work else folder / "work",
        dataset=Path(dataset).resolve() if dataset else Path(),
        manifest=Path(manifest).resolve() if manifest else None,
    )
