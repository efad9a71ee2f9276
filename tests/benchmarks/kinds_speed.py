"""What each kind of dendrite costs: parameters, FLOPs, CPU time exported, grown and in training.

    python tests/benchmarks/kinds_speed.py [--network compressed|width8] [--rounds 5] [--count 1]

prints a Markdown table: a UNet with one set (or ``--count``) on every layer that can have it, one
thread, patches of 40×56×40, batch 1 and 4, CPU milliseconds a sample, of the exported network and
of the tracker's own. ``step`` is forward and backward of the tracker's network, a sample of batch 2
of 32×48×32, and ``wide`` a plain network with at least the operations of distal and apical
dendrites together. The networks run in turn.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from perforated_monai import build_network
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.kinds import KINDS
from perforated_monai.growth.tracker import Tracker
from perforated_monai.networks.agreement import machine
from perforated_monai.networks.cost import count_flops, time_patches
from perforated_monai.networks.grown_spec import grown_entries
from perforated_monai.networks.spec import plain_spec
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.study.equal_size import wider_channels
from perforated_monai.training.cpu_memory import keep_freed_memory

COMMON = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
NETWORKS = {
    "compressed": {"channels": [24, 40, 80, 160], "strides": [2, 2, 2], "num_res_units": 2},
    "width8": {"channels": [8, 16, 32], "strides": [2, 2]},
}
PATCH, TRAINING = (40, 56, 40), (32, 48, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="compressed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    base = COMMON | NETWORKS[arguments.network]
    plain = build_network(plain_spec(base))
    configs: dict[str, DendriteConfig] = {
        **{kind: DendriteConfig(kind=kind, activation="kind") for kind in KINDS},
        "distal, apical": DendriteConfig(
            sets=[{"kind": "distal"}, {"kind": "apical"}], activation="kind"
        ),
    }
    exported = {"none": plain.eval()}
    trained = {"none": copy.deepcopy(plain)}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs.items():
            exported[name] = grown(base, config, arguments.count)
            trained[name] = wrapped(base, config, arguments.count, Path(folder, name))
        x = torch.randn(2, 1, *PATCH)
        target = count_flops(exported["distal, apical"], x)
        wide = wider_channels({"_target_": "UNet", **base}, target, "flops", list(PATCH))
        exported["wide"] = build_network(plain_spec(base | {"channels": wide})).eval()
        trained["wide"] = copy.deepcopy(exported["wide"])
        print(f"{machine()['cpu']}, torch {torch.__version__}, {arguments.network}, CPU time.\n")
        print(
            "| dendrites | layers | parameters | FLOPs | exported, 1 | 4 | tracker, 1 | 4 | step |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        times = []
        with torch.no_grad():
            for networks in (exported, {n: m.eval() for n, m in trained.items()}):
                for batch in (1, 4):
                    x = torch.randn(batch, 1, *PATCH)
                    times.append(time_patches(networks, x, arguments.rounds, time.process_time))
        steps = {name: step(network.train()) for name, network in trained.items()}
        x = torch.randn(2, 1, *TRAINING)
        times.append(time_patches(steps, x, arguments.rounds, time.process_time))
        x = torch.randn(2, 1, *PATCH)
        for name, network in exported.items():
            parameters = count_parameters(network) / count_parameters(plain)
            flops = count_flops(network, x) / count_flops(plain, x)
            layers = sum(hasattr(m, "to_output") for m in network.modules())
            shown = " | ".join(f"{t[name]['median']:.1f}" for t in times)
            print(f"| {name} | {layers} | {parameters:.2f}× | {flops:.2f}× | {shown} |")


def grown(base: dict, config: DendriteConfig, count: int) -> nn.Module:
    """The exported UNet with ``count`` dendrites on every layer that can have them."""
    torch.manual_seed(0)
    spec = plain_spec(base)
    entries = grown_entries(build_network(spec), config, count)
    return build_network({**spec, "dendrites": entries}).eval()


def wrapped(base: dict, config: DendriteConfig, count: int, folder: Path) -> nn.Module:
    """The same as the tracker grows it."""
    torch.manual_seed(0)
    network = build_network(plain_spec(base))
    settings = config.to_dict() | {"patience": 1, "max_dendrites": count, "tries": 1}
    settings |= {"improvement_threshold": [0.0], "initialisation": "layer", "scale": 1.0}
    tracker = Tracker(network, DendriteConfig.from_dict(settings), folder)
    tracker.open()
    score = 0.1
    while tracker.sets < count:
        optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 1e-4)
        network(torch.randn(1, 1, *TRAINING)).square().mean().backward()
        optimizer.step()
        tracker.add_score(score, optimizer)
        tracker.add_score(score, optimizer)
        score += 0.1
    tracker.close()
    return network


def step(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Forward and backward."""

    def run(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = network(x)
        y.square().mean().backward()
        return y

    return run


if __name__ == "__main__":
    main()
