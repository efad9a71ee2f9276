"""The split of a dataset folder into folds and a test part, by the rule of nnU-Net."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from .layout import case_ids, dataset_root, suffix_of, volumes
from .manifest import Checksums, Manifest, load_manifest, refuse
from .patients import Patients
from .reading import read, reason_of
from .schema import FOLDS, Layout

FEWEST_WITH_TEST = 10


def resolve(manifest: Manifest | str | Path, dataset_dir: str | Path) -> Manifest:
    """Load a manifest given by path or name; one without cases takes ids and split from the folder.

    Raises:
        UserError: as `load_manifest`, and as `split_folder`.
    """
    if not isinstance(manifest, Manifest):
        manifest = load_manifest(manifest)
    return (
        manifest if manifest.cases else split_folder(dataset_root(dataset_dir), manifest, test=True)
    )


def split_folder(
    root: Path, manifest: Manifest, test: bool, patients: Patients | None = None
) -> Manifest:
    """Fill `cases` (without checksums), `test`, `folds` and `patients` from the folder's volumes.

    The test part is the pairs of `imagesTs` and `labelsTs` where `labelsTs` exists, else the
    validation part of fold 0 of all labelled cases, else (`test=False`) empty. With `patients` the
    rule is that of nnU-Net over the sorted patients, and a case goes where its patient goes.

    Raises:
        UserError: a case or patient in both folders, too few cases or patients for a test part or
            the folds, or patients that cannot be told (`Patients.of`).
    """
    images, labels = manifest.layout.image_dir, manifest.layout.label_dir
    layout = replace(manifest.layout, test_image_dir=images, test_label_dir=labels)
    pool = case_ids(root, images, labels)
    own = (root / "labelsTs").is_dir()
    held = case_ids(root, "imagesTs", "labelsTs") if own else []
    patient_of = patients.of(sorted({*pool, *held})) if patients else {}
    units = sorted({patient_of.get(case, case) for case in pool})
    what = "patients" if patients else "labelled cases"
    if own:
        layout = replace(layout, test_image_dir="imagesTs", test_label_dir="labelsTs")
        _refuse_both(root, pool, held, images, patient_of)
    elif test:
        if len(units) < FEWEST_WITH_TEST:
            msg = (
                f"a test part is taken from at least {FEWEST_WITH_TEST} {what}; {root} has "
                f"{len(units)} in {images}. Add some, put test cases of your own into imagesTs "
                "and labelsTs, or leave the part out with --no_test."
            )
            raise UserError(msg)
        chosen = set(kfold(units)[0])
        held = [case for case in pool if patient_of.get(case, case) in chosen]
        units = [unit for unit in units if unit not in chosen]
    if len(units) < FOLDS:
        msg = (
            f"{FOLDS} folds need at least {FOLDS} {what}; {root} has {len(units)} in "
            f"{images}. Add cases or correct the folder."
        )
        raise UserError(msg)
    folds = [
        [case for case in pool if patient_of.get(case, case) in chosen]
        for chosen in map(set, kfold(units))
    ]
    cases: dict[str, Checksums | None] = dict.fromkeys(sorted({*pool, *held}))
    return replace(
        manifest, layout=layout, cases=cases, test=held, folds=folds, patients=patient_of
    )


def _refuse_both(
    root: Path, pool: list[str], held: list[str], images: str, patient_of: dict[str, str]
) -> None:
    """Refuse cases and patients that lie in the training and in the test folder."""
    refuse(
        f"case {case} of {root} must not lie in {images} and in imagesTs: test cases are never "
        "trained on. Remove or rename one."
        for case in sorted(set(pool) & set(held))
    )
    shown = {patient_of.get(case): case for case in held}
    refuse(
        f"patient {patient_of[case]} of {root} must not lie in {images} ({case}) and in imagesTs "
        f"({shown[patient_of[case]]}): a patient is on one side. Move the volumes together."
        for case in pool
        if patient_of.get(case, "") in shown
    )


def describe_folder(root: Path, name: str) -> Manifest:
    """A manifest without cases, from what the folder's `dataset.json` declares, if there is one.

    Raises:
        UserError: a damaged `dataset.json`, or both file endings in the folder.
    """
    path = root / "dataset.json"
    try:
        data = read(path) if path.is_file() else {}
        channels = [data["modality"][k] for k in sorted(data.get("modality", {}), key=int)]
        labels = {int(value): str(text) for value, text in data.get("labels", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        msg = (
            f"{path} must be JSON with MSD's 'modality' and 'labels' (number -> name): "
            f"{reason_of(error)}. "
            "Correct or remove it."
        )
        raise UserError(msg) from error
    generator = data.get("generator")
    return Manifest(
        name=name,
        version="1.0",
        licence=str(data.get("licence") or data.get("license") or "not stated"),
        citation=str(data.get("reference") or "not stated"),
        source_url=None,
        archive_md5=None,
        modality=", ".join(dict.fromkeys(map(str, channels))) or "not stated",
        channel_names=[str(channel) for channel in channels],
        label_names=dict(sorted(labels.items())),
        spacing_mm=None,
        layout=Layout(suffix=_suffix(root)),
        generator=generator if isinstance(generator, dict) else None,
    )


def _suffix(root: Path) -> str:
    folders = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
    suffixes = {suffix_of(path.name) for name in folders for path in volumes(root / name)}
    if len(suffixes) > 1:
        msg = f"{root} must hold .nii.gz or .nii files, not both. Compress all of them with gzip."
        raise UserError(msg)
    return suffixes.pop() if suffixes else ".nii.gz"


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
