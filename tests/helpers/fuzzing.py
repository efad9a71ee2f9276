"""What holds for any input of ``segment``, and how much of it the fuzzing tests try."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings

from helpers.segment_bundle import segment
from perforated_monai.files import csv_text
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.found import shown

SHORT = 8
ALL = int(os.environ.get("FUZZ_EXAMPLES", "10000"))  # of a long run, all its tests together
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ANY: dict[str, Any] = {"suppress_health_check": list(HealthCheck), "database": None}
MODEST = ANY | {
    "deadline": 20_000,  # ms; two cores that others use as well
    "derandomize": True,
}


def at_length(share: float) -> Callable[[Callable], Callable]:
    """A long test gets this share of ``FUZZ_EXAMPLES``, drawn from ``FUZZ_SEED``."""
    count = max(int(share * ALL), 1)

    def mark(test: Callable) -> Callable:
        # It runs beside other work, for hours: an example may take a while on the clock.
        long = settings(max_examples=count, deadline=300_000, print_blob=True, **ANY)
        return pytest.mark.slow(pytest.mark.timeout(0)(seed(SEED)(long(test))))

    return mark


def holds(root: Path, source: Path, segmenter: Segmenter, cases: int | None) -> list[dict]:
    """Segment and check what holds for any input; the rows."""
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    output = root / "out"
    summary = segment(source, output, segmenter, workers=1)
    assert all(p.read_bytes() == data for p, data in before.items())
    outside = {p for p in root.rglob("*") if p.is_file() and not p.is_relative_to(output)}
    assert outside == set(before)
    assert cases in (None, len(summary.rows))
    assert len({row["case"] for row in summary.rows}) == len(summary.rows)
    with (output / "cases.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [row["case"] for row in table] == [csv_text(row["case"]) for row in summary.rows]
    assert not any(str(cell)[:1] in "=+@" for row in table for cell in row.values() if cell)
    states = {row["status"] for row in summary.rows}
    assert summary.exit_code == {("done",): 0, ("failed",): 1}.get(tuple(sorted(states)), 3)
    for row in summary.rows:
        assert bool(row["reason"]) == (row["status"] == "failed")
        assert row["reason"].isprintable() and str(root) not in row["reason"]
        assert not row["reason"].startswith(("TypeError", "KeyError", "IndexError", "Overflow"))
    masks = {shown(p.relative_to(output)) for p in output.rglob("*_seg.nii.gz")}
    assert masks == {row["mask"] for row in summary.rows if row["status"] == "done"}
    return summary.rows
