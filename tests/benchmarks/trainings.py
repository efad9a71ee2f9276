"""CPU time and Dice of whole trainings, beside another checkout.

    python tests/benchmarks/trainings.py --data Task04_Hippocampus --before CHECKOUT

For each seed one training of the checkout named with ``--before`` (``git worktree add CHECKOUT
COMMIT``) and two of this one by ``monai.bundle run``, one after the other, one thread each: the
first makes and keeps its crops, the second reads them, as the first and any further arm of a study
do. ``--network`` names another than width8. Prints a Markdown table of CPU minutes (user and
system, the start included) and the Dice of the last validation.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = Path("bundles/hippocampus_mri_dendritic")
_WIDTH8 = {
    "base_network_def::channels": "[8, 16, 32]",
    "base_network_def::strides": "[2, 2]",
    "base_network_def::num_res_units": "0",
    "learning_rate": "0.003",
}
# Name -> overlay beside train.json, or none, and settings.
NETWORKS = {
    "width8": ("", _WIDTH8),
    "tiny": ("tiny.yaml", {}),
    "compressed": ("compressed.yaml", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--before", required=True, help="another checkout of this repository")
    parser.add_argument("--network", choices=NETWORKS, default="width8")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            crops = Path(folder, f"crops{seed}")
            for name, checkout, kept in (
                ("before", Path(arguments.before), None),
                ("first arm", REPOSITORY, crops),
                ("further arm", REPOSITORY, crops),
            ):
                out = Path(folder, f"{name}{seed}")
                row = train(checkout, arguments, seed, out, kept)
                rows.setdefault(name, []).append(row)
                print(f"# seed {seed}, {name}: {row[0]:.2f} min, {row[1]:.4f}", flush=True)
    print("| pipeline | CPU minutes | ratio to before | Dice of each seed | mean |")
    print("|---|---|---|---|---|")
    before = statistics.median(minutes for minutes, _ in rows["before"])
    for name, values in rows.items():
        minutes = statistics.median(m for m, _ in values)
        dice = [d for _, d in values]
        shown = " ".join(f"{d:.4f}" for d in dice)
        cells = [name, f"{minutes:.2f}", f"{minutes / before:.2f}", shown]
        print(f"| {' | '.join(cells)} | {statistics.mean(dice):.4f} |")


def train(
    checkout: Path, arguments: argparse.Namespace, seed: int, out: Path, crops: Path | None
) -> tuple[float, float]:
    """CPU minutes and the last validation Dice of one training."""
    bundle = checkout.resolve() / BUNDLE
    overlay, settings = NETWORKS[arguments.network]
    files = [str(bundle / "configs" / name) for name in ("train.json", overlay) if name]
    words = {
        "config_file": f"[{', '.join(repr(f) for f in files)}]",
        "bundle_root": str(bundle),
        "dataset_dir": arguments.data,
        "output_dir": str(out),
        "seed": str(seed),
        "epochs": str(arguments.epochs),
        "lr_cycle_epochs": str(arguments.epochs),
        "val_interval": str(min(10, arguments.epochs)),
        **settings,
        **({} if crops is None else {"crops_dir": str(crops)}),
    }
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += [word for key, value in words.items() for word in (f"--{key}", value)]
    environment = os.environ | {"PYTHONPATH": str(bundle.parents[1] / "scripts")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = _cpu()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    dice = [e["dice"] for e in events if e["event"] == "epoch" and e["dice"] is not None]
    return (_cpu() - start) / 60, dice[-1]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
