"""A bundle's transforms as one list of components, wherever its config keeps them.

A config may write ``transforms: "$@base + @more"`` or ``"@transforms"``; MONAI resolves that when
it makes the objects, and so it is done here, before any is made.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from monai.bundle import ConfigParser

from ...bundle.ids import value_of
from ...errors import UserError

_SUM = re.compile(r"\$?\s*@[\w:#]+(\s*\+\s*@[\w:#]+)*\s*")
_DEEPEST = 20  # references may go round in a circle

Steps = list[dict[str, Any]]


def without_macros(config: dict[str, Any]) -> dict[str, Any]:
    """A config with ``%`` macros and relative ids replaced; expressions stay texts."""
    parser = ConfigParser(config={}, globals=False)
    parser.set(copy.deepcopy(config))
    parser.resolve_macro_and_relative_ids()
    resolved: dict[str, Any] = parser.get()
    return resolved


def put_steps(config: dict[str, Any], key: str, file: str) -> Steps:
    """The transforms under a key, written out there as a ``Compose`` of one list, which is given.

    Raises:
        UserError: for anything else than a list of transforms, a ``Compose`` of one, or references
            to such lists.
    """
    steps = _listed(config, config[key], 0)
    if steps is None or not all(isinstance(t, dict) and "_target_" in t for t in steps):
        msg = f"{file}: {key} must be a list of transforms or a Compose of one. Correct it."
        raise UserError(msg)
    made = [copy.deepcopy(step) for step in steps]
    # What else stands in a Compose stays, such as what it requires.
    own = config[key] if isinstance(config[key], dict) and name_of(config[key]) == "Compose" else {}
    config[key] = {**own, "_target_": "Compose", "transforms": made}
    return made


def name_of(transform: dict[str, Any]) -> str:
    """Class name of a transform."""
    return str(transform.get("_target_", "")).rpartition(".")[2]


def image_keys(config: dict[str, Any], transform: dict[str, Any]) -> list[str]:
    """The keys that a transform reads, plain references followed."""
    keys = transform.get("keys")
    for _ in range(_DEEPEST):
        match = re.fullmatch(r"\$?@([\w:#]+)", keys) if isinstance(keys, str) else None
        if match is None:
            break
        keys = value_of(config, match[1])
    if not isinstance(keys, list):
        return [str(keys)]
    return [k for key in keys for k in image_keys(config, {"keys": key})]


def _listed(config: dict[str, Any], value: Any, depth: int) -> list[Any] | None:
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict) and name_of(value) == "Compose":
        return _listed(config, value.get("transforms"), depth + 1)
    if isinstance(value, dict):
        return [value]
    if isinstance(value, str) and _SUM.fullmatch(value):
        parts = [value_of(config, name) for name in re.findall(r"@([\w:#]+)", value)]
        return _joined(config, parts, depth)
    return _joined(config, value, depth) if isinstance(value, list) else None


def _joined(config: dict[str, Any], parts: list[Any], depth: int) -> list[Any] | None:
    found = [_listed(config, part, depth + 1) for part in parts]
    return None if None in found else [step for steps in found for step in steps or []]
