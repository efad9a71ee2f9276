"""The folder of a bundle as it was typed: there, and a folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError


def bundle_folder(given: str | Path) -> Path:
    """The folder, as given.

    Raises:
        UserError: for an empty name, a packed bundle, another file, or nothing at all.
    """
    folder = Path(given)
    if not str(given).strip():  # it would stand for the current folder
        msg = "the bundle must be a folder's name; got an empty one. Name the folder."
        raise UserError(msg)
    if folder.is_dir():
        return folder
    if folder.suffix.lower() == ".zip" and folder.is_file():
        msg = (
            f"{given} is a packed bundle and must be unpacked first. Judge it with `python -m "
            "perforated_monai verify`, unpack it, and name the folder."
        )
        raise UserError(msg)
    wrong = "is a file" if folder.exists() else "does not exist"
    msg = f"{given} must be the folder of a bundle; it {wrong}. Correct the path."
    raise UserError(msg)
