"""Which packages the packed code needs for inference."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

from ...errors import UserError
from ..layout import PACKAGE

# What every inference of a MONAI bundle needs: its volumes, its engine, its command line.
ALWAYS = ("nibabel", "pytorch-ignite", "fire")
# What importing a public name of this package imports besides; a test compares it with what
# really happens. Names that are not here need nothing more.
PUBLIC_NAMES = {
    "CaseTable": ("scipy",),
    "DendriteHandler": ("filelock", "tqdm"),
    "RunHandler": ("filelock", "tqdm"),
    "SparsityHandler": ("filelock", "tqdm"),
    "bundle_unchanged": ("tqdm",),
    "datalist": ("tqdm",),
    "find_volumes": ("tqdm",),
    "guard_command_line": ("tqdm",),
    "watch_bundle": ("tqdm",),
}
# Of a component that a config names: its own requirement.
COMPONENTS = {"ignite.handlers.ProgressBar": "tqdm", "SwinUNETR": "einops"}
# What some part of this package imports: named by a bundle and not needed, it is optional.
KNOWN = (
    *ALWAYS,
    *("pyyaml", "scipy", "rich", "tqdm", "filelock", "matplotlib", "einops"),
    *("itk", "pydicom", "highdicom"),
)


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
    required = {name: declared[name] for name in declared if name in needed or name not in KNOWN}
    for name in sorted(needed - set(required)):
        required[name] = optional.pop(name, None) or _installed(name)
    optional |= {name: version for name, version in declared.items() if name not in required}
    made = {**metadata, "required_packages_version": required}
    made.pop("optional_packages_version", None)
    if not optional:
        return made
    keys = list(made)
    at = keys.index("required_packages_version") + 1
    keys.insert(at, "optional_packages_version")
    return {key: made.get(key, optional) for key in keys}


def needs(config: Mapping[str, Any]) -> set[str]:
    """Distributions that an inference config imports, directly or through this package."""
    text = json.dumps(config)
    needed = set(ALWAYS)
    needed |= {package for name, package in COMPONENTS.items() if f'"{name}"' in text}
    for name in set(re.findall(rf"\b{PACKAGE}\.(\w+)", text)):
        needed.update(PUBLIC_NAMES.get(name, ()))
    return needed


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        msg = (
            f"metadata.json must name {name} under required_packages_version: inference needs it "
            "and it is not installed here. Add it with its version."
        )
        raise UserError(msg) from None
