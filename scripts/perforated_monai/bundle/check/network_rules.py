"""Rules on a bundle's network: its weights, its shapes, and the windows it is run on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ...data.reading import read, reason_of
from ...errors import UserError
from ...files import sha256
from ...rules import NOTE, Broken, rule
from .files import WORKFLOWS, BundleFiles
from .meta_network import on_meta

MODEL = "models/model.pt"
METADATA = "configs/metadata.json"


@rule("network", "must have a network_def that builds")
def network(bundle: BundleFiles) -> Iterator[Broken]:
    if not any(map(bundle.file_of, WORKFLOWS)):
        return
    file = bundle.file_of("inference") or bundle.file_of("train")
    if bundle.network.broken:
        yield Broken(bundle.network.reason, "Export the network again", file)
    elif bundle.network.reason:
        cure = "Weights and shapes were not compared; run the bundle to see them"
        yield Broken(bundle.network.reason, cure, file, NOTE)


@rule("weights", "must hold every tensor of the network, and no other")
def weights(bundle: BundleFiles) -> Iterator[Broken]:
    if bundle.network.network is None or not (bundle.root / MODEL).is_file():
        return
    from ...networks.weights import expect_fit, read_weights

    try:
        state = read_weights(bundle.root / MODEL)
        expect_fit(bundle.network.network.state_dict(), state, bundle.root / MODEL)
    except UserError as error:
        reason = str(error).replace(f"{bundle.root / MODEL} ", "")
        yield Broken(reason, "Use the network_def that was exported with it", MODEL)


@rule("model-hash", "must have the sha256 that models/network.json names")
def model_hash(bundle: BundleFiles) -> Iterator[Broken]:
    record, model = bundle.root / "models/network.json", bundle.root / MODEL
    if not record.is_file() or not model.is_file():
        return
    try:
        data = read(record)
    except (OSError, ValueError) as error:
        yield Broken(
            f"JSON that cannot be read ({reason_of(error)})", "Export again", "models/network.json"
        )
        return
    known = data.get("model_sha256") if isinstance(data, dict) else None
    if known and (digest := sha256(model.read_bytes())) != known:
        yield Broken(
            f"{digest[:16]}…, expected {str(known)[:16]}…", "Export or fetch it again", MODEL
        )


@rule("output-shape", "must describe the shape that the network returns")
def output_shape(bundle: BundleFiles) -> Iterator[Broken]:
    image, pred = _tensor(bundle, "inputs", "image"), _tensor(bundle, "outputs", "pred")
    if bundle.network.network is None or not image or not pred:
        return
    import torch

    try:
        with on_meta():
            output = bundle.network.network(torch.zeros(1, *image))
    except Exception as error:  # a network raises anything on a shape it cannot take
        reason = " ".join(str(error).split())[:200]
        cure = "Correct network_data_format::inputs, or the network"
        yield Broken(f"{image} as input, which fails: {reason}", cure, METADATA)
        return
    shape = tuple((output[0] if isinstance(output, (list, tuple)) else output).shape[1:])
    if shape != pred:
        value = f"{pred}, the network returns {shape} for {image}"
        yield Broken(value, "Correct network_data_format::outputs", METADATA)


@rule("roi-strides", "must have windows that the network's strides divide")
def roi_strides(bundle: BundleFiles) -> Iterator[Broken]:
    factor = _downsampling(bundle.base)
    for file in {bundle.file_of(workflow) for workflow in WORKFLOWS} - {""}:
        config = bundle.configs[file]
        for key in ("roi_size", "val_roi_size"):
            sizes = config.get(key)
            if not factor or not isinstance(sizes, list) or len(sizes) != len(factor):
                continue
            numbers = all(isinstance(size, int) for size in sizes)
            if numbers and any(s % (f or 1) for s, f in zip(sizes, factor, strict=True)):
                value = f"{key} {sizes}, strides of {factor}"
                yield Broken(value, f"Take multiples of {factor}", file)


def _tensor(bundle: BundleFiles, end: str, name: str) -> tuple[int, ...]:
    """`(C, *space)` of a tensor in the metadata; empty where it is not all numbers."""
    entry: Any = bundle.metadata.get("network_data_format")
    for key in (end, name):
        entry = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("spatial_shape"), list):
        return ()
    shape = (entry.get("num_channels"), *entry["spatial_shape"])
    return shape if all(type(n) is int and n > 0 for n in shape) else ()


def _downsampling(base: dict[str, Any]) -> list[int]:
    """By how much each axis shrinks to the deepest level; empty where strides are not numbers."""
    strides, dims = base.get("strides"), base.get("spatial_dims")
    if not isinstance(strides, list) or not isinstance(dims, int):
        return []
    rows = [[s] * dims if isinstance(s, int) else s for s in strides]
    if not all(isinstance(r, list) and all(isinstance(s, int) for s in r) for r in rows):
        return []
    return [math.prod(row[axis] for row in rows) for axis in range(dims)] if rows else []
