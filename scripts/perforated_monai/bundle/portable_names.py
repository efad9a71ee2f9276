"""Which relative paths can be written below a folder on every system, and stay below it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

MOST_CHARACTERS = 200
DEEPEST = 12
# Names that Windows gives to devices, with any ending.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789¹²³"
}


def unsafe(path: str) -> str:
    """Why a path with forward slashes is refused, or "" where nothing is wrong with it."""
    if not path or path.startswith("/") or re.match("[A-Za-z]:", path):
        return "an absolute or empty path"
    if "\\" in path:
        return "a backslash"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in path):
        return "a control or invisible character"
    if len(path) > MOST_CHARACTERS:
        return f"more than {MOST_CHARACTERS} characters"
    parts = path.split("/")
    if len(parts) > DEEPEST:
        return f"more than {DEEPEST} folders"
    for part in parts:
        if part in ("", ".", ".."):
            return f"{part!r} as a part, which can lead outside"
        if part[-1] in ". " or part[0] == " " or re.search('[<>:"|?*]', part):
            return f"{part!r}, which not every system can write"
        if part.split(".")[0].rstrip().lower() in _DEVICES:
            return f"{part!r}, a device of Windows"
    return ""


def clashes(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of paths that are one file on some system, or a file and a folder of one name.

    Upper and lower case, and composed and decomposed letters, count as equal.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        if key in seen:
            yield path, seen[key]
        seen.setdefault(key, path)
        while "/" in key:
            key = key.rpartition("/")[0]
            folders.setdefault(key, path)
    for key, path in seen.items():
        if key in folders:
            yield folders[key], path
    yield from _folders_of_two_spellings(seen.values())


def _folders_of_two_spellings(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    spelled: dict[str, str] = {}
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder:
            first = spelled.setdefault(_folded(folder), folder)
            if first != folder:
                yield path, first
            folder = folder.rpartition("/")[0]


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
