"""The demo with several seeds: its table, mean and every seed.

    python tests/benchmarks/demo_seeds.py OUT [--seeds 5]

Prints a Markdown table of the best validation Dice of each column; each demo stays in OUT/seedN,
and one that is done is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from perforated_monai.commands.demo import run_demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    columns: dict[str, list[dict]] = {}
    for seed in range(arguments.seeds):
        file = arguments.out / f"seed{seed}" / "demo.json"
        if not file.is_file() or "validation" not in json.loads(file.read_text()):
            run_demo(file.parent, seed)
        for title, column in json.loads(file.read_text())["validation"].items():
            columns.setdefault(title, []).append(column)
    print("| | parameters | Dice of each seed | mean |")
    print("|---|---|---|---|")
    for title, values in columns.items():
        found = [v["dice"] if v else None for v in values]
        shown = " ".join("–" if d is None else f"{d:.4f}" for d in found)
        mean = statistics.mean(d for d in found if d is not None)
        parameters = next(v["parameters"] for v in values if v)
        print(f"| {title} | {parameters:,} | {shown} | {mean:.4f} |")


if __name__ == "__main__":
    main()
