"""Soft targets of cases: what ``segment --probabilities`` wrote, found beside the datalist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .layout import case_id

KEY = "soft"
_ENDING = "_prob.nii.gz"


def add_soft_targets(cases: Sequence[dict[str, Any]], folder: str | Path) -> list[dict[str, Any]]:
    """Each case with its probabilities under ``soft``.

    Args:
        cases: a datalist with ``image``.
        folder: output folder of ``segment --probabilities`` over the images of these cases: the
            probabilities of ``a.nii.gz`` are ``a_prob.nii.gz``, anywhere below it.

    Raises:
        UserError: for a folder without such files, a case without one, or with two.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob(f"*{_ENDING}")):
        found.setdefault(path.name.removesuffix(_ENDING), []).append(path)
    if not found:
        msg = (
            f"soft_targets must be a folder that segment --probabilities wrote; {folder} has no "
            f"*{_ENDING}. Segment the training images with the teachers first."
        )
        raise UserError(msg)
    result = []
    for case in cases:
        name = case_id(Path(case["image"]).name)
        paths = found.get(name, [])
        if len(paths) != 1:
            what = "two or more" if paths else "no"
            msg = (
                f"each training case needs its soft target; {folder} has {what} {name}{_ENDING}. "
                "Segment the training images with the teachers and --probabilities."
            )
            raise UserError(msg)
        result.append(case | {KEY: str(paths[0].absolute())})
    return result
