"""The score of a validation: the metric that counts, and its mean for each class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError


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


def _per_class(details: Any) -> list[float] | None:
    """Mean over cases of raw values ``(cases, classes)``, absent classes left out."""
    if not isinstance(details, Tensor) or details.dim() != 2:
        return None
    return [round(float(v), 6) for v in torch.nanmean(details.double(), dim=0)]
