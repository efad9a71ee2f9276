"""Which packages the packed code needs for inference: read from its imports, not kept by hand."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..._public import NAMES
from ...errors import UserError
from ..layout import PACKAGE

# What every inference of a MONAI bundle needs: its volumes, its engine, its command line.
ALWAYS = ("nibabel", "pytorch-ignite", "fire")
# Import name -> distribution, for what the package imports somewhere.
DISTRIBUTIONS = {
    "nibabel": "nibabel",
    "ignite": "pytorch-ignite",
    "fire": "fire",
    "yaml": "pyyaml",
    "scipy": "scipy",
    "rich": "rich",
    "tqdm": "tqdm",
    "filelock": "filelock",
    "matplotlib": "matplotlib",
    "itk": "itk",
    "pydicom": "pydicom",
    "highdicom": "highdicom",
    "einops": "einops",
}
_OWN_KEYS = ("torch", "monai", "numpy")  # metadata.json has a key for each
# Of a component that a config names: its own requirement.
_COMPONENTS = {"ignite.handlers.ProgressBar": "tqdm", "SwinUNETR": "einops"}


def stamped(metadata: Mapping[str, Any], config: Mapping[str, Any], yaml: bool) -> dict[str, Any]:
    """`metadata.json` with what inference needs under `required_packages_version`.

    What else the bundle named and this package merely can use (training, evaluation, `segment`)
    goes to `optional_packages_version`; what the package does not know stays where it is.

    Args:
        metadata: as the bundle has it.
        config: its inference config.
        yaml: whether that is a YAML file.

    Raises:
        UserError: a needed package that the metadata does not name and that is not installed.
    """
    declared = dict(metadata.get("required_packages_version") or {})
    optional = dict(metadata.get("optional_packages_version") or {})
    needed = {*needs(config), *(["pyyaml"] if yaml else [])}
    known = set(DISTRIBUTIONS.values())
    required = {name: declared[name] for name in declared if name in needed or name not in known}
    for name in sorted(needed - set(required)):
        required[name] = optional.pop(name, None) or _installed(name)
    optional |= {name: version for name, version in declared.items() if name not in required}
    found = {**metadata, "required_packages_version": required}
    found.pop("optional_packages_version", None)
    if not optional:
        return found
    keys = list(found)
    at = keys.index("required_packages_version") + 1
    keys.insert(at, "optional_packages_version")
    return {key: found.get(key, optional) for key in keys}


def needs(config: Mapping[str, Any]) -> set[str]:
    """Distributions that an inference config imports, directly or through this package."""
    text = json.dumps(config)
    found = set(ALWAYS)
    found |= {package for name, package in _COMPONENTS.items() if f'"{name}"' in text}
    for top in _closure(set(re.findall(rf"\b{PACKAGE}\.(\w+)", text))):
        if top not in _OWN_KEYS:
            found.add(DISTRIBUTIONS.get(top, top))
    return found


def _closure(names: set[str]) -> set[str]:
    """Top-level names that importing public names of this package imports from elsewhere."""
    root = Path(__file__).resolve().parents[2]
    todo = ["__init__", *(NAMES.get(name, name) for name in names)]
    seen: set[str] = set()
    external: set[str] = set()
    while todo:
        module = todo.pop()
        file = _file(root, module)
        if module in seen or file is None:
            continue
        seen.add(module)
        for level, name in _imports(ast.parse(file.read_text(encoding="utf-8")).body):
            if level:
                inside = module.split(".")[: None if file.name == "__init__.py" else -1]
                inside = [] if module == "__init__" else inside[: len(inside) - level + 1]
                todo.append(".".join([*inside, name]).strip("."))
            elif name.split(".")[0] not in sys.stdlib_module_names:
                external.add(name.split(".")[0])
    return external


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _imports(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Level and name of what a module imports when it is imported itself."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if node.level:  # a name may be a module
                inner = [f"{node.module}.{a.name}" if node.module else a.name for a in node.names]
                yield from ((node.level, name) for name in inner)
        elif isinstance(node, ast.Try) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
        ):
            yield from _imports(node.body)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        msg = (
            f"metadata.json must name {name} under required_packages_version: inference needs it "
            "and it is not installed here. Add it with its version."
        )
        raise UserError(msg) from None
