"""What holds for any input of ``segment``, and how much of it the fuzzing tests try."""

from __future__ import annotations

import csv
from pathlib import Path

from hypothesis import HealthCheck

from helpers.segment_bundle import segment
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.found import shown

SHORT, LONG = 8, 10_000
MODEST = {
    "deadline": 20_000,  # ms; two cores that others use as well
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


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
        assert [row["case"] for row in csv.DictReader(handle)] == [r["case"] for r in summary.rows]
    states = {row["status"] for row in summary.rows}
    assert summary.exit_code == {("done",): 0, ("failed",): 1}.get(tuple(sorted(states)), 3)
    for row in summary.rows:
        assert bool(row["reason"]) == (row["status"] == "failed")
        assert row["reason"].isprintable() and str(root) not in row["reason"]
        assert not row["reason"].startswith(("TypeError", "KeyError", "IndexError", "Overflow"))
    masks = {shown(p.relative_to(output)) for p in output.rglob("*_seg.nii.gz")}
    assert masks == {row["mask"] for row in summary.rows if row["status"] == "done"}
    return summary.rows
