"""`packed.json` inside the zip: size and sha256 of every other file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..data.reading import read, reason_of
from ..errors import UserError
from ..files import hash_of, sha256

RECORD = "packed.json"
FORMAT = 1
MOST_BYTES = 4_000_000
Content = Mapping[str, "bytes | Path"]


@dataclass(frozen=True)
class Record:
    """What was packed: path -> (size in bytes, sha256)."""

    written_by: str
    files: dict[str, tuple[int, str]]


def record_text(content: Content, bundle: str, version: str) -> bytes:
    """The record of a content as JSON; nothing in it depends on time or machine."""
    files = {}
    for path in sorted(content):
        item = content[path]
        if isinstance(item, bytes):
            files[path] = {"size": len(item), "sha256": sha256(item)}
        else:
            files[path] = {"size": item.stat().st_size, "sha256": hash_of(item)}
    record = {
        "format": FORMAT,
        "written_by": f"perforated_monai {__version__}",
        "bundle": bundle,
        "version": version,
        "files": files,
    }
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def read_record(root: Path) -> Record | None:
    """The record of an unpacked bundle; None where there is none.

    Raises:
        UserError: a record of an unknown format, or one that cannot be read.
    """
    file = root / RECORD
    if not file.is_file():
        return None
    try:
        data = read(file, MOST_BYTES)
    except (OSError, ValueError) as error:
        msg = f"{RECORD} must be JSON; got {reason_of(error)}. Fetch the zip again."
        raise UserError(msg) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        msg = f"{RECORD} must have format {FORMAT}; got {got!r}. Update perforated-monai."
        raise UserError(msg)
    return Record(str(data.get("written_by", "")), _files(data.get("files")))


def _files(entries: Any) -> dict[str, tuple[int, str]]:
    try:
        files = {str(path): (int(e["size"]), str(e["sha256"])) for path, e in entries.items()}
        if all(re.fullmatch("[0-9a-f]{64}", digest) for _, digest in files.values()):
            return files
    except (TypeError, KeyError, ValueError, AttributeError):
        pass
    msg = f"{RECORD} must give size and sha256 of each file; got something else. Fetch it again."
    raise UserError(msg)
