"""One case from its files to its mask and its row, in whichever thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib

from ...errors import UserError
from ...files import sha256
from ..scan import Scan
from .cases import Case, shown
from .cores import Turns
from .header import Header
from .mask import write_mask
from .read import hash_files, read_headers, read_nifti
from .segmenter import Segmenter
from .states import Options, Predicted, Segmentation
from .table import DONE, FAILED, Row, measure_structures

# Volumes above this are read, segmented and written alone: two would not fit a laptop.
LARGE = 20_000_000  # voxels
_PROBABILITY_SCALE = 1 / 65535


@dataclass
class _Work:
    """What is known of a case so far."""

    case: Case
    headers: list[Header] = field(default_factory=list)
    checksum: str = ""
    nifti: nib.Nifti1Header | None = None
    series: Any = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    @property
    def large(self) -> bool:
        return sum(h.voxels for h in self.headers) > LARGE


class CaseRun:
    """Does cases: ``CaseRun(...)(case)`` gives its row, and whether it was kept from before.

    Args:
        segmenter: with its engine loaded.
        output: folder of the masks.
        options: of the run.
        earlier: rows of an earlier run, by case; a case that did not change is kept.
        turns: for the network.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        output: Path,
        options: Options,
        earlier: dict[str, Row],
        turns: Turns,
    ) -> None:
        self.segmenter, self.bundle = segmenter, segmenter.bundle
        self.output, self.options, self.earlier, self.turns = output, options, earlier, turns
        self.settings = segmenter.settings_hash(options.series)
        self._one_large = threading.Lock()

    def __call__(self, case: Case) -> tuple[Row, bool]:
        """A failure is a row too; nothing is raised."""
        work = _Work(case)
        row: Row = {"case": case.name, "status": FAILED, "reason": "", "notes": []}
        try:
            with work.timed("read"):
                work.headers = check_headers(case, self.segmenter)
            with self._one_large if work.large else contextlib.nullcontext():
                done = self._run(work)
            if done is None:
                return self.earlier[case.name], True
            row |= done
        except Exception as error:
            row["reason"] = self._reason(error)
        parts = ("read", "network", "write")
        row |= {f"seconds_{k}": round(work.seconds.get(k, 0.0), 3) for k in parts}
        row |= {"bundle_version": self.bundle.version, "settings": self.settings}
        row["engine"] = self.segmenter.settings["engine"]
        if work.checksum:
            row["input_sha256"] = work.checksum
        return row, False

    def _run(self, work: _Work) -> Row | None:
        """None: nothing changed since an earlier run."""
        with work.timed("read"):
            work.checksum = hash_files(work.case.files)
            if self._unchanged(work.case, work.checksum):
                return None
            scan, work.series = read_scan(work.case, self.segmenter, self.options, work.headers)
            work.nifti = scan.nifti
            prepared = self.segmenter.prepare(scan)
            del scan
        with self.turns.turn(work.large), work.timed("network"):
            predicted = self.segmenter.infer(prepared)
        del prepared
        with work.timed("write"):
            return self._written(work, predicted)

    def _unchanged(self, case: Case, checksum: str) -> bool:
        """Done before from the same input with the same settings, and its mask is as written."""
        row = self.earlier.get(case.name)
        if not row or row.get("input_sha256") != checksum or row.get("settings") != self.settings:
            return False
        paths = [self._target(case)]
        if self.options.preview:
            paths.append(self._target(case, "preview", ".png"))
        if self.segmenter.probabilities:
            paths.append(self._target(case, "prob"))
        if self.options.dicom_seg and case.dicom:
            paths.append(self._target(case, self.bundle.postfix, ".dcm"))
        if not all(path.is_file() for path in paths):
            return False
        return sha256(paths[0].read_bytes()) == row.get("mask_sha256")

    def _written(self, work: _Work, predicted: Predicted) -> Row:
        case = work.case
        result = self.segmenter.restore(predicted)
        affine = predicted.prepared.affine
        names = self.bundle.labels if result.labels.ndim == 3 else self.bundle.channel_names
        structures = measure_structures(result.labels, affine, names)
        target = self._target(case)
        self._extras(work, result, affine)
        write_mask(target, result.labels, affine, work.nifti)
        row: Row = {
            "status": DONE,
            "notes": result.notes,
            "mask": shown(target.relative_to(self.output)),
            "confidence_mean": _rounded(result.confidence.mean),
            "confidence_lowest_decile": _rounded(result.confidence.lowest_decile),
            "mask_sha256": sha256(target.read_bytes()),
        }
        for structure in structures:
            row |= structure.cells
        return row

    def _extras(self, work: _Work, result: Segmentation, affine: Any) -> None:
        """What was asked for beside the mask; before the mask, whose presence means done."""
        case = work.case
        if result.probabilities is not None:
            stored = (result.probabilities / _PROBABILITY_SCALE).round().clip(0, 65535)
            path = self._target(case, "prob")
            write_mask(path, stored.astype("uint16"), affine, work.nifti, _PROBABILITY_SCALE)
        if self.options.preview:
            from .preview import write_preview

            # Read again: keeping the voxels would double the memory in use.
            scan, _ = read_scan(case, self.segmenter, self.options, work.headers)
            write_preview(
                self._target(case, "preview", ".png"),
                *(scan.image[0].numpy(), result.labels, affine, self.bundle.labels),
                case.name,
                [n for n in result.notes if n.startswith("out of range")],
            )
        if self.options.dicom_seg and work.series is not None:
            from ..dicom import write_seg

            path = self._target(case, self.bundle.postfix, ".dcm")
            write_seg(path, result.labels, work.series, self.bundle.labels, self.bundle.version)

    def _target(self, case: Case, postfix: str | None = None, suffix: str = ".nii.gz") -> Path:
        path = self.output / case.target
        return path.with_name(f"{path.name}_{postfix or self.bundle.postfix}{suffix}")

    def _reason(self, error: BaseException) -> str:
        """One line without absolute paths, and without names of files where cases are anonymous."""
        while not isinstance(error, UserError) and error.__cause__ is not None:
            error = error.__cause__  # MONAI wraps what a transform raises
        text = " ".join(str(error).split())
        if not isinstance(error, UserError):
            text = f"{type(error).__name__}" + (f": {text}" if not self.options.anonymous else "")
        for root in {str(self.output.resolve()), str(self.output)} - {".", "/"}:
            text = text.replace(root + "/", "")
        return _without_folders(text)


def check_headers(case: Case, segmenter: Segmenter) -> list[Header]:
    """Headers of a case's NIfTI files; of a DICOM series none.

    Raises:
        UserError: for a case, or a volume, that cannot be done; no voxel was read.
    """
    if case.problem:
        raise UserError(case.problem)
    if case.dicom:
        return []
    headers = read_headers(case.files, segmenter.bundle.channels)
    segmenter.check_range(headers[0].shape, headers[0].affine)
    segmenter.check_memory(headers[0].voxels)
    return headers


def read_scan(
    case: Case, segmenter: Segmenter, options: Options, headers: list[Header]
) -> tuple[Scan, Any]:
    """A case's volume, and its slices where it is a DICOM series."""
    if not case.dicom:
        return read_nifti(case.files, segmenter.bundle.channels, headers), None
    from ..dicom import read_series

    scan, series = read_series(case.files, options.series, options.anonymous)
    segmenter.check_range(scan.shape, scan.affine)
    return scan, series


def _without_folders(text: str) -> str:
    """Absolute paths cut to their last part."""
    words = [
        w.rsplit("/", 1)[-1] if w.strip("'\"(").startswith("/") else w for w in text.split(" ")
    ]
    return " ".join(words)[:500]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
