"""What a report says of a sweep: its trials, best first, and three figures."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from .results import StudyResults
from .study_file import Study
from .sweep_storage import counts, open_sweep
from .trial import SWEEP_ARM, Places, Trial
from .trial_rows import TrialRow


def _relabel(figure: Any) -> None:
    """Optuna's "Objective Value" is the validation Dice; titles stand above the figure."""
    for axes in figure.axes:
        for side in ("left", "center"):
            axes.set_title("", loc=side)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_label_text(axis.label.get_text().replace("Objective Value", "validation Dice"))
            texts = [t.get_text() for t in axis.get_ticklabels()]
            if "Objective Value" in texts:
                shown = [t.replace("Objective Value", "validation Dice") for t in texts]
                axis.set_ticks(axis.get_ticklocs(), shown)
        legend = axes.get_legend()
        for text in legend.get_texts() if legend else []:
            text.set_text(text.get_text().replace("Objective Value", "validation Dice"))


def trials(study: Study, results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and a row a trial, by falling validation Dice, from the results alone.

    Ended trials without a score (pruned or failed) come last, with the reason.
    """
    names = list(study.sweep["space"])
    header = ["trial", "validation Dice", "test Dice", "sets", "parameters", *names]
    rows = rows_of(results)
    scored = [(row, row.measured) for row in rows if row.measured is not None]
    table = []
    for row, m in sorted(scored, key=lambda pair: -pair[1].validation_dice):
        cells = [number_of(row.trial), f"{m.validation_dice:.4f}", f"{m.mean_dice():.4f}"]
        table.append([*cells, str(m.sets), f"{m.parameters:,}", *_shown(row, names)])
    for row in rows:
        if row.status == "failed":
            table.append([number_of(row.trial), row.reason, "", "", "", *_shown(row, names)])
    return header, table


def ended(study: Study, rows: Sequence[TrialRow]) -> str:
    """How many trials of a sweep ended how."""
    how = Counter("pruned" if row.reason.startswith("pruned") else row.status for row in rows)
    said = ", ".join(f"{how[name]} {name}" for name in ("done", "pruned", "failed") if how[name])
    return f"{said or 'none done'}, of {study.sweep['trials']}"


def rows_of(results: StudyResults) -> list[TrialRow]:
    """Every trial of a sweep that has ended, by its number."""
    return [row for row in results.rows() if row.trial.arm.startswith(SWEEP_ARM)]


def number_of(trial: Trial) -> str:
    """The number of a sweep's trial, with leading zeros."""
    return trial.arm.removeprefix(SWEEP_ARM)


def _shown(row: TrialRow, names: list[str]) -> list[str]:
    values = [row.chosen.get(name, "") for name in names]
    return [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]


def pictures(study: Study, places: Places) -> list[tuple[str, Figure]]:
    """Title and figure of each plot that the finished trials allow."""
    if not (places.results / "sweep.db").exists():
        return []
    search = open_sweep(study, places, "")
    done = [t for t in search.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not done:
        return []
    import matplotlib.pyplot as plt

    draw: Any = optuna.visualization.matplotlib
    ended = ", ".join(f"{n} {what}" for what, n in counts(search).items() if n)
    plots = [(f"Best validation Dice over trials ({ended})", draw.plot_optimization_history)]
    if len(done) > 1:
        plots.append(("Parallel coordinates of the trials", draw.plot_parallel_coordinate))
    if len({t.value for t in done}) > 1 and len(done) > 3:
        plots.append(
            ("Importance of the parameters for validation Dice", draw.plot_param_importances)
        )
    figures = []
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    try:
        for title, plot in plots:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                axes = plot(search)
            figure = axes.figure
            figure.set_size_inches(9, 4.2)
            _relabel(figure)
            figures.append((title, figure))
            plt.close(figure)
    finally:
        plt.switch_backend(backend)
    return figures
