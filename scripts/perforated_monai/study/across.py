"""Comparisons across the networks of a study: a small one, grown, against a large one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .comparisons import Comparisons
from .report_tables import NONE, ends, middle, points
from .statistics import Comparison, compare

HEADER = (
    *("comparison", "Dice", "95 %", "seeds", "allowed", "parameters", "FLOPs", "file"),
    *("CPU time", "memory", "energy", "met"),
)
MET, SHOWN, MISSED = "on the mean, not shown", "shown", "no"

_COSTS = ("parameters", "flops", "file_bytes", "latency_ms", "peak_memory_mib", "energy_joule")


@dataclass(frozen=True)
class Across:
    """One network and arm against another one.

    Attributes:
        arm, against: ``network/arm``.
        within: how much lower the Dice may be, 0 to 1.
        comparison: of Dice; None where no seed is done in both.
        costs: change of each of ``_COSTS``, -1 to infinity; None where it was not measured.
    """

    arm: str
    against: str
    within: float
    comparison: Comparison | None
    costs: tuple[float | None, ...]

    @property
    def met(self) -> str:
        """Whether the Dice is lower by no more than ``within``: shown, on the mean, or not."""
        if self.comparison is None:
            return NONE
        found = self.comparison.reported
        if found.mean < -self.within:
            return MISSED
        return SHOWN if found.low >= -self.within else MET

    def row(self) -> list[str]:
        """Cells under ``HEADER``."""
        name = f"{self.arm} − {self.against}"
        allowed = points(-self.within or 0.0, "dice")  # no sign before 0
        shown = [NONE if c is None else f"{100 * c:+.1f} %" for c in self.costs]
        if self.comparison is None:
            return [name, NONE, "", "0", allowed, *shown, self.met]
        found, seeds = self.comparison.reported, str(self.comparison.over_seeds.n)
        mean = points(found.mean, "dice")
        return [name, mean, ends(found, "dice"), seeds, allowed, *shown, self.met]


def across(data: Comparisons) -> Iterator[Across]:
    """Every comparison of the study's ``across``, in its order; paired by seed and case."""
    for entry in data.study.across:
        network, arm = str(entry["arm"]).split("/")
        other, control = str(entry["against"]).split("/")
        table, seeds, _ = data.difference(network, arm, control, "dice", other)
        found = compare({"": table})[0] if seeds else None
        pair = data.cells[network, arm], data.cells[other, control]
        costs = []
        for name in _COSTS:
            small, large = (cell.numbers(name) for cell in pair)
            costs.append(middle(small) / middle(large) - 1 if small and large else None)
        within = float(entry.get("within", 0.0))
        yield Across(str(entry["arm"]), str(entry["against"]), within, found, tuple(costs))
