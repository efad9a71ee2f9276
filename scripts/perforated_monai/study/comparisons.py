"""Every cell of a study, that is a network and an arm, and the comparisons between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..data.scores import CaseRow
from .results import StudyResults
from .statistics import Comparison, TInterval, compare, t_interval
from .study_file import Study
from .trial import Trial
from .trial_rows import PREFIX, Event, Measurement

GROWING = ("dendrites", "dendrites_init")
# Controls of a growing arm, the most telling first.
CONTROLS = (
    *("wide", "wide_long", "wide_flops", "wide_time", "deeper", "branch", "base_long"),
    *("from_start", "base"),
)


@dataclass
class Cell:
    """Everything that is there of one network and arm.

    Attributes:
        measured: of every trial that is done; where nothing differed from base, base's own.
        cases: trial -> test cases.
        history: trial -> events.
        same: trials for which the arm base stands.
        failed: trial -> reason.
    """

    network: str
    arm: str
    measured: dict[Trial, Measurement] = field(default_factory=dict)
    cases: dict[Trial, list[CaseRow]] = field(default_factory=dict)
    history: dict[Trial, list[Event]] = field(default_factory=dict)
    same: list[Trial] = field(default_factory=list)
    failed: dict[Trial, str] = field(default_factory=dict)

    def numbers(self, name: str) -> list[float]:
        """A field of ``Measurement`` over trials, where it was measured."""
        values = [getattr(m, name) for m in self.measured.values()]
        return [float(v) for v in values if v is not None]


class Comparisons:
    """Every cell of a study and the comparisons between them.

    Args:
        study: the study.
        results: its results.
    """

    def __init__(self, study: Study, results: StudyResults) -> None:
        self.study, self.results = study, results
        self.cells = {
            (network, arm): self._cell(network, arm)
            for network in study.networks
            for arm in study.arms_of(network)
        }

    @property
    def growing(self) -> list[str]:
        """Arms of the study that grow dendrites."""
        return [a for a in (*GROWING, *self.study.variants) if a in self.study.arms]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Arms and their controls: every growing arm with every control, then the study's own."""
        arms = self.study.arms
        usual = [(a, c) for a in GROWING for c in CONTROLS if a in arms and c in arms]
        return [*usual, *((arm, control) for arm, control in self.study.compare)]

    def pairs_of(self, network: str) -> list[tuple[str, str]]:
        """The pairs whose arms a network has."""
        return [pair for pair in self.pairs if all((network, arm) in self.cells for arm in pair)]

    def classes(self, metric: str) -> list[str]:
        """Classes in the tables of a metric."""
        for cell in self.cells.values():
            for cases in cell.cases.values():
                columns = cases[0].values
                prefix = PREFIX[metric]
                return [c[len(prefix) :] for c in columns if c.startswith(prefix)]
        return []

    def table(self, network: str, arm: str, metric: str) -> dict[int, dict[str, float]]:
        """Seed -> case -> mean over classes; seeds that are done on every fold of the study."""
        cell, table = self.cells[network, arm], {}
        for seed in self.study.seeds:
            trials = [Trial(network, arm, fold, seed) for fold in self.study.folds]
            if all(t in cell.cases for t in trials):
                rows = [row for t in trials for row in cell.cases[t]]
                table[seed] = {row.case: row.mean(PREFIX[metric]) for row in rows}
        return table

    def difference(
        self, network: str, arm: str, control: str, metric: str, other: str = ""
    ) -> tuple[np.ndarray, list[int], list[str]]:
        """``arm`` minus ``control``, ``(seeds, cases)``, with its seeds and cases.

        ``control`` may be of another network.
        """
        a, b = self.table(network, arm, metric), self.table(other or network, control, metric)
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            return np.zeros((0, 0)), [], []
        cases = sorted(set.intersection(*(set(t[s]) for t in (a, b) for s in seeds)))
        rows = [[a[s][c] - b[s][c] for c in cases] for s in seeds]
        return np.array(rows), seeds, cases

    def judged(self, network: str, metric: str) -> dict[tuple[str, str], Comparison]:
        """The verdict of every pair; one family for Holm."""
        tables = {}
        for arm, control in self.pairs_of(network):
            table, seeds, _ = self.difference(network, arm, control, metric)
            if seeds:
                tables[arm, control] = table
        named = {f"{a} - {b}": t for (a, b), t in tables.items()}
        return dict(zip(tables, compare(named), strict=True)) if tables else {}

    def per_class(self, network: str, arm: str, metric: str) -> dict[str, TInterval]:
        """Mean over cases of each class: interval over seeds."""
        measured = self.cells[network, arm].measured.values()
        scores = {c: PREFIX[metric] + c for c in self.classes(metric)}
        return {
            c: t_interval(list(_finite(m.scores.get(column) for m in measured)))
            for c, column in scores.items()
        }

    # -- reading ---------------------------------------------------------------------------

    def _cell(self, network: str, arm: str) -> Cell:
        cell = Cell(network, arm)
        for fold in self.study.folds:
            for seed in self.study.seeds:
                self._read(cell, Trial(network, arm, fold, seed))
        return cell

    def _read(self, cell: Cell, trial: Trial) -> None:
        row, source = self.results.row(trial), trial
        if row is not None and row.status == "failed":
            cell.failed[trial] = row.reason
        if row is not None and row.status == "same":
            cell.same.append(trial)
            source = Trial(trial.network, row.same_as, trial.fold, trial.seed)
            row = self.results.row(source)
        if row is None or row.measured is None:
            return
        cell.measured[trial] = row.measured
        cell.cases[trial] = self.results.cases(source)
        cell.history[trial] = self.results.history(source)


def _finite(values: Iterable[float | None]) -> Iterable[float]:
    return (v for v in values if v is not None and math.isfinite(v))
