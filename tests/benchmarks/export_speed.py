"""Speed of the exported network beside the tracker's, the library's cleaned one and a plain one.

Compressed UNet (24-40-80-160), dendrites on every convolution, float32 on a CPU:

    python tests/benchmarks/export_speed.py [--rounds 5] [--clock wall|cpu] [--small] [--engines]
        [--keep-memory]

prints Markdown tables; on two free cores it takes about twelve minutes, and with --engines (needs
the extras ``export`` and ``engines``) five more. The networks run in turn, round after round, so
that other work on the machine meets all of them alike; on a busy machine count CPU time (of all
threads together).
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from perforated_monai import build_network
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.layer import DendriticLayer
from perforated_monai.dendrites.wrapped import wrapped_modules
from perforated_monai.growth.library import forward_settings
from perforated_monai.growth.sandbox import guard
from perforated_monai.growth.to_plain import make_plain
from perforated_monai.growth.tracker import Tracker
from perforated_monai.inference import engines
from perforated_monai.inference.formats import Source
from perforated_monai.inference.quiet import without_warnings
from perforated_monai.networks.agreement import compare, machine, outputs
from perforated_monai.networks.cost import peak_memory, time_patches
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.training.cpu_memory import keep_freed_memory

BASE = {
    "name": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [24, 40, 80, 160],
    "strides": [2, 2, 2],
    "num_res_units": 2,
}
PATCHES = {"40x56x40": (40, 56, 40), "96x96x96": (96, 96, 96)}
COUNTS = (1, 2, 5)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
KINDS = ("tracker", "cleaned", "fused")
Times = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--patches", choices=PATCHES, nargs="+", default=list(PATCHES))
    parser.add_argument("--small", action="store_true", help="only 16 voxels, to try the script")
    parser.add_argument("--engines", action="store_true", help="low precision and engines as well")
    parser.add_argument(
        "--keep-memory", action="store_true", help="as in training: freed buffers are kept"
    )
    arguments = parser.parse_args()
    if arguments.keep_memory and not keep_freed_memory():
        sys.exit("--keep-memory needs glibc, without variables that set its malloc.")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    patches = (
        {"16x16x16": (16, 16, 16)}
        if arguments.small
        else {name: PATCHES[name] for name in arguments.patches}
    )
    torch.manual_seed(0)
    plain = build_network({"format": 1, "base": BASE, "dendrites": {}}).eval()
    networks = {count: grown_networks(count) for count in COUNTS}
    print(
        f"{machine()['cpu']}, torch {torch.__version__}; {arguments.clock} time, "
        f"median of {arguments.rounds} rounds.\n"
    )
    check(networks, (16, 16, 16))
    print_memory((48, 48, 48) if not arguments.small else (8, 8, 8))
    measure = functools.partial(timed, rounds=arguments.rounds, clock=CLOCKS[arguments.clock])
    print_speed(plain, networks, patches, arguments.threads, measure)
    if arguments.engines:
        size = next(iter(patches.values()))
        for count in (2, 5):
            print_engines(networks[count], count, size, measure)


def grown_networks(count: int) -> dict[str, nn.Module]:
    """One UNet grown by the tracker: as trained, cleaned by the library, and fused by us."""
    torch.manual_seed(0)
    network = build_network({"format": 1, "base": BASE, "dendrites": {}})
    config = DendriteConfig(patience=1, max_dendrites=count, tries=1)
    x = torch.randn(2, 1, 16, 16, 16)
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(network, config, folder)
        tracker.open()
        try:
            grow(tracker, x, count)
            cleaned = clean(tracker)
        finally:
            tracker.close()
    fused = copy.deepcopy(network)
    make_plain(fused, config.activation)
    trained = {"tracker": network, "cleaned": cleaned, "fused": fused}
    return {name: made.eval() for name, made in trained.items()}


def grow(tracker: Tracker, x: Tensor, count: int) -> None:
    """Rising scores, each followed by a flat one: every set is accepted."""
    score = 0.1
    while tracker.sets < count:
        for gain in (0.1, 0.0, 0.0):
            parameters = [p for _, p in tracker.trainable()]
            optimizer = torch.optim.SGD(parameters, 0.01)
            tracker.network(x).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            score += gain
            if tracker.add_score(score, torch.optim.SGD(parameters, 0.01)).event:
                break
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in tracker.network.named_parameters():
            if "dendrites_to" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def clean(tracker: Tracker) -> nn.Module:
    """The library's own inference network.

    With one dendrite the library drops its weight w, and with it the dendrite (3.2.9): it is put
    back, or the comparison would be with a network without dendrites.
    """
    network = copy.deepcopy(tracker.network)
    rows = {n: m.dendrites_to_top[-1].detach().clone() for n, m in wrapped_modules(network)}
    with guard(verbose=False):
        cleaned = tracker._upa.prepare_final_model(network)
    if tracker.sets == 1:
        for name, row in rows.items():
            module = cleaned.get_submodule(name)
            module.skip_weights = nn.ParameterList([nn.Parameter(row)])
    return cleaned


def check(networks: dict[int, dict[str, nn.Module]], size: tuple[int, ...]) -> None:
    """The three networks of a count give the same outputs: what is timed does the same work."""
    x = torch.randn(2, 1, *size)
    with forward_settings(DendriteConfig()):
        for count, kinds in networks.items():
            found = {k: outputs(n, [x])[0] for k, n in kinds.items()}
            for kind in ("cleaned", "fused"):
                difference = float((found[kind] - found["tracker"]).abs().max())
                if difference > 1e-4:
                    sys.exit(f"D = {count}: {kind} differs from tracker by {difference:.1e}")


def print_speed(
    plain: nn.Module,
    networks: dict[int, dict[str, nn.Module]],
    patches: dict[str, tuple[int, ...]],
    all_threads: list[int],
    measure: Callable[..., Times],
) -> None:
    base = count_parameters(plain)
    print("Eager, ms a sample: median (quartiles).\n")
    print("| threads | patch | batch | D | plain | tracker's | library's cleaned | fused |", end="")
    print(" fused / cleaned | parameter ratio | time ratio to plain | of the parameter ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for threads in all_threads:
        torch.set_num_threads(threads)
        for label, size in patches.items():
            for batch in (1, 4):
                x = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(0))
                for count, kinds in networks.items():
                    times = measure({"plain": plain, **kinds}, x)
                    ratio = count_parameters(kinds["fused"]) / base
                    print_row([threads, label, batch, count], times, ratio)
    torch.set_num_threads(1)


def timed(
    runs: dict[str, Callable[[Tensor], Tensor]],
    x: Tensor,
    rounds: int,
    clock: Callable[[], float],
) -> Times:
    gc.collect()
    with forward_settings(DendriteConfig()), torch.no_grad():
        return time_patches(runs, x, rounds, clock)


def print_row(start: list[object], times: Times, parameter_ratio: float) -> None:
    shown = [
        f"{t['median']:.0f} ({t['q1']:.0f}–{t['q3']:.0f})"
        for t in (times["plain"], *[times[k] for k in KINDS])
    ]
    gain = times["cleaned"]["median"] / times["fused"]["median"]
    slower = times["fused"]["median"] / times["plain"]["median"]
    end = [f"{gain:.2f}×", f"{parameter_ratio:.2f}", f"{slower:.2f}"]
    cells = [*start, *shown, *end, f"{slower / parameter_ratio:.2f}"]
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def print_memory(size: tuple[int, ...]) -> None:
    print("Peak memory of one layer, 24 channels, batch 4, beside a plain convolution as wide.\n")
    print("| D | plain, MiB | fused, MiB | ratio (at most 1.3) |")
    print("|---|---|---|---|")
    x = torch.randn(4, 24, *size)
    for count in COUNTS:
        layer = DendriticLayer(nn.Conv3d(24, 24, 3, padding=1), count)
        wide = nn.Conv3d(24, 24 * (count + 1), 3, padding=1)
        with torch.no_grad():
            peaks = [[peak_memory(run, x) or 0 for _ in range(3)] for run in (wide, layer)]
        plain, fused = (statistics.median(p) for p in peaks)
        print(f"| {count} | {plain:.0f} | {fused:.0f} | {fused / max(plain, 1):.2f} |")
    print(flush=True)


def print_engines(
    kinds: dict[str, nn.Module],
    count: int,
    size: tuple[int, ...],
    measure: Callable[..., Times],
) -> None:
    """Engines against the library's cleaned network, batch 4, one thread."""
    x = torch.randn(4, 1, *size, generator=torch.Generator().manual_seed(0))
    source = Source(Path("nowhere"), kinds["fused"], (1, *size), fixed_size=False)
    runs = engines.load_engines(source, list(engines.ENGINES))
    times = measure({"library's cleaned": kinds["cleaned"], **runs}, x)
    reference = outputs(runs["torch"], [x])
    print(f"\nD = {count}, batch 4, one thread; labels on noise with untrained weights.\n")
    print("| | ms a sample | against the library's cleaned | max abs difference | equal labels |")
    print("|---|---|---|---|---|")
    for name, t in times.items():
        gain = times["library's cleaned"]["median"] / t["median"]
        shown = f"{t['median']:.0f} ({t['q1']:.0f}–{t['q3']:.0f})"
        found = {"max_abs_difference": 0.0, "label_agreement": 1.0}
        if name in runs:
            with without_warnings():
                found = compare(reference, outputs(runs[name], [x]))
        print(f"| {name} | {shown} | {gain:.2f}× | {found['max_abs_difference']:.1e} |", end="")
        print(f" {found['label_agreement']:.3%} |", flush=True)


if __name__ == "__main__":
    main()
