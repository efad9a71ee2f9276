"""Raw folders of trials as a study leaves them, with scores made by hand."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np

from perforated_monai.study.arms import ARMS
from perforated_monai.study.trial import Places, Trial

CASES = [f"case_{i:02d}" for i in range(12)]
FACTS: dict[str, Any] = {
    "status": "done",
    "epochs": 4,
    "best_epoch": 4,
    "validation_dice": 0.5 + 4 / 100,
    "parameters": 29231,
    "flops": 61_000_000,
    "file_bytes": 120_000,
    "latency_ms": 2.5,
    "peak_memory_mib": 6.0,
    "cpu_minutes": 2.0,
    "train_minutes": 2.5,
    "energy_joule": None,
    "channels": [8, 16, 32],
    "sets": 1,
    "grow_epochs": [],
    "device": "cpu",
    "commit": "0" * 40,
    "manifest_sha256": "1" * 64,
    "versions": {"torch": "2.13.0"},
}


def keep(places: Places, trial: Trial, gain: float = 0.0, **facts: Any) -> None:
    """Write what a study keeps of a trial.

    Args:
        places: its results are written.
        trial: which.
        gain: what its arm adds to the Dice of base.
        facts: keys of ``result.json``; ``chosen`` are the values of a sweep.
    """
    folder = places.kept(trial)
    folder.mkdir(parents=True)
    order = ARMS.index(trial.arm) if trial.arm in ARMS else 100 + len(trial.arm)
    rng = np.random.default_rng([trial.seed, order])
    seed = np.random.default_rng(trial.seed).normal(0, 0.01)
    rows = [
        [0.8 + 0.005 * i + seed + gain + rng.normal(0, 0.001), 3.0 - i / 10, 0.9]
        for i in range(len(CASES))
    ]
    columns = [f"{p}_{c}" for p in ("dice", "hd95_mm", "nsd") for c in ("anterior", "posterior")]
    with (folder / "cases.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["case", *columns])
        for case, row in zip(CASES, rows, strict=True):
            writer.writerow([case, *(v for v in row for _ in range(2))])
    events: list[dict[str, Any]] = [
        {"event": "epoch", "epoch": e, "dice": 0.5 + e / 100, "lr": [0.001], "seconds": 1.0}
        for e in range(1, 5)
    ]
    grows = trial.arm.startswith("dendrites")
    if grows:
        events.append({"event": "grow", "epoch": 2})
    (folder / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    config = {"seed": trial.seed, "learning_rate": 0.003, "channels": [8, 16]}
    (folder / "config.json").write_text(
        json.dumps({"config": config, "versions": {}, "manifest_sha256": "1" * 64})
    )
    if "chosen" in facts:
        (folder / "sweep.json").write_text(json.dumps(facts.pop("chosen")))
    means = np.mean(rows, axis=0)
    named = {"network": trial.network, "arm": trial.arm, "fold": trial.fold, "seed": trial.seed}
    result = {
        **named,
        **{c: float(means[i // 2]) for i, c in enumerate(columns)},
        **FACTS,
        "grow_epochs": [2] if grows else [],
        **facts,
    }
    (folder / "result.json").write_text(json.dumps(result))
