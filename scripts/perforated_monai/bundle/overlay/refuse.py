"""What cannot grow, refused by name; and what works but should be known."""

from __future__ import annotations

from ...errors import UserError
from ...networks.searched import SPACE
from .network import definition_at
from .parts import Parts
from .train_config import TrainConfig, reference, references

# Each holds a copy of the network, which would not grow with it.
_COPIES = ("EMAHandler", "ModelEMA", "ModelEma", "ExponentialMovingAverage", "AveragedModel")
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
_OURS = ("RunHandler", "DendriteHandler", "build_network")
_MOST_ARGUMENTS = 10_000  # references may go round in circles
_OWN_KEYS = ("dendrites", "base_weights", "run_seed", "perforated_overlay")


def refuse_what_cannot_grow(config: TrainConfig) -> None:
    """Raise for the first component of a config that growth would break.

    Raises:
        UserError: naming the id and what can be done.
    """
    for component in config.components():
        if component.name in _OURS:
            msg = (
                f"{component.id} of {config.file} is a {component.name}: this bundle is already "
                "dendritic. Use its own dendrites.yaml, or overlay the bundle it was made from."
            )
            raise UserError(msg)
        if component.name in _COPIES:
            msg = (
                f"{component.id} is a {component.name}, which keeps a copy of the network that "
                f"would not grow with it. Train a copy of {config.file.name} without it."
            )
            raise UserError(msg)
        if component.name in _WRAPPERS:
            raise _wrapped(component.id, component.name)
    for key in _OWN_KEYS:
        if key in config:
            msg = f"{config.file} has a key {key!r}, which the overlay needs: rename it."
            raise UserError(msg)


def refuse_a_wrapped_network(config: TrainConfig, parts: Parts) -> None:
    """Raise where an expression behind the network wraps it."""
    for identifier in _behind(config, parts.network):
        value = str(config.get(identifier))
        wrapper = next((w for w in (*_WRAPPERS, "torch.compile") if w in value), None)
        if config.component(identifier) is None and wrapper is not None:
            raise _wrapped(identifier, wrapper)


def refuse_a_network_of_objects(config: TrainConfig, parts: Parts) -> None:
    """Raise for a definition with another component in it: export writes plain values only."""
    definition = definition_at(config, parts.network_def) or {}
    waiting = [(k, v) for k, v in definition.items() if not k.startswith("_")]
    for _ in range(_MOST_ARGUMENTS):
        if not waiting:
            return
        name, value = waiting.pop()
        target = reference(value)
        value = config.get(config.follow(target)) if target is not None else value
        if isinstance(value, dict) and str(value.get("_target_")).endswith(SPACE):
            continue  # DiNTS: its search space is written as plain values
        if isinstance(value, dict) and "_target_" in value:
            msg = (
                f"{parts.network_def} takes an object for {name} ({value['_target_']}); a network "
                "is rebuilt from plain values at export. Use a network without it."
            )
            raise UserError(msg)
        if isinstance(value, (dict, list)):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(name, v) for v in inner]


def compiled_engines(config: TrainConfig, parts: Parts) -> list[str]:
    """Ids of ``compile`` arguments that are on: a compiled network cannot change its layers."""
    engines = [config.component(parts.trainer), config.component(config.follow(parts.evaluator))]
    return [f"{e.id}::compile" for e in engines if e is not None and e.arguments.get("compile")]


def _wrapped(identifier: str, wrapper: str) -> UserError:
    return UserError(
        f"{identifier} wraps the network in {wrapper}, and a wrapped network cannot change its "
        "layers. Give a config for one process without it."
    )


def notes_on(config: TrainConfig, parts: Parts) -> list[str]:
    """Sentences on what works and what should be known; they stand in the overlay's head."""
    notes = []
    for component in config.components():
        if component.name == "EarlyStopHandler":
            notes.append(
                f"{component.id} is an EarlyStopHandler: it may end the run before dendrites had "
                "their time. Its patience must be well above that of growth."
            )
        if component.name == "CheckpointLoader":
            notes.append(
                f"{component.id} is a CheckpointLoader: it decides what training starts from."
            )
    trainer = config.component(parts.trainer)
    if trainer is not None and trainer.name not in ("SupervisedTrainer", "Trainer"):
        notes.append(f"{parts.trainer} is a {trainer.name}, which is not known here.")
    for identifier, target in config.texts():
        if identifier.endswith("::_target_") and _is_handler_of_own(target):
            name = identifier.removesuffix("::_target_")
            notes.append(f"{name} is a handler of the bundle's own code, not looked into.")
    return notes


def loads_weights(config: TrainConfig) -> bool:
    """Whether the config itself loads weights into something."""
    loaders = any(c.name == "CheckpointLoader" for c in config.components())
    words = ("torch.load(", "load_state_dict(", "copy_model_state(", "load_old_state_dict(")
    return loaders or any(word in text for _, text in config.texts() for word in words)


def _is_handler_of_own(target: str) -> bool:
    known = ("monai.", "ignite.", "perforated_monai.")
    return "." in target and target.endswith("Handler") and not target.startswith(known)


def _behind(config: TrainConfig, identifier: str) -> list[str]:
    """An id and all ids that it refers to, expressions and components alike."""
    ids: list[str] = []
    waiting = [identifier]
    while waiting:
        current = waiting.pop(0)
        if current in ids or current not in config:
            continue
        ids.append(current)
        component = config.component(current)
        values = component.arguments.values() if component else [config.get(current)]
        waiting += [i for value in values for i in references(value)]
    return ids
