"""The shapes inside a network, as one forward pass of zeros shows them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

# Voxels a side that are tried, the smallest that a network takes: strides of 2 to the power of 7.
SIZES = (32, 48, 64, 96, 128)


@dataclass
class Trace:
    """One forward pass.

    Attributes:
        image: shape of the input, ``(1, C, *space)``.
        inputs: module name -> shape of its first argument, where that is a tensor.
        outputs: module name -> shape of its output, or the name of another type.
        last: modules whose output is the network's own output, the outermost first; without root.
        output: shape of the network's output, or the name of another type.
    """

    image: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...] | str] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)
    output: tuple[int, ...] | str = ""

    @property
    def space(self) -> tuple[int, ...]:
        """Voxels of the input along each axis."""
        return self.image[2:]


def trace(network: nn.Module) -> Trace:
    """Run a network on zeros, as it trains and as it is evaluated; nothing of it changes.

    Raises:
        UserError: for a network that takes no single image of any size in ``SIZES``.
    """
    first = _first_layer(network)
    dims = int(re.sub(r"\D", "", type(first).__name__) or 0)
    channels = getattr(network, "in_channels", None)
    channels = channels if type(channels) is int else int(getattr(first, "in_channels", 0))
    reason = "it has no convolution"
    if dims and channels:
        for space in _spaces(network, dims):
            try:
                return _run(network, (1, channels, *space))
            except (RuntimeError, ValueError, AssertionError, TypeError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    msg = (
        f"{type(network).__name__} could not be run on a volume of zeros to learn the shapes in it "
        f"({reason}): dendrites that read an output or the image cannot be placed. Take kind copy."
    )
    raise UserError(msg)


def _first_layer(network: nn.Module) -> nn.Module:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((m for m in network.modules() if isinstance(m, kinds)), network)


def _spaces(network: nn.Module, dims: int) -> Iterator[tuple[int, ...]]:
    size = getattr(network, "img_size", None)  # of networks with a position for each patch
    if isinstance(size, int):
        yield (size,) * dims
    elif isinstance(size, (list, tuple)) and len(size) == dims:
        yield tuple(int(s) for s in size)
    for voxels in SIZES:
        yield (voxels,) * dims


def _run(network: nn.Module, shape: tuple[int, ...]) -> Trace:
    parameter = next(network.parameters())
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    seen = Trace(shape)
    last = {name for name, _ in network.named_modules() if name}
    # A network may end otherwise while it trains: deep supervision stacks several outputs.
    for training in (True, False):
        results: dict[str, Any] = {}

        def note(name: str, args: tuple[Any, ...], out: Any, results: Any = results) -> None:
            if name not in seen.outputs:
                if args and isinstance(args[0], Tensor):
                    seen.inputs[name] = tuple(args[0].shape)
                seen.outputs[name] = tuple(out.shape) if isinstance(out, Tensor) else _type(out)
            results[name] = out

        with _observed(network, note, training):
            out = network(image)
        seen.output = tuple(out.shape) if isinstance(out, Tensor) else _type(out)
        last &= {name for name, result in results.items() if result is out}
    seen.last = [name for name, _ in network.named_modules() if name in last]
    return seen


@contextlib.contextmanager
def _observed(network: nn.Module, note: Any, training: bool) -> Iterator[None]:
    """Call ``note`` after each module; modes, running statistics and random numbers stay."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: note(name, args, out))
        for name, module in network.named_modules()
        if name
    ]
    try:
        network.train(training)
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])


def _type(value: Any) -> str:
    return f"a {type(value).__name__}"
