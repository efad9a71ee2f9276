"""Data manifests: which cases a dataset holds, their checksums, and the part each belongs to."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np

from .errors import UserError
from .files import write_text

SCHEMA_VERSION = 1
PARTS = ("train", "validation", "test", "all")
FOLDS = 5
SEED = 12345
FEWEST_WITH_TEST = 10
AFFINE_TOLERANCE = 1e-3  # mm: far below a voxel, far above the float32 rounding of NIfTI headers
SHIPPED = Path(__file__).resolve().parents[2] / "data_manifests"

Checksums = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """Folders and file ending of a dataset, relative to its root; the defaults are MSD's."""

    image_dir: str = "imagesTr"
    label_dir: str = "labelsTr"
    test_image_dir: str = "imagesTr"
    test_label_dir: str = "labelsTr"
    suffix: str = ".nii.gz"


@dataclass(frozen=True)
class Manifest:
    """One dataset and its split; `data_manifests/README.md` documents the file.

    Attributes:
        spacing_mm: expected voxel spacing (x, y, z) in mm; None where it differs between cases.
        cases: id -> sha256 of the uncompressed NIfTI bytes of its "image" and "label", or None
            where they were not measured. Empty: the ids come from the folder (see `resolve`).
        test: ids of the held-out part.
        folds: five lists of validation ids, together the cases outside `test`.
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
        del data["test"], data["folds"]
        data["label_names"] = {str(value): name for value, name in self.label_names.items()}
        data["cases"] = {
            case: {"fold": fold_of.get(case, "test")} | (self.cases[case] or {})
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
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicate_keys)
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        msg = f"manifest {path} cannot be read: {error}. Correct the file or name another one."
        raise UserError(msg) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        msg = (
            f"manifest {path} must have schema_version {SCHEMA_VERSION}; got {version!r}. Write it "
            "again with `prepare --write`, or use the release of perforated-monai that wrote it."
        )
        raise UserError(msg)
    _raise(f"manifest {path} {rule}. See data_manifests/README.md." for rule in _broken(data))
    return _from_dict(data)


def datalist(
    dataset_dir: str | Path, manifest: Manifest | str | Path, part: str, fold: int = 0
) -> list[dict[str, str]]:
    """Cases of one part as MONAI data dicts, with absolute paths, sorted by case id.

    The keys are "image", "label" and "case"; none begins with "image_" or "label_", because
    `Spacingd` of MONAI 1.6 fails on such keys. Headers are checked (readable, image and label of
    equal shape and affine), voxels are not.

    Raises:
        UserError: a missing or empty folder, or every missing, unpaired, unreadable or mismatched
            case of the part, one line each.
    """
    root = _dataset_root(dataset_dir)
    manifest = resolve(manifest, root)
    cases = manifest.part(part, fold)
    _raise(_check(root, manifest, cases)[0])
    pairs = [(case, *manifest.files(case)) for case in cases]
    return [{"image": str(root / i), "label": str(root / j), "case": c} for c, i, j in pairs]


def find_volumes(folder: str | Path) -> list[dict[str, str]]:
    """Every volume to segment, as `{"image": absolute path}`, sorted by path.

    They are the `.nii` and `.nii.gz` files in the folder or, when it holds none, those in its
    `imagesTr` and `imagesTs`. Names that begin with "." are never volumes.

    Raises:
        UserError: a missing folder, no volume, or two volumes whose masks would share a name.
    """
    root = _dataset_root(folder)
    paths = _volumes(root) or _volumes(root / "imagesTr") + _volumes(root / "imagesTs")
    if not paths:
        msg = (
            f"{root} must hold .nii or .nii.gz volumes, directly or in imagesTr or imagesTs; "
            "found none. Correct dataset_dir."
        )
        raise UserError(msg)
    by_case: dict[str, list[str]] = {}
    for path in paths:
        by_case.setdefault(_case_id(path.name), []).append(path.relative_to(root).as_posix())
    _raise(
        f"{' and '.join(names)} in {root} would get the same mask name. Move or rename all but one."
        for names in by_case.values()
        if len(names) > 1
    )
    return [{"image": str(path)} for path in paths]


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


def resolve(manifest: Manifest | str | Path, dataset_dir: str | Path) -> Manifest:
    """Load a manifest given by path or name; one without cases takes ids and split from the folder.

    Raises:
        UserError: as `load_manifest`, and too few cases in the folder as `write_manifest`.
    """
    if not isinstance(manifest, Manifest):
        manifest = load_manifest(manifest)
    return manifest if manifest.cases else _split(_dataset_root(dataset_dir), manifest, test=True)


def write_manifest(root: str | Path, out: str | Path, name: str, test: bool = True) -> Manifest:
    """Make the manifest of a folder in MSD layout and write it to `out`, whole or not at all.

    The test part is the pairs of `imagesTs` and `labelsTs` where `labelsTs` exists, else the
    validation part of fold 0 of all labelled cases, else (`test=False`) empty. The folds follow
    `kfold` over the rest. Channels, labels, licence and citation come from the folder's
    `dataset.json`, when it has one.

    Raises:
        UserError: every unpaired, unreadable or mismatched case; mixed file endings; fewer than 10
            labelled cases to take a test part from, or fewer than 5 for the folds.
    """
    base = _dataset_root(root)
    manifest = _split(base, _described(base, name), test)
    problems, checksums = _check(base, manifest, manifest.cases, read=True)
    _raise(problems)
    manifest = replace(manifest, cases=checksums, **_measured(base, manifest))
    _raise(_check(base, manifest, manifest.cases)[0])  # again, now that channels are known
    write_text(Path(out).expanduser(), _to_text(manifest.to_dict()))
    return manifest


def verify(dataset_dir: str | Path, manifest: Manifest | str | Path) -> list[str]:
    """Compare a folder with its manifest, reading every file to its end; one line a finding.

    Findings are missing, extra, unpaired, damaged or mismatched volumes and other checksums. A test
    part that is absent as a whole is none: it may be kept apart on purpose.
    """
    root = _dataset_root(dataset_dir)
    manifest = resolve(manifest, root)
    apart = set() if any(_present(root, manifest, manifest.test)) else set(manifest.test)
    cases = sorted(set(manifest.cases) - apart)
    findings, checksums = _check(root, manifest, cases, read=True)
    for case, measured in checksums.items():
        known = manifest.cases[case] or {}
        for kind, file in zip(("image", "label"), manifest.files(case), strict=True):
            if measured and known and measured[kind] != known[kind]:
                findings.append(
                    f"{root / file} must have the sha256 {known[kind][:16]}... (uncompressed); got "
                    f"{measured[kind][:16]}.... Restore the original file."
                )
    return findings + _extra(root, manifest)


def describe(manifest: Manifest | str | Path, dataset_dir: str | Path) -> str:
    """A small table of the split: cases of each part in the manifest and in the folder."""
    root = _dataset_root(dataset_dir)
    manifest = resolve(manifest, root)
    labels = ", ".join(f"{value} {name}" for value, name in manifest.label_names.items())
    lines = [
        f"{manifest.name} {manifest.version}: {manifest.modality}, licence {manifest.licence}",
        f"channels: {', '.join(manifest.channel_names)}; labels: {labels}",
        f"{'part':<8}{'cases':>8}{'in folder':>11}",
    ]
    parts = {f"fold {fold}": ids for fold, ids in enumerate(manifest.folds)}
    for part, ids in (parts | {"test": manifest.test, "all": sorted(manifest.cases)}).items():
        present = sum(_present(root, manifest, ids))
        apart = "  kept apart" if part == "test" and ids and not present else ""
        lines.append(f"{part:<8}{len(ids):>8}{present:>11}{apart}")
    lines.append("Training leaves one fold out, for validation: fold 0 unless told otherwise.")
    return "\n".join([*lines, f"manifest sha256 {manifest.hash()}"])


# --- the JSON file


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


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what JSON accepts: of two equal keys (a case listed twice) it keeps the last."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, following in itertools.pairwise(keys) if key == following)
        msg = f"key {twice!r} stands twice"
        raise ValueError(msg)
    return data


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


def _broken(data: dict[str, Any]) -> list[str]:
    """Rules of the schema that the content of a file breaks."""
    broken = [f"has the unknown key {key!r}" for key in data if key not in _TYPES]
    for key, kind in _TYPES.items():
        if key not in data:
            broken.append(f"lacks the key {key!r}")
        elif not isinstance(data[key], kind):
            kind = getattr(kind, "__name__", kind)
            broken.append(f"must have a value of type {kind} under {key!r}; got {data[key]!r}")
    return broken or list(_broken_content(data))


def _broken_content(data: dict[str, Any]) -> Iterator[str]:
    layout, cases = data["layout"], data["cases"]
    if set(layout) != (names := {f.name for f in fields(Layout)}):
        yield f"must have the keys {sorted(names)} in 'layout'; got {sorted(layout)}"
    elif layout["suffix"] not in (".nii", ".nii.gz"):
        yield f"must have the suffix '.nii' or '.nii.gz'; got {layout['suffix']!r}"
    elif outside := [path for path in layout.values() if not _inside(path)]:
        yield f"must name folders inside the dataset folder in 'layout'; got {outside}"
    for value in data["label_names"]:
        if not re.fullmatch(r"\d+", value):
            yield f"must have whole numbers as keys of 'label_names'; got {value!r}"
    for case, entry in cases.items():
        yield from _broken_case(case, entry)
    used = [entry.get("fold") for entry in cases.values() if isinstance(entry, dict)]
    if cases and (empty := [fold for fold in range(FOLDS) if fold not in used]):
        yield f"must have cases in all {FOLDS} folds; folds {empty} are empty"


def _inside(path: Any) -> bool:
    if not isinstance(path, str) or "\\" in path or path in ("", "."):
        return False
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _broken_case(case: str, entry: Any) -> Iterator[str]:
    if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", case):
        yield f"has the case id {case!r}; an id is a plain file name that does not begin with '.'"
    keys = set(entry) if isinstance(entry, dict) else set()
    if keys not in ({"fold"}, {"fold", "image", "label"}):
        yield f"must give case {case!r} a fold and both checksums or none; got {entry!r}"
        return
    fold = entry["fold"]
    if fold != "test" and (type(fold) is not int or not 0 <= fold < FOLDS):
        yield f"must give case {case!r} a fold from 0 to {FOLDS - 1} or 'test'; got {fold!r}"
    sums = [entry[kind] for kind in ("image", "label") if kind in entry]
    if not all(isinstance(s, str) and re.fullmatch("[0-9a-f]{64}", s) for s in sums):
        yield f"must give case {case!r} sha256 checksums of 64 hex digits; got {sums}"


def _from_dict(data: dict[str, Any]) -> Manifest:
    cases = {case: dict(entry) for case, entry in sorted(data["cases"].items())}
    fold_of = {case: entry.pop("fold") for case, entry in cases.items()}
    known = {key: value for key, value in data.items() if key != "schema_version"}
    known["label_names"] = {int(value): name for value, name in data["label_names"].items()}
    known["layout"] = Layout(**data["layout"])
    known["cases"] = {case: entry or None for case, entry in cases.items()}
    known["test"] = [case for case, fold in fold_of.items() if fold == "test"]
    if cases:
        known["folds"] = [[c for c, f in fold_of.items() if f == fold] for fold in range(FOLDS)]
    return Manifest(**known)


def _to_text(data: dict[str, Any]) -> str:
    """JSON with one key a line and, below "cases", one case a line, so that a diff shows cases."""
    rows = [f"    {json.dumps(case)}: {json.dumps(entry)}" for case, entry in data["cases"].items()]
    cases = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
    lines = [f"  {json.dumps(key)}: {json.dumps(data[key])}" for key in data if key != "cases"]
    return "{\n" + ",\n".join([*lines, f'  "cases": {cases}']) + "\n}\n"


# --- making a manifest from a folder


def _split(root: Path, manifest: Manifest, test: bool) -> Manifest:
    """Fill `cases` (without checksums), `test` and `folds` from the volumes in the folder."""
    images, labels = manifest.layout.image_dir, manifest.layout.label_dir
    layout = replace(manifest.layout, test_image_dir=images, test_label_dir=labels)
    pool = _case_ids(root, images, labels)
    held: list[str] = []
    if (root / "labelsTs").is_dir():
        layout = replace(layout, test_image_dir="imagesTs", test_label_dir="labelsTs")
        held = _case_ids(root, "imagesTs", "labelsTs")
        _raise(
            f"case {case} of {root} must not lie in {images} and in imagesTs: test cases are never "
            "trained on. Remove or rename one."
            for case in sorted(set(pool) & set(held))
        )
    elif test:
        if len(pool) < FEWEST_WITH_TEST:
            msg = (
                f"a test part is taken from at least {FEWEST_WITH_TEST} labelled cases; {root} has "
                f"{len(pool)} in {images}. Add cases, put test cases into imagesTs and labelsTs, "
                "or write a manifest without a test part (test=False)."
            )
            raise UserError(msg)
        held = kfold(pool)[0]
    rest = sorted(set(pool) - set(held))
    if len(rest) < FOLDS:
        msg = (
            f"{FOLDS} folds need at least {FOLDS} labelled cases; {root} has {len(rest)} in "
            f"{images}. Add cases or correct the folder."
        )
        raise UserError(msg)
    cases: dict[str, Checksums | None] = dict.fromkeys(sorted({*pool, *held}))
    return replace(manifest, layout=layout, cases=cases, test=held, folds=kfold(rest))


def _described(root: Path, name: str) -> Manifest:
    """A manifest without cases, from what the folder's `dataset.json` declares, if there is one."""
    path = root / "dataset.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        channels = [data["modality"][k] for k in sorted(data.get("modality", {}), key=int)]
        labels = {int(value): str(text) for value, text in data.get("labels", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = (
            f"{path} must be JSON with MSD's 'modality' and 'labels' (number -> name): {error}. "
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
    found = {_suffix_of(path.name) for name in folders for path in _volumes(root / name)}
    if len(found) > 1:
        msg = f"{root} must hold .nii.gz or .nii files, not both. Compress all of them with gzip."
        raise UserError(msg)
    return found.pop() if found else ".nii.gz"


def _measured(root: Path, manifest: Manifest) -> dict[str, Any]:
    """Median spacing, and channels and labels where `dataset.json` declares none."""
    images = [_open(root / manifest.files(case)[0]) for case in manifest.cases]
    spacing = np.median([image.header.get_zooms()[:3] for image in images], axis=0)
    channels = [f"channel {k}" for k in range(math.prod(images[0].shape[3:]))]
    return {
        "spacing_mm": [round(float(mm), 4) for mm in spacing],
        "channel_names": manifest.channel_names or channels,
        "label_names": manifest.label_names or _label_values(root, manifest),
    }


def _label_values(root: Path, manifest: Manifest) -> dict[int, str]:
    values = {0}
    for file in (manifest.files(case)[1] for case in manifest.cases):
        found = np.unique(np.asanyarray(_open(root / file).dataobj))
        if not np.array_equal(found, np.abs(np.round(found))):
            msg = f"{root / file} must hold whole numbers from 0 up; got {found[:5]}. Correct it."
            raise UserError(msg)
        values.update(int(value) for value in found)
    return {value: f"label {value}" if value else "background" for value in sorted(values)}


# --- the dataset folder


def _dataset_root(folder: str | Path) -> Path:
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


def _volumes(folder: Path) -> list[Path]:
    """NIfTI files of a folder, sorted; names with a leading dot (macOS archives) are none."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if _suffix_of(e.name) and not e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        msg = f"folder {folder} cannot be read: {error.strerror}. Correct its rights."
        raise UserError(msg) from error
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _suffix_of(name: str) -> str:
    return next((s for s in (".nii.gz", ".nii") if name.lower().endswith(s)), "")


def _case_id(name: str) -> str:
    return name[: -len(_suffix_of(name))]


def _case_ids(root: Path, *folders: str) -> list[str]:
    return sorted({_case_id(path.name) for name in folders for path in _volumes(root / name)})


def _listed(root: Path, layout: Layout) -> set[str]:
    """Every volume in the layout's folders, relative to the root."""
    folders = {layout.image_dir, layout.label_dir, layout.test_image_dir, layout.test_label_dir}
    return {f"{name}/{path.name}" for name in folders for path in _volumes(root / name)}


def _present(root: Path, manifest: Manifest, cases: Iterable[str]) -> list[bool]:
    listed = _listed(root, manifest.layout)
    return [listed.issuperset(manifest.files(case)) for case in cases]


def _extra(root: Path, manifest: Manifest) -> list[str]:
    known = {file for case in manifest.cases for file in manifest.files(case)}
    return [
        f"{root / file} is in no case of manifest {manifest.name}. Remove it or write a manifest "
        "that has it."
        for file in sorted(_listed(root, manifest.layout) - known)
    ]


def _check(
    root: Path, manifest: Manifest, cases: Iterable[str], read: bool = False
) -> tuple[list[str], dict[str, Checksums | None]]:
    """Problems of the cases, one line each, and (`read`) the checksums of those without any."""
    listed = _listed(root, manifest.layout)
    missing: list[str] = []
    problems: list[str] = []
    checksums: dict[str, Checksums | None] = {}
    for case in cases:
        image, label = manifest.files(case)
        if image in listed and label in listed:
            found = _pair_problems(root, image, label, len(manifest.channel_names))
            if read and not found:
                found, checksums[case] = _read_pair(root, image, label)
            problems += found
        elif image in listed or label in listed:
            here, absent = (image, label) if image in listed else (label, image)
            problems.append(
                f"{root / here} has no {absent} beside it: a case needs an image and a label. "
                "Add that file, or leave the case out of the manifest."
            )
        else:
            missing.append(case)
    return _missing_problem(root, manifest, missing) + problems, checksums


def _missing_problem(root: Path, manifest: Manifest, missing: list[str]) -> list[str]:
    if not missing:
        return []
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
    cure = "Correct dataset_dir or add the files"
    if set(missing) <= set(manifest.test):
        cure = "They are the held-out test part: choose train or validation, or add the files"
    source = f" (source: {manifest.source_url})" if manifest.source_url else ""
    return [
        f"{len(missing)} of the {len(manifest.cases)} cases of manifest {manifest.name} are missing"
        f" in {root}: {names}. {cure}, as in {' and '.join(manifest.files(missing[0]))}{source}."
    ]


def _pair_problems(root: Path, image: str, label: str, channels: int) -> list[str]:
    """Broken rules of an image and its label, from their headers; `channels` 0: not known yet."""
    problems: list[str] = []
    opened: list[nib.Nifti1Image] = []
    for path in (root / image, root / label):
        if not path.resolve().is_relative_to(root):
            problems.append(f"{path} must not be a link that leaves {root}. Put the file there.")
            continue
        try:
            opened.append(_open(path))
        except Exception as error:  # damaged headers raise nearly anything from nibabel
            problems.append(f"{path} is not a readable NIfTI file: {error}. Restore or remove it.")
    return problems or _mismatches(opened[0], opened[1], channels)


def _mismatches(image: nib.Nifti1Image, label: nib.Nifti1Image, channels: int) -> list[str]:
    problems = []
    name, label_name = image.get_filename(), label.get_filename()
    if len(label.shape) < 3 or image.shape[:3] != label.shape[:3]:
        problems.append(
            f"{name} and {label_name} must be 3-D and of equal shape; got {image.shape} and "
            f"{label.shape}. Resample the label to the image."
        )
    if channels and math.prod(image.shape[3:]) != channels:
        problems.append(
            f"{name} must have {channels} channels, in its fourth dimension; got the shape "
            f"{image.shape}. Correct the file or the manifest's channel_names."
        )
    if math.prod(label.shape[3:]) != 1:
        problems.append(f"{label_name} must be 3-D; got {label.shape}. Merge its channels.")
    distance = np.abs(image.affine - label.affine).max()
    if not distance <= AFFINE_TOLERANCE:  # true for NaN too
        problems.append(
            f"{name} and {label_name} must have equal affines to {AFFINE_TOLERANCE} mm; they "
            f"differ by {distance:.3g}. Resample the label to the image or correct its header."
        )
    return problems


def _read_pair(root: Path, image: str, label: str) -> tuple[list[str], Checksums | None]:
    """Read both files to their end, where gzip keeps its CRC."""
    problems, checksums = [], {}
    for kind, path in (("image", root / image), ("label", root / label)):
        try:
            checksums[kind] = _sha256(path)
        except (OSError, EOFError, zlib.error) as error:
            problems.append(f"{path} is damaged: {error}. Restore or remove it.")
    return problems, None if problems else checksums


def _open(path: Path) -> nib.Nifti1Image:
    """Read the header of a NIfTI-1 or NIfTI-2 file; voxels are not touched."""
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        msg = f"it is {type(image).__name__}"
        raise ValueError(msg)
    return image


def _sha256(path: Path) -> str:
    """sha256 (hex) of the NIfTI bytes, uncompressed where the file is gzip."""
    digest = hashlib.sha256()
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _raise(problems: Iterable[str]) -> None:
    """Raise one error that lists all problems; its last line, too, names a file and a cure."""
    if lines := list(problems):
        head = [f"{len(lines)} problems:"] if len(lines) > 1 else []
        raise UserError("\n  ".join(head + lines))
