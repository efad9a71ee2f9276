"""CPU time of a training step through ``monai.bundle run``, and of validating a case.

    python tests/benchmarks/training_step.py --data Task04_Hippocampus [--before CHECKOUT]

For each network of the hippocampus bundle one process trains with the shipped configuration, one
with kept crops that it makes, and one that reads those. With ``--before`` one more runs the same
of another checkout (``git worktree add CHECKOUT COMMIT``). The processes take turns, epoch by
epoch, one thread each, and only one computes at a time. Prints a Markdown table of CPU milliseconds
(user and system), medians over epochs; the first epoch, which loads the cases, is left out.

- data: what the data loader takes for a batch
- network: forward, backward and optimizer of the bare network on a batch like those
- rest: everything else of a step: loss, engine, handlers
- case: validation of one case, with the sliding window
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = Path("bundles/hippocampus_mri_dendritic")
_UNET = {"base_network_def::channels": [8, 16, 32], "base_network_def::strides": [2, 2]}
# Name -> overlay beside train.json, or none, and settings.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("", _UNET),
    "width8": ("", _UNET | {"base_network_def::num_res_units": 0}),
    "tiny": ("tiny.yaml", {"val_interval": 1}),
    "compressed": ("compressed.yaml", {}),
}
PARTS = ("data", "network", "rest", "step", "case")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--before", help="another checkout of this repository")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--epochs", type=int, default=5, help="rounds, without the first")
    parser.add_argument("--cases", type=int, default=40, help="training cases; a quarter validates")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        checkout, network, crops = arguments.child
        train(Path(checkout), network, crops, arguments)
        return
    print(f"| network | pipeline | {' | '.join(PARTS)} | step to before | case to before |")
    print(f"|{'---|' * (len(PARTS) + 4)}", flush=True)
    for network in arguments.networks.split(","):
        for pipeline, row in measure(network, arguments).items():
            print(f"| {network} | {pipeline} | {row} |", flush=True)


def measure(network: str, arguments: argparse.Namespace) -> dict[str, str]:
    """Cells of each pipeline's row."""
    with tempfile.TemporaryDirectory() as crops:
        kinds = {"before": (arguments.before, "")} if arguments.before else {}
        here = str(REPOSITORY)
        kinds |= {"made": (here, ""), "made and kept": (here, crops), "kept": (here, crops)}
        children = {
            name: child(checkout, network, folder, arguments)
            for name, (checkout, folder) in kinds.items()
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in children}
        for _ in range(arguments.epochs + 1):
            for name, process in children.items():
                found[name].append(turn(process))
        for process in children.values():
            process.wait()
    medians = {
        name: {part: statistics.median(e[part] for e in epochs[1:]) for part in PARTS}
        for name, epochs in found.items()
    }
    first = next(iter(medians.values()))
    return {
        name: " | ".join(
            [f"{row[part]:.1f}" for part in PARTS]
            + [f"{row[part] / first[part]:.2f}" for part in ("step", "case")]
        )
        for name, row in medians.items()
    }


def child(
    checkout: str, network: str, crops: str, arguments: argparse.Namespace
) -> subprocess.Popen:
    """A process that trains with code and bundle of a checkout, an epoch a line of stdin."""
    words = [sys.executable, "-W", "ignore", __file__, "--child", checkout, network, crops]
    words += ["--data", arguments.data, "--cases", str(arguments.cases)]
    words += ["--epochs", str(arguments.epochs)]
    scripts = str(Path(checkout).resolve() / "scripts")
    environment = os.environ | {"PYTHONPATH": scripts, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def turn(process: subprocess.Popen) -> dict[str, float]:
    """Let a process do one epoch; its figures."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"a training ended with exit code {process.wait()}; run it by itself to see why.")


def train(checkout: Path, network: str, crops: str, arguments: argparse.Namespace) -> None:
    """In a process of its own: train, and print the figures of each epoch as a line of JSON."""
    import torch
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    from perforated_monai.training.cpu_memory import keep_freed_memory

    keep_freed_memory()  # as under `monai.bundle run`
    bundle = checkout / BUNDLE
    overlay, settings = NETWORKS[network]
    files = [str(bundle / "configs" / name) for name in ("train.json", overlay) if name]
    cut = "$perforated_monai.datalist(@dataset_dir, @manifest, '{}', @fold)[:{}]"
    with tempfile.TemporaryDirectory() as out:
        made = ConfigWorkflow(
            config_file=files,
            workflow_type="train",
            logging_file=False,
            bundle_root=str(bundle),
            dataset_dir=arguments.data,
            output_dir=out,
            device="$torch.device('cpu')",
            epochs=arguments.epochs + 1,
            **settings,
            **({"crops_dir": crops} if crops else {}),
            **{
                "train::dataset::data": cut.format("train", arguments.cases),
                "validate::dataset::data": cut.format("validation", arguments.cases // 4),
            },
        )
        made.initialize()
        trainer = made.parser.get_parsed_content("train::trainer")
        evaluator = made.parser.get_parsed_content("validate::evaluator")
        batch = torch.randn(2, 1, *made.parser.get_parsed_content("roi_size"))
        clock = Clock(bare_step(made.parser.get_parsed_content("network"), batch))
        trainer.add_event_handler(Events.EPOCH_STARTED, clock.epoch_started)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, clock.batch_asked)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, clock.batch_there)
        evaluator.add_event_handler(Events.STARTED, clock.training_done, trainer)
        evaluator.add_event_handler(Events.COMPLETED, clock.validation_done)
        made.run()


class Clock:
    """CPU time of the parts of an epoch."""

    def __init__(self, bare: Any) -> None:
        self.bare = bare
        self.data = self.asked = self.start = 0.0
        self.epoch: dict[str, float] = {}

    def epoch_started(self, _: Any) -> None:
        sys.stdin.readline()
        network = statistics.median(self.bare() for _ in range(10))
        self.epoch, self.data = {"network": network}, 0.0
        self.start = time.process_time()

    def batch_asked(self, _: Any) -> None:
        self.asked = time.process_time()

    def batch_there(self, _: Any) -> None:
        self.data += time.process_time() - self.asked

    def training_done(self, _: Any, trainer: Any) -> None:
        now, steps = time.process_time(), trainer.state.epoch_length
        self.epoch["step"] = 1e3 * (now - self.start) / steps
        self.epoch["data"] = 1e3 * self.data / steps
        self.epoch["rest"] = self.epoch["step"] - self.epoch["data"] - self.epoch["network"]
        self.start = now

    def validation_done(self, evaluator: Any) -> None:
        taken = time.process_time() - self.start
        self.epoch["case"] = 1e3 * taken / evaluator.state.epoch_length
        print(json.dumps(self.epoch), flush=True)


def bare_step(network: Any, batch: Any) -> Any:
    """A function that trains a copy of a network for one step; it returns CPU milliseconds."""
    import torch

    own = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-4)
    slope = torch.randn_like(own(batch)).div_(batch.numel())

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        own(batch).backward(slope)
        optimizer.step()
        return 1e3 * (time.process_time() - start)

    step()
    return step


if __name__ == "__main__":
    main()
