"""Reviews of a run: the CSV that the page saves and reads again."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....errors import UserError

COLUMNS = ("run", "case", "verdict", "comment", "mask_sha256")
VERDICTS = ("accepted", "flagged", "")
# A spreadsheet would take a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True)
class Review:
    """What a person said of a case."""

    verdict: str
    comment: str


def read_reviews(path: Path, run: str, masks: Mapping[str, str]) -> dict[str, Review]:
    """Reviews by case.

    Args:
        path: CSV saved from the page.
        run: id of the run that the page shows.
        masks: case -> sha256 of its mask, empty for a failed one.

    Raises:
        UserError: a file that is no such CSV, or is of another run.
    """
    reviews: dict[str, Review] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.reader(handle, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read as a CSV of reviews ({type(error).__name__}). Save it again."
        raise UserError(msg) from None
    if not rows or tuple(rows[0]) != COLUMNS:
        msg = f"{path} must have the columns {', '.join(COLUMNS)}. Save it from the page again."
        raise UserError(msg)
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(COLUMNS) or cells[2] not in VERDICTS:
            msg = (
                f"{path} must have {len(COLUMNS)} cells a row and a verdict of accepted, flagged or"
                f" none; row {number} has not. Save it from the page again."
            )
            raise UserError(msg)
        case = plain(cells[1])
        if cells[0] != run or masks.get(case) != cells[4]:
            msg = (
                f"{path} is a review of another run: row {number} is of run {cells[0][:16]!r}, "
                f"these masks of {run!r}. Use the CSV that was saved from their page."
            )
            raise UserError(msg)
        reviews[case] = Review(cells[2], plain(cells[3]))
    return reviews


def plain(cell: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from running it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
