"""What the networks of training runs cost beside the full UNet: counted and measured.

    python tests/benchmarks/ladder.py runs/mobile runs/sparse --data <Task04_Hippocampus>

prints a Markdown table over patches of real volumes: parameters, operations of a patch, CPU
milliseconds a patch on one thread (median and quartiles of rounds in turn), and Dice of the run's
best epoch. A sparse network is there four times: before folding, with and without the branches that
masks and gates shut, and after folding, with and without those that gates shut.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perforated_monai import build_network
from perforated_monai.growth.trained import load_trained, make_spec
from perforated_monai.inference.patches import load_patches
from perforated_monai.networks.agreement import machine
from perforated_monai.networks.catalogue import SparseUNet
from perforated_monai.networks.cost import count_flops, time_patches
from perforated_monai.networks.sparse.gates import DriveGate
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.training.cpu_memory import keep_freed_memory

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
FULL = {
    "name": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [32, 64, 128, 256],
    "strides": [2, 2, 2],
    "num_res_units": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patch", type=int, nargs=3, default=[32, 48, 32])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    inference = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    shape = (1, *arguments.patch)
    patches = load_patches(BUNDLE, inference, shape, arguments.data / "imagesTr")
    networks: dict[str, nn.Module] = {"full": _plain(FULL)}
    dice: dict[str, str] = {}
    for run in arguments.runs:
        for name, network, score in _of_run(run):
            networks[name], dice[name] = network, score
    x = patches.batches[0]
    with torch.no_grad():
        times = time_patches(networks, x, arguments.rounds, time.process_time)
    print(f"{patches.source}, {arguments.patch}, {machine()}\n")
    print("| network | parameters | fewer | GFLOP | fewer | CPU ms a patch | faster | Dice |")
    print("|---|---|---|---|---|---|---|---|")
    parameters = {name: count_parameters(n) for name, n in networks.items()}
    flops = {name: count_flops(n, x) for name, n in networks.items()}
    for name in networks:
        ms = times[name]
        print(
            f"| {name} | {parameters[name]:,} | {1 - parameters[name] / parameters['full']:.2%} | "
            f"{flops[name] / 1e9:.4f} | {1 - flops[name] / flops['full']:.2%} | "
            f"{ms['median']:.2f} ({ms['q1']:.2f}–{ms['q3']:.2f}) | "
            f"{times['full']['median'] / ms['median']:.2f}× | {dice.get(name, '')} |"
        )
    for name, network in networks.items():
        _print_gates(name, network, patches.batches)


def _plain(base: dict[str, Any]) -> nn.Module:
    return build_network({"format": 1, "base": base, "dendrites": {}}).eval()


def _of_run(run: Path) -> list[tuple[str, nn.Module, str]]:
    """Networks of a run that are timed, with their names and Dice."""
    trained = load_trained(run)
    score = f"{trained.best['dice']:.4f} (epoch {trained.best['epoch']})"
    _, plain = make_spec(trained)
    if not isinstance(plain, SparseUNet):
        return [(run.name, plain, score)]
    found = [(run.name, plain, score), (f"{run.name}, every branch", _every(plain), score)]
    if not trained.grown:
        masked = trained.network
        found += [(f"{run.name}, unfolded", masked, score)]
        found += [(f"{run.name}, unfolded, every branch", _every(masked), score)]
    return found


def _every(network: nn.Module) -> nn.Module:
    """The same weights, with no branch left out."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if hasattr(module, "leaves_out"):
            module.leaves_out = False
    return other


def _print_gates(name: str, network: nn.Module, batches: list[Tensor]) -> None:
    """How far the gates are open over real patches, where a network has some."""
    gates = [m for m in network.modules() if isinstance(m, DriveGate)]
    if not gates or "," in name:
        return
    seen: list[Tensor] = []
    hooks = [g.register_forward_hook(lambda _m, _i, out: seen.append(out)) for g in gates]
    with torch.no_grad():
        for x in batches:
            network(x)
    for hook in hooks:
        hook.remove()
    each = torch.cat([s.flatten() for s in seen])
    by_branch = torch.cat([torch.cat(seen[i :: len(gates)]).amax(0) for i in range(len(gates))])
    varied = torch.cat([torch.cat(seen[i :: len(gates)]).std(0) for i in range(len(gates))])
    shut = (each == 0).float().mean()
    print(
        f"\n{name}: gates {float(each.mean()):.3f} open on average, {float(shut):.1%} "
        f"of branches and patches shut, {int((by_branch == 0).sum())} of {len(by_branch)} branches "
        f"shut for every patch, standard deviation over patches {float(varied.mean()):.3f}"
    )


if __name__ == "__main__":
    main()
