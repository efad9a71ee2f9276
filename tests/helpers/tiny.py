"""The tiny UNet's spec, and what a plain network must be."""

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


def assert_nothing_of_the_library(network: nn.Module) -> None:
    for name, module in network.named_modules():
        assert type(module).__module__.split(".")[0] != "perforatedai", name
    assert not [k for k in network.state_dict() if "tracker" in k or "parent_module" in k]


def outputs(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(x)
