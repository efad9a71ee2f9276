"""Results of a study as tables: one row a seed, one column a test case."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..training.run_folder import RunFolder
from . import results
from .statistics import Comparison, Interval, compare, t_interval
from .study_file import Study
from .trial import Places, Trial

PREFIX = {"dice": "dice_", "hd95": "hd95_mm_", "nsd": "nsd_"}
GROWING = ("dendrites", "dendrites_init")
# Controls of a growing arm, the most telling first.
CONTROLS = ("wide", "wide_flops", "branch", "base_long", "base")


@dataclass
class Cell:
    """Everything that is there of one network and arm.

    Attributes:
        results: trial -> ``result.json``; where nothing differed from base, base's own.
        cases: trial -> case -> column of ``cases.csv`` -> value.
        history: trial -> events.
        same: trials for which the arm base stands.
        failed: trial -> reason.
    """

    network: str
    arm: str
    results: dict[Trial, dict[str, Any]] = field(default_factory=dict)
    cases: dict[Trial, dict[str, dict[str, float]]] = field(default_factory=dict)
    history: dict[Trial, list[dict[str, Any]]] = field(default_factory=dict)
    same: list[Trial] = field(default_factory=list)
    failed: dict[Trial, str] = field(default_factory=dict)

    def values(self, key: str) -> list[float]:
        """A number of ``result.json`` over trials."""
        return [float(r[key]) for r in self.results.values() if r.get(key) is not None]


class Collected:
    """Every cell of a study and the comparisons between them.

    Args:
        study: the study.
        places: where its results lie.
    """

    def __init__(self, study: Study, places: Places) -> None:
        self.study, self.places = study, places
        self.cells = {
            (network, arm): self._cell(network, arm)
            for network in study.networks
            for arm in study.arms
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

    def classes(self, metric: str) -> list[str]:
        """Classes in the tables of a metric."""
        for cell in self.cells.values():
            for cases in cell.cases.values():
                columns = next(iter(cases.values()))
                prefix = PREFIX[metric]
                return [c[len(prefix) :] for c in columns if c.startswith(prefix)]
        return []

    def table(self, network: str, arm: str, metric: str) -> dict[int, dict[str, float]]:
        """Seed -> case -> mean over classes; seeds that are done on every fold of the study."""
        cell, found = self.cells[network, arm], {}
        for seed in self.study.seeds:
            trials = [Trial(network, arm, fold, seed) for fold in self.study.folds]
            if all(t in cell.cases for t in trials):
                rows = {c: v for t in trials for c, v in cell.cases[t].items()}
                found[seed] = {c: _mean(v, PREFIX[metric]) for c, v in rows.items()}
        return found

    def difference(
        self, network: str, arm: str, control: str, metric: str
    ) -> tuple[np.ndarray, list[int], list[str]]:
        """``arm`` minus ``control``, ``(seeds, cases)``, with its seeds and cases."""
        a, b = (self.table(network, x, metric) for x in (arm, control))
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            return np.zeros((0, 0)), [], []
        cases = sorted(set.intersection(*(set(t[s]) for t in (a, b) for s in seeds)))
        rows = [[a[s][c] - b[s][c] for c in cases] for s in seeds]
        return np.array(rows), seeds, cases

    def comparisons(self, network: str, metric: str) -> dict[tuple[str, str], Comparison]:
        """Every pair; one family for Holm."""
        tables = {}
        for arm, control in self.pairs:
            table, seeds, _ = self.difference(network, arm, control, metric)
            if seeds:
                tables[arm, control] = table
        named = {f"{a} - {b}": t for (a, b), t in tables.items()}
        return dict(zip(tables, compare(named), strict=True)) if tables else {}

    def per_class(self, network: str, arm: str, metric: str) -> dict[str, Interval]:
        """Mean over cases of each class: interval over seeds."""
        cell = self.cells[network, arm]
        keys = {c: PREFIX[metric] + c for c in self.classes(metric)}
        return {
            c: t_interval([r[key] for r in cell.results.values() if _finite(r.get(key))])
            for c, key in keys.items()
        }

    # -- reading ---------------------------------------------------------------------------

    def _cell(self, network: str, arm: str) -> Cell:
        cell = Cell(network, arm)
        for fold in self.study.folds:
            for seed in self.study.seeds:
                self._read(cell, Trial(network, arm, fold, seed))
        return cell

    def _read(self, cell: Cell, trial: Trial) -> None:
        found = results.read(self.places, trial)
        if found is None:
            return
        source = trial
        if found["status"] == "failed":
            cell.failed[trial] = str(found["reason"])
            return
        if found["status"] == "same":
            cell.same.append(trial)
            source = Trial(trial.network, str(found["same_as"]), trial.fold, trial.seed)
            found = results.read(self.places, source)
            if found is None or found["status"] != "done":
                return
        folder = self.places.kept(source)
        cell.results[trial] = found
        cell.cases[trial] = _cases(folder / "cases.csv")
        cell.history[trial] = RunFolder(folder).history()


def _cases(file: Any) -> dict[str, dict[str, float]]:
    with file.open(newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["case"] != "mean"]
    return {
        r["case"]: {k: float(v) if v else math.nan for k, v in r.items() if k != "case"}
        for r in rows
    }


def _mean(columns: dict[str, float], prefix: str) -> float:
    values = [v for k, v in columns.items() if k.startswith(prefix) and math.isfinite(v)]
    return sum(values) / len(values) if values else math.nan


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
