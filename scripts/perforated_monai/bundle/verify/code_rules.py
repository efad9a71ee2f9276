"""What code and names of a bundle may be: the rules that ``--trust`` covers."""

from __future__ import annotations

from ...rules import Rule
from . import configs, walk
from .paths import paths

CODE_RULES: tuple[Rule, ...] = (
    walk.file_kinds,
    walk.package,
    configs.targets,
    configs.arguments,
    configs.expressions,
    configs.macros,
    configs.module_references,
    paths,
)
