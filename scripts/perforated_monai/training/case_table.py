"""``CaseTable``: one CSV row a case from the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Events

from .._version import __version__
from ..data.scores import TABLE, CaseRow, case_table, finite_mean, read_cases
from ..errors import UserError
from ..files import hash_of, write_json, write_text
from . import distributed


class CaseTable:
    """Write ``cases.csv``: case, each metric of each class, and the mean row at the end.

    Args:
        output_dir: folder of the table; made when missing.
        metrics: names of the evaluator's metrics -> column prefix, such as
            ``{"val_mean_dice": "dice", "val_hd95": "hd95_mm"}``.
        classes: class names without background, in the network's order.
        about: what was scored, such as ``{"part": "validation", "fold": 0}``; with it
            ``cases.json`` is written beside the table, for the model card.
        files: files that decided the scores, such as ``{"model": …, "manifest": …}``; their sha256
            goes into ``cases.json``, their path does not.

    A class that is absent from label and prediction has an empty cell (NaN in MONAI). In several
    processes rank 0 writes the cases of all.
    """

    def __init__(
        self,
        output_dir: str | Path,
        metrics: Mapping[str, str],
        classes: Sequence[str],
        about: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path] | None = None,
    ) -> None:
        self.file = Path(output_dir) / TABLE
        self.metrics, self.classes = dict(metrics), list(classes)
        self.about, self.files = about, dict(files or {})
        self._cases: list[str] = []

    def attach(self, evaluator: Any) -> None:
        """Collect case names at each step, write at the end."""
        evaluator.add_event_handler(Events.STARTED, self._started)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _started(self, evaluator: Any) -> None:
        self._cases = []
        self._refuse_other_table()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = (
                f"output_dir {self.file.parent} cannot be made ({error.strerror}): choose another."
            )
            raise UserError(msg) from None

    def _refuse_other_table(self) -> None:
        """Refuse to replace a table that no evaluation wrote, such as that of `segment`."""
        if self.file.exists():
            try:
                read_cases(self.file)
            except UserError:
                msg = f"{self.file} is no table of scores: it is kept. Choose another output_dir."
                raise UserError(msg) from None

    def _step(self, evaluator: Any) -> None:
        for item in evaluator.state.batch:
            self._cases.append(str(item["case"]))

    def _write(self, evaluator: Any) -> None:
        columns = [f"{p}_{c}" for p in self.metrics.values() for c in self.classes]
        # MONAI's metrics hold the cases of all ranks, one rank after another.
        self._cases = distributed.gather(self._cases)
        if distributed.rank() > 0:
            return
        details = [evaluator.state.metric_details[name] for name in self.metrics]
        rows = [
            CaseRow(case, dict(zip(columns, _values(details, i), strict=True)))
            for i, case in enumerate(self._cases)
        ]
        write_text(self.file, case_table(sorted(rows, key=lambda row: row.case), mean_row=True))
        if self.about is not None:
            write_json(self.file.with_suffix(".json"), self._facts(len(rows)))
        print(f"{len(rows)} cases: {_summary(rows, columns)}. Table: {self.file}")

    def _facts(self, cases: int) -> dict[str, Any]:
        hashes = {
            f"{name}_sha256": hash_of(Path(file)) if Path(file).is_file() else None
            for name, file in self.files.items()
        }
        versions = {"torch": torch.__version__, "monai": monai.__version__}
        return {
            "written_by": f"perforated_monai {__version__}",
            "cases": cases,
            **(self.about or {}),
            "table_sha256": hash_of(self.file),
            **hashes,
            "versions": versions,
        }


def _values(details: Sequence[Any], case: int) -> list[float]:
    """What the metrics say of one case, class by class."""
    return [float(value) for table in details for value in table[case]]


def _summary(rows: Sequence[CaseRow], columns: Sequence[str]) -> str:
    return ", ".join(f"{c} {finite_mean(r.values[c] for r in rows):.4f}" for c in columns)
