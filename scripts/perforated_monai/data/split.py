"""The split: nnU-Net's cross-validation rule without scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import UserError
from .schema import FOLDS

SEED = 12345


def kfold(ids: Iterable[str], folds: int = FOLDS, seed: int = SEED) -> list[list[str]]:
    """Validation ids of each fold, sorted, by nnU-Net's rule.

    The rule is scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` over the sorted ids
    (nnunetv2/utilities/crossval_split.py): the first `n % folds` folds hold one case more.

    Raises:
        UserError: fewer ids than folds, or an id twice.
    """
    ordered = sorted(ids)
    if len(ordered) < folds or len(set(ordered)) < len(ordered):
        msg = (
            f"{folds} folds need at least {folds} cases with distinct ids; got {len(ordered)} ids, "
            f"{len(set(ordered))} of them distinct. Add labelled cases."
        )
        raise UserError(msg)
    order = np.arange(len(ordered))
    np.random.RandomState(seed).shuffle(order)
    return [sorted(ordered[i] for i in chunk) for chunk in np.array_split(order, folds)]
