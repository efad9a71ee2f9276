"""``cases.csv`` and ``cases.jsonl``: one row a case, on disk as soon as the case has ended.

What a row says of a mask is measured here too: volumes and components of its structures.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...errors import UserError
from ...files import write_text

DONE, FAILED = "done", "failed"
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
    """

    def __init__(self, folder: Path, structures: Iterable[str]) -> None:
        self.jsonl, self.csv = folder / "cases.jsonl", folder / "cases.csv"
        names = [_key(name) for name in structures]
        measured = [f"{kind}_{name}" for name in names for kind in ("volume_ml", "components")]
        self.columns = [*_FIRST, *measured, *_LAST]

    def open(self, rows: Iterable[Row] = ()) -> None:
        """Begin with these rows, replacing what was there, atomically."""
        kept = list(rows)
        write_text(self.jsonl, "".join(_json(row) for row in kept))
        write_text(self.csv, self._csv([dict(zip(self.columns, self.columns, strict=True)), *kept]))

    def read(self) -> dict[str, Row]:
        """Last whole row of each case of an earlier run; a torn last line is none."""
        try:
            lines = self.jsonl.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return {}
        rows: dict[str, Row] = {}
        for line in lines:
            try:
                row = json.loads(line)
                rows[row["case"]] = row
            except (ValueError, TypeError, KeyError):
                continue
        return rows

    def append(self, row: Row) -> None:
        """Add a row to both; not synced: a row that a power cut takes costs one case more.

        Raises:
            UserError: when it cannot be written.
        """
        for path, text in ((self.jsonl, _json(row)), (self.csv, self._csv([row]))):
            try:
                with path.open("a", encoding="utf-8", newline="") as handle:
                    handle.write(text)
            except OSError as error:
                msg = f"Cannot write {path.name} ({error.strerror}): free space and use --resume."
                raise UserError(msg) from error

    def close(self, order: list[str]) -> list[Row]:
        """Leave one row a case, in this order; cases of earlier runs follow."""
        rows = self.read()
        ranked = [rows.pop(name) for name in order if name in rows]
        self.open([*ranked, *rows.values()])
        return ranked

    def _csv(self, rows: list[Row]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([[_cell(row.get(name)) for name in self.columns] for row in rows])
        return text.getvalue()


@dataclass(frozen=True)
class Structure:
    """One labelled structure: its volume in mL and its number of connected components."""

    name: str
    volume_ml: float
    components: int

    @property
    def cells(self) -> Row:
        """Its cells of a row."""
        key = _key(self.name)
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


def _key(name: str) -> str:
    """A structure's name as part of a column's."""
    return re.sub(r"\W+", "_", name)


def _json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return "; ".join(value) if isinstance(value, list) else value
