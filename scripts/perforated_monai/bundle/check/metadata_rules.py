"""Rules on `configs/metadata.json`: MONAI's schema 20240725, and the version in the changelog."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...rules import Broken, rule
from .files import BundleFiles

METADATA = "configs/metadata.json"
# What the schema requires; a test compares both.
REQUIRED = {
    "schema": str,
    "version": str,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
# What it knows beyond that.
OPTIONAL = {
    "changelog": dict,
    "data_source": str,
    "data_type": str,
    "image_classes": str,
    "label_classes": str,
    "pred_classes": str,
    "eval_metrics": dict,
    "intended_use": str,
    "references": list,
    "supported_apps": dict,
}
# The schema before it (20220324), which most of the zoo's bundles name, has the packages there.
_OLDER = {"required_packages_version": "optional_packages_version"}
TENSOR_KEYS = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")
_TENSOR_KINDS: dict[str, Any] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": [str, int],
    "dtype": str,
    "value_range": [int, float],
    "is_patch_data": bool,
    "channel_def": dict,
}
_NAMES = {str: "text", dict: "mapping", int: "whole number", bool: "true or false", list: "list"}


@rule("metadata-schema", "must follow MONAI's schema of metadata")
def metadata_schema(bundle: BundleFiles) -> Iterator[Broken]:
    metadata = bundle.metadata
    if not metadata:
        return
    older = _OLDER if "20220324" in str(metadata.get("schema")) else {}
    for key, kind in (REQUIRED | OPTIONAL).items():
        if key not in metadata:
            key = older.get(key, key)
        if key in metadata and not isinstance(metadata[key], kind):
            yield _wrong(f"{_short(metadata[key])} under {key}", f"Write a {_NAMES[kind]} there")
        elif key not in metadata and key in (*REQUIRED, *older.values()):
            yield _wrong(f"no {key}", f"Write a {_NAMES[kind]} there")
    references = metadata.get("references")
    if isinstance(references, list) and not all(isinstance(text, str) for text in references):
        yield _wrong("references that are not all text", "Write each as text")
    for key, value in metadata.items():
        if key == "network_data_format" or re.match(r"[_a-zA-Z0-9]+_data_format$", key):
            yield from _network(key, value)


@rule("changelog", "must describe its version in the changelog")
def changelog(bundle: BundleFiles) -> Iterator[Broken]:
    version, log = bundle.metadata.get("version"), bundle.metadata.get("changelog")
    if isinstance(version, str) and version not in (log if isinstance(log, dict) else {}):
        yield Broken(f"no entry {version}", "Add one line on it", METADATA)


def _network(key: str, formats: Any) -> Iterator[Broken]:
    if not isinstance(formats, dict):
        if key not in REQUIRED:  # required ones are named above
            yield _wrong(f"{_short(formats)} under {key}", "Write a mapping there")
        return
    for end in ("inputs", "outputs", "post_processed_outputs"):
        tensors = formats.get(end)
        if end not in formats and end == "post_processed_outputs":
            continue
        needed = key in REQUIRED and end != "post_processed_outputs"
        if not isinstance(tensors, dict) or (needed and not tensors):
            yield _wrong(f"no {key}::{end}", "Describe the network's tensors")
            continue
        for name, tensor in tensors.items():
            yield from _tensor(f"{key}::{end}::{name}", tensor)


def _tensor(where: str, tensor: Any) -> Iterator[Broken]:
    if isinstance(tensor, (str, int, float)):  # the schema allows plain values beside tensors
        return
    keys = tensor if isinstance(tensor, dict) else {}
    if absent := [key for key in TENSOR_KEYS if key not in keys]:
        yield _wrong(f"no {', '.join(absent)} in {where}", "Add it")
    for key, kind in _TENSOR_KINDS.items():
        if key in keys and not _is(keys[key], kind):
            kinds = kind if isinstance(kind, list) else [kind]
            cure = "a list of numbers" if isinstance(kind, list) else f"a {_NAMES[kinds[0]]}"
            yield _wrong(f"{_short(keys[key])} under {where}::{key}", f"Write {cure} there")


def _is(value: Any, kind: Any) -> bool:
    """As JSON schema has it: true is no number, and 3.0 is a whole one."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(any(_is(v, k) for k in kind) for v in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is int and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kind)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _wrong(value: str, cure: str) -> Broken:
    return Broken(value, cure, METADATA)
