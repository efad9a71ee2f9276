"""One series whose slices lie in several folders: each folder alone would give half a mask."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_SERIES, _SLICE = "SeriesInstanceUID", "SOPInstanceUID"


def scattered(folders: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Which folders hold parts of one series: name -> the name of another such folder.

    The first file of a folder tells its series; only where two folders share one are all their
    files looked at. Two copies of one series are no parts: they have slices in common. A file that
    cannot be read is left to the reading of its case, which says what is wrong with it.

    Args:
        folders: name of a case -> its files.
    """
    if len(folders) < 2 or importlib.util.find_spec("pydicom") is None:
        return {}  # without pydicom no series is read, and each case says what to install
    by_series: dict[str, list[str]] = {}
    for name, files in folders.items():
        for series in _values(files[:1], _SERIES):
            by_series.setdefault(series, []).append(name)
    found: dict[str, str] = {}
    for names in by_series.values():
        slices = {name: _values(folders[name], _SLICE) for name in names if len(names) > 1}
        for name, own in slices.items():
            others = (n for n, theirs in slices.items() if n != name and not own & theirs)
            if (other := next(others, None)) is not None:
                found[name] = other
    return found


def _values(files: Iterable[Path], keyword: str) -> set[str]:
    import pydicom

    values = set()
    for path in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[keyword])
        except Exception:  # whatever is wrong with it, reading the case says so
            continue
        if value := str(header.get(keyword) or ""):
            values.add(value)
    return values
