"""Cases of a folder tree; nothing in it is passed over without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath

from .earlier import is_output
from .found import NIFTI, OTHER_VOLUMES, Case, file_case, is_link, kind_of, series_files, shown

_MSD_LABELS = {"labelsTr": "imagesTr", "labelsTs": "imagesTs"}
_MOST_LOOKED_AT = 2000  # files behind a link, to find out whether scans are there
_MOST_NAMED = 3


class Walk:
    """``list(Walk(...).cases())``, and what was left out.

    Args:
        root: where to begin; links to folders are not followed.
        output: folder of the masks, resolved; never entered, and no other run's is either.
    """

    def __init__(self, root: Path, output: Path) -> None:
        self.root, self.output = root, output
        self._folders: list[str] = []
        self._linked: list[str] = []
        self._hidden: list[str] = []
        self._others: list[str] = []

    def cases(self) -> Iterator[Case]:
        """Every case; a folder that cannot be read, and a link that hides scans, fail as one."""
        unreadable: list[OSError] = []
        for folder, folders, names in os.walk(self.root, onerror=unreadable.append):
            here = Path(folder)
            yield from self._enter(here, folders)
            self._hidden += [self._name(here / n) for n in names if n.startswith(".")]
            yield from self._files(here, sorted(n for n in names if not n.startswith(".")))
        for error in unreadable:
            path = PurePath(os.path.relpath(error.filename, self.root))
            problem = f"the folder cannot be read ({error.strerror}). Correct its rights."
            yield Case(shown(path), path.as_posix(), (), problem=problem)

    def left_out(self, anonymous: bool = False) -> list[str]:
        """A line for each kind of thing that was passed over, with names unless anonymous."""
        folders, count = self._folders, len(self._folders)
        lines = [f"{count} folder{'s' * (count > 1)}"] if anonymous and folders else list(folders)
        for names, one, several in (
            (self._linked, "linked folder", "linked folders"),
            (self._hidden, "hidden file or folder", "hidden files or folders"),
            (self._others, "other file", "other files"),
        ):
            if names:
                more = ", …" if len(names) > _MOST_NAMED else ""
                named = "" if anonymous else f" ({', '.join(sorted(names)[:_MOST_NAMED])}{more})"
                lines.append(f"{len(names)} {several if len(names) > 1 else one}{named}")
        return lines

    def _enter(self, here: Path, folders: list[str]) -> Iterator[Case]:
        """Take out of ``folders`` what is not searched."""
        self._hidden += [self._name(here / n) for n in folders if n.startswith(".")]
        kept = sorted(f for f in folders if not f.startswith("."))
        for name in [f for f in kept if _MSD_LABELS.get(f) in kept]:
            self._folders.append(f"{self._name(here / name)}: labels of an MSD data set")
            kept.remove(name)
        for name in list(kept):
            path = here / name
            if Path(os.path.realpath(path)) == self.output:
                kept.remove(name)
            elif is_link(path):
                kept.remove(name)
                self._linked.append(self._name(path))
                yield from self._behind(path)
            elif is_output(path):
                kept.remove(name)
                self._folders.append(f"{self._name(path)}: masks of an earlier run")
        folders[:] = kept

    def _behind(self, link: Path) -> Iterator[Case]:
        """A link to a folder outside the tree that holds scans is a failed case."""
        target, root = Path(os.path.realpath(link)), Path(os.path.realpath(self.root))
        if target.is_relative_to(root) or target.is_relative_to(self.output):
            return
        if root.is_relative_to(target) or not _holds_scans(target):
            return
        relative = link.relative_to(self.root)
        problem = "it is a link to a folder with scans; links are not followed. Give that folder."
        yield Case(shown(relative), relative.as_posix(), (), problem=problem)

    def _files(self, here: Path, names: list[str]) -> Iterator[Case]:
        loose: list[Path] = []
        for name in names:
            path = here / name
            relative = path.relative_to(self.root)
            if name.lower().endswith((*NIFTI, *OTHER_VOLUMES)) or kind_of(path) == "nifti":
                yield file_case(path, relative)
            elif name.lower() != "dicomdir":
                loose.append(path)
        files, others = series_files(loose)
        self._others += [self._name(path) for path in others]
        if files:
            relative = here.relative_to(self.root)
            target = relative.as_posix() if relative.parts else here.resolve().name
            yield Case(shown(target), target, tuple(files), dicom=True)

    def _name(self, path: Path) -> str:
        return shown(path.relative_to(self.root))


def _holds_scans(folder: Path) -> bool:
    files = (Path(here) / name for here, _, names in os.walk(folder) for name in names)
    return any(
        path.name.lower().endswith((*NIFTI, *OTHER_VOLUMES)) or kind_of(path)
        for path in islice(files, _MOST_LOOKED_AT)
    )
