"""A small bundle, packed, and ways to spoil it as somebody would who can write a zip."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.tiny import LAYER, spec_of
from perforated_monai import build_network
from perforated_monai.bundle.pack.zip_writer import write_zip
from perforated_monai.bundle.record import RECORD, record_text
from perforated_monai.files import sha256

SHIPPED = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
TOP = "small_bundle"
SPEC = spec_of({LAYER: {"count": 1, "kind": "copy", "activation": "relu"}})
TRAIN, INFERENCE = "configs/train.json", "configs/inference.json"
METADATA, MODEL = "configs/metadata.json", "models/model.pt"
VERSION = json.loads((SHIPPED / METADATA).read_text())["version"]
Content = dict[str, bytes]


def small_bundle(folder: Path) -> Path:
    """The shipped bundle with a small network, from seed 0, and without pictures."""
    root = folder / TOP
    shutil.copytree(
        SHIPPED, root, ignore=shutil.ignore_patterns("models", "studies", "*.png", "*.ipynb")
    )
    definition = {"_target_": "perforated_monai.build_network", "spec": SPEC}
    for name in ("train", "evaluate", "inference"):
        file = root / "configs" / f"{name}.json"
        config = json.loads(file.read_text()) | {"network_def": definition}
        file.write_text(json.dumps(config, indent=2))
    (root / "models").mkdir()
    torch.manual_seed(0)
    torch.save(build_network(SPEC).state_dict(), root / MODEL)
    record = {**SPEC, "model_sha256": sha256((root / MODEL).read_bytes())}
    (root / "models" / "network.json").write_text(json.dumps(record))
    return root


def read_zip(file: Path) -> Content:
    """Path in the bundle -> bytes, of a packed bundle."""
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def without_package(content: Content) -> Content:
    """The rest of a packed bundle, with a record that agrees with it."""
    rest = {k: v for k, v in content.items() if not k.startswith("perforated_monai/")}
    rest.pop(RECORD, None)
    return rest | {RECORD: record_text(rest, TOP, VERSION)}


def rezip(content: Content, file: Path, record: bool = True) -> Path:
    """Zip a content under the top folder, with a record that agrees with it."""
    if record:
        rest = {path: data for path, data in content.items() if path != RECORD}
        content[RECORD] = record_text(rest, TOP, VERSION)
    write_zip(file, content, TOP)
    return file


def put(content: Content, file: str, data: str | bytes) -> str:
    """Write a file; its path, for the test to look for."""
    content[file] = data.encode() if isinstance(data, str) else data
    return file


def edit(content: Content, file: str, **changes: Any) -> str:
    """Change keys of a JSON file; None removes one."""
    found = json.loads(content[file]) | changes
    kept = {key: value for key, value in found.items() if value is not None}
    return put(content, file, json.dumps(kept))


def in_metadata(content: Content, work: Callable[[dict[str, Any]], object]) -> str:
    """Change the metadata in place."""
    found = json.loads(content[METADATA])
    work(found)
    return put(content, METADATA, json.dumps(found))


def weights_of(data: bytes) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(data), weights_only=True)


def saved(value: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def put_weights(content: Content, value: Any, **options: Any) -> str:
    """Write weights and, as an attacker would, the hash that network.json holds."""
    content[MODEL] = saved(value, **options)
    edit(content, "models/network.json", model_sha256=sha256(content[MODEL]))
    return MODEL


def raw_zip(file: Path, content: Content, *more: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    """Zip a content as it is, with further entries that no packer would write."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(f"{TOP}/{path}", data)
        for name, data in more:
            archive.writestr(name, data)
    return file


def entry(name: str, mode: int = 0o100644, **attributes: Any) -> zipfile.ZipInfo:
    """A zip entry with a Unix mode and other attributes set."""
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode << 16, 3
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
