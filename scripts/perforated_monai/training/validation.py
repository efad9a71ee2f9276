"""The score of a validation: the metric that counts, and its mean for each class."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .ignite_events import validation_interval

MOST_WITHOUT = 10  # validations in a row that find nothing, before it is said


def refuse_epochs(trainer: Any, evaluator: Any) -> None:
    """Refuse, before anything is trained, a number of epochs that leads to no best network.

    Raises:
        UserError: for epochs that are no whole number of 1 or more, or a validation that would come
            after the last of them.
    """
    epochs = trainer.state.max_epochs
    if epochs is None:  # a program of someone's own says it when it runs the trainer
        return
    if not isinstance(epochs, Integral) or isinstance(epochs, bool) or epochs < 1:
        msg = f"epochs must be a whole number of 1 or more; got {epochs!r}. Correct the setting."
        raise UserError(msg)
    interval = validation_interval(trainer, evaluator)
    if interval is not None and interval > epochs:
        msg = (
            f"val_interval must be at most epochs, or no validation chooses a network; got "
            f"{interval} of {epochs} epochs. Lower val_interval or train longer."
        )
        raise UserError(msg)


class NothingFound:
    """Notices scores that stay 0 or NaN: the network finds nothing, or there is nothing to find."""

    def __init__(self) -> None:
        self._row = 0

    def line(self, score: float) -> str | None:
        """What to say after this validation's score; None for nothing, and once said."""
        self._row = 0 if math.isfinite(score) and score > 0 else self._row + 1
        if self._row != MOST_WITHOUT:
            return None
        return (
            f"warning: the score of {MOST_WITHOUT} validations in a row is {score:g}: the network "
            "finds nothing. Look at the labels, their values and the learning rate."
        )


def score_of(evaluator: Any, metric: str | None) -> tuple[float, list[float] | None]:
    """Mean of a metric and, where it keeps its raw values, the mean of each class.

    Args:
        evaluator: behind its run.
        metric: entry of its metrics; its key metric when not given.

    Raises:
        UserError: for a metric that the evaluator does not have.
    """
    state: Any = evaluator.state
    name = metric or state.key_metric_name
    if name not in state.metrics:
        known = ", ".join(state.metrics) or "none"
        msg = f"metric must be one of the evaluator's, {known}; got {name!r}."
        raise UserError(msg)
    return float(state.metrics[name]), _per_class(state.metric_details.get(name))


def shown_name(evaluator: Any, metric: str | None) -> str:
    """What a person reads for a metric: ``Dice`` for any mean Dice, otherwise its own name."""
    name = str(metric or evaluator.state.key_metric_name or "Dice")
    return "Dice" if "dice" in name.lower() else name


def _per_class(details: Any) -> list[float] | None:
    """Mean over cases of raw values ``(cases, classes)``, absent classes left out."""
    if not isinstance(details, Tensor) or details.dim() != 2:
        return None
    return [round(float(v), 6) for v in torch.nanmean(details.double(), dim=0)]
