"""``CaseTable``: one CSV row a case from the metrics of an evaluation."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events

from .errors import UserError
from .files import atomic


class CaseTable:
    """Write ``cases.csv``: case, each metric of each class, and the mean row at the end.

    Args:
        output_dir: folder of the table; made when missing.
        metrics: names of the evaluator's metrics -> column prefix, such as
            ``{"val_mean_dice": "dice", "val_hd95": "hd95_mm"}``.
        classes: class names without background, in the network's order.

    A class that is absent from label and prediction has an empty cell (NaN in MONAI).
    """

    def __init__(
        self, output_dir: str | Path, metrics: Mapping[str, str], classes: Sequence[str]
    ) -> None:
        self.file = Path(output_dir) / "cases.csv"
        self.metrics, self.classes = dict(metrics), list(classes)
        self._cases: list[str] = []

    def attach(self, evaluator: Any) -> None:
        """Collect case names at each step, write at the end."""
        evaluator.add_event_handler(Events.STARTED, self._started)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _started(self, evaluator: Any) -> None:
        self._cases = []
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = (
                f"output_dir {self.file.parent} cannot be made ({error.strerror}): choose another."
            )
            raise UserError(msg) from None

    def _step(self, evaluator: Any) -> None:
        for item in evaluator.state.batch:
            self._cases.append(str(item["case"]))

    def _write(self, evaluator: Any) -> None:
        columns = [f"{p}_{c}" for p in self.metrics.values() for c in self.classes]
        details = [evaluator.state.metric_details[name] for name in self.metrics]
        rows = [
            [float(v) for table in details for v in table[i]] for i, _ in enumerate(self._cases)
        ]
        order = sorted(range(len(rows)), key=lambda i: self._cases[i])
        with atomic(self.file) as temporary, temporary.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["case", *columns])
            for i in order:
                writer.writerow([self._cases[i], *map(_cell, rows[i])])
            writer.writerow(
                ["mean", *(_cell(_mean([r[c] for r in rows])) for c in range(len(columns)))]
            )
        print(f"{len(rows)} cases: {self._summary(rows, columns)}. Table: {self.file}")

    def _summary(self, rows: list[list[float]], columns: list[str]) -> str:
        return ", ".join(f"{c} {_mean([r[i] for r in rows]):.4f}" for i, c in enumerate(columns))


def _mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
