"""``cases.csv`` and ``cases.jsonl``: one row a case, on disk as soon as the case has ended.

What a row says of a mask is measured here too: volumes and components of its structures.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...errors import UserError
from ...files import csv_text, write_text

DONE, FAILED = "done", "failed"
CSV, JSONL = "cases.csv", "cases.jsonl"
_LARGEST = 2**30  # bytes of a cases.jsonl: a million cases
_FIRST = ("case", "status", "reason", "notes", "mask")
_LAST = (
    *("confidence_mean", "confidence_lowest_decile"),
    *("seconds_read", "seconds_network", "seconds_write"),
    *("input_sha256", "mask_sha256", "bundle_version", "engine", "settings"),
)

_TOUCHING = np.ones((3, 3, 3))  # voxels that share a corner belong together

Row = dict[str, Any]


class CaseLog:
    """The two tables of an output folder.

    ``cases.jsonl`` is the one that a later run reads. In a continued run a case that is done again
    has two rows until ``close``; the later one counts.

    Args:
        folder: output folder.
        structures: names of the bundle's structures, for the columns.

    Raises:
        UserError: for a file of these names that is no such table.
    """

    def __init__(self, folder: Path, structures: Iterable[str]) -> None:
        self.jsonl, self.csv = folder / JSONL, folder / CSV
        foreign = os.path.lexists(self.csv) and not is_table(self.csv)
        if foreign or (_holds_anything(self.jsonl) and not self.csv.exists() and not self.read()):
            msg = (
                f"{(self.csv if foreign else self.jsonl).name} in the output folder is not a table "
                "of segment and would be lost. Choose another output folder, or move it."
            )
            raise UserError(msg)
        names = [key_of(name) for name in structures]
        measured = [f"{kind}_{name}" for name in names for kind in ("volume_ml", "components")]
        self.columns = [*_FIRST, *measured, *_LAST]

    def open(self, rows: Iterable[Row] = ()) -> None:
        """Begin with these rows, replacing what was there, atomically."""
        kept = list(rows)
        write_text(self.jsonl, "".join(_json(row) for row in kept))
        write_text(self.csv, self._csv([dict(zip(self.columns, self.columns, strict=True)), *kept]))

    def read(self) -> dict[str, Row]:
        """Last whole row of each case of an earlier run; a torn last line is none."""
        return read_rows(self.jsonl)

    def append(self, row: Row) -> None:
        """Add a row to both; not synced: a row that a power cut takes costs one case more.

        Raises:
            UserError: when it cannot be written.
        """
        for path, text in ((self.jsonl, _json(row)), (self.csv, self._csv([row]))):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8", newline="") as handle:
                    handle.write(text)
            except OSError as error:
                msg = f"Cannot write {path.name} ({error.strerror}): free space and use --resume."
                raise UserError(msg) from error

    def close(self, rows: list[Row], others: Iterable[Row] = ()) -> None:
        """Leave these rows, one a case, and behind them those of cases of other runs."""
        self.csv.parent.mkdir(parents=True, exist_ok=True)
        self.open([*rows, *others])

    def _csv(self, rows: list[Row]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([[_cell(row.get(name)) for name in self.columns] for row in rows])
        return text.getvalue()


def is_table(path: Path) -> bool:
    """Whether a file begins as the ``cases.csv`` of a run does."""
    first = ",".join(_FIRST).encode()
    try:
        if not path.is_file():  # a pipe would never answer
            return False
        with path.open("rb") as handle:
            return handle.read(len(first)) == first
    except OSError:
        return False


def read_rows(path: Path) -> dict[str, Row]:
    """Last row of each case in a ``cases.jsonl``; lines that are no row are passed over."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return {}
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    rows: dict[str, Row] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_row(row):
            rows[row["case"]] = row
    return rows


def _is_row(row: Any) -> bool:
    """What the run and its report read has its type: anybody may have edited the table."""
    if not isinstance(row, dict) or row.get("status") not in (DONE, FAILED):
        return False
    texts = ("case", "reason", *(k for k in ("mask", "settings", "source") if k in row))
    numbers = [v for k, v in row.items() if k.startswith(("seconds_", "volume_ml_", "confidence_"))]
    notes = row.get("notes", [])
    return (
        all(isinstance(row.get(key), str) for key in texts)
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
        and all(v is None or isinstance(v, (int, float)) for v in numbers)
    )


def _holds_anything(path: Path) -> bool:
    return os.path.lexists(path) and not (path.is_file() and path.stat().st_size == 0)


@dataclass(frozen=True)
class Structure:
    """One labelled structure: its volume in mL and its number of connected components."""

    name: str
    volume_ml: float
    components: int

    @property
    def cells(self) -> Row:
        """Its cells of a row."""
        key = key_of(self.name)
        return {f"volume_ml_{key}": round(self.volume_ml, 4), f"components_{key}": self.components}


def measure_structures(
    labels: np.ndarray, affine: np.ndarray, names: dict[int, str]
) -> list[Structure]:
    """Volume and components (26 neighbours) of each structure.

    Args:
        labels: ``(X, Y, Z)`` of label values, or ``(X, Y, Z, K)`` of 0 and 1.
        affine: voxel to mm.
        names: label value, or channel, -> name.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    structures = []
    boxes = ndimage.find_objects(labels) if labels.ndim == 3 else []
    for value, name in names.items():
        if labels.ndim == 4:
            part = labels[..., value] > 0
        elif value <= len(boxes) and boxes[value - 1] is not None:
            part = labels[boxes[value - 1]] == value
        else:
            part = np.zeros((1, 1, 1), bool)
        voxels = int(np.count_nonzero(part))
        components = int(ndimage.label(part, _TOUCHING)[1]) if voxels else 0
        structures.append(Structure(name, voxels * voxel_ml, components))
    return structures


def key_of(name: str) -> str:
    """A structure's name as part of a column's."""
    return re.sub(r"\W+", "_", name)


def _json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    text = "; ".join(value) if isinstance(value, list) else value
    return csv_text(text) if isinstance(text, str) else text
