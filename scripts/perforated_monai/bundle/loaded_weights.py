"""The weights that a config of a bundle loads, and one name for them: ``models/model.pt``.

Bundles of the zoo load other names too (``dynunet_FT.pt``). What export writes is ``model.pt``,
which MONAI's clients take by that name, so the exported configs load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from monai.bundle import ConfigParser

from ..data.reading import read_mapping
from .configs import replace_in_config

MODEL = "model.pt"
_ROOT = "bundle"


def loaded_files(config: dict[str, Any]) -> list[str]:
    """File names, in ``models/``, that the ``CheckpointLoader``s of a config read."""
    names = [PurePosixPath(path).name for _, path in _loaders(config)]
    return list(dict.fromkeys(names))


def load_model_pt(file: Path) -> None:
    """Let the loaders of a config file read ``models/model.pt`` of the bundle."""
    config = read_mapping(file)
    if "bundle_root" not in config:
        return
    others = [i for i, path in _loaders(config) if PurePosixPath(path).name != MODEL]
    if others:
        replace_in_config(file, dict.fromkeys(others, f"$@bundle_root + '/models/{MODEL}'"))


def _loaders(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """ID of each loader's path and the path itself; one that needs more than texts is left out."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        identifier, value = waiting.pop(0)
        if isinstance(value, list):
            waiting += [(f"{identifier}::{i}", item) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            continue
        waiting += [(f"{identifier}::{key}", item) for key, item in value.items()]
        if str(value.get("_target_", "")).rpartition(".")[2] == "CheckpointLoader":
            path = _evaluated(config, f"{identifier}::load_path")
            if path is not None:
                yield f"{identifier}::load_path", path


def _evaluated(config: dict[str, Any], identifier: str) -> str | None:
    parser = ConfigParser({**config, "bundle_root": _ROOT})
    try:
        path = parser.get_parsed_content(identifier)
    except Exception:  # an expression of the bundle may raise anything; its path stays as it is
        return None
    return path if isinstance(path, str) else None
