"""One case as it was found, and what a file is by its name and its first bytes."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..dicom.kind import dicom_kind

NIFTI = (".nii.gz", ".nii")
OTHER_VOLUMES = (
    *(".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".img", ".hdr", ".img.gz", ".hdr.gz"),
    *(".mnc", ".par", ".gipl", ".nii.z", ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".nii.7z"),
)
# Files that stand beside scans and are none; they are not opened to find out.
_BESIDE = (
    *(".txt", ".json", ".csv", ".tsv", ".md", ".png", ".jpg", ".jpeg", ".pdf", ".xml", ".html"),
    *(".bval", ".bvec", ".log", ".py", ".xlsx", ".docx", ".yaml", ".yml", ".sha256", ".md5"),
)
_DICOM = (".dcm", ".ima", ".dicom")
_HEAD = 540
_MAGIC = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")


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


def stem(name: str) -> str:
    """File name without ``.nii.gz`` or ``.nii``."""
    suffix = next((s for s in NIFTI if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def shown(path: PurePath | str) -> str:
    """A path as text that is safe in a table, a terminal and UTF-8.

    No two paths give one text, so that a row is one case's; ``unshown`` leads back.
    """
    text = path.as_posix() if isinstance(path, PurePath) else path
    return printable(text.replace("\\", "\\\\"))


def printable(text: str) -> str:
    """Text whose control characters stand as escapes: a name in it must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unshown(text: str) -> str:
    """The path that ``shown`` gave this text for."""
    return text.encode("ascii", "backslashreplace").decode("unicode_escape")


def file_case(path: Path, relative: PurePath) -> Case:
    """A single file as a case, with what is wrong with its kind."""
    target = relative.with_name(stem(relative.name)).as_posix()
    problem = irregular(path)
    if not problem and not relative.name.lower().endswith(NIFTI):
        problem = {
            "dicom": "it is one DICOM file. Give the folder that holds the whole series.",
            "nifti": "it holds NIfTI under another name. Rename it to .nii, or .nii.gz if packed.",
        }.get(kind_of(path), "only .nii, .nii.gz and DICOM series are read. Convert it to NIfTI.")
    return Case(shown(relative), target, (path,), problem=problem)


def irregular(path: Path) -> str:
    """Why a path is never opened: a pipe or a device may not answer, or never end. Empty: fine."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""  # said when it is opened
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
    what = kinds.get(stat.S_IFMT(mode), "a device")
    return f"it must be a regular file; it is {what}. Give the file itself."


def kind_of(path: Path) -> str:
    """``nifti`` or ``dicom`` by the first bytes, or by a DICOM name; else empty."""
    name = path.name.lower()
    if name.endswith(_DICOM):
        return "dicom"
    if name.endswith(_BESIDE) or irregular(path):
        return ""
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
    except (OSError, ValueError):
        return ""
    if dicom_kind(head):
        return "dicom"
    return "nifti" if _is_nifti(head) or _is_nifti(_unpacked(head)) else ""


def series_files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The DICOM files among those of one folder, and the others.

    A file that ends as they do counts as one of them, unless it is text: a damaged slice must not
    be passed over. Without any DICOM file there is none.
    """
    kinds = {path: kind_of(path) for path in paths}
    endings = {path.suffix.lower() for path, kind in kinds.items() if kind == "dicom"}
    files = [
        path
        for path, kind in kinds.items()
        if kind == "dicom" or (path.suffix.lower() in endings and _is_binary(path))
    ]
    return files, [path for path in paths if path not in files]


def is_link(path: Path) -> bool:
    """Whether a folder is reached through a link of its own name."""
    return path.is_symlink() or getattr(os.path, "isjunction", lambda _: False)(path)


def _is_binary(path: Path) -> bool:
    if irregular(path):
        return False
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
    except OSError:
        return True
    return not head or b"\0" in head


def _unpacked(head: bytes) -> bytes:
    if head[:2] != b"\x1f\x8b":
        return b""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in _MAGIC or head[4:8] in _MAGIC
