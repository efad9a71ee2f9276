"""Rules on a bundle's files and configs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from ...data.manifest import load_manifest
from ...errors import UserError
from ...rules import WARNING, Broken, rule
from ..ids import has, merged, value_of
from ..ids import references as references_of
from ..staged import interrupted
from .files import WORKFLOWS, BundleFiles
from .large_rules import elsewhere

# Keys that MONAI reads from any config.
OWN_KEYS = ("_desc_", "_meta_", "imports", "initialize", "run", "finalize")
INFERENCE = "configs/inference.json"  # or in YAML
FILES = ("LICENSE", "configs/metadata.json", INFERENCE, "models/model.pt")


@rule("bundle-files", f"must hold {', '.join(FILES)}")
def bundle_files(bundle: BundleFiles) -> Iterator[Broken]:
    for file in FILES:
        if (bundle.root / file).is_file() or (file == INFERENCE and bundle.file_of("inference")):
            continue
        if file in elsewhere(bundle):
            cure = "Fetch it: python -m monai.bundle download_large_files --bundle_path <bundle>"
            yield Broken(f"{file} in the list of large files only", cure, severity=WARNING)
        else:
            yield Broken(f"no {file}", "Add it")


@rule("whole-export", "must not hold a half-finished export")
def whole_export(bundle: BundleFiles) -> Iterator[Broken]:
    if interrupted(bundle.root):
        yield Broken("one that was killed while it moved its files", "Run the export again")


@rule("config-syntax", "must be JSON or YAML without errors")
def config_syntax(bundle: BundleFiles) -> Iterator[Broken]:
    for file, reason in bundle.broken.items():
        yield Broken(reason, "Correct that line", file)


@rule("required-ids", "must have every ID that MONAI needs for its workflow")
def required_ids(bundle: BundleFiles) -> Iterator[Broken]:
    for workflow in WORKFLOWS:
        if file := bundle.file_of(workflow):
            for entry in _properties(workflow).values():
                if entry["required"] and not has(bundle.configs[file], entry["id"]):
                    yield Broken(f"no {entry['id']}", f"Add it: {entry['description']}", file)


@rule("property-references", "must refer to a property by its own ID")
def property_references(bundle: BundleFiles) -> Iterator[Broken]:
    for workflow in WORKFLOWS:
        if file := bundle.file_of(workflow):
            for entry in _properties(workflow).values():
                referred = value_of(bundle.configs[file], entry.get("refer_id") or "?")
                wanted = f"@{entry['id']}"
                written = str(referred).replace("#", "::")
                if isinstance(referred, str) and referred[:1] != "$" and written != wanted:
                    value = f"{referred} under {entry['refer_id']}"
                    yield Broken(value, f"Write {wanted}: clients look there", file)


@rule("references", "must refer to IDs that exist")
def references(bundle: BundleFiles) -> Iterator[Broken]:
    for workflow in WORKFLOWS:
        if file := bundle.file_of(workflow):
            yield from _dangling(bundle.configs[file], file)
    for file in bundle.overlays:
        base = _base(bundle, file)
        if not base:
            continue
        known = set(_dangling(base, file))
        dangling = _dangling(merged(base, bundle.configs[file]), file)
        yield from (broken for broken in dangling if broken not in known)


@rule("override-keys", "must override keys that exist")
def override_keys(bundle: BundleFiles) -> Iterator[Broken]:
    for file in bundle.overlays:
        base = _base(bundle, file)
        if not base:
            continue
        whole = merged(base, bundle.configs[file])
        used = references_of(whole)
        for key in bundle.configs[file]:
            name = key.lstrip("+").replace("#", "::")
            if not _exists(base, name, used):
                close = difflib.get_close_matches(name, _known_names(base, name), n=3)
                cure = f"Did you mean {', '.join(close)}" if close else "Remove it"
                yield Broken(f"{key}, which neither exists nor is used", cure, file)


@rule("bundle-manifest", "must be a data manifest of a known schema")
def bundle_manifest(bundle: BundleFiles) -> Iterator[Broken]:
    for file in bundle.manifests:
        try:
            load_manifest(bundle.root / file)
        except UserError as error:
            reason = str(error).replace(f"manifest {bundle.root / file} ", "").rstrip(".")
            yield Broken(" ".join(reason.split()), "Copy it from data_manifests", file)


@rule("network-def", "must have one network_def in all workflows", WARNING)
def network_def(bundle: BundleFiles) -> Iterator[Broken]:
    files = [file for file in bundle.configs if "network_def" in bundle.configs[file]]
    plain = [file for file in files if isinstance(bundle.configs[file]["network_def"], dict)]
    for file in plain[1:]:
        first, other = (_without_text(bundle.configs[f]["network_def"]) for f in (plain[0], file))
        if first != other:
            cure = "Clients read it from any of them: export again, or copy it"
            yield Broken(f"another one than {plain[0]}", cure, file)


def _base(bundle: BundleFiles, overlay: str) -> dict[str, Any]:
    """What an overlay is merged on, by its name: inference, train, or train and evaluate."""
    name = overlay.rpartition("/")[2]
    if "inference" in name:
        return bundle.configs.get(bundle.file_of("inference"), {})
    base = bundle.configs.get(bundle.file_of("train"), {})
    if base and "evaluate" in name and not name.startswith("evaluate"):
        return merged(base, bundle.configs.get(bundle.file_of("evaluate"), {}))
    return base


def _properties(workflow: str) -> Any:
    from monai.bundle.properties import InferProperties, TrainProperties

    return TrainProperties if WORKFLOWS[workflow] == "train" else InferProperties


def _dangling(config: dict[str, Any], file: str) -> Iterator[Broken]:
    live = {k: v for k, v in config.items() if not k.endswith("_desc")}
    for name in sorted(references_of(live)):
        if not has(config, name):
            close = difflib.get_close_matches(name, list(map(str, config)), n=1)
            cure = f"Did you mean @{close[0]}" if close else "Define it or remove the reference"
            yield Broken(f"@{name}", cure, file)


def _exists(config: dict[str, Any], name: str, used: set[str]) -> bool:
    """A key of the config, an argument its component may take, or one that something refers to."""
    if has(config, name) or any(ref == name or ref.startswith(f"{name}::") for ref in used):
        return True
    if name.endswith("_desc") or name in OWN_KEYS:
        return True
    from ..overrides import is_known_key

    return is_known_key(config, name)


def _known_names(base: dict[str, Any], name: str) -> list[str]:
    parent = name.rpartition("::")[0]
    holder = value_of(base, parent) if parent else base
    keys = [str(key) for key in (holder if isinstance(holder, dict) else base)]
    return [f"{parent}::{key}" for key in keys] if parent and isinstance(holder, dict) else keys


def _without_text(definition: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if key != "_desc_"}
