"""Sites: where a dendrite sees more than its layer's input, by explicit arguments alone.

A kind reads the layer's input, the layer's output, or the network's image (``reads``). The
tracker hands a dendrite what the wrapped module is called with, so a site chooses what is wrapped:

- ``OutputSite`` calls its layer first, and what is wrapped is an identity behind it.
- ``InputSite`` wraps the layer itself.
- ``ImageSite`` stands in for the network's output layer: within the network it passes its input u
  on, so the network returns u; a hook of the root then calls what is wrapped with ``(u, image)``.

No value is kept between calls, in a global or on a module. Therefore threads, several forward
passes a step, activation checkpointing, AMP and DDP need no care.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import UserError

LAYER, SUM = "sited_layer", "dendritic_sum"


class Main(nn.Module):
    """What the tracker wraps at a site: the main branch, beside which dendrites are added.

    Args:
        kind: of the dendrites, with every setting chosen; the tracker's template carries it on to
            whoever makes one.
        layer: the main branch; without it, what comes in goes out.
    """

    def __init__(self, kind: Any, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.kind = kind
        if layer is not None:
            self.add_module(LAYER, layer)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        space = tuple(x.shape[2:])
        if min(space) < self.kind.least_size:
            msg = (
                f"kind {self.kind.name}: kernel and dilation need at least {self.kind.least_size} "
                f"voxels an axis, and its layer has a map of {space} here. Take a smaller kernel "
                "or dilation, larger windows (roi_size), or another layer."
            )
            raise UserError(msg)
        layer = getattr(self, LAYER, None)
        return x if layer is None else layer(x)


class OutputSite(nn.Module):
    """A layer, and dendrites that read its output."""

    def __init__(self, layer: nn.Module, kind: Any) -> None:
        super().__init__()
        self.sited_layer = layer
        self.dendritic_sum: nn.Module = Main(kind)

    def forward(self, *inputs: Any) -> Tensor:
        y: Tensor = self.dendritic_sum(self.sited_layer(*inputs))
        return y


class InputSite(nn.Module):
    """A block, and dendrites that read its input."""

    def __init__(self, layer: nn.Module, kind: Any) -> None:
        super().__init__()
        self.dendritic_sum: nn.Module = Main(kind, layer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dendritic_sum(x)
        return y


class ImageSite(nn.Module):
    """The output layer of a network, and dendrites that read its input u and the image."""

    def __init__(self, layer: nn.Module, kind: Any) -> None:
        super().__init__()
        self.dendritic_sum: nn.Module = Main(kind, layer)

    def forward(self, u: Tensor) -> Tensor:
        return u


SITES: dict[str, type[nn.Module]] = {
    "input": InputSite,
    "output": OutputSite,
    "image": ImageSite,
}


class FinishOutput:
    """A forward hook of the root: the output layer, called with its input and the image."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], u: Tensor
    ) -> Any:
        image = args[0] if args else next(iter(kwargs.values()))
        site: Any = network.get_submodule(self.name)
        return site.dendritic_sum(u, image)


def make_site(network: nn.Module, name: str, kind: Any) -> nn.Module:
    """The site of a layer for dendrites of ``kind``, whose every setting is chosen."""
    layer = network.get_submodule(name)
    if kind.reads == "image":
        network.register_forward_hook(FinishOutput(name), with_kwargs=True)
    return SITES[kind.reads](layer, kind)


def image_sites(network: nn.Module) -> list[tuple[str, ImageSite]]:
    """The image sites of a network, by name."""
    return [(n, m) for n, m in network.named_modules() if isinstance(m, ImageSite)]


def drop_hooks(network: nn.Module) -> None:
    """Take the hooks of image sites off the root."""
    # By what they are: a handle would point to the network that this one was copied from.
    hooks = network._forward_hooks
    for key in [k for k, hook in hooks.items() if isinstance(hook, FinishOutput)]:
        del hooks[key]
        network._forward_hooks_with_kwargs.pop(key, None)
