"""The tiny UNet's spec, and what a plain network must be."""

from typing import Any

import torch
from torch import nn

UNET = {
    "name": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
}
LAYER = "model.0.conv.unit0.conv"  # its first convolution


def spec_of(dendrites: dict[str, Any] | None = None, **changes: object) -> dict[str, Any]:
    """A network spec of the tiny UNet; ``changes`` are to its arguments."""
    return {"format": 1, "base": UNET | changes, "dendrites": dendrites or {}}


def assert_nothing_of_the_library(network: nn.Module) -> None:
    for name, module in network.named_modules():
        assert type(module).__module__.split(".")[0] != "perforatedai", name
    assert not [k for k in network.state_dict() if "tracker" in k or "parent_module" in k]


def outputs(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(x)
