"""Training steps with depthwise convolutions: PyTorch's gradients beside ours.

    python tests/benchmarks/depthwise.py [--rounds 9]

One thread, batch 2 of 32×48×32, freed memory kept as in training. Prints a Markdown table of CPU
milliseconds, forward and backward: single layers of the tiny network and of a distal dendrite, then
whole networks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from perforated_monai import DendriteConfig, build_network
from perforated_monai.dendrites.depthwise_conv import DepthwiseConv3d
from perforated_monai.networks.cost import time_patches
from perforated_monai.networks.grown_spec import grown_entries
from perforated_monai.training.cpu_memory import keep_freed_memory

LAYERS = {
    "42 channels, 16×24×16, kernel 3": (42, (16, 24, 16), 3),
    "162 channels, 8×12×8, kernel 3": (162, (8, 12, 8), 3),
    "32 channels, 8×12×8, kernel 5": (32, (8, 12, 8), 5),
}
_IO = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "strides": [2, 2]}
_UNET = {"name": "UNet", **_IO, "channels": [8, 16, 32]}
_TINY = {"name": "MobileUNet", **_IO, "channels": [14, 28, 54], "expansion": 3, "reduction": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| | PyTorch's | ours | ratio |")
    print("|---|---|---|---|")
    for name, (channels, space, kernel) in LAYERS.items():
        layer = nn.Conv3d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        x = torch.randn(2, channels, *space, requires_grad=True)
        compare(name, layer, DepthwiseConv3d.of(layer), x, rounds)
    image = torch.randn(2, 1, 32, 48, 32)
    for name, spec in (("tiny network", plain(_TINY)), ("UNet 8-16-32, both kinds", grown(_UNET))):
        compare(name, slow(build_network(spec)), build_network(spec), image, rounds)


def compare(name: str, theirs: nn.Module, ours: nn.Module, x: torch.Tensor, rounds: int) -> None:
    steps = {"theirs": step(theirs), "ours": step(ours)}
    times = time_patches(steps, x, rounds, time.process_time)
    a, b = (times[key]["median"] * x.size(0) for key in ("theirs", "ours"))
    print(f"| {name} | {a:.1f} | {b:.1f} | {b / a:.2f} |", flush=True)


def step(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Forward and backward of a module."""

    def run(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = module(x)
        wanted = [*([x] if x.requires_grad else []), *module.parameters()]
        torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)
        return y

    return run


def plain(base: dict) -> dict:
    return {"format": 1, "base": base, "dendrites": {}}


def grown(base: dict) -> dict:
    config = DendriteConfig(sets=[{"kind": "distal"}, {"kind": "apical"}], activation="kind")
    return plain(base) | {"dendrites": grown_entries(build_network(plain(base)), config)}


def slow(network: nn.Module) -> nn.Module:
    """With torch's own convolution instead of ours."""
    for module in network.modules():
        if type(module) is DepthwiseConv3d:
            module.__class__ = nn.Conv3d
    return network


if __name__ == "__main__":
    main()
