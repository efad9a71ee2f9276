"""``fold``: a masked network -> the smaller one without its masked branches, equal at inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.layer import DendriticLayer
from ..dendrites.sited_layer import WithImage
from ..errors import UserError
from .build import build_network
from .catalogue import SparseUNet
from .cost import count_flops
from .sparse.branched import INNER, channels_of
from .surgery import count_parameters

Change = Callable[[Tensor], Tensor]


def fold(spec: Mapping[str, Any], network: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """Spec and network without masks; what has none is returned as it is.

    Branches whose mask is zero go, with their channels in every tensor of the block, dendrites
    included; the masks of the others are multiplied into the weights behind them. Names of layers
    stay, so the ``dendrites`` of the spec do as well. Gates stay: they depend on the input.

    Args:
        spec: of ``network``.
        network: plain, that is without layers of the tracker; left as it is.

    Raises:
        UserError: for dendrites, inside a block, that are no copies of their layer.
    """
    masked, inside = _masked(network), "network." * isinstance(network, WithImage)
    if not isinstance(masked, SparseUNet) or masked.masks is None:
        return dict(spec), network
    layer = masked.masks
    blocks = masked.blocks()
    for name, _ in blocks:
        _refuse_kinds(name, spec["dendrites"])
    kept = torch.tensor(layer.kept()).split(layer.counts)
    training = network.training
    network.eval()
    masks = [m.detach() for m in layer()]
    network.train(training)
    changes: dict[str, Change] = {}
    for (name, block), keep, mask in zip(blocks, kept, masks, strict=True):
        changes |= _of_block(inside + name, block, keep.nonzero().flatten(), mask)
    branches = [int(keep.sum()) for keep in kept]
    base = {**spec["base"], "branches": branches, "sparsity": None}
    folded_spec = {**spec, "base": base}
    state = {
        name: changes[name](tensor) if name in changes else tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(f"{inside}masks.")
    }
    folded = build_network(folded_spec)
    folded.load_state_dict(state, strict=True)
    device = next(network.parameters()).device
    return folded_spec, folded.to(device).train(training)


def saving(
    masked: Mapping[str, Any], folded: Mapping[str, Any], shape: tuple[int, ...]
) -> dict[str, Any]:
    """What folding has saved, counted: branches, parameters, operations of a patch.

    Args:
        masked, folded: specs before and after.
        shape: ``(C, *space)`` of the patch. Every branch is run, whatever its gate says.
    """
    saved: dict[str, Any] = {"sparsity": masked["base"]["sparsity"]}
    for when, spec in (("before", masked), ("after", folded)):
        network: Any = build_network(spec).eval()
        blocks = [block for _, block in _masked(network).blocks()]
        for block in blocks:
            block.leaves_out = False
        counts = {
            "branches": [block.branches for block in blocks],
            "parameters": count_parameters(network),
            "flops": count_flops(network, torch.zeros(2, *shape)),
        }
        for name, value in counts.items():
            saved.setdefault(name, {})[when] = value
    return saved


def _masked(network: nn.Module) -> Any:
    """The network whose branches are masked: with apical dendrites it has a root around it."""
    return network.network if isinstance(network, WithImage) else network


def folded_line(folded: Mapping[str, Any]) -> str:
    """What ``saving`` measured, for a person."""
    before, after = (
        f"{sum(folded['branches'][when])} branches, {folded['parameters'][when]:,} parameters, "
        f"{folded['flops'][when] / 1e9:.3f} GFLOP a patch"
        for when in ("before", "after")
    )
    return f"Masked branches folded away: {before} -> {after}"


def _of_block(name: str, block: Any, branches: Tensor, mask: Tensor) -> dict[str, Change]:
    """What becomes of each tensor of a block, by name."""
    channels = channels_of(branches, block.width)
    scale = mask[branches].repeat_interleave(block.width)

    def rows(tensor: Tensor) -> Tensor:
        return tensor[channels]

    def columns(tensor: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (tensor.dim() - 2)
        return tensor[:, channels] * scale.view(shape)

    changes: dict[str, Change] = {
        **_of_layer(f"{name}.reduce", block.reduce, channels),
        **_of_layer(f"{name}.branch", block.branch, channels),
        **{f"{name}.norm.{n}": rows for n in ("weight", "bias")},
        **{f"{name}.gate.{n}": lambda t: t[branches] for n in ("slope", "bias")},
    }
    inner = ".fused" if isinstance(block.expand, DendriticLayer) else ""
    return changes | {f"{name}.expand{inner}.weight": columns}


def _of_layer(name: str, layer: Any, channels: Tensor) -> dict[str, Change]:
    """A layer whose outputs are the branches' channels, with or without dendrites."""
    if not isinstance(layer, DendriticLayer):
        return {f"{name}.weight": lambda t: t[channels]}
    parts, per_group = layer.count + 1, layer.channels // layer.groups
    # Outputs of the fused layer: group by group, in a group part by part.
    order = torch.arange(parts * layer.channels).view(layer.groups, parts, per_group)
    kept = torch.zeros(layer.channels, dtype=torch.bool)
    kept[channels] = True
    here = kept.view(layer.groups, 1, per_group).expand_as(order)
    chosen = order[here] if layer.groups > 1 else order[0][:, channels].flatten()
    return {
        f"{name}.fused.weight": lambda t: t[chosen],
        f"{name}.to_output": lambda t: t[:, channels],
        f"{name}.between": lambda t: t[:, channels],
    }


def _refuse_kinds(block: str, dendrites: Mapping[str, Any]) -> None:
    for inner in INNER:
        kind = dendrites.get(f"{block}.{inner}", {}).get("kind", "copy")
        if kind != "copy":
            msg = (
                f"Layer {block}.{inner} has dendrites of kind {kind}, which cannot be folded with "
                "its masked branches. Grow kind copy there, or take the layer into exclude."
            )
            raise UserError(msg)
