"""Where the volumes of a structure lie, beside those of the training labels; everything in mL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..volumes import OUTLIER, TrainingVolumes

_BINS = 24
WIDTH, HEIGHT = 380, 212  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BASE = 34, 368, 40, 150


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram, in units of the drawing."""

    x: float
    width: float
    y: float
    height: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """A structure's drawing; positions are in its own units.

    Attributes:
        name: of the structure.
        bars: cases of this run.
        highest: cases of the highest bar, which stands beside the axis.
        ticks: position and text.
        outliers: position, case and z-score of each.
        training: name of a percentile such as ``p5`` -> position; empty without training volumes.
        limits: position and text of the z-scores −3.5 and 3.5 that lie inside the drawing.
        sentence: what it shows, in words.
    """

    name: str
    bars: list[Bar]
    highest: int
    ticks: list[tuple[float, str]]
    outliers: list[tuple[float, str, float]]
    training: dict[str, float]
    limits: list[tuple[float, str]]
    sentence: str


def make_histogram(
    name: str, volumes: Mapping[str, float], training: TrainingVolumes | None
) -> Histogram:
    """Count volumes (case -> mL, at least one) in equal bins."""
    values = np.array(list(volumes.values()))
    ends = [0.0, float(values.max())]
    if training is not None:
        ends.append(max(training.percentiles_ml[100], training.limits_ml[1]))
    step = _step(max(ends))
    top = step * (np.floor(max(ends) / step * 1.0001) + 1)

    def place(ml: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * float(np.clip(ml / top, 0, 1)), 1)

    counts, edges = np.histogram(values, bins=_BINS, range=(0, top))
    highest = int(counts.max())
    bars = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            tall = (_BASE - _TOP) * int(count) / highest
            text = f"{low:.3g} to {high:.3g} mL: {count} {'case' if count == 1 else 'cases'}"
            bars.append(
                Bar(place(low), round((_RIGHT - _LEFT) / _BINS - 1, 1), _BASE - tall, tall, text)
            )
    outliers, limits, places = [], [], {}
    sentence = f"{name}: {len(values)} cases, {values.min():.3g} to {values.max():.3g} mL"
    if training is not None:
        scores = {case: training.robust_z(ml) for case, ml in volumes.items()}
        outliers = [
            (place(volumes[case]), case, z)
            for case, z in scores.items()
            if z is not None and abs(z) > OUTLIER
        ]
        places = {f"p{p}": place(ml) for p, ml in training.percentiles_ml.items()}
        if training.mad_ml > 0:
            limits = [
                (place(ml), f"z {sign}{OUTLIER}")
                for ml, sign in zip(training.limits_ml, "−+", strict=True)
                if ml > 0
            ]
        low, high = training.percentiles_ml[0], training.percentiles_ml[100]
        sentence += f"; training {low:.3g} to {high:.3g} mL; {len(outliers)} outliers"
    ticks = [(place(k * step), f"{k * step:g}") for k in range(round(top / step) + 1)]
    return Histogram(name, bars, highest, ticks, outliers, places, limits, sentence)


def _step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, for four to eight ticks."""
    if highest <= 0:
        return 0.25
    rough = highest / 5
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999))
