"""Scores of cases -> mean and 95 % interval of each class; the table that an evaluation wrote."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from ..errors import UserError
from ..files import hash_of

TABLE, ABOUT = "cases.csv", "cases.json"


@dataclass(frozen=True)
class Interval:
    """Mean of ``cases`` values with the limits of its 95 % interval; None below two values."""

    cases: int
    mean: float
    low: float | None
    high: float | None
    lowest: float
    highest: float


@dataclass(frozen=True)
class Scores:
    """What ``evaluate.json`` wrote.

    Attributes:
        about: content of ``cases.json``.
        columns: column such as ``dice_anterior`` -> values of the cases that have one.
    """

    about: dict[str, Any]
    columns: dict[str, list[float]]


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


def read_scores(folder: Path) -> Scores | None:
    """``cases.csv`` and ``cases.json`` of a folder; None where both are missing.

    Raises:
        UserError: one without the other, a table that was changed, or one that cannot be read.
    """
    table, about = folder / TABLE, folder / ABOUT
    if not table.exists() and not about.exists():
        return None
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
        same = facts["table_sha256"] == hash_of(table)
        cases = [row for row in rows if row["case"] != "mean"]
        names = [name for name in (rows[0] if rows else {}) if name != "case"]
        columns = {n: [float(row[n]) for row in cases if row[n]] for n in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{folder} must hold {TABLE} and {ABOUT} of one evaluation; reading them gives "
            f"{type(error).__name__}. Evaluate again."
        )
        raise UserError(msg) from None
    if not same:
        msg = f"{table} must be as evaluate.json wrote it; it was changed. Evaluate again."
        raise UserError(msg)
    finite = {n: [v for v in values if math.isfinite(v)] for n, values in columns.items()}
    return Scores(facts, finite)
