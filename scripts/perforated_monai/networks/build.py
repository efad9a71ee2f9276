"""Network spec -> ``torch.nn.Module``: the base network with its dendritic layers in place."""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.networks.nets
import torch
from monai.networks.blocks import Convolution
from torch import nn

from ..dendrites.block_layer import DendriticBlock
from ..dendrites.kinds import Kind
from ..dendrites.layer import FUSIBLE, DendriticLayer
from ..dendrites.reduced_layer import CheapDendriticLayer, JoinedDendriticLayer
from ..errors import UserError
from . import catalogue as nets

FORMAT = 1


def build_network(
    spec: Mapping[str, Any],
    base_weights: str | Path | None = None,
    delta: str | Path | None = None,
) -> nn.Module:
    """Rebuild a network from its spec (DESIGN: ``{"format": 1, "base": …, "dendrites": …}``).

    ``base`` holds ``name``, the class name of a MONAI network or of ``perforated_monai.nets``, and
    its constructor arguments; ``dendrites`` maps layer names of the base network to ``count``,
    ``kind`` (``config.KINDS``; ``grouped`` with ``groups``, ``low_rank`` with ``rank``) and
    ``activation``. ``"dendrites": {}`` is the plain network. The weights are freshly
    initialised: load a state dict with ``strict=True``.

    With ``base_weights`` and ``delta`` the network comes with its weights: dendrites that were
    trained beside someone else's network (``freeze_base``) on top of that network's own file. The
    spec is then the ``network.json`` that was exported with the delta, which knows both hashes.

    Args:
        spec: see above.
        base_weights: state dict of the base network.
        delta: ``dendrites.pt``.

    Raises:
        UserError: for an unknown format, network, argument or layer name; for weights or a delta
            of another network than the spec's hashes say.
    """
    if spec.get("format") != FORMAT:
        msg = (
            f"Network spec format must be {FORMAT}; got {spec.get('format')!r}. "
            "Update perforated-monai to read it."
        )
        raise UserError(msg)
    if not isinstance(spec.get("base"), Mapping):
        msg = f"Network spec: base must map name and arguments; got {spec.get('base')!r}."
        raise UserError(msg)
    network = _base(dict(spec["base"]))
    if base_weights is not None or delta is not None:
        from .delta import apply_delta

        return apply_delta(network, spec, base_weights, delta)
    for name, dendrites in spec.get("dendrites", {}).items():
        replace_module(network, name, _dendritic(network, name, dendrites))
    return network


def load_weights(network: nn.Module, file: str | Path, sha256: str | None = None) -> nn.Module:
    """Load a flat state dict, strictly; every missing, unexpected or reshaped tensor is named.

    Args:
        network: built by ``build_network``; changed in place and returned.
        file: ``model.pt``, read with ``weights_only=True``.
        sha256: expected hash of the file, or None.

    Raises:
        UserError: for another hash, a file of anything but tensors, or tensors that do not fit.
    """
    state = read_weights(file, sha256)
    expect_fit(network.state_dict(), state, file)
    network.load_state_dict(state, strict=True)
    return network


def read_weights(file: str | Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a flat state dict with ``weights_only=True``; arguments and errors as above."""
    data = Path(file).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        msg = (
            f"{file} must have sha256 {sha256[:16]}…, not {found[:16]}…. Export or fetch it again."
        )
        raise UserError(msg)
    return _read_tensors(file, data)


def expect_fit(
    want: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], file: str | Path
) -> None:
    """Refuse a state dict that is not that of a network, by names and shapes.

    Args:
        want: the network's own state dict; its tensors may lie on the meta device.
        state: what the file holds.
        file: named in the error.

    Raises:
        UserError: naming the first tensors that are missing, unexpected or reshaped.
    """
    problems = [f"missing {k}" for k in want if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in want]
    problems += [
        f"{k} is {tuple(state[k].shape)}, the network has {tuple(want[k].shape)}"
        for k in want
        if k in state and state[k].shape != want[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:5])
        msg = f"{file} does not fit this network ({len(problems)} tensors: {shown}). "
        raise UserError(msg + "Use the network_def that was exported with it.")


def base_spec(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A MONAI component (``_target_`` and arguments) -> the ``base`` entry of a spec."""
    target = str(definition["_target_"])
    name = target.rsplit(".", 1)[-1]
    _network_class(name)
    arguments = {k: v for k, v in definition.items() if not k.startswith("_")}
    return {"name": name, **arguments}


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at the dotted ``name``; every other reference to the old one is kept."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def add_dendrites(
    layer: nn.Module, count: int, activation: str, kind: Kind | None = None
) -> DendriticLayer | CheapDendriticLayer:
    """A layer or MONAI ``Convolution`` block with ``count`` dendrites and fresh weights.

    Args:
        layer: used as the template.
        count: dendrites.
        activation: their non-linearity.
        kind: what they are; copies when not given. A block grows by copies alone.

    Raises:
        TypeError: for a module of another kind.
        ValueError: for a wrong count, activation or kind.
    """
    if kind is not None and kind.name != "copy":
        cheap = JoinedDendriticLayer if JoinedDendriticLayer.takes(layer, kind) else None
        return (cheap or CheapDendriticLayer)(layer, count, kind, activation)
    made = DendriticBlock if isinstance(layer, Convolution) else DendriticLayer
    return made(layer, count, activation)


def dendrites_entry(layer: Any) -> dict[str, Any]:
    """The entry of a layer of ``add_dendrites`` in a network spec."""
    kind = layer.resolved_kind() if isinstance(layer, CheapDendriticLayer) else Kind()
    return {"count": layer.count, **kind.entry(), "activation": layer.activation}


def count_parameters(network: nn.Module) -> int:
    """Number of parameters of a plain network (shared ones once)."""
    return sum(p.numel() for p in network.parameters())


def _read_tensors(file: str | Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises by what it meets: six kinds for damaged files alone
        msg = f"{file} does not read as tensors ({type(error).__name__}). Export or fetch it again."
        raise UserError(msg) from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        msg = f"{file} must hold a flat state dict of tensors. Export it with perforated_monai."
        raise UserError(msg)
    return state


def _base(entry: dict[str, Any]) -> nn.Module:
    name = str(entry.pop("name", None))
    network_class = _network_class(name)
    try:
        inspect.signature(network_class).bind(**entry)
    except TypeError as error:
        msg = f"Network spec, base: {name} {error}."
        raise UserError(msg) from None
    return network_class(**entry)


def _network_class(name: str) -> type[nn.Module]:
    found = getattr(nets if name in nets.__all__ else monai.networks.nets, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        msg = (
            f"base.name must be a class of monai.networks.nets or one of {', '.join(nets.__all__)}"
            f"; got {name!r}."
        )
        raise UserError(msg)
    return found


_ENTRY = ("count", "kind", "groups", "rank", "activation")


def _dendritic(network: nn.Module, name: str, entry: Mapping[str, Any]) -> nn.Module:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        msg = f"Network spec names layer {name!r}, which {type(network).__name__} does not have."
        raise UserError(msg) from None
    if not isinstance(layer, (*FUSIBLE, Convolution)):
        msg = f"Layer {name!r}: a {type(layer).__name__} takes no dendrites here."
        raise UserError(msg)
    unknown = [key for key in entry if key not in _ENTRY]
    if unknown:
        msg = f"Layer {name!r}: {unknown[0]!r} is none of {', '.join(_ENTRY)}. Correct the spec."
        raise UserError(msg)
    try:
        kind = Kind.of(entry)
        return add_dendrites(layer, entry.get("count", 0), entry.get("activation", ""), kind)
    except (TypeError, ValueError) as error:
        msg = f"Network spec, layer {name!r}: {error}"
        raise UserError(msg) from None
