"""The schema of a data manifest: its keys, and the rules that a file's content must keep."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any

SCHEMA_VERSION = 1
FOLDS = 5
PACKED = {"image": "image_crc32", "label": "label_crc32"}
_CASE_KEYS = (
    {"fold"},
    {"fold", "image", "label"},
    {"fold", "image", "label", *PACKED.values()},
)


@dataclass(frozen=True)
class Layout:
    """Folders and file ending of a dataset, relative to its root; the defaults are MSD's."""

    image_dir: str = "imagesTr"
    label_dir: str = "labelsTr"
    test_image_dir: str = "imagesTr"
    test_label_dir: str = "labelsTr"
    suffix: str = ".nii.gz"


_TYPES: dict[str, Any] = {
    "schema_version": int,
    "name": str,
    "version": str,
    "licence": str,
    "citation": str,
    "source_url": str | None,
    "archive_md5": str | None,
    "modality": str,
    "channel_names": list,
    "label_names": dict,
    "spacing_mm": list | None,
    "layout": dict,
    "generator": dict | None,
    "note": str,
    "cases": dict,
}


def broken(data: dict[str, Any]) -> list[str]:
    """Rules of the schema that the content of a file breaks, one sentence each."""
    problems = [f"has the unknown key {key!r}" for key in data if key not in _TYPES]
    for key, kind in _TYPES.items():
        if key not in data:
            problems.append(f"lacks the key {key!r}")
        elif not isinstance(data[key], kind) or (kind is int and isinstance(data[key], bool)):
            kind = getattr(kind, "__name__", kind)
            problems.append(f"must have a value of type {kind} under {key!r}; got {data[key]!r}")
    return problems or list(_broken_content(data))


def _broken_content(data: dict[str, Any]) -> Iterator[str]:
    layout, cases = data["layout"], data["cases"]
    if set(layout) != (names := {f.name for f in fields(Layout)}):
        yield f"must have the keys {sorted(names)} in 'layout'; got {sorted(layout)}"
    elif layout["suffix"] not in (".nii", ".nii.gz"):
        yield f"must have the suffix '.nii' or '.nii.gz'; got {layout['suffix']!r}"
    elif outside := [path for path in layout.values() if not _inside(path)]:
        yield f"must name folders inside the dataset folder in 'layout'; got {outside}"
    yield from _broken_names(data)
    for case, entry in cases.items():
        yield from _broken_case(case, entry)
    used = [entry.get("fold") for entry in cases.values() if isinstance(entry, dict)]
    named = [
        case for case, entry in cases.items() if isinstance(entry, dict) and "patient" in entry
    ]
    if named and len(named) < len(cases):
        bare = next(case for case in cases if case not in named)
        yield f"must name the patient of every case or of none; {bare!r} has none"
    if cases and (empty := [fold for fold in range(FOLDS) if fold not in used]):
        yield f"must have cases in all {FOLDS} folds; folds {empty} are empty"


def _broken_names(data: dict[str, Any]) -> Iterator[str]:
    labels, spacing = data["label_names"], data["spacing_mm"]
    for value, name in labels.items():
        if not re.fullmatch(r"0|[1-9]\d{0,8}", value, re.ASCII):
            yield f"must have whole numbers as keys of 'label_names'; got {value[:40]!r}"
        if not isinstance(name, str):
            yield f"must give label {value[:40]} a name; got {name!r}"
    if other := [name for name in data["channel_names"] if not isinstance(name, str)]:
        yield f"must have names in 'channel_names'; got {other[0]!r}"
    if spacing is not None and (len(spacing) != 3 or not all(map(_is_length, spacing))):
        yield f"must have three numbers of mm above 0 in 'spacing_mm', or null; got {spacing!r}"


def _is_length(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _inside(path: Any) -> bool:
    if not isinstance(path, str) or "\\" in path or path in ("", "."):
        return False
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _broken_case(case: str, entry: Any) -> Iterator[str]:
    if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", case):
        yield f"has the case id {case!r}; an id is a plain file name that does not begin with '.'"
    keys = set(entry) - {"patient"} if isinstance(entry, dict) else set()
    if keys not in _CASE_KEYS:
        yield f"must give case {case!r} a fold and both checksums or none; got {entry!r}"
        return
    patient = entry.get("patient", "-")
    if not isinstance(patient, str) or not patient.strip():
        yield f"must give case {case!r} its patient as a text; got {patient!r}"
    fold = entry["fold"]
    if fold != "test" and (type(fold) is not int or not 0 <= fold < FOLDS):
        yield f"must give case {case!r} a fold from 0 to {FOLDS - 1} or 'test'; got {fold!r}"
    sums = [entry[kind] for kind in ("image", "label") if kind in entry]
    if not all(isinstance(s, str) and re.fullmatch("[0-9a-f]{64}", s) for s in sums):
        yield f"must give case {case!r} sha256 checksums of 64 hex digits; got {sums}"
    sums = [entry[kind] for kind in PACKED.values() if kind in entry]
    if not all(isinstance(s, str) and re.fullmatch("[0-9a-f]{8}", s) for s in sums):
        yield f"must give case {case!r} CRC-32 checksums of 8 hex digits; got {sums}"
