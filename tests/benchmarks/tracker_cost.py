"""What growth costs: handler and tracker against an epoch, one growth, copies of the weights.

    python tests/benchmarks/tracker_cost.py --data ../shared/data/Task04_Hippocampus

Trains the compressed network of the hippocampus bundle with the shipped configuration for a few
epochs and times, inside the same run, the handler's call against the whole epoch. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(*measure(Path(arguments.data), Path(folder), arguments.epochs))


def measure(
    data: Path, out: Path, epochs: int
) -> tuple[list[float], list[float], list[float], int]:
    """Seconds of each plain epoch, of the handler in it, of each growth; tracker files' copies."""
    names = ("train.json", "compressed.yaml", "dendrites.yaml")
    made = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / n) for n in names],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(data),
        output_dir=str(out),
        epochs=epochs,
        **{"dendrites::switch": "fixed", "dendrites::patience": max(epochs // 2, 2)},
    )
    made.initialize()
    trainer = made.parser.get_parsed_content("train::trainer")
    handler = made.parser.get_parsed_content("train::handlers")[-1]
    spent: list[float] = []
    growths: list[float] = []
    whole: list[float] = []
    copies = [0]
    original = type(handler).__call__

    def timed(engine) -> None:
        start, before = time.perf_counter(), handler.tracker.sets
        original(handler, engine)
        seconds = time.perf_counter() - start
        (growths if handler.tracker.sets > before else spent).append(seconds)

    for i, (function, args, kwargs) in enumerate(trainer._event_handlers[Events.EPOCH_COMPLETED]):
        if function is handler:
            trainer._event_handlers[Events.EPOCH_COMPLETED][i] = (
                timed,
                (trainer, *args[1:]),
                kwargs,
            )
    clock = [0.0]
    trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda: clock.__setitem__(0, time.perf_counter())
    )

    def ended() -> None:
        whole.append(time.perf_counter() - clock[0])
        bytes_of_net = sum(p.numel() * p.element_size() for _, p in handler.tracker.trainable())
        files = sum(f.stat().st_size for f in (out / "tracker").glob("*"))
        copies[0] = max(copies[0], round(100 * files / bytes_of_net))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, ended)
    made.run()
    return whole, spent, growths, copies[0]


def print_table(whole: list[float], spent: list[float], growths: list[float], copies: int) -> None:
    """Markdown, medians with range."""
    share = [100 * s / w for s, w in zip(spent, whole, strict=False)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(whole)} epochs\n")
    print("| figure | median | range | goal |")
    print("|---|---|---|---|")
    print(f"| handler + tracker, % of an epoch | {_row(share)} | <= 2 |")
    print(f"| one growth, seconds | {_row(growths)} | <= 3 |")
    print(f"| tracker's files, % of the weights | {copies} | - | one copy |")


def _row(values: list[float]) -> str:
    if not values:
        return "none | -"
    return f"{statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f}"


if __name__ == "__main__":
    main()
