"""What a report says of a sweep: its trials, best first, and three figures."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from markupsafe import Markup
from optuna.trial import TrialState

from .figures import as_svg
from .study_file import Study
from .sweep import CHOSEN, counts, open_sweep
from .trial import Places


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


def trials(study: Study, places: Places) -> tuple[list[str], list[list[str]]]:
    """Header and a row a trial, by falling validation Dice, from the results folder alone.

    Ended trials without a score (pruned or failed) come last, with the reason.
    """
    names = list(study.sweep["space"])
    header = ["trial", "validation Dice", "test Dice", "sets", "parameters", *names]
    found = [_read(folder) for folder in sorted(places.results.glob("*-sweep*"))]
    scored = sorted(
        (f for f in found if "validation_dice" in f[1]), key=lambda f: -f[1]["validation_dice"]
    )
    rows = []
    for chosen, result, number in scored:
        tested = [v for k, v in result.items() if k.startswith("dice_")]
        cells = [f"{result['validation_dice']:.4f}", f"{sum(tested) / len(tested):.4f}"]
        cells += [str(result["sets"]), f"{result['parameters']:,}"]
        rows.append([number, *cells, *_shown(chosen, names)])
    for chosen, result, number in found:
        if result.get("status") == "failed":
            rows.append([number, result["reason"], "", "", "", *_shown(chosen, names)])
    return header, rows


def ended(study: Study, places: Places) -> str:
    """How many trials ended how."""
    results = [_read(folder)[1] for folder in places.results.glob("*-sweep*")]
    how = Counter(
        "pruned" if str(r.get("reason", "")).startswith("pruned") else r["status"]
        for r in results
        if "status" in r
    )
    said = ", ".join(f"{how[name]} {name}" for name in ("done", "pruned", "failed") if how[name])
    return f"{said or 'none done'}, of {study.sweep['trials']}"


def results_of(places: Places) -> list[dict[str, Any]]:
    """``result.json`` of every trial that was done."""
    results = [_read(folder)[1] for folder in places.results.glob("*-sweep*")]
    return [r for r in results if r.get("status") == "done"]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What was chosen, the result as far as there is one, and the trial's number."""
    found = []
    for name in (CHOSEN, "result.json"):
        file = folder / name
        found.append(json.loads(file.read_text()) if file.is_file() else {})
    return found[0], found[1], folder.name.split("-sweep")[1][:4]


def _shown(chosen: dict[str, Any], names: list[str]) -> list[str]:
    values = [chosen.get(name, "") for name in names]
    return [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]


def pictures(study: Study, places: Places, storage: str = "") -> list[tuple[str, Markup]]:
    """Title and figure of each plot that the finished trials allow."""
    if not storage and not (places.results / "sweep.db").exists():
        return []
    search = open_sweep(study, places, storage)
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
    found = []
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
            found.append((title, Markup(as_svg(figure, tight=True))))
            plt.close(figure)
    finally:
        plt.switch_backend(backend)
    return found
