"""Reading overlays in tests: as MONAI does, and of the spleen-style bundle with changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.overlay.parts import Given

Change = Callable[[dict[str, Any]], object]
OURS = ["perforated_monai.RunHandler", "perforated_monai.DendriteHandler"]


def overlay(folder: Path, **choices: Any) -> dict[str, Any]:
    """The overlay as MONAI would read it."""
    given = Given(**choices.pop("given", {}))
    return yaml.safe_load(make_overlay(folder, Choices(given=given, **choices)))


def merged(folder: Path, file: Path) -> ConfigParser:
    """MONAI's own merge of a bundle's training config with an overlay."""
    config = next((folder / "configs").glob("train.*"))
    return ConfigParser(ConfigParser.load_config_files([str(config), str(file)]))


def add_handler(where: str, handler: dict[str, Any]) -> Change:
    return lambda config: config[where]["handlers"].append(handler)
