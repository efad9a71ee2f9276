"""Cases of a ``.csv`` or ``.json`` list: one file a channel, and a name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ...data.reading import from_json
from ...errors import UserError
from .found import NIFTI, Case, file_case, irregular, series_files, shown

LISTS = (".csv", ".json")
_LARGEST = 64 * 2**20  # bytes of a list
_NAME = "case"


@dataclass(frozen=True)
class Listed:
    """One row of a list: a file for each channel; an empty one is missing."""

    name: str
    files: list[str]
    columns: list[str]


def listed_cases(path: Path, channels: Mapping[int, str] | None = None) -> list[Case]:
    """Cases of a list, in its order.

    Args:
        path: a CSV file, whose first line names its columns: ``case``, which is optional, and one
            a channel in the order of the bundle's; or a JSON list of
            ``{"image": file or files, "case": name}``, or of files. Relative files are looked for
            beside the list.
        channels: the bundle's names of its channels, which columns must not contradict.

    Raises:
        UserError: for a list that cannot be read or whose columns are in doubt.
    """
    text = _text(path)
    rows = _csv(path, text, channels or {}) if _is_csv(path) else _json(path, text)
    return [_case(path, row) for row in rows]


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith(".csv")


def _text(path: Path) -> str:
    kind = "CSV" if _is_csv(path) else "JSON"
    if problem := irregular(path):
        msg = f"{path.name}: {problem}"
        raise UserError(msg)
    try:
        if path.stat().st_size > _LARGEST:
            msg = (
                f"{path.name} is a list of cases; it has more than {_LARGEST >> 20} MiB. Split it."
            )
            raise UserError(msg)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        msg = f"{path.name} cannot be read ({error.strerror}). Correct its rights or its name."
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path.name} must be {kind} in UTF-8; byte {error.start} is not. Save it as UTF-8."
        raise UserError(msg) from error


# -- CSV ---------------------------------------------------------------------------------------


def _csv(path: Path, text: str, channels: Mapping[int, str]) -> Iterator[Listed]:
    try:
        rows = list(csv.reader(io.StringIO(text), skipinitialspace=True, strict=True))
    except csv.Error as error:
        msg = f"{path.name} must be a CSV list with one column a channel: {error}. Correct it."
        raise UserError(msg) from error
    if not rows:
        msg = f"{path.name} is empty. Give it a line of column names, and a line a case."
        raise UserError(msg)
    header = [name.strip() for name in rows[0]]
    _check_columns(path, header)
    names = [k for k, column in enumerate(header) if column.casefold() == _NAME]
    files = [k for k in range(len(header)) if k not in names]
    columns = [header[k] for k in files]
    _refuse_contradiction(path, columns, channels)
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(header):
            more = row[len(header) :]
            msg = f"{path.name}, line {number}, has more cells than columns: {more}. Correct it."
            raise UserError(msg)
        cells = [*row, *[""] * (len(header) - len(row))]
        if not any(cells[k] for k in files):
            msg = f"{path.name} has a row without a file, line {number}. Name one file a channel."
            raise UserError(msg)
        name = cells[names[0]] if names else ""
        yield Listed(name, [cells[k] for k in files], columns)


def _check_columns(path: Path, header: list[str]) -> None:
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            msg = f"{path.name} must separate its columns by commas; it has {word}. Save it so."
            raise UserError(msg)
    if first := next((n for n in header if n.lower().endswith(NIFTI)), ""):
        msg = (
            f"{path.name} must begin with a line of column names; it begins with {first!r}. Add a "
            "first line such as case,image."
        )
        raise UserError(msg)
    folded = [name.casefold() for name in header]
    if twice := next((n for n in header if n and folded.count(n.casefold()) > 1), ""):
        msg = f"{path.name} must name each column once; it has two of {twice!r}. Rename one."
        raise UserError(msg)
    if "" in header:
        msg = f"{path.name} must name every column; number {header.index('') + 1} has no name."
        raise UserError(msg + " Name it or remove it.")


def _refuse_contradiction(path: Path, columns: list[str], channels: Mapping[int, str]) -> None:
    """A column that has the name of another channel than the one it stands for."""
    plain = {k: _plain(name) for k, name in channels.items()}
    for k, column in enumerate(columns):
        other = [j for j, name in plain.items() if name == _plain(column)]
        if other and k not in other:
            order = ", ".join(channels[j] for j in sorted(channels))
            msg = (
                f"{path.name} names column {k + 1} of its files {column!r}, which is the bundle's "
                f"channel {other[0] + 1}. Put the columns into the bundle's order: {order}."
            )
            raise UserError(msg)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


# -- JSON --------------------------------------------------------------------------------------


def _json(path: Path, text: str) -> Iterator[Listed]:
    try:
        data = from_json(text)
    except ValueError as error:
        msg = f"{path.name} must be a JSON list of cases: {error}."
        raise UserError(msg) from error
    for entry in data if isinstance(data, list) else [None]:
        item: Any = entry if isinstance(entry, dict) else {"image": entry}
        images, name = item.get("image"), item.get(_NAME, "")
        files = [images] if isinstance(images, str) else images
        whole = isinstance(files, list) and all(isinstance(f, str) for f in files)
        if not whole or not isinstance(name, (str, int)) or isinstance(name, bool):
            found = repr(entry)[:200]
            msg = (
                f'{path.name} must be a list of {{"image": file or files, "case": name}}; got '
                f"{found}. Correct it."
            )
            raise UserError(msg)
        if not any(files):
            msg = f"{path.name} has a row without a file. Name one file a channel."
            raise UserError(msg)
        yield Listed(str(name), files, [f"channel {k + 1}" for k in range(len(files))])


# -- both --------------------------------------------------------------------------------------


def _case(path: Path, row: Listed) -> Case:
    paths = [path.parent / f for f in row.files if f]
    first = PurePath(next(f for f in row.files if f))
    inside = not first.is_absolute() and ".." not in first.parts
    name = row.name
    relative = PurePath(name) if name else first if inside else PurePath(first.name)
    if relative.is_absolute() or ".." in relative.parts or not relative.name or "\0" in name:
        msg = f"{path.name}: a case name must be a relative path without '..'; got {name!r}."
        raise UserError(msg)
    if any("\0" in f for f in row.files):
        return Case(shown(relative), relative.as_posix(), (), problem="a file's name holds NUL.")
    if paths[0].is_dir():
        found = sorted(p for p in paths[0].iterdir() if p.name.lower() != "dicomdir")
        files = tuple(series_files(found)[0])
        case = Case(shown(relative), relative.as_posix(), files, dicom=True)
        if len(row.files) > 1:
            problem = "one DICOM series is read a case. Convert the channels to NIfTI."
            case = replace(case, problem=problem)
        return case
    given = relative if not name else relative.with_name(relative.name + ".nii")
    case = file_case(paths[0], given)
    case = replace(case, name=shown(relative), files=tuple(paths))
    if problem := _missing(row) or _twice(paths) or _problem(paths):
        case = replace(case, problem=problem)
    return case


def _missing(row: Listed) -> str:
    lacking = [c for c, f in zip(row.columns, row.files, strict=True) if not f]
    if not lacking:
        return ""
    count = len(row.columns)
    return (
        f"the list has {count} channels; {', '.join(lacking)} of this case names no file. Name "
        "one file a channel."
    )


def _twice(paths: list[Path]) -> str:
    """Two channels that are one file, whatever its names."""
    seen: dict[Any, int] = {}
    for k, path in enumerate(paths, start=1):
        try:
            found = path.stat()
        except OSError:
            continue  # said when it is opened
        key = (found.st_dev, found.st_ino)
        if key in seen:
            return (
                f"each channel must have a file of its own; channels {seen[key]} and {k} are one "
                "file. Correct the list."
            )
        seen[key] = k
    return ""


def _problem(paths: list[Path]) -> str:
    """What is wrong with the kind of any of the files."""
    problems = [(p.name, file_case(p, PurePath(p.name)).problem) for p in paths]
    return next((f"{name}: {problem}" for name, problem in problems if problem), "")
