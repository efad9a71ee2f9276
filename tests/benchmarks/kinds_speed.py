"""What each kind of dendrite costs in an exported network: parameters, FLOPs and CPU time.

    python tests/benchmarks/kinds_speed.py [--network compressed|width8] [--rounds 5] [--count 1]

prints a Markdown table: a UNet with one set (or ``--count``) on every layer that can have it, one
thread, patches of 40×56×40, batch 1 and 4, CPU milliseconds a sample. The networks run in turn.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from torch import nn

from perforated_monai import build_network
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.kinds import KINDS
from perforated_monai.dendrites.targets import find_layers
from perforated_monai.networks.agreement import machine
from perforated_monai.networks.cost import count_flops, time_patches
from perforated_monai.networks.surgery import count_parameters

COMMON = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
NETWORKS = {
    "compressed": {"channels": [24, 40, 80, 160], "strides": [2, 2, 2], "num_res_units": 2},
    "width8": {"channels": [8, 16, 32], "strides": [2, 2]},
}
PATCH = (40, 56, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="compressed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base = COMMON | NETWORKS[arguments.network]
    networks = {"none": network_of(base, None, 0)}
    networks |= {kind: network_of(base, kind, arguments.count) for kind in KINDS}
    print(f"{machine()['cpu']}, torch {torch.__version__}, {arguments.network}, CPU time.\n")
    print("| dendrites | layers | parameters | FLOPs | ms, batch 1 | ms, batch 4 |")
    print("|---|---|---|---|---|---|")
    times = []
    with torch.no_grad():
        for batch in (1, 4):
            x = torch.randn(batch, 1, *PATCH)
            times.append(time_patches(networks, x, arguments.rounds, time.process_time))
        x = torch.randn(2, 1, *PATCH)
        plain = networks["none"]
        for name, network in networks.items():
            parameters = count_parameters(network) / count_parameters(plain)
            flops = count_flops(network, x) / count_flops(plain, x)
            layers = sum(hasattr(m, "to_output") for m in network.modules())
            shown = " | ".join(f"{t[name]['median']:.1f}" for t in times)
            print(f"| {name} | {layers} | {parameters:.2f}× | {flops:.2f}× | {shown} |")


def network_of(base: dict, kind: str | None, count: int) -> nn.Module:
    """The UNet with ``count`` dendrites of a kind on every layer that can have it."""
    torch.manual_seed(0)
    plain = build_network({"format": 1, "base": base, "dendrites": {}})
    if kind is None:
        return plain.eval()
    config = DendriteConfig(kind=kind)
    entries = {}
    for name in find_layers(plain, config):
        found = config.dendrite.fits(plain.get_submodule(name))
        entries[name] = {"count": count, **found.entry(), "activation": "relu"}
    return build_network({"format": 1, "base": base, "dendrites": entries}).eval()


if __name__ == "__main__":
    main()
