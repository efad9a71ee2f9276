"""What a component opens or writes: in the bundle, or where the user says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...rules import Broken, rule
from .items import Item, items
from .places import UNKNOWN, Places, has_address, outside
from .walk import Unpacked

# Arguments that are places: what they hold must be known.
PLACES = re.compile(
    r"(\w+_)?(path|paths|file|files|dir|dirs|directory|folder|root|src|url|uri|store|npzfile|layout)"
    r"|save_dir|video_source|host|store_path|file_name|data_root|address"
)
# Arguments that become part of a file's name.
NAME_PARTS = re.compile(
    r"(\w+_)?(filename|filename_suffix|postfix|postfixes|ext|extension|file_prefix|db_name)"
)
_CURE = "Read it before you go on"


@rule("paths", "must open and write nothing outside the bundle and the user's folders")
def paths(bundle: Unpacked) -> Iterator[Broken]:
    places = Places(_values(bundle))
    for item in items(bundle):
        if not item.given:
            continue
        for reason in _reasons(item, places):
            value = f"{item.key} {str(item.value)[:100]!r} at {item.id}: {reason}"
            yield Broken(value, _CURE, item.file)


def is_place(name: str) -> bool:
    """Whether an argument of that name says where something lies, or what it is called."""
    return bool(PLACES.fullmatch(name) or NAME_PARTS.fullmatch(name))


def _reasons(item: Item, places: Places) -> Iterator[str]:
    if isinstance(item.value, dict):
        # Metrics are written to files of their names.
        for key in item.value if "_target_" not in item.value else ():
            if re.search(r"[\\/]", str(key)) and not _is_override(str(key)):
                yield f"the key {str(key)[:60]!r}, which a file is called by"
        return
    if not isinstance(item.value, str) or item.key.startswith("_") or item.key.endswith("_desc"):
        return
    if has_address(item.value):
        yield "an address"
        return
    strict = is_place(item.key)
    for text in places.of(item.value, item.id):
        if reason := outside(text):
            yield reason
        elif has_address(text):
            yield "an address"
        elif strict and text.startswith(UNKNOWN):
            yield "a place that is only known when it runs"
        else:
            continue
        return


def _is_override(key: str) -> bool:
    return "::" in key or "#" in key


def _values(bundle: Unpacked) -> dict[str, list[Any]]:
    """Id -> values under it in any file; metadata also under ``_meta_``, as MONAI gives it."""
    values: dict[str, list[Any]] = {}
    for item in items(bundle):
        values.setdefault(item.id, []).append(item.value)
        if item.file.endswith("metadata.json"):
            values.setdefault(f"_meta_::{item.id}", []).append(item.value)
    return values
