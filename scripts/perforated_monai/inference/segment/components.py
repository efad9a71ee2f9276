"""Objects of a bundle's configuration, parsed in one thread at a time."""

from __future__ import annotations

import copy
import sys
import threading
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from .bundle_code import bundle_code

# MONAI reads expressions with ast.parse, which in CPython 3.11 is not safe in several threads: a
# case failed at times with "AST constructor recursion depth mismatch". It can go with 3.11.
_parsing = threading.Lock()


def parsed(config: dict[str, Any], key: str, folder: Path | None = None) -> Any:
    """A new object of the configuration; ``folder`` is the bundle whose own code it may need."""
    if folder is None:
        return _parser(config).get_parsed_content(key)
    with bundle_code(folder), _parsing:
        return _parser(copy.deepcopy(config)).get_parsed_content(key)


def _parser(config: dict[str, Any]) -> ConfigParser:
    """MONAI's, with one table of components for all: to make it takes a sixth of a second."""
    parser = ConfigParser(config)
    parser.locator = _components
    return parser


class _Components(ComponentLocator):
    """MONAI's table of its components, made again when more of its modules are loaded."""

    _modules = 0

    def get_component_module_name(self, name: str) -> list[str] | str | None:
        modules = sum(module.startswith(self.MOD_START) for module in list(sys.modules))
        if modules != self._modules:
            self._components_table, self._modules = None, modules
        return super().get_component_module_name(name)


_components = _Components()
