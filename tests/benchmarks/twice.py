"""Does the same command give the same bytes? Train, grow and export twice, and compare.

    python tests/benchmarks/twice.py --data Task04_Hippocampus [--network micro] [--epochs 10]

Two processes, one after the other, run the shipped overlays with a shorter schedule (growth after
two fifths of the epochs). Prints a Markdown table: what was compared, whether its bytes are equal,
and the first characters of its SHA-256. Exit code 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "hippocampus_mri_dendritic"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--network", choices=("tiny", "micro"), default="micro")
    parser.add_argument("--epochs", type=int, default=10, help="a multiple of 5")
    arguments = parser.parse_args()
    if arguments.epochs < 5 or arguments.epochs % 5:
        parser.error(f"--epochs must be a multiple of 5; got {arguments.epochs}.")
    with tempfile.TemporaryDirectory() as folder:
        first, second = (once(Path(folder) / name, arguments) for name in ("first", "second"))
    print("| what | equal | SHA-256 |\n|---|---|---|")
    for what, digest in first.items():
        print(f"| {what} | {'yes' if second[what] == digest else 'NO'} | {digest[:12]} |")
    sys.exit(first != second)


def once(folder: Path, arguments: argparse.Namespace) -> dict[str, str]:
    """Train, export and report into a folder; what came out -> SHA-256."""
    part = arguments.epochs // 5
    names = ("train.json", f"{arguments.network}.yaml", "tiny_dendrites.yaml")
    files = ",".join(f"'{BUNDLE / 'configs' / name}'" for name in names)
    call("monai.bundle", "run", "--config_file", f"[{files}]", "--bundle_root", BUNDLE,
         "--dataset_dir", arguments.data, "--output_dir", folder / "run", "--epochs",
         arguments.epochs, "--val_interval", part, "--lr_cycle_epochs", 3 * part,
         "--dendrites::improvement_threshold", "[0.0]")  # fmt: skip
    call("perforated_monai", "report", folder / "run")
    call("perforated_monai", "export", folder / "run", "--bundle", BUNDLE, "--out",
         folder / "bundle", "--formats", "none")  # fmt: skip
    events = [json.loads(line) for line in (folder / "run" / "history.jsonl").open()]
    timeless = [{k: v for k, v in event.items() if k != "seconds"} for event in events]
    grown = sum(event["event"] == "grow" for event in events)
    if not grown:
        sys.exit("nothing grew, so that nothing was shown: train longer.")
    made = {
        f"{len(events)} events of the history, without seconds": json.dumps(timeless).encode(),
        "page of the run, report.md": (folder / "run" / "report.md").read_bytes(),
        "picture, dice.png": (folder / "run" / "dice.png").read_bytes(),
        "exported weights, model.pt": (folder / "bundle" / "models" / "model.pt").read_bytes(),
        "network spec in inference.json": (
            folder / "bundle" / "configs" / "inference.json"
        ).read_bytes(),
    }
    return {what: hashlib.sha256(content).hexdigest() for what, content in made.items()}


def call(module: str, *words: object) -> None:
    """Run a module of Python's, with this repository's package."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, words)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
