"""The volumes of a dataset folder: which files are there, and which case each belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from .manifest import Manifest
from .schema import Layout


def dataset_root(folder: str | Path) -> Path:
    """The folder, with links resolved.

    Raises:
        UserError: a missing, unreadable or empty folder, or an empty name.
    """
    if not str(folder).strip():  # it would stand for the current folder
        msg = "dataset folder must be a folder's name; got an empty one. Correct dataset_dir."
        raise UserError(msg)
    path = Path(folder).expanduser()
    try:
        names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        msg = f"dataset folder {path} cannot be read: {error.strerror}. Correct dataset_dir."
        raise UserError(msg) from error
    if not names:
        msg = f"dataset folder {path} is empty. Put volumes into it or correct dataset_dir."
        raise UserError(msg)
    return path.resolve()


def volumes(folder: Path) -> list[Path]:
    """NIfTI files of a folder, sorted; names with a leading dot (macOS archives) are none."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if suffix_of(e.name) and not e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        msg = f"folder {folder} cannot be read: {error.strerror}. Correct its rights."
        raise UserError(msg) from error
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def listed_files(root: Path, layout: Layout) -> set[str]:
    """Every volume in the layout's folders, relative to the root, with forward slashes."""
    folders = {layout.image_dir, layout.label_dir, layout.test_image_dir, layout.test_label_dir}
    return {f"{name}/{path.name}" for name in folders for path in volumes(root / name)}


def present(root: Path, manifest: Manifest, cases: Iterable[str]) -> list[bool]:
    """For each case, whether image and label are there."""
    files = listed_files(root, manifest.layout)
    return [files.issuperset(manifest.files(case)) for case in cases]


def suffix_of(name: str) -> str:
    """Ending of a volume, ".nii.gz" or ".nii"; empty for any other file."""
    return next((s for s in (".nii.gz", ".nii") if name.lower().endswith(s)), "")


def case_id(name: str) -> str:
    """File name without its ending; any other name as it is."""
    return name[: len(name) - len(suffix_of(name))]


def case_ids(root: Path, *folders: str) -> list[str]:
    """Sorted ids of the volumes in some folders of a dataset."""
    return sorted({case_id(path.name) for name in folders for path in volumes(root / name)})
