"""Datalists: the cases that training and evaluation read, and the volumes that inference reads."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .check.check import check_dataset
from .layout import case_id, dataset_root, volumes
from .manifest import Manifest, refuse
from .splits import resolve
from .usable import judge_labels


def datalist(
    dataset_dir: str | Path,
    manifest: Manifest | str | Path,
    part: str,
    fold: int = 0,
    test_fold: int | None = None,
) -> list[dict[str, str]]:
    """Cases of one part as MONAI data dicts, with absolute paths, sorted by case id.

    The keys are "image", "label" and "case"; none begins with "image_" or "label_", because
    `Spacingd` of MONAI 1.6 fails on such keys.

    With `test_fold` the validation cases of that fold are left out of the part as well: a study
    keeps them apart from training and from the choice of the checkpoint.

    What `check` calls an error is refused, as far as headers and labels tell; images are not read
    (`check` does), so that it takes seconds.

    Raises:
        UserError: a missing or empty folder, `test_fold` equal to `fold`, or every broken rule of a
            case of the part, one line each; or labels of which none has foreground.
    """
    root = dataset_root(dataset_dir)
    manifest = resolve(manifest, root)
    cases = manifest.part(part, fold)
    if test_fold is not None:
        if test_fold == fold:
            msg = f"test_fold and fold must differ; both are {fold}. Take another fold."
            raise UserError(msg)
        held_out = set(manifest.part("validation", test_fold))
        cases = [case for case in cases if case not in held_out]
    audit = check_dataset(root, manifest, cases=cases, read="labels")
    refuse(audit.errors())
    judge_labels(audit.findings, len(cases), part, str(root))
    pairs = [(case, *manifest.files(case)) for case in cases]
    return [{"image": str(root / i), "label": str(root / j), "case": c} for c, i, j in pairs]


def find_volumes(folder: str | Path) -> list[dict[str, str]]:
    """Every volume to segment, as `{"image": absolute path}`, sorted by path.

    They are the `.nii` and `.nii.gz` files in the folder or, when it holds none, those in its
    `imagesTr` and `imagesTs`. Names that begin with "." are never volumes.

    Raises:
        UserError: a missing folder, no volume, one that is no regular file, or two volumes whose
            masks would share a name.
    """
    root = dataset_root(folder)
    paths = volumes(root) or volumes(root / "imagesTr") + volumes(root / "imagesTs")
    if not paths:
        msg = (
            f"{root} must hold .nii or .nii.gz volumes, directly or in imagesTr or imagesTs; "
            "found none. Correct dataset_dir."
        )
        raise UserError(msg)
    refuse(
        f"{path} must be a regular file: a pipe or a device would never end. Remove it."
        for path in paths
        if not path.is_file()
    )
    by_case: dict[str, list[str]] = {}
    for path in paths:
        by_case.setdefault(case_id(path.name), []).append(path.relative_to(root).as_posix())
    refuse(
        f"{' and '.join(names)} in {root} would get the same mask name. Move or rename all but one."
        for names in by_case.values()
        if len(names) > 1
    )
    return [{"image": str(path)} for path in paths]
