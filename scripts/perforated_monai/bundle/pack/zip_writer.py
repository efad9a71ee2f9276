"""A zip whose bytes follow from its content alone."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ..record import Content

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold
_PLAIN_FILE = 0o100644 << 16
_UNIX = 3


def write_zip(file: Path, content: Content, top: str) -> None:
    """Write a zip with one top folder, sorted, with fixed times and permissions.

    Nothing is compressed: weights and pictures hardly shrink, and what zlib makes of the rest
    differs between its versions.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(content):
            info = zipfile.ZipInfo(f"{top}/{path}", _EPOCH)
            info.external_attr, info.create_system = _PLAIN_FILE, _UNIX
            item = content[path]
            if isinstance(item, bytes):
                archive.writestr(info, item)
                continue
            info.file_size = item.stat().st_size
            with item.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
