"""The definition of a network in a config: a component of MONAI, as plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from ..errors import UserError
from .makers import factory_call
from .searched import SPACE, plain_space, rows

_NOT_ARGUMENTS = ("_desc_", "_mode_", "_requires_")
_SPACE, _OWN_KEY = "dints_space", "__definition"
_MOST_REFERENCES = 20  # one behind the other; more are a circle


def definition_key(config: dict[str, Any]) -> str:
    """ID of the definition of a bundle's network; an overlay on someone else's says where it is."""
    return str(config.get("perforated_overlay", {}).get("network_def", "network_def"))


def network_definition(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The definition under an ID, with references and expressions resolved by MONAI.

    A config whose ``network_def`` has dendrites keeps the plain one as ``base_network_def``, and
    that is taken.

    Raises:
        UserError: for what is no component, or has values that JSON cannot hold.
    """
    key = "base_network_def" if "base_network_def" in config else key
    definition = _resolved(config, key)
    if not isinstance(definition, dict) or "_target_" not in definition:
        msg = f"The configuration must hold {key} with a _target_; it does not. Define it there."
        raise UserError(msg)
    plain = {k: rows(v) for k, v in _without_notes(definition).items()}
    try:
        json.dumps(plain)
    except TypeError as error:
        msg = f"{key} must be made from plain values to be written into a bundle: {error}."
        raise UserError(msg) from None
    return plain


def _resolved(config: dict[str, Any], key: str) -> Any:
    """MONAI's own item with references inside it resolved, nothing of a network made."""
    component = factory_call(_at(config, key))
    space = _at(config, f"{key}::{_SPACE}")
    if component is not None:
        config, key = {**config, _OWN_KEY: component}, _OWN_KEY
    searched = _search_space(space, config)
    if searched is not None:  # the object behind it is made on the device of its config
        component = {**_at(config, key), _SPACE: None}
        config, key = {**config, _OWN_KEY: component}, _OWN_KEY
    item: Any = ConfigParser(config).get_parsed_content(key, instantiate=False)
    definition = item.get_config() if hasattr(item, "get_config") else item
    if searched is not None:
        plain = {**_at(config, searched), "device": "cpu"}
        parser = ConfigParser({**config, _OWN_KEY: plain})
        definition[_SPACE] = plain_space(
            parser.get_parsed_content(_OWN_KEY, instantiate=False).get_config()
        )
    return definition


def _search_space(space: Any, config: dict[str, Any]) -> str | None:
    """The ID of a DiNTS search space behind a plain reference to it."""
    match = re.fullmatch(r"@([\w:#]+)", space) if isinstance(space, str) else None
    holder = _at(config, match[1]) if match else None
    target = str(holder.get("_target_")) if isinstance(holder, dict) else ""
    return match[1] if match and target.rpartition(".")[2] == SPACE else None


def _at(config: Any, key: str) -> Any:
    """What stands under an ID of mappings; None where nothing does."""
    for part in key.replace("#", "::").split("::"):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def literal_definition(definition: Any, value_of: Callable[[str], Any]) -> dict[str, Any] | None:
    """A definition with plain references followed and nothing evaluated, as of a stranger's config.

    Args:
        definition: the component.
        value_of: what stands under an ID.

    Returns:
        None where an expression or another component is in it.
    """
    try:
        component = factory_call(definition)
        return _without_notes(_followed(component or definition, value_of, 0))
    except LookupError:
        return None


def _followed(value: Any, value_of: Callable[[str], Any], depth: int) -> Any:
    if depth > _MOST_REFERENCES or (isinstance(value, str) and value.startswith("$")):
        raise LookupError(value)
    if isinstance(value, str) and value.startswith("@"):
        name = next(iter(ReferenceResolver.match_refs_pattern(value)), None)
        return value if name is None else _followed(value_of(name), value_of, depth + 1)
    if isinstance(value, dict):
        if depth and "_target_" in value:
            raise LookupError(value)
        return {k: _followed(v, value_of, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_followed(v, value_of, depth + 1) for v in value]
    return value


def _without_notes(definition: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if key not in _NOT_ARGUMENTS}
