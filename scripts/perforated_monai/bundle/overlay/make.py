"""``overlay``: read a bundle's training config, find its parts, and write the overlay's text."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from ...data.reading import from_yaml, read_mapping
from ...errors import UserError
from ...networks.build import base_spec
from ...networks.definition import literal_definition
from ..ids import merged, value_of
from ..own_code import has_own_code, own_code
from .compat import find_mends, mended, version_note
from .parts import Given, Parts, find_parts
from .plan import Plan, plan_growth
from .redirect import find_redirects, log_files
from .refuse import (
    compiled_engines,
    loads_weights,
    notes_on,
    refuse_a_network_of_objects,
    refuse_a_wrapped_network,
    refuse_what_cannot_grow,
)
from .text import Content, compat_text, overlay_text
from .train_config import TrainConfig, read_train_config

LAYER_TYPES = ("Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d")
_WEIGHTS = "models/model.pt"


@dataclass(frozen=True)
class Choices:
    """What the user says about an overlay; empty values are looked for or take the default."""

    config: str = ""
    given: Given = field(default_factory=Given)
    layers: tuple[str, ...] = ("*",)
    layer_types: tuple[str, ...] = LAYER_TYPES
    weights: str = ""
    from_scratch: bool = False
    freeze_base: bool = False
    kind: str = ""
    trust: bool = False


def make_overlay(bundle: str | Path, choices: Choices | None = None) -> str:
    """Text of ``dendrites.yaml`` for a bundle; nothing of the bundle is run.

    With ``trust`` the bundle's own code is imported where the network is a class of it.

    Args:
        bundle: its folder, as it is to stand on the command line.
        choices: see ``Choices``.

    Raises:
        UserError: for a part that cannot be found (the option and the candidates are named) or that
            cannot grow.
    """
    choices = choices or Choices()
    with own_code(bundle) if choices.trust else contextlib.nullcontext():
        return _overlay(Path(bundle), choices)


def _overlay(folder: Path, choices: Choices) -> str:
    config = read_train_config(folder, choices.config)
    mends = find_mends(config)
    note = version_note(config, mends)
    config = mended(config, mends)
    refuse_what_cannot_grow(config)
    parts = find_parts(config, choices.given, choices.trust)
    refuse_a_wrapped_network(config, parts)
    refuse_a_network_of_objects(config, parts)
    plan = _plan(config, parts, choices)
    start, why = _start(folder, config, choices)
    content = Content(
        name=folder.resolve().name,
        config_file=config.file.as_posix(),
        bundle=folder.as_posix(),
        output_dir=_beside(folder),
        log_files=log_files(folder),
        bundle_root="" if "bundle_root" in config else folder.as_posix(),
        lists={key: config.get(key) for key in ("imports", "initialize", "finalize")},
        start=start,
        start_note=why,
        layer_types=choices.layer_types,
        layer_names=choices.layers,
        freeze_base=choices.freeze_base,
        plan=plan,
        notes=[*([note] if note else []), *plan.notes, *notes_on(config, parts)],
        mends=mends,
        compiled=compiled_engines(config, parts),
        own_code=has_own_code(folder, config.get_all()),
        trust=choices.trust,
    )
    text = overlay_text(content, parts, find_redirects(config))
    _verify(text, config, parts)
    return text


def make_compat(bundle: str | Path, config: str = "") -> str:
    """Text of ``compat.yaml``: what lets a bundle itself train under the installed MONAI.

    Args:
        bundle: its folder.
        config: see ``Choices``.

    Returns:
        "" where nothing is known to fail.

    Raises:
        UserError: for a config that cannot be read.
    """
    return compat_text(find_mends(read_train_config(Path(bundle), config)))


def _beside(folder: Path) -> str:
    """``runs/<bundle>`` below the current folder, or beside the bundle when that is inside it."""
    root, here = folder.resolve(), Path.cwd()
    inside = len(here.relative_to(root).parts) + 1 if here.is_relative_to(root) else 0
    return "../" * inside + f"runs/{root.name}"


def _start(folder: Path, config: TrainConfig, choices: Choices) -> tuple[str | None, str]:
    """The expression of the weights to start from, or None, and why."""
    if choices.weights and choices.from_scratch:
        msg = "--weights names what to start from; --from_scratch says not to. Give one of them."
        raise UserError(msg)
    if choices.weights:
        if not Path(choices.weights).is_file():
            msg = f"--weights {choices.weights} is no file: name a state dict."
            raise UserError(msg)
        return choices.weights, "Growth starts from these weights; null starts from scratch."
    there = (folder / _WEIGHTS).is_file()
    if not choices.from_scratch and there and not loads_weights(config):
        text = f"$str(@bundle_root) + '/{_WEIGHTS}'"
        return text, "Growth starts from the bundle's trained weights; null starts from scratch."
    if choices.freeze_base:
        msg = (
            f"freeze_base keeps the weights that growth starts from; {folder} has no {_WEIGHTS} "
            "that is known to be them. Name them with --weights FILE."
        )
        raise UserError(msg)
    if loads_weights(config) and not choices.from_scratch:
        return None, "null: the bundle's config loads weights by itself. Or name a file here."
    why = "as asked for" if choices.from_scratch else f"the bundle has no {_WEIGHTS}"
    return None, f"null: training starts from scratch, {why}. Or name a file here."


def _plan(config: TrainConfig, parts: Parts, choices: Choices) -> Plan:
    """What grows where; nothing of the bundle is evaluated for it."""
    definition = literal_definition(config.get(parts.network_def), config.get)
    base = None if definition is None else base_spec(definition)
    named = choices.layers != ("*",) or choices.layer_types != LAYER_TYPES
    kind = choices.kind or ("copy" if named else "")
    return plan_growth(base, kind, choices.layers, choices.layer_types)


def _verify(text: str, config: TrainConfig, parts: Parts) -> None:
    """The overlay reads as YAML, and on top of the config it puts the handlers where they act."""
    together = merged(read_mapping(config.file), from_yaml(text))
    handlers = value_of(together, parts.handlers or "dendrite_handlers", [])
    names = [handler.get("_target_") for handler in handlers[-2:]]
    if names != ["perforated_monai.RunHandler", "perforated_monai.DendriteHandler"]:
        msg = f"{config.file}: the handlers did not merge (found {names}). Please report it."
        raise UserError(msg)
