"""Which files of a bundle and of the package go into the zip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ..large_files import NAMES as LARGE_FILE_LISTS
from ..portable_names import clashes, unsafe

PACKAGE = "perforated_monai"
# Folders of a bundle and the endings that are taken from them. What training, inference and caches
# leave behind lies elsewhere or ends otherwise; so do scans.
FOLDERS = {
    "configs": (".json", ".yaml", ".yml", ".conf"),
    "docs": (".md", ".txt", ".png", ".jpg", ".jpeg", ".csv", ".json", ".yaml"),
    "models": (".pt", ".json"),
    "scripts": (".py",),
    "studies": (".yaml", ".yml"),
}
_FLAT = ("models", "studies")  # in folders of these lie checkpoints and results
TOP = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md")
# What export makes from model.pt; packed when asked for.
FORMATS = {
    "ts": ("model.ts",),
    "pt2": ("model.pt2",),
    "onnx": ("model.onnx", "model.onnx.data"),
}
WEIGHTS = ("model.pt", "dendrites.pt")  # and what a config names


@dataclass
class Selection:
    """What is packed, and what is not.

    Attributes:
        files: path in the bundle -> file on this machine.
        left_out: paths in the bundle, a folder of which nothing is taken as one entry.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def select(root: Path, formats: Sequence[str] = ()) -> Selection:
    """Choose the files of a bundle.

    Raises:
        UserError: a format that is unknown or not there, a link, or a name that not every system
            can write.
    """
    wanted = [name for key in _known(formats) for name in FORMATS[key]]
    texts = _config_texts(root)
    found = Selection()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(name == skipped or name.startswith(f"{skipped}/") for skipped in found.left_out):
            continue
        if not _is_taken(root, path, wanted, texts):
            found.left_out += [name]
            continue
        if path.is_symlink():
            msg = f"{path} is a link, and a zip for others holds files only. Put the file there."
            raise UserError(msg)
        if path.is_file():
            found.files[name] = path
    for key in formats:
        if f"models/{FORMATS[key][0]}" not in found.files:
            msg = f"{root / 'models' / FORMATS[key][0]} is missing. Make it: export --formats {key}"
            raise UserError(msg)
    _refuse_names(root, found.files)
    return found


def package_files() -> dict[str, Path]:
    """Every file of this package, as it is installed."""
    root = Path(__file__).resolve().parents[2]
    return {
        f"{PACKAGE}/{path.relative_to(root).as_posix()}": path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not _is_byproduct(path.relative_to(root))
    }


def _is_taken(root: Path, path: Path, formats: list[str], texts: str) -> bool:
    """Whether a file is packed, or may hold files that are (a folder)."""
    parts = path.relative_to(root).parts
    if _is_byproduct(path.relative_to(root)):
        return False
    if len(parts) == 1:
        return parts[0] in (FOLDERS if path.is_dir() else (*TOP, *LARGE_FILE_LISTS))
    if path.is_dir():
        return parts[0] not in _FLAT
    if parts[0] == "models" and path.suffix != ".json":
        by_config = path.suffix == ".pt" and path.name in texts
        return path.name in (*WEIGHTS, *formats) or by_config
    return path.suffix.lower() in FOLDERS[parts[0]]


def _is_byproduct(path: Path) -> bool:
    """Dot files, and what Python writes beside its sources."""
    dotted = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return dotted or path.suffix in (".pyc", ".pyo")


def _config_texts(root: Path) -> str:
    files = sorted((root / "configs").glob("*"))
    kept = [file for file in files if file.suffix in FOLDERS["configs"] and file.is_file()]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in kept)


def _known(formats: Sequence[str]) -> Sequence[str]:
    for key in formats:
        if key not in FORMATS:
            msg = f"--formats must be of {', '.join(FORMATS)}; got {key!r}."
            raise UserError(msg)
    return formats


def _refuse_names(root: Path, files: dict[str, Path]) -> None:
    for name in files:
        if reason := unsafe(name):
            msg = f"{root / name} must have a name that every system can write; got {reason}."
            raise UserError(f"{msg} Rename it.")
    for name, other in clashes(files):
        msg = f"{name} and {other} are one file where upper and lower case are equal. Rename one."
        raise UserError(msg)
