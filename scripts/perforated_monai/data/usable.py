"""Cases that nothing can be learnt from: refused by name before they are trained on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..rules import WARNING, Finding

EMPTY = "label-empty"  # the rule of `check`
_MOST_NAMED = 5


def refuse_constant(case: Any, files: str) -> None:
    """Refuse an image of one value: normalised, it is nothing but 0 or NaN.

    Args:
        case: after loading and the deterministic transforms; what is no mapping with a tensor under
            ``image`` passes.
        files: what the message names.

    Raises:
        UserError: for an image whose channels are all constant.
    """
    image = case.get("image") if isinstance(case, dict) else None
    if not isinstance(image, Tensor) or image.numel() == 0:
        return
    flat = image.as_subclass(Tensor).flatten(1) if image.dim() > 1 else image[None]
    if bool((flat.amin(1) == flat.amax(1)).all()):
        msg = f"{files}: the image holds one value everywhere. Export it again or remove the case."
        raise UserError(msg)


def judge_labels(findings: Sequence[Finding], cases: int, part: str, root: str) -> None:
    """Refuse a part whose labels hold no foreground at all; warn by name of those that hold none.

    Args:
        findings: of the check of the part.
        cases: how many it has.
        part: "train", "validation", …
        root: the dataset folder, for the message.

    Raises:
        UserError: when no label of a part that trains or validates has foreground.
    """
    empty = [f.file for f in findings if f.rule == EMPTY and f.severity == WARNING]
    if not empty:
        return
    named = ", ".join(empty[:_MOST_NAMED])
    if len(empty) > _MOST_NAMED:
        named += f" and {len(empty) - _MOST_NAMED} more"
    if len(empty) == cases and part in ("train", "validation"):
        msg = (
            f"{root}: all {cases} labels of the part {part} hold background alone ({named}): there "
            "is nothing to learn or to score. Correct the labels."
        )
        raise UserError(msg)
    msg = f"{len(empty)} of {cases} labels of the part {part} hold background alone: {named}."
    warnings.warn(msg, stacklevel=3)
