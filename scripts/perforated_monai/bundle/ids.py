"""IDs of a MONAI config (``train::dataset::data``), looked up in plain dicts and lists.

MONAI's own look-up compares a missing name with every other one, letter by letter: a foreign config
could keep it busy for hours.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any


def has(config: Any, name: str) -> bool:
    """Whether an ID exists."""
    return _find(config, name)[0]


def value_of(config: Any, name: str, default: Any = None) -> Any:
    """What stands under an ID, or the default."""
    exists, value = _find(config, name)
    return value if exists else default


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configs as MONAI does, changing neither; a key without a place is left out."""
    result = copy.deepcopy(dict(base))
    for key, value in copy.deepcopy(dict(overlay)).items():
        name = key.removeprefix("+").replace("#", "::")
        place, _, last = name.rpartition("::")
        there, before = _find(result, name)
        if key.startswith("+") and there:
            if isinstance(before, dict) and isinstance(value, dict):
                before.update(value)
            elif isinstance(before, list) and isinstance(value, list):
                before.extend(value)
            continue
        holder = value_of(result, place) if place else result
        if isinstance(holder, dict):
            holder[last] = value
        elif isinstance(holder, list) and there:
            holder[int(last)] = value
    return result


def references(value: Any) -> set[str]:
    """Every ID that stands behind an @ or a % somewhere in a config."""
    ids: set[str] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str) and item[:1] in ("$", "@", "%"):
            ids |= {name.replace("#", "::") for name in re.findall(r"[@%](\w[\w:#]*)", item)}
    return ids


def _find(config: Any, name: str) -> tuple[bool, Any]:
    for part in name.replace("#", "::").split("::"):
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and re.fullmatch("[0-9]{1,6}", part, re.ASCII):
            if int(part) >= len(config):
                return False, None
            config = config[int(part)]
        else:
            return False, None
    return True, config
