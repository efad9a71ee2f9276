"""Tables of scores, ``cases.csv``: one row a case; the one place that reads and writes them.

An evaluation's table has the column ``case`` and one for each metric and class, such as
``dice_anterior``; its last row is the mean. A study's table has columns before ``case`` that name
the trial. An empty cell stands for a class that is neither in the label nor in the prediction.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from ..errors import UserError
from ..files import csv_text, from_csv_text, hash_of
from .reading import read

TABLE, ABOUT = "cases.csv", "cases.json"
MEAN = "mean"


@dataclass(frozen=True)
class CaseRow:
    """Scores of one case.

    Attributes:
        case: its name; ``mean`` in the last row of an evaluation's table.
        values: column such as ``dice_anterior`` -> value; NaN where the cell is empty.
        trial: columns before ``case``, such as network and seed; empty for an evaluation.
    """

    case: str
    values: Mapping[str, float]
    trial: Mapping[str, str] = field(default_factory=dict)

    def mean(self, prefix: str) -> float:
        """Mean of the finite values whose column starts with ``prefix``; NaN without one."""
        return finite_mean(v for name, v in self.values.items() if name.startswith(prefix))


@dataclass(frozen=True)
class Scores:
    """What ``evaluate.json`` wrote.

    Attributes:
        about: content of ``cases.json``.
        rows: the cases, without the row of means.
    """

    about: dict[str, Any]
    rows: list[CaseRow]

    @property
    def columns(self) -> dict[str, list[float]]:
        """Column such as ``dice_anterior`` -> the finite values of the cases."""
        names = self.rows[0].values if self.rows else ()
        return {n: [v for r in self.rows if math.isfinite(v := r.values[n])] for n in names}


@dataclass(frozen=True)
class Interval:
    """Mean of ``cases`` values with the limits of its 95 % interval; None below two values."""

    cases: int
    mean: float
    low: float | None
    high: float | None
    lowest: float
    highest: float


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and its 95 % interval over cases, by Student's t; None without a value.

    The interval is mean ± t(0.975, n − 1) · s / √n with the standard deviation s of the n cases.
    """
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(1, mean, None, None, mean, mean)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(student.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Interval(n, mean, mean - half, mean + half, min(values), max(values))


def finite_mean(values: Iterable[float]) -> float:
    """Mean of the values that are finite; NaN without one."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def read_cases(table: str | Path) -> list[CaseRow]:
    """The rows of a table, without the row of means.

    Raises:
        UserError: a file that cannot be read, or that is no table of scores.
    """
    try:
        with Path(table).open(newline="", encoding="utf-8") as handle:
            reader = csv.reader(handle)
            header = next(reader)
            at = header.index("case")
            rows = [
                CaseRow(
                    case=from_csv_text(cells[at]),
                    values={
                        n: float(c) if c else math.nan
                        for n, c in zip(header[at + 1 :], cells[at + 1 :], strict=True)
                    },
                    trial=dict(zip(header[:at], map(from_csv_text, cells[:at]), strict=True)),
                )
                for cells in reader
                if cells
            ]
    except OSError as error:
        msg = f"{table} cannot be read: {error.strerror}. Evaluate again."
        raise UserError(msg) from error
    except (ValueError, IndexError, StopIteration, csv.Error) as error:
        msg = (
            f"{table} must be a table with a column case and columns of numbers after it; reading "
            f"it gives {type(error).__name__}. Evaluate again."
        )
        raise UserError(msg) from error
    return [row for row in rows if row.case != MEAN]


def case_table(rows: Sequence[CaseRow], mean_row: bool = False, exact: bool = False) -> str:
    """The text of a table; ``read_cases`` gives the rows again, with six digits.

    Args:
        rows: rows with the same columns, at least one.
        mean_row: end with the mean over cases, as an evaluation does.
        exact: write every digit, so that reading gives the same numbers to the last bit.
    """
    trial, names = list(rows[0].trial), list(rows[0].values)
    last = CaseRow(MEAN, {n: finite_mean(r.values[n] for r in rows) for n in names})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*trial, "case", *names])
    for row in [*rows, last] if mean_row else rows:
        keys = [csv_text(row.trial.get(key, "")) for key in trial]
        writer.writerow([*keys, csv_text(row.case), *(_cell(row.values[n], exact) for n in names)])
    return text.getvalue()


def read_scores(folder: Path) -> Scores | None:
    """``cases.csv`` and ``cases.json`` of a folder; None where both are missing.

    Raises:
        UserError: one without the other, a table that was changed, or one that cannot be read.
    """
    table, about = folder / TABLE, folder / ABOUT
    if not table.exists() and not about.exists():
        return None
    try:
        facts = read(about)
        same = facts["table_sha256"] == hash_of(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{folder} must hold {TABLE} and {ABOUT} of one evaluation; reading them gives "
            f"{type(error).__name__}. Evaluate again."
        )
        raise UserError(msg) from None
    if not same:
        msg = f"{table} must be as evaluate.json wrote it; it was changed. Evaluate again."
        raise UserError(msg)
    return Scores(facts, read_cases(table))


def _cell(value: float, exact: bool) -> str:
    if math.isnan(value):
        return ""
    return repr(value) if exact else f"{value:.6g}"
