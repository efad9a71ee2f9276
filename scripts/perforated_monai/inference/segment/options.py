"""What a run of ``segment`` was asked for beside the segmenter's own options."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...files import sha256
from .segmenter import Segmenter


@dataclass
class Options:
    """Options of a run.

    Raises:
        UserError: for options that do not go together.
    """

    workers: int | None = None
    resume: bool = False
    preview: bool = False
    anonymous: bool = False
    series: str = ""
    dicom_seg: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            msg = f"--workers must be at least 1; got {self.workers}."
            raise UserError(msg)
        if self.dicom_seg and self.anonymous:
            msg = "--dicom-seg copies patient data, as DICOM requires: it cannot be --anonymous."
            raise UserError(msg)


def settings_hash(segmenter: Segmenter, options: Options) -> str:
    """Hash of everything but the input that decides what a case gives."""
    bundle = segmenter.bundle
    parts = (
        *(bundle.weights_sha256, bundle.config_sha256, sorted(segmenter.settings.items())),
        *(segmenter.device.type, segmenter.probabilities, segmenter.allow_out_of_range),
        options.series,
    )
    return sha256(repr(parts).encode())[:16]
