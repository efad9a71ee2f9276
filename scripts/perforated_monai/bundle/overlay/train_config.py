"""``TrainConfig``: someone's training config as text; nothing of it is imported or evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from ...data.reading import ENDINGS, read_or_refuse
from ...errors import UserError
from ..ids import has, merged, value_of

_TRAINER = re.compile(r"_target_['\"]?\s*:\s*['\"]?[\w.]*Trainer\b")
_NAMES = ("train.json", "train.yaml", "train.yml")


@dataclass(frozen=True)
class Component:
    """A mapping with ``_target_``: its id, class name without module, and its arguments."""

    id: str
    name: str
    arguments: dict[str, Any]


class TrainConfig:
    """A training config with macros and relative ids replaced, expressions left as text.

    Args:
        config: content of the config file.
        file: where it was read, for messages.
    """

    def __init__(self, config: dict[str, Any], file: Path) -> None:
        self.file = file
        self._raw = merged({}, config)
        parser = ConfigParser(config={}, globals=False)
        parser.set(merged({}, config))
        try:
            parser.resolve_macro_and_relative_ids()
        except (KeyError, ValueError, OSError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{file}: a macro (%) or relative id of it leads nowhere ({reason}). Correct it."
            raise UserError(msg) from None
        self._full: dict[str, Any] = parser.get()

    def __contains__(self, identifier: str) -> bool:
        return has(self._full, identifier)

    def get(self, identifier: str, default: Any = None) -> Any:
        """Content under an id (``train::trainer``); ``default`` where there is none."""
        return value_of(self._full, identifier, default)

    def with_overrides(self, lines: Mapping[str, Any]) -> TrainConfig:
        """The config with ids overridden as another config file would, ``+`` included."""
        return TrainConfig(merged(self._raw, lines), self.file)

    def get_all(self) -> dict[str, Any]:
        """The whole config, macros replaced."""
        return self._full

    def top_keys(self) -> list[str]:
        """Top-level keys, in the file's order."""
        return [key for key in self._full if key != "_meta_"]

    def overridable(self, identifier: str) -> bool:
        """Whether an overlay can set this id: not where it only exists inside a macro."""
        parent = identifier.rpartition("::")[0]
        return not parent or isinstance(value_of(self._raw, parent), (dict, list))

    def component(self, identifier: str) -> Component | None:
        """The enabled component under an id."""
        value = self.get(identifier)
        if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
            return None
        if str(value.get("_disabled_", False)).strip().lower() == "true":
            return None
        arguments = {k: v for k, v in value.items() if not (k.startswith("_") and k.endswith("_"))}
        return Component(identifier, value["_target_"].rpartition(".")[2], arguments)

    def components(self) -> list[Component]:
        """Every enabled component, outer ones first."""
        components = (self.component(identifier) for identifier, _ in self._walk())
        return [component for component in components if component is not None]

    def texts(self) -> list[tuple[str, str]]:
        """Every string with its id."""
        return [(i, value) for i, value in self._walk() if isinstance(value, str)]

    def follow(self, identifier: str) -> str:
        """The id at the end of a chain of plain references ``@id``."""
        seen = {identifier}
        while True:
            value = self.get(identifier)
            target = reference(value)
            if target is None or target in seen:
                return identifier
            identifier = target
            seen.add(target)

    def _walk(self) -> Iterator[tuple[str, Any]]:
        waiting = [(key, self.get(key)) for key in self.top_keys()]
        while waiting:
            identifier, value = waiting.pop(0)
            yield identifier, value
            if isinstance(value, (dict, list)):
                inner = ReferenceResolver.iter_subconfigs(identifier, value)
                waiting.extend((i, v) for _, i, v in inner)


def read_train_config(bundle: str | Path, config: str = "") -> TrainConfig:
    """Read the training config of a bundle.

    Args:
        bundle: its folder.
        config: file below the bundle or its ``configs``; ``train.json`` or ``train.yaml`` when not
            given.

    Raises:
        UserError: no such file, several of them, or one that cannot be read.
    """
    bundle = Path(bundle)
    if not bundle.is_dir():
        msg = f"{bundle} is no folder: give the folder of a MONAI bundle, which holds configs/."
        raise UserError(msg)
    file = _find(bundle, config)
    content = read_or_refuse(file)
    if not isinstance(content, dict) or not content:
        msg = f"{file} must hold a mapping of ids; got {type(content).__name__}."
        raise UserError(msg)
    return TrainConfig(content, file)


def reference(value: Any) -> str | None:
    """The id of a plain reference ``@id``, or None for anything else."""
    ids = references(value)
    plain = isinstance(value, str) and value.startswith("@")
    return ids[0] if plain and ids else None


def references(value: Any) -> list[str]:
    """Ids that a text refers to: ``@id`` alone, or any inside an expression ``$…``."""
    return list(ReferenceResolver.match_refs_pattern(value)) if isinstance(value, str) else []


def _find(bundle: Path, config: str) -> Path:
    folders = (bundle, bundle / "configs")
    if config:
        file = next((f / config for f in folders if (f / config).is_file()), None)
        if file is None:
            msg = f"{bundle} has no {config}, neither in itself nor in configs/."
            raise UserError(msg)
        return file
    there = [bundle / "configs" / n for n in _NAMES if (bundle / "configs" / n).is_file()]
    if len(there) != 1:
        raise _no_single_config(bundle, [f.name for f in there])
    return there[0]


def _no_single_config(bundle: Path, there: list[str]) -> UserError:
    """What to name with --config, or that nothing here trains."""
    if there:
        return UserError(f"{bundle}/configs has {' and '.join(there)}: name one with --config.")
    files = sorted(f for f in (bundle / "configs").glob("*") if f.suffix in ENDINGS)
    trains = [f.name for f in files if _TRAINER.search(f.read_text("utf-8", errors="replace"))]
    if not trains:
        shown = ", ".join(f.name for f in files) or "no config at all"
        return UserError(
            f"{bundle}/configs has no training with one of MONAI's trainers (looked into {shown}): "
            "there is nothing that an overlay could let grow."
        )
    return UserError(
        f"{bundle}/configs has none of {', '.join(_NAMES)}: name one with --config. "
        f"Configs with a trainer: {', '.join(trains)}."
    )
