"""A folder of scans -> a folder of masks: one case at a time fails, none is lost."""

from __future__ import annotations

import collections
import concurrent.futures as futures
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import sha256
from .bundle import Bundle
from .cases import Case, find_cases, shown
from .quality import measure_structures
from .read import Scan, hash_files, read_header, read_nifti
from .report import Report
from .segmenter import Predicted, Segmentation, Segmenter
from .table import DONE, FAILED, CaseLog, Row, structure_cells
from .write import remove_leftovers, write_mask

# Volumes above this are not read ahead: two whole-body scans at once would not fit a laptop.
_LARGE = 50_000_000  # voxels
_WAITING = 2  # masks that may wait for the writer
_PROBABILITY_SCALE = 1 / 65535


@dataclass
class Options:
    """What a run of ``segment`` was asked for beside the segmenter's own options."""

    workers: int = 2
    resume: bool = False
    preview: bool = False
    anonymous: bool = False
    series: str = ""
    dicom_seg: bool = False
    progress: bool = True


@dataclass
class Summary:
    """How a run ended."""

    rows: list[Row]
    kept: int = 0

    @property
    def failed(self) -> list[Row]:
        """Rows of the cases that failed."""
        return [row for row in self.rows if row["status"] == FAILED]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some failed, 1 none done."""
        if not self.failed:
            return 0
        return 1 if len(self.failed) == len(self.rows) else 3


@dataclass
class _Read:
    """A case on its way: read, or kept from an earlier run, or failed."""

    case: Case
    checksum: str = ""
    seconds: float = 0.0
    prepared: Any = None
    nifti: Any = None
    series: Any = None
    kept: Row | None = None
    error: BaseException | None = None
    notes: list[str] = field(default_factory=list)


def segment_folder(
    source: str | Path,
    output: str | Path,
    segmenter: Segmenter,
    options: Options | None = None,
) -> Summary:
    """Segment every case of ``source`` into ``output``.

    Writes ``<relative path>_<postfix>.nii.gz`` a case, ``cases.csv`` and ``cases.jsonl``. Reading
    and preprocessing, the network, and writing of different cases overlap.

    Args:
        source: see ``find_cases``.
        output: folder; made when missing, locked while the run lasts.
        segmenter: bundle, engine and device.
        options: see ``Options``.

    Raises:
        UserError: nothing to segment, an output folder that is in use or cannot be written, or a
            table that cannot be written. A case that fails raises nothing: it has a row.
    """
    options = options or Options()
    _check_options(options)
    output = Path(output)
    cases, left_out = find_cases(source, output, options.anonymous)
    with _locked(output):
        remove_leftovers(output)
        run = _Run(cases, output, segmenter, options)
        run.report.left_out(left_out)
        return run.all()


class _Run:
    def __init__(
        self, cases: list[Case], output: Path, segmenter: Segmenter, options: Options
    ) -> None:
        self.cases, self.output, self.segmenter, self.options = cases, output, segmenter, options
        self.bundle: Bundle = segmenter.bundle
        self.settings = _settings(segmenter, options)
        self.log = CaseLog(output, self.bundle.labels.values())
        self.earlier: dict[str, Row] = {}
        self.report = Report(len(cases), options.progress, options.anonymous)

    def all(self) -> Summary:
        """Every case, in order; the table is complete when it returns."""
        if self.options.resume:
            earlier = self.log.read()
            self.earlier = {k: row for k, row in earlier.items() if row.get("status") == DONE}
        self.log.open(self.earlier.values())
        kept = 0
        with futures.ThreadPoolExecutor(1) as writer, self.report:
            writing: collections.deque[futures.Future] = collections.deque()
            for read in self._read_ahead():
                if read.kept is not None:
                    kept += 1
                    self.report.done(read.kept, kept=True)
                    continue
                self.report.current(read.case.name)
                writing.append(writer.submit(self._finish, *self._predicted(read)))
                del read
                while len(writing) > _WAITING or (writing and writing[0].done()):
                    writing.popleft().result()
            while writing:
                writing.popleft().result()
        rows = self.log.close([case.name for case in self.cases])
        self.report.closing(rows, kept, self.output)
        return Summary(rows, kept)

    # -- reading, in threads

    def _read_ahead(self) -> Iterator[_Read]:
        """Cases in order, read in threads; at most ``workers`` wait, and large ones wait alone."""
        waiting: collections.deque[futures.Future] = collections.deque()
        with futures.ThreadPoolExecutor(max(self.options.workers, 1)) as pool:
            try:
                for case in self.cases:
                    large = self._voxels(case) > _LARGE
                    while waiting and (large or len(waiting) >= max(self.options.workers, 1)):
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(self._read, case))
                    if large:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _voxels(self, case: Case) -> int:
        with contextlib.suppress(Exception):
            if not (case.dicom or case.problem):
                return sum(read_header(f, None).voxels for f in case.files)
        return 0

    def _read(self, case: Case) -> _Read:
        start = time.perf_counter()
        read = _Read(case)
        try:
            self._read_into(read)
        except Exception as error:
            read.error = error
        read.seconds = time.perf_counter() - start
        return read

    def _read_into(self, read: _Read) -> None:
        case = read.case
        if case.problem:
            raise UserError(case.problem)
        if not case.dicom:
            for path in case.files:
                header = read_header(path, self.bundle.channels if len(case.files) == 1 else 1)
                self.segmenter.check_range(header.shape, header.affine)
                self.segmenter.check_memory(header.voxels)
        read.checksum = hash_files(case.files)
        if self._unchanged(case, read.checksum):
            read.kept = self.earlier[case.name]
            return
        scan = self._scan(read)
        read.nifti = scan.nifti
        read.prepared = self.segmenter.prepare(scan)

    def _scan(self, read: _Read) -> Scan:
        if not read.case.dicom:
            return read_nifti(read.case.files, self.bundle.channels)
        from ..dicom import read_series

        scan, read.series = read_series(
            read.case.files, self.options.series, self.options.anonymous
        )
        self.segmenter.check_range(scan.shape, scan.affine)
        return scan

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

    # -- network, in the calling thread

    def _predicted(self, read: _Read) -> tuple[_Read, Predicted | None, float]:
        start = time.perf_counter()
        predicted = None
        if read.error is None:
            try:
                predicted = self.segmenter.infer(read.prepared)
            except Exception as error:
                read.error = error
        read.prepared = None
        return read, predicted, time.perf_counter() - start

    # -- writing, in one thread

    def _finish(self, read: _Read, predicted: Predicted | None, network: float) -> None:
        start = time.perf_counter()
        row: Row = {"case": read.case.name, "status": FAILED, "reason": "", "notes": []}
        if predicted is not None:
            try:
                row |= self._written(read, predicted)
            except Exception as error:
                read.error = error
        if read.error is not None:
            row |= {"status": FAILED, "reason": self._reason(read.error)}
        seconds = (read.seconds, network, time.perf_counter() - start)
        names = ("seconds_read", "seconds_network", "seconds_write")
        row |= dict(zip(names, (round(s, 3) for s in seconds), strict=True))
        row |= {"bundle_version": self.bundle.version, "settings": self.settings}
        if read.checksum:
            row["input_sha256"] = read.checksum
        self.log.append(row)
        self.report.done(row)

    def _written(self, read: _Read, predicted: Predicted) -> Row:
        case = read.case
        found = self.segmenter.restore(predicted)
        affine = predicted.prepared.affine
        structures = measure_structures(found.labels, affine, self._names(found))
        target = self._target(case)
        self._extras(read, found, affine)
        write_mask(target, found.labels, affine, read.nifti)
        row: Row = {
            "status": DONE,
            "notes": found.notes,
            "mask": shown(target.relative_to(self.output)),
            "confidence_mean": _rounded(found.confidence.mean),
            "confidence_lowest_decile": _rounded(found.confidence.lowest_decile),
            "mask_sha256": sha256(target.read_bytes()),
        }
        for s in structures:
            row |= structure_cells(s.name, s.volume_ml, s.components)
        return row

    def _extras(self, read: _Read, found: Segmentation, affine: Any) -> None:
        """What was asked for beside the mask; before the mask, whose presence means done."""
        case = read.case
        if found.probabilities is not None:
            stored = (found.probabilities / _PROBABILITY_SCALE).round().clip(0, 65535)
            path = self._target(case, "prob")
            write_mask(path, stored.astype("uint16"), affine, read.nifti, _PROBABILITY_SCALE)
        if self.options.preview:
            from .preview import write_preview

            image = self._image(read)
            write_preview(
                self._target(case, "preview", ".png"),
                *(image, found.labels, affine, self.bundle.labels),
                case.name,
                [n for n in found.notes if n.startswith("out of range")],
            )
        if self.options.dicom_seg and read.series is not None:
            from ..dicom import write_seg

            path = self._target(case, self.bundle.postfix, ".dcm")
            write_seg(path, found.labels, read.series, self.bundle.labels, self.bundle.version)

    def _image(self, read: _Read) -> Any:
        """Voxels of the first channel, read again: keeping them would double the memory in use."""
        scan = self._scan(read)
        return scan.image[0].numpy()

    def _names(self, found: Segmentation) -> dict[int, str]:
        return self.bundle.labels if found.labels.ndim == 3 else self.bundle.channel_names

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


def _without_folders(text: str) -> str:
    """Absolute paths cut to their last part."""
    words = [
        w.rsplit("/", 1)[-1] if w.strip("'\"(").startswith("/") else w for w in text.split(" ")
    ]
    return " ".join(words)[:500]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _settings(segmenter: Segmenter, options: Options) -> str:
    """Hash of everything but the input that decides what a case gives."""
    bundle = segmenter.bundle
    parts = (
        *(bundle.weights_sha256, bundle.config_sha256, sorted(segmenter.settings.items())),
        *(segmenter.device.type, segmenter.probabilities, segmenter.allow_out_of_range),
        options.series,
    )
    return sha256(repr(parts).encode())[:16]


def _check_options(options: Options) -> None:
    if options.workers < 1:
        msg = f"--workers must be at least 1; got {options.workers}."
        raise UserError(msg)
    if options.dicom_seg and options.anonymous:
        msg = "--dicom-seg copies patient data, as DICOM requires: it cannot be --anonymous."
        raise UserError(msg)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the output folder; also the proof, before the first case, that it can be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / ".segment.lock", timeout=0):
            yield
    except Timeout:
        msg = f"{output} is in use by another run. Wait for it, or choose another folder."
        raise UserError(msg) from None
    except OSError as error:
        msg = (
            f"{output} cannot be written ({error.strerror}). Correct its rights or choose another."
        )
        raise UserError(msg) from error
