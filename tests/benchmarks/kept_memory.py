"""What giving freed memory back to the kernel costs a training and an inference step on a CPU.

    python tests/benchmarks/kept_memory.py [--steps 10] [--rounds 3]

Runs each step in processes with and without ``keep_freed_memory``, in turn, one thread, and prints
a Markdown table: CPU time a step (user and system), of it in the kernel, page
faults, and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

COMPRESSED, SMALL = [24, 40, 80, 160], [8, 16, 32]
STEPS: dict[str, tuple[list[int], int, tuple[int, int, int], bool]] = {
    "training, 24-40-80-160, 2 × 32×48×32": (COMPRESSED, 2, (32, 48, 32), True),
    "training, 8-16-32, 2 × 40×56×40": (SMALL, 2, (40, 56, 40), True),
    "training, 24-40-80-160, 2 × 96×96×96": (COMPRESSED, 2, (96, 96, 96), True),
    "inference, 24-40-80-160, 2 × 32×48×32": (COMPRESSED, 2, (32, 48, 32), False),
    "inference, 24-40-80-160, 2 × 96×96×96": (COMPRESSED, 2, (96, 96, 96), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, kept = arguments.one
        print(json.dumps(measure(name, kept == "kept", arguments.steps)))
        return
    print(
        "| step | given back: ms, of it kernel | kept: ms, of it kernel | kept / given back |",
        end="",
    )
    print(" page faults | peak MiB |\n|---|---|---|---|---|---|")
    for name in STEPS:
        found: dict[str, list[dict[str, float]]] = {"given back": [], "kept": []}
        for _ in range(arguments.rounds):
            for kept in found:
                found[kept].append(in_process(name, kept, arguments.steps))
        before, after = (median(found[kept]) for kept in found)
        print(
            f"| {name} | {before['ms']:.0f}, {before['kernel']:.0f} | {after['ms']:.0f}, "
            f"{after['kernel']:.0f} | {after['ms'] / before['ms']:.2f} | "
            f"{before['faults']:,.0f} / {after['faults']:,.0f} | "
            f"{before['peak']:.0f} / {after['peak']:.0f} |",
            flush=True,
        )


def in_process(name: str, kept: str, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--steps", str(steps), "--one", name, kept]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure(name: str, kept: bool, steps: int) -> dict[str, float]:
    import torch

    from perforated_monai import build_network
    from perforated_monai.training.cpu_memory import keep_freed_memory

    torch.set_num_threads(1)
    if kept and not keep_freed_memory():
        sys.exit("keep_freed_memory did nothing: not glibc, or a variable of its malloc is set.")
    channels, batch, size, training = STEPS[name]
    base: dict[str, Any] = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    base |= {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 2}
    network = build_network({"format": 1, "base": base, "dendrites": {}}).train(training)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    x = torch.randn(batch, 1, *size)

    def step() -> None:
        with torch.set_grad_enabled(training):
            loss = network(x).square().mean()
        if training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = (after.ru_stime - before.ru_stime) * 1000 / steps
    user = (after.ru_utime - before.ru_utime) * 1000 / steps
    return {
        "ms": user + kernel,
        "kernel": kernel,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
        "peak": after.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
