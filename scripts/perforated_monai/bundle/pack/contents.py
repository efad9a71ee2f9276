"""Which files of a bundle go into the zip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ..large_files import NAMES as LARGE_FILE_LISTS
from ..layout import FOLDERS, FORMATS, TOP, is_byproduct
from ..portable_names import clashes, unsafe

_FLAT = ("models", "studies")  # in folders of these lie checkpoints and results
# One row a case: its name may be a patient's, and its figures are in the card.
CASES = ("docs/cases.csv", "docs/cases.json")
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


def select(root: Path, formats: Sequence[str] = (), cases: bool = False) -> Selection:
    """Choose the files of a bundle.

    Args:
        root: its folder.
        formats: of ts, pt2, onnx: other forms of the network.
        cases: also the table of its evaluation, which names cases.

    Raises:
        UserError: a format that is unknown or not there, a link, or a name that not every system
            can write.
    """
    wanted = [name for key in _known(formats) for name in FORMATS[key]]
    texts = _config_texts(root)
    chosen = Selection()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(name == skipped or name.startswith(f"{skipped}/") for skipped in chosen.left_out):
            continue
        if (name in CASES and not cases) or not _is_taken(root, path, wanted, texts):
            chosen.left_out += [name]
            continue
        if path.is_symlink():
            msg = f"{path} is a link, and a zip for others holds files only. Put the file there."
            raise UserError(msg)
        if path.is_file():
            chosen.files[name] = path
    for key in formats:
        if f"models/{FORMATS[key][0]}" not in chosen.files:
            msg = f"{root / 'models' / FORMATS[key][0]} is missing. Make it: export --formats {key}"
            raise UserError(msg)
    _refuse_names(root, chosen.files)
    return chosen


def _is_taken(root: Path, path: Path, formats: list[str], texts: str) -> bool:
    """Whether a file is packed, or may hold files that are (a folder)."""
    parts = path.relative_to(root).parts
    if is_byproduct(path.relative_to(root)):
        return False
    if len(parts) == 1:
        return parts[0] in (FOLDERS if path.is_dir() else (*TOP, *LARGE_FILE_LISTS))
    if path.is_dir():
        return parts[0] not in _FLAT
    if parts[0] == "models" and path.suffix != ".json":
        by_config = path.suffix == ".pt" and path.name in texts
        return path.name in (*WEIGHTS, *formats) or by_config
    return path.suffix.lower() in FOLDERS[parts[0]]


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
