"""Figures of a sweep: history, importance of the parameters, parallel coordinates."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib as mpl
import optuna
from markupsafe import Markup
from optuna.trial import TrialState

from .figures import as_svg
from .file import Study
from .sweep import counts, open_sweep
from .trial import Places


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
            found.append((title, Markup(as_svg(figure))))
            plt.close(figure)
    finally:
        plt.switch_backend(backend)
    return found
