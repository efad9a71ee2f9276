"""What there is to segment: files, folder trees, DICOM series, and lists of several channels."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ...errors import UserError

NIFTI = (".nii.gz", ".nii")
LISTS = (".csv", ".json")
_OTHER_VOLUMES = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".img", ".hdr", ".nii.bz2")
_DICOM = (".dcm", ".ima", ".dicom")
_MSD_LABELS = {"labelsTr": "imagesTr", "labelsTs": "imagesTs"}


@dataclass(frozen=True)
class Case:
    """One volume.

    ``name`` stands in tables and messages; ``target`` is the mask's path below the output folder,
    without postfix and suffix. ``files`` are one a channel, or everything in a DICOM folder.
    ``problem``, when set, is why the case cannot be done.
    """

    name: str
    target: str
    files: tuple[Path, ...]
    dicom: bool = False
    problem: str = ""


def find_cases(
    source: str | Path, output: str | Path, anonymous: bool = False
) -> tuple[list[Case], list[str]]:
    """Cases of INPUT in the order of their names, and lines about what was left out.

    Args:
        source: a ``.nii`` or ``.nii.gz`` file, a folder tree of them and of DICOM series, or a
            ``.csv`` or ``.json`` list (a column, or an entry of ``image``, a channel).
        output: folder of the masks; never searched.
        anonymous: name cases by a hash of their relative path, and masks too.

    Raises:
        UserError: a missing input, nothing to segment in it, an unusable list, or an output
            folder that is the input folder.
    """
    source, output = Path(source), Path(output)
    left_out: list[str] = []
    if source.is_dir():
        if source.resolve() == output.resolve():
            msg = f"{output} must not be the input folder: masks would be taken for scans."
            raise UserError(msg)
        cases = list(_walk(source, output.resolve(), left_out))
    elif not source.exists():
        msg = f"{source} does not exist. Give a file, a folder, or a .csv or .json list."
        raise UserError(msg)
    elif source.name.lower().endswith(LISTS):
        cases = _listed(source)
    else:
        cases = [_file_case(source, PurePath(source.name))]
    if not cases:
        msg = f"{source} holds no .nii, .nii.gz or DICOM series. Correct the path."
        raise UserError(msg)
    if anonymous:
        cases = [_anonymous(case) for case in cases]
    return _refuse_collisions(cases), left_out


def stem(name: str) -> str:
    """File name without ``.nii.gz`` or ``.nii``."""
    suffix = next((s for s in NIFTI if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def shown(path: PurePath | str) -> str:
    """A path as text that is safe in a table, a terminal and UTF-8."""
    text = path.as_posix() if isinstance(path, PurePath) else path
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_dicom(path: Path) -> bool:
    """By its name, or by the DICM mark at byte 128."""
    if path.name.lower().endswith(_DICOM):
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _walk(root: Path, output: Path, left_out: list[str]) -> Iterator[Case]:
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unreadable.append):
        here = Path(folder)
        kept = sorted(f for f in folders if not f.startswith("."))
        for name in [f for f in kept if _MSD_LABELS.get(f) in kept]:
            left_out.append(f"{shown((here / name).relative_to(root))}: labels of an MSD data set")
            kept.remove(name)
        folders[:] = [f for f in kept if (here / f).resolve() != output]
        yield from _cases_of_folder(root, here, sorted(n for n in names if not n.startswith(".")))
    for error in unreadable:
        path = PurePath(os.path.relpath(error.filename, root))
        problem = f"the folder cannot be read ({error.strerror}). Correct its rights."
        yield Case(shown(path), path.as_posix(), (), problem=problem)


def _cases_of_folder(root: Path, here: Path, names: list[str]) -> Iterator[Case]:
    loose = []
    for name in names:
        relative = (here / name).relative_to(root)
        if name.lower().endswith((*NIFTI, *_OTHER_VOLUMES)):
            yield _file_case(here / name, relative)
        elif name.lower() != "dicomdir":
            loose.append(here / name)
    if any(is_dicom(path) for path in loose):
        relative = here.relative_to(root)
        target = relative.as_posix() if relative.parts else here.resolve().name
        yield Case(shown(target), target, tuple(loose), dicom=True)


def _file_case(path: Path, relative: PurePath) -> Case:
    target = relative.with_name(stem(relative.name)).as_posix()
    if relative.name.lower().endswith(NIFTI):
        return Case(shown(relative), target, (path,))
    if is_dicom(path):
        problem = "it is one DICOM file. Give the folder that holds the whole series."
    else:
        problem = "only .nii, .nii.gz and DICOM series are read. Convert it to NIfTI."
    return Case(shown(relative), target, (path,), problem=problem)


def _listed(path: Path) -> list[Case]:
    rows = _csv_rows(path) if path.name.lower().endswith(".csv") else _json_rows(path)
    return [_row_case(path, *row) for row in rows]


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Column ``case`` is optional; every other column is a channel, in their order."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            for row in csv.DictReader(handle):
                if None in row:
                    msg = f"{path} has a row with more cells than columns: {row[None]}. Correct it."
                    raise UserError(msg)
                yield row.get("case") or "", [v for k, v in row.items() if k != "case" and v]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} must be a CSV list with one column a channel: {error}."
        raise UserError(msg) from error


def _json_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """A list of ``{"image": file or files, "case": name}``, or of files."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} must be a JSON list of cases: {error}."
        raise UserError(msg) from error
    for entry in data if isinstance(data, list) else [None]:
        item: Any = entry if isinstance(entry, dict) else {"image": entry}
        images = item.get("image")
        files = [images] if isinstance(images, str) else images
        if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
            msg = (
                f'{path} must be a list of {{"image": file or files, "case": name}}; got {entry!r}.'
            )
            raise UserError(msg)
        yield str(item.get("case") or ""), files


def _row_case(path: Path, name: str, files: list[str]) -> Case:
    if not files:
        msg = f"{path} has a row without a file. Name one file a channel."
        raise UserError(msg)
    channels = tuple(path.parent / f for f in files)
    first = PurePath(files[0])
    inside = not first.is_absolute() and ".." not in first.parts
    relative = PurePath(name) if name else first if inside else PurePath(first.name)
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        msg = f"{path}: a case name must be a relative path without '..'; got {name!r}."
        raise UserError(msg)
    if channels[0].is_dir():
        inside_folder = tuple(sorted(p for p in channels[0].iterdir() if p.is_file()))
        return Case(shown(relative), relative.as_posix(), inside_folder, dicom=True)
    case = _file_case(
        channels[0], relative if not name else relative.with_name(relative.name + ".nii")
    )
    return replace(case, name=shown(relative), files=channels)


def _anonymous(case: Case) -> Case:
    name = hashlib.sha256(case.target.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return replace(case, name=name, target=name)


def _refuse_collisions(cases: list[Case]) -> list[Case]:
    """Two cases whose masks would have one name are both refused; sorted by name."""
    by_target: dict[str, list[Case]] = {}
    for case in cases:
        by_target.setdefault(case.target, []).append(case)
    checked = []
    for case in cases:
        rivals = [c.name for c in by_target[case.target] if c is not case]
        if rivals and not case.problem:
            problem = f"its mask would have the name of that of {rivals[0]}. Rename or move one."
            case = replace(case, problem=problem)
        checked.append(case)
    return sorted(checked, key=lambda c: c.name)
