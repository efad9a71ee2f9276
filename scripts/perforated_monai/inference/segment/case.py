"""One case from its files to its mask and its row, in whichever thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib

from ...errors import UserError
from ...files import cure_of, hash_of, sha256
from .cases import Case, shown
from .cores import Turns
from .earlier import kind_of_extra, set_aside
from .found import printable
from .header import Header
from .mask import write_mask
from .opened import Read, check_headers, read_case, read_scan, stamps_of
from .read import hash_files
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
    series: list[Path] | None = None
    notes: list[str] = field(default_factory=list)  # what is odd about the scan
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
        source: what was asked for, as a row says it: ``Run.source``.
        aside: masks of earlier rows that were moved aside when the run began, and where they are.
        sums: of files as earlier rows have them, by path: ours, which nobody has changed since.
        first: cases that were read before, by name; each is taken out when its turn comes.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        output: Path,
        options: Options,
        earlier: dict[str, Row],
        turns: Turns,
        source: str = "",
        aside: Mapping[Path, Path] | None = None,
        sums: Mapping[Path, str] | None = None,
        first: dict[str, Read] | None = None,
    ) -> None:
        self.segmenter, self.bundle = segmenter, segmenter.bundle
        self.output, self.options, self.earlier, self.turns = output, options, earlier, turns
        self.source, self.aside, self.sums, self.first = (
            source,
            aside or {},
            sums or {},
            first or {},
        )
        self.settings = segmenter.settings_hash(options.series)
        self._one_large = threading.Lock()

    def __call__(self, case: Case) -> tuple[Row, bool]:
        """A failure is a row too; nothing is raised."""
        work = _Work(case)
        row: Row = {"case": case.name, "status": FAILED, "reason": "", "notes": []}
        try:
            with work.timed("read"):
                work.headers = check_headers(case, self.segmenter, self.options)
            with self._one_large if work.large else contextlib.nullcontext():
                done = self._run(work)
            if done is None:
                return self.earlier[case.name], True
            row |= done
        except Exception as error:
            row["reason"] = self._reason(error)
            with contextlib.suppress(OSError):  # what stands there now is of another scan or bundle
                self._set_aside(case)
        parts = ("read", "network", "write")
        row |= {f"seconds_{k}": round(work.seconds.get(k, 0.0), 3) for k in parts}
        row |= {"bundle_version": self.bundle.version, "settings": self.settings}
        row |= {"engine": self.segmenter.settings["engine"], "source": self.source}
        if work.checksum:
            row["input_sha256"] = work.checksum
        return row, False

    def _run(self, work: _Work) -> Row | None:
        """None: nothing changed since an earlier run."""
        read = self.first.pop(work.case.name, None)
        with work.timed("read"):
            before = stamps_of(work.case)
            work.checksum = hash_files(work.case.files, self.options.anonymous)
            if self._unchanged(work.case, work.checksum):
                return None
            if read is None or read.stamps != before:
                read = read_case(work.case, self.segmenter, self.options, work.headers)
            if not read.stamps == before == stamps_of(work.case):
                msg = "its files changed while they were read. Wait until they are complete."
                raise UserError(msg)
            work.nifti, work.series, prepared = read.nifti, read.series, read.prepared
            work.notes = list(prepared.notes)
        del read
        with self.turns.turn(work.large), work.timed("network"):
            predicted = self.segmenter.infer(prepared)
        del prepared
        with work.timed("write"):
            return self._written(work, predicted)

    def _unchanged(self, case: Case, checksum: str) -> bool:
        """Done before from the same input with the same settings, and every file is as written."""
        row = self.earlier.get(case.name)
        if not row or row.get("input_sha256") != checksum or row.get("settings") != self.settings:
            return False
        mask, *extras = self._promised(case)
        return is_as_written(mask, row) and all(_is_extra_as_written(path, row) for path in extras)

    def _promised(self, case: Case) -> list[Path]:
        """The files that this run makes of a case, the mask first."""
        mask, segmentation, probabilities, preview = self._outputs(case)
        paths = [mask]
        paths += [preview] if self.options.preview else []
        paths += [probabilities] if self.segmenter.probabilities else []
        paths += [segmentation] if self.options.dicom_seg and case.dicom else []
        return paths

    def _written(self, work: _Work, predicted: Predicted) -> Row:
        case = work.case
        result = self.segmenter.restore(predicted)
        affine = predicted.prepared.affine
        names = self.bundle.labels if result.labels.ndim == 3 else self.bundle.channel_names
        structures = measure_structures(result.labels, affine, names)
        target = self._target(case)
        moved = dict(self.aside) | self._make_way(case)
        self._extras(work, result, affine)
        write_mask(target, result.labels, affine, work.nifti)
        kept = [
            f"kept as {name}: what stood here was changed, or not ours"
            for name in self._forget_old(case, moved)
        ]
        row: Row = {
            "status": DONE,
            "notes": [*result.notes, *kept],
            "mask": shown(target.relative_to(self.output)),
            "confidence_mean": _rounded(result.confidence.mean),
            "confidence_lowest_decile": _rounded(result.confidence.lowest_decile),
            "mask_sha256": sha256(target.read_bytes()),
            "extras_sha256": {
                kind_of_extra(path): hash_of(path) for path in self._promised(case)[1:]
            },
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
                work.notes,
            )
        if self.options.dicom_seg and work.series is not None:
            from ..dicom import write_seg

            path = self._target(case, self.bundle.postfix, ".dcm")
            write_seg(path, result.labels, work.series, self.bundle.labels, self.bundle.version)

    def _make_way(self, case: Case) -> dict[Path, Path]:
        """Move aside what stands under the names of this case and is not as a known row has it.

        A mask that somebody has corrected is no longer ours to replace.

        Raises:
            UserError: when the case's folder lies outside the output folder, behind a link.
        """
        root, target = Path(os.path.realpath(self.output)), self._target(case)
        if not Path(os.path.realpath(target.parent)).is_relative_to(root):
            msg = "its folder in the output is a link to another place. Remove the link."
            raise UserError(msg)
        row = self.earlier.get(case.name)
        if row is None:
            return self._set_aside(case)
        mask, *extras = self._outputs(case)
        ours = [path for path in extras if _is_extra_as_written(path, row)]
        return self._set_aside(case, [*ours, *([mask] if is_as_written(mask, row) else [])])

    def _set_aside(self, case: Case, but: Collection[Path] = ()) -> dict[Path, Path]:
        paths = [path for path in self._outputs(case) if path not in but]
        return set_aside(self.output, [p.relative_to(self.output).as_posix() for p in paths])

    def _forget_old(self, case: Case, moved: Mapping[Path, Path]) -> list[str]:
        """Delete what was moved aside and is ours, or the same again; names of what is kept."""
        kept = []
        for path in self._outputs(case):
            old = moved.get(path)
            if old is None or not old.is_file() or old.is_symlink():
                continue
            if hash_of(old) == self.sums.get(path) or (path.is_file() and _has(old, hash_of(path))):
                old.unlink()
            else:
                kept.append(printable(old.name))
        return kept

    def _outputs(self, case: Case) -> tuple[Path, Path, Path, Path]:
        """Mask, DICOM SEG, probabilities and preview of a case, whether asked for or not."""
        return (
            self._target(case),
            self._target(case, self.bundle.postfix, ".dcm"),
            self._target(case, "prob"),
            self._target(case, "preview", ".png"),
        )

    def _target(self, case: Case, postfix: str | None = None, suffix: str = ".nii.gz") -> Path:
        path = self.output / case.target
        return path.with_name(f"{path.name}_{postfix or self.bundle.postfix}{suffix}")

    def _reason(self, error: BaseException) -> str:
        """One line without absolute paths, and without names of files where cases are anonymous."""
        while not isinstance(error, UserError) and error.__cause__ is not None:
            error = error.__cause__  # MONAI wraps what a transform raises
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror and not isinstance(error, UserError):
            shown_name = Path(str(error.filename or "")).name[:60]
            file = f" {shown_name}" if shown_name and not self.options.anonymous else ""
            text = f"its file{file} cannot be used ({error.strerror}). {cure_of(error)}."
        elif not isinstance(error, UserError):
            text = f"{type(error).__name__}" + (f": {text}" if not self.options.anonymous else "")
        for root in {str(self.output.resolve()), str(self.output)} - {".", "/"}:
            text = text.replace(root + "/", "")
        return printable(_without_folders(text))


def is_as_written(mask: Path, row: Row) -> bool:
    """Whether a mask is there, byte by byte as its row says."""
    return _has(mask, row.get("mask_sha256"))


def _is_extra_as_written(path: Path, row: Row) -> bool:
    sums = row.get("extras_sha256")
    return isinstance(sums, dict) and _has(path, sums.get(kind_of_extra(path)))


def _has(path: Path, checksum: str | None) -> bool:
    try:
        return checksum is not None and hash_of(path) == checksum
    except OSError:
        return False


def _without_folders(text: str) -> str:
    """Absolute paths cut to their last part."""
    words = [
        w.rsplit("/", 1)[-1] if w.strip("'\"(").startswith("/") else w for w in text.split(" ")
    ]
    return " ".join(words)[:500]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
