"""Data manifests: which cases a dataset holds, their checksums, and the part each belongs to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .reading import read, reason_of
from .schema import FOLDS, SCHEMA_VERSION, Layout, broken

_MOST_NAMED = 5  # problems in an error; a whole folder can have one

PARTS = ("train", "validation", "test", "all")
SHIPPED = Path(__file__).resolve().parents[3] / "data_manifests"

Checksums = dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """One dataset and its split; `data_manifests/README.md` documents the file.

    Attributes:
        spacing_mm: expected voxel spacing (x, y, z) in mm; None where it differs between cases.
        cases: id -> sha256 of the uncompressed NIfTI bytes of its "image" and "label" and, under
            "image_crc32" and "label_crc32", CRC-32 of the files as they lie on disk; None where
            they were not measured. Empty: the ids come from the folder, see `splits.resolve`.
        test: ids of the held-out part.
        folds: five lists of validation ids, together the cases outside `test`.
        patients: id -> patient, of every case or of none; all cases of a patient are in one part.
    """

    name: str
    version: str
    licence: str
    citation: str
    source_url: str | None
    archive_md5: str | None
    modality: str
    channel_names: list[str]
    label_names: dict[int, str]
    spacing_mm: list[float] | None
    layout: Layout = field(default_factory=Layout)
    generator: dict[str, Any] | None = None
    note: str = ""
    cases: dict[str, Checksums | None] = field(default_factory=dict)
    test: list[str] = field(default_factory=list)
    folds: list[list[str]] = field(default_factory=list)
    patients: dict[str, str] = field(default_factory=dict)

    def part(self, part: str, fold: int = 0) -> list[str]:
        """Sorted ids of "train", "validation", "test" or "all"; train leaves fold `fold` out.

        Raises:
            UserError: unknown part or fold, or a part without cases.
        """
        if part not in PARTS:
            msg = f"part must be one of {', '.join(PARTS)}; got {part!r}. Correct the setting."
            raise UserError(msg)
        if type(fold) is not int or not 0 <= fold < FOLDS:
            msg = f"fold must be a number from 0 to {FOLDS - 1}; got {fold!r}. Correct the setting."
            raise UserError(msg)
        validation = self.folds[fold] if self.folds else []
        ids = {
            "train": set(self.cases) - set(self.test) - set(validation),
            "validation": validation,
            "test": self.test,
            "all": self.cases,
        }[part]
        if not ids:
            msg = f"manifest {self.name} has no {part} cases. Choose another part or manifest."
            raise UserError(msg)
        return sorted(ids)

    def files(self, case: str) -> tuple[str, str]:
        """Image and label of a case, relative to the dataset folder, with forward slashes."""
        layout, name = self.layout, f"{case}{self.layout.suffix}"
        if case in self.test:
            return f"{layout.test_image_dir}/{name}", f"{layout.test_label_dir}/{name}"
        return f"{layout.image_dir}/{name}", f"{layout.label_dir}/{name}"

    def to_dict(self) -> dict[str, Any]:
        """The content of the manifest's JSON file."""
        fold_of = {case: fold for fold, ids in enumerate(self.folds) for case in ids}
        data: dict[str, Any] = {"schema_version": SCHEMA_VERSION} | asdict(self)
        del data["test"], data["folds"], data["patients"]
        data["label_names"] = {str(value): name for value, name in self.label_names.items()}
        data["cases"] = {
            case: {"fold": fold_of.get(case, "test")}
            | ({"patient": self.patients[case]} if case in self.patients else {})
            | (self.cases[case] or {})
            for case in sorted(self.cases)
        }
        return data

    def hash(self) -> str:
        """sha256 (hex) of the canonical JSON: keys sorted, no spaces, ASCII."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_manifest(source: str | Path) -> Manifest:
    """Read a manifest: a path to a JSON file, or a name in the repository's `data_manifests/`.

    Raises:
        UserError: no such file or name, not JSON, another schema version, or broken rules of the
            schema (all of them listed).
    """
    path = _locate(str(source))
    try:
        data = read(path)
    except (OSError, ValueError) as error:
        msg = f"manifest {path} cannot be read: {reason_of(error)}. Correct it or name another one."
        raise UserError(msg) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        msg = (
            f"manifest {path} must have schema_version {SCHEMA_VERSION}; got {version!r}. Write it "
            "again with `prepare --write`, or use the release of perforated-monai that wrote it."
        )
        raise UserError(msg)
    refuse(f"manifest {path} {rule}. See data_manifests/README.md." for rule in broken(data))
    return _from_dict(data)


def refuse(problems: Iterable[str]) -> None:
    """Raise one `UserError` of the first problems; its last line, too, names a file and a cure."""
    if lines := list(problems):
        head = [f"{len(lines)} problems:"] if len(lines) > 1 else []
        if lines[_MOST_NAMED:]:
            head = [f"{len(lines)} problems; `check` lists all, here are {_MOST_NAMED}:"]
        raise UserError("\n  ".join(head + lines[:_MOST_NAMED]))


def _locate(source: str) -> Path:
    if source.endswith(".json") or "/" in source or os.sep in source:
        path, cure = Path(source).expanduser(), "Give another path, or a shipped manifest's name"
    elif SHIPPED.is_dir():
        names = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.json")))
        path, cure = SHIPPED / f"{source}.json", f"Give one of {names}, or a path to a .json file"
    else:
        msg = (
            f"manifest {source!r} is a name, and names work in a checkout of the repository only. "
            "Give the path of a .json file."
        )
        raise UserError(msg)
    if not path.is_file():
        msg = f"manifest {source} does not exist. {cure}."
        raise UserError(msg)
    return path


def _from_dict(data: dict[str, Any]) -> Manifest:
    cases = {case: dict(entry) for case, entry in sorted(data["cases"].items())}
    fold_of = {case: entry.pop("fold") for case, entry in cases.items()}
    patients = {case: entry.pop("patient", None) for case, entry in cases.items()}
    known = {key: value for key, value in data.items() if key != "schema_version"}
    known["label_names"] = {int(value): name for value, name in data["label_names"].items()}
    known["layout"] = Layout(**data["layout"])
    known["cases"] = {case: entry or None for case, entry in cases.items()}
    known["test"] = [case for case, fold in fold_of.items() if fold == "test"]
    known["patients"] = {case: who for case, who in patients.items() if who is not None}
    if cases:
        known["folds"] = [[c for c, f in fold_of.items() if f == fold] for fold in range(FOLDS)]
    return Manifest(**known)


def to_text(data: dict[str, Any]) -> str:
    """JSON, one key a line and, below "cases", one case a line, so that a diff shows cases."""
    rows = [f"    {json.dumps(case)}: {json.dumps(entry)}" for case, entry in data["cases"].items()]
    cases = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
    lines = [f"  {json.dumps(key)}: {json.dumps(data[key])}" for key in data if key != "cases"]
    return "{\n" + ",\n".join([*lines, f'  "cases": {cases}']) + "\n}\n"
