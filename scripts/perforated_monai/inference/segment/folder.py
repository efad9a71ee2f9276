"""A folder of scans -> a folder of masks: one case at a time fails, none is lost."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ...errors import UserError
from ...files import sha256
from .case import LARGE, CaseRun, is_as_written
from .cases import Case, find_cases
from .cores import Turns
from .earlier import files_of, set_aside, sums_of
from .found import unshown
from .mask import LOCK, remove_leftovers
from .opened import Read, check_headers, read_case
from .report import Report
from .run_record import write_record
from .segmenter import Segmenter
from .states import Options
from .table import DONE, FAILED, CaseLog, Row

_FEWEST, _MOST = 2, 4  # workers, when not given
_SPARE = 2  # further ones, that read or wait for the disk; beside eager torch they only cost time
_FIRST = 4  # scans that an engine is checked on


@dataclass
class Summary:
    """How a run ended."""

    rows: list[Row]
    kept: int = 0
    lost: list[str] = field(default_factory=list)  # cases that were done, whose mask is gone

    @property
    def failed(self) -> list[Row]:
        """Rows of the cases that failed."""
        return [row for row in self.rows if row["status"] == FAILED]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some failed, 1 none done or a mask lost."""
        if not self.failed:
            return 0
        return 1 if self.lost or len(self.failed) == len(self.rows) else 3


def segment_folder(
    source: str | Path,
    output: str | Path,
    segmenter: Segmenter,
    options: Options | None = None,
) -> Summary:
    """Segment every case of ``source`` into ``output``.

    Writes ``<relative path>_<postfix>.nii.gz`` a case, ``cases.csv``, ``cases.jsonl`` and
    ``run.json``. Several cases are in work at a time, so that reading, the network and writing
    overlap.

    Args:
        source: see ``find_cases``.
        output: folder; made when missing, locked while the run lasts.
        segmenter: bundle, engine and device.
        options: see ``Options``.

    Raises:
        UserError: nothing to segment, an engine that does not take the network, an output folder
            that is in use or cannot be written, or a table that cannot be written. A case that
            fails raises nothing: it has a row.
    """
    options = options or Options()
    given, output = output, Path(output).absolute()
    channels = segmenter.bundle.inputs
    cases, left_out = find_cases(source, given, options.anonymous, channels)
    if any(case.dicom for case in cases):
        from ..dicom import start_reader

        start_reader()
    with _locked(output):
        remove_leftovers(output)
        with Report(len(cases), options.progress) as report:
            report.left_out(left_out)
            first: dict[str, Read] = {}
            if segmenter.predict is None and (first := _first(cases, segmenter, options)):
                segmenter.load([read.prepared for read in first.values()])
                report.say(segmenter.reason)
            run = _Run(cases, source, output, segmenter, options, report, first)
            write_record(Path(source), output, segmenter, options)
            run.all()
            summary = run.close()
        report.closing(summary.rows, run.kept, Path(given))
    return summary


class _Run:
    """All cases of a run, its table and its report."""

    def __init__(
        self,
        cases: list[Case],
        source: str | Path,
        output: Path,
        segmenter: Segmenter,
        options: Options,
        report: Report,
        first: dict[str, Read],
    ) -> None:
        self.cases, self.output, self.report = cases, output, report
        asked = sha256(os.fsencode(Path(source).absolute()))[:16]
        spare = 0 if segmenter.settings["engine"] == "torch" else _SPARE
        cores = min(max(torch.get_num_threads(), _FEWEST), _MOST)
        self.workers = options.workers or cores + spare
        self.turns = Turns(segmenter.at_a_time(self.workers))
        self.log = CaseLog(output, segmenter.bundle.labels.values())
        earlier, names = self.log.read(), {case.name for case in cases}
        done = {k: row for k, row in earlier.items() if row["status"] == DONE and k in names}
        if not options.resume:
            done = {}
        # A row of this very input is replaced, and its case is done again or gone.
        self.others = [
            row
            for name, row in earlier.items()
            if name not in names and row.get("source", asked) != asked
        ]
        left = {id(row) for row in (*done.values(), *self.others)}
        old = [name for row in earlier.values() if id(row) not in left for name in files_of(row)]
        aside = set_aside(output, old)
        sums = {output / k: v for row in earlier.values() for k, v in sums_of(row).items()}
        self.log.open([*done.values(), *self.others])
        self.work = CaseRun(segmenter, output, options, done, self.turns, asked, aside, sums, first)
        self.kept = 0
        self._rows: dict[str, Row] = {}
        self._ending = threading.Lock()

    def all(self) -> None:
        """Do every case."""
        pool = ThreadPoolExecutor(self.workers, initializer=self.turns.begin_thread)
        try:
            for ended in [pool.submit(self._one, case) for case in self.cases]:
                ended.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self.turns.end()

    def _one(self, case: Case) -> None:
        self.report.current(case.name)
        row, kept = self.work(case)
        with self._ending:
            self.kept += kept
            self._rows[case.name] = row
            if not kept:
                self.log.append(row)
            self.report.done(row, kept)

    def close(self) -> Summary:
        """A row a case, and for each that is done its mask, read once more; the tables say so."""
        rows, lost = [], []
        for case in self.cases:
            row = self._rows[case.name]
            if row["status"] == DONE and not is_as_written(self._mask(row), row):
                lost.append(case.name)
                reason = "its mask is gone, or another, since it was written. Run it again."
                row = row | {"status": FAILED, "reason": reason, "mask": ""}
                self.report.say(f"LOST {case.name}: {reason}")
            rows.append(row)
        ours = {row["mask"] for row in rows if row.get("mask")}
        self.log.close(rows, [row for row in self.others if row.get("mask") not in ours])
        return Summary(rows, self.kept, lost)

    def _mask(self, row: Row) -> Path:
        return self.output / unshown(row["mask"])


def _first(cases: list[Case], segmenter: Segmenter, options: Options) -> dict[str, Read]:
    """The first cases that can be read; why others cannot is said when their turn comes."""
    read: dict[str, Read] = {}
    for case in cases:
        with contextlib.suppress(Exception):
            headers = check_headers(case, segmenter, options)
            read[case.name] = read_case(case, segmenter, options, headers)
        if len(read) == _FIRST or sum(math.prod(r.prepared.shape) for r in read.values()) > LARGE:
            break
    return read


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the output folder; also the proof, before the first case, that it can be written."""
    lock = FileLock(output / LOCK, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        msg = f"{output} is in use by another run. Wait for it, or choose another folder."
        raise UserError(msg) from None
    except OSError as error:
        msg = (
            f"{output} cannot be written ({error.strerror}). Correct its rights or choose another."
        )
        raise UserError(msg) from error
    try:
        yield
    finally:
        lock.release()
