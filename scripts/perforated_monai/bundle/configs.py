"""Config files of a bundle as they exist, JSON or YAML: found, read, and one id replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..data.reading import ENDINGS, from_yaml, read_mapping
from ..files import write_text
from .ids import has


def find_config(bundle: Path, name: str) -> Path | None:
    """``configs/<name>`` with the first ending of ``ENDINGS`` that is there."""
    files = (bundle / "configs" / f"{name}{suffix}" for suffix in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def load_configs(files: Sequence[str | Path]) -> dict[str, Any]:
    """Several config files merged as MONAI merges them, each read within limits first.

    Raises:
        UserError: for a file that cannot be read or holds no mapping.
    """
    for file in files:
        read_mapping(file)
    return ConfigParser.load_config_files([str(file) for file in files])


def replace_in_config(file: Path, values: dict[str, Any]) -> None:
    """Give ids of a config file other values; comments of YAML stay where its text allows it."""
    config = read_mapping(file)
    for identifier, value in values.items():
        _put(config, identifier, value)
    if file.suffix == ".json":
        write_text(file, json.dumps(config, indent=4, ensure_ascii=False) + "\n")
        return
    import yaml  # what reads JSON needs it not

    text = file.read_text(encoding="utf-8")
    for identifier, value in values.items():
        text = _with_block(text, identifier, value)
    try:
        same = from_yaml(text) == config
    except ValueError:
        same = False
    write_text(file, text if same else yaml.safe_dump(config, sort_keys=False))


def has_id(config: dict[str, Any], identifier: str) -> bool:
    """Whether a config holds an id, nested or as an override's own key."""
    return identifier in config or has(config, identifier)


def _put(config: Any, identifier: str, value: Any) -> None:
    if identifier in config:
        config[identifier] = value
        return
    *path, last = identifier.split("::")
    for part in path:
        config = config[int(part)] if isinstance(config, list) else config[part]
    config[int(last) if isinstance(config, list) else last] = value


def _with_block(text: str, key: str, value: Any) -> str:
    """YAML text with the block of a top-level key replaced, or added at the end."""
    import yaml

    block = yaml.safe_dump({key: value}, sort_keys=False)
    text = text.rstrip() + "\n"
    line = rf"^['\"]?{re.escape(key)}['\"]?\s*:.*\n"
    pattern = re.compile(rf"{line}(?:(?:[ \t-].*)?\n)*", re.MULTILINE)
    replaced, count = pattern.subn(lambda _: block, text, count=1)
    return replaced if count else text + block
