"""A *delta*: dendrites alone, to be put beside the unchanged weights they grew on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..dendrites.kinds import kind_of_entry
from ..errors import UserError
from .surgery import add_dendrites, image_last, place_dendrites
from .weights import load_start, read_weights, weights_hash

FILE = "dendrites.pt"


def apply_delta(
    network: nn.Module,
    spec: Mapping[str, Any],
    base_weights: str | Path | None,
    delta: str | Path | None,
) -> nn.Module:
    """Give a plain base network its weights and its dendrites; see ``build_network``.

    Raises:
        UserError: for a missing part, a hash that is not the spec's, or tensors that do not fit.
    """
    if base_weights is None or delta is None:
        missing = "base_weights" if base_weights is None else "delta"
        msg = f"build_network needs base_weights and delta together; {missing} is missing."
        raise UserError(msg)
    load_start(network, base_weights)
    _expect(spec, "base_sha256", weights_hash(network.state_dict()), base_weights)
    try:
        _expect(spec, "delta_sha256", hashlib.sha256(Path(delta).read_bytes()).hexdigest(), delta)
    except OSError as error:
        msg = f"{delta} cannot be read ({error.strerror}): name the dendrites.pt of the export."
        raise UserError(msg) from None
    tensors = read_weights(delta)
    for layer, entry in image_last(spec.get("dendrites", {})):
        made = _with_dendrites(network, layer, entry, tensors)
        network = place_dendrites(network, layer, made)
    if tensors:
        msg = f"{delta} holds tensors that its spec does not name: {', '.join(list(tensors)[:3])}."
        raise UserError(msg)
    return network


def _expect(spec: Mapping[str, Any], key: str, actual: str, file: str | Path) -> None:
    expected = spec.get(key)
    if expected is None:
        msg = f"The spec has no {key}: give the network.json that was exported with the delta."
        raise UserError(msg)
    if expected != actual:
        what = "another base network" if key == "base_sha256" else "another file"
        msg = (
            f"{file} is {what} than the dendrites grew on: {key} must be {expected[:16]}…, it is "
            f"{actual[:16]}…."
        )
        raise UserError(msg)


def _with_dendrites(
    network: nn.Module, layer: str, entry: Mapping[str, Any], tensors: dict[str, Tensor]
) -> nn.Module:
    """The layer with its dendrites; takes their tensors out of ``tensors``."""
    count = int(entry["count"])
    try:
        main = network.get_submodule(layer)
        kind = kind_of_entry(entry)
        made = add_dendrites(main, count, str(entry["activation"]), kind)
        dendrites = []
        for i in range(count):
            prefix = f"{layer}.dendrites.{i}."
            dendrite = kind.make(main)
            own = [k for k in tensors if k.startswith(prefix)]
            dendrite.load_state_dict({k.removeprefix(prefix): tensors.pop(k) for k in own})
            dendrites.append(dendrite)
        made.load_branches(
            [main, *dendrites], tensors.pop(f"{layer}.to_output"), tensors.pop(f"{layer}.between")
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"The delta does not fit layer {layer!r} ({type(error).__name__}: {reason})."
        raise UserError(msg) from None
    made.train(main.training)
    return made
