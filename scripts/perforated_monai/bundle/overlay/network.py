"""The network that grows: its definition in the config, and whether it can be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UserError
from ...networks.makers import factory_call, is_own, maker_of, monai_maker
from .train_config import TrainConfig, references


def find_definition(config: TrainConfig, network: str) -> str:
    """Id of the one definition that ``network`` is made from.

    Raises:
        UserError: for none or several; with candidates it names the option that chooses.
    """
    found = _behind(config, config.follow(network), set())
    if len(found) == 1:
        return found[0]
    every = [c.id for c in config.components() if target_of(config, c.id)]
    shown = ", ".join(found or every[:8])
    msg = f"{network} must be made from one network; found {', '.join(found) or 'none'}"
    if not shown:
        made = config.get(config.follow(network))
        what = made.get("_target_") if isinstance(made, dict) else made
        msg = (
            f"{network} is {str(what)[:80]}, no network of monai.networks.nets and none of the "
            "bundle's own scripts: it cannot be rebuilt at export, so this bundle cannot grow."
        )
        raise UserError(msg)
    msg += f": name its definition with --network_def ID. Candidates: {shown}."
    raise UserError(msg)


def target_of(config: TrainConfig, identifier: str) -> str:
    """What makes a network at an id: a short name of MONAI, a whole one of own code, or ""."""
    value = definition_at(config, identifier)
    target = str(value.get("_target_", "")) if value is not None else ""
    if is_own(target):
        return target
    name = target.rpartition(".")[2]
    foreign = "." in target and not target.startswith("monai.")
    return name if not foreign and monai_maker(name) is not None else ""


def definition_at(config: TrainConfig, identifier: str) -> Mapping[str, Any] | None:
    """The component at an id, or the factory call that stands there as an expression."""
    if config.component(identifier) is not None:
        value: Mapping[str, Any] = config.get(identifier)
        return value
    return factory_call(config.get(identifier))


def network_class(config: TrainConfig, identifier: str, trust: bool) -> str:
    """Name of the class behind a definition, which can be rebuilt.

    Args:
        config: the training config.
        identifier: of the definition.
        trust: own code of the bundle may be imported; it is importable then.

    Raises:
        UserError: for what cannot be rebuilt, or own code without trust.
    """
    target = target_of(config, identifier)
    if not target:
        value = config.get(identifier)
        what = value.get("_target_") if isinstance(value, dict) else value
        msg = (
            f"{identifier} is {str(what)[:80]}, no network of monai.networks.nets and none of the "
            "bundle's own scripts: it could be trained, but not exported. Choose another."
        )
        raise UserError(msg)
    if is_own(target):
        if not trust:
            msg = (
                f"{identifier} is {target}, a network of the bundle's own code, which must be "
                "imported to see its layers: add --trust if you trust this bundle."
            )
            raise UserError(msg)
        maker_of(target)
    return target.rpartition(".")[2]


def _behind(config: TrainConfig, identifier: str, seen: set[str]) -> list[str]:
    """Definitions of networks that an id, or an expression under it, refers to."""
    if identifier in seen:
        return []
    seen.add(identifier)
    if definition_at(config, identifier) is not None:
        if target_of(config, identifier):
            return [identifier]
        if config.component(identifier) is not None:
            return []
    behind = (_behind(config, i, seen) for i in references(config.get(identifier)))
    return list(dict.fromkeys(n for names in behind for n in names))
