"""The demo: phantoms, growth, the same budget without it, a plain bundle, masks, table, picture."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..data.phantoms import make_phantoms
from ..data.prepare import write_manifest
from ..errors import UserError
from ..export.into_bundle import export_run
from ..files import atomic, refuse_foreign, write_json
from ..training.run_folder import RunFolder

BUNDLE = "hippocampus_mri_dendritic"
CASES, HELD_OUT, SEED, EPOCHS = 24, 4, 0, 40
# The rate's restart after 12 epochs makes a plateau longer than the patience, so growth leaves a
# whole cycle to the dendrites. The thresholds stay those of the shipped overlay.
SETTINGS = {"seed": SEED, "batch_size": 2, "learning_rate": 0.002, "lr_cycle_epochs": 12}
GROWTH = {"dendrites::patience": 4, "dendrites::tries": 2}

Events = list[dict[str, Any]]


def run_demo(out: Path) -> int:
    """Do the whole demo in ``out``; the last line of stdout is ``integrated_dendrite_sets=N``.

    Args:
        out: folder to make; an earlier demo in it is replaced.

    Returns:
        0 when at least one dendrite set was integrated, otherwise 1.

    Raises:
        UserError: no checkout, no ``train`` extra, a folder of other content, or a failed step.
    """
    out, start = Path(out).resolve(), time.monotonic()
    bundle = copy_bundle(out)
    _say(f"1/5 Phantoms: {CASES} for training and validation, {HELD_OUT} held out")
    data = make_phantoms(out / "phantoms", cases=CASES, seed=SEED, test_cases=HELD_OUT)
    names = list(write_manifest(data, data / "manifest.json", "phantom").label_names.values())
    _say(f"2/5 Training of the compressed UNet with dendrites, {EPOCHS} epochs at most")
    grown = _train(out, "with_dendrites", ["dendrites.yaml"], {"epochs": EPOCHS, **GROWTH})
    epochs = max(event["epoch"] for event in grown)
    _say(f"3/5 Training of the same network without dendrites, {epochs} epochs")
    plain = _train(out, "plain", [], {"epochs": epochs})
    _say("4/5 Export of the grown network")
    record = export_run(out / "runs" / "with_dendrites", bundle)
    _say(f"5/5 Segmentation of {HELD_OUT} held-out phantoms")
    settings = {"dataset_dir": data / "imagesTs", "output_dir": out / "masks"}
    run_bundle(out, "segmentation", ["inference.json"], settings)

    held_out = dice_of_masks(out / "masks", data / "labelsTs", range(1, len(names)))
    _draw(out, {"with dendrites": grown, "plain, same budget": plain}, held_out, names)
    facts = {
        "integrated_dendrite_sets": integrated_sets(record, bundle / "models" / "model.pt"),
        "validation": table_columns(grown, plain),
        "held_out_dice": held_out,
        "export_max_abs_difference": record["max_abs_difference"],
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(out / "demo.json", facts)
    print_report(out, facts, [name.lower() for name in names[1:]])
    return 0 if facts["integrated_dendrite_sets"] else 1


# -- what is counted -------------------------------------------------------------------------


def table_columns(grown: Events, plain: Events) -> dict[str, dict[str, Any] | None]:
    """The columns of the table from two histories; "after growth" is None without growth."""
    last = max(e["epoch"] for e in grown)
    growth = next((e["epoch"] for e in grown if e["event"] == "grow"), last)
    return {
        "before growth": _column(grown, 1, growth),
        "after growth": _column(grown, growth + 1, last) if growth < last else None,
        "plain, same budget": _column(plain, 1, last),
    }


def _column(events: Events, first: int, last: int) -> dict[str, Any]:
    """Best epoch of ``first`` to ``last``; epochs and seconds count from the start of the run."""
    epochs = [e for e in events if e["event"] == "epoch" and e["epoch"] <= last]
    scored = [e for e in epochs if e["epoch"] >= first and e["dice"] is not None]
    best = max(scored, key=lambda e: e["dice"])
    # An epoch's own line counts what it ended with: growth shows in it before it has an effect.
    grown = [e["parameters"] for e in events if e["event"] == "grow" and e["epoch"] < best["epoch"]]
    return {
        "dice_per_class": best["dice_per_class"],
        "dice": best["dice"],
        "best_epoch": best["epoch"],
        "parameters": [epochs[0]["parameters"], *grown][-1],
        "epochs": len(epochs),
        "seconds": round(sum(e["seconds"] for e in epochs), 1),
    }


def integrated_sets(record: dict[str, Any], weights: Path) -> int:
    """Dendrite sets of an exported network that reach its output: weights not all zero."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    rows = [state[f"{name}.to_output"] for name in record["dendrites"]]
    return max((int(row.any(dim=1).sum()) for row in rows), default=0)


def dice_of_masks(masks: Path, labels: Path, values: Sequence[int]) -> dict[str, list[float]]:
    """Dice of each label value, in [0, 1], for every case of ``labels``."""
    scores = {}
    for path in sorted(labels.glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        true, predicted = read_voxels(path), read_voxels(masks / f"{case}_seg.nii.gz")
        pairs = [(true == value, predicted == value) for value in values]
        scores[case] = [float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) for a, b in pairs]
    return scores


def read_voxels(path: Path) -> np.ndarray:
    """Voxels of a NIfTI volume, ``(X, Y, Z)`` in RAS order."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


# -- steps -----------------------------------------------------------------------------------


def copy_bundle(out: Path) -> Path:
    """Make ``out`` with a copy of the bundle; an earlier demo there goes, anything else stays."""
    missing = [n for n in ("perforatedai", "matplotlib") if importlib.util.find_spec(n) is None]
    if missing:
        msg = f"The demo needs {' and '.join(missing)}: pip install 'perforated-monai[train]'."
        raise UserError(msg)
    shipped = Path(__file__).resolve().parents[3] / "bundles" / BUNDLE
    if not shipped.is_dir():
        msg = f"The demo trains the bundle {shipped}, which is not there: run it in a checkout."
        raise UserError(msg)
    if out.exists() and not (out / "demo.json").exists() and any(out.iterdir()):
        msg = f"{out} holds something other than an earlier demo: choose another --out."
        raise UserError(msg)
    refuse_foreign(out / "demo.json", "result of a demo", ['"integrated_dendrite_sets"'])
    for name in (BUNDLE, "phantoms", "runs", "masks", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    try:
        (out / "logs").mkdir(parents=True)
    except OSError as error:
        msg = f"{out} cannot be made ({error.strerror}): choose another --out."
        raise UserError(msg) from error
    write_json(out / "demo.json", {"state": "not finished", "integrated_dendrite_sets": None})
    leave = shutil.ignore_patterns("models", "runs", "data", "eval")
    return shutil.copytree(shipped, out / BUNDLE, ignore=leave)


def _train(out: Path, name: str, overlays: list[str], settings: dict[str, Any]) -> Events:
    """One training -> its history."""
    data, folder = out / "phantoms", out / "runs" / name
    paths = {"dataset_dir": data, "manifest": data / "manifest.json", "output_dir": folder}
    configs = ["train.json", "compressed.yaml", *overlays]
    run_bundle(out, name, configs, {**paths, **SETTINGS, **settings})
    return RunFolder(folder).history()


def run_bundle(out: Path, name: str, configs: list[str], settings: dict[str, Any]) -> None:
    """``python -m monai.bundle run``: stderr is what the person watches, stdout goes to a log."""
    folder, log = out / BUNDLE / "configs", out / "logs" / f"{name}.log"
    settings = {
        "config_file": [str(folder / config) for config in configs],
        "bundle_root": out / BUNDLE,
        "logging_file": folder / "logging.conf",
        **settings,
    }
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    # MONAI warns at every start to trust the configs (they are this repository's) and that a DICOM
    # decoder is absent (nothing here reads DICOM).
    known = "ignore:parsing config_file:UserWarning,ignore:NvImgCodec:UserWarning"
    filters = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), known]))
    with log.open("w") as stdout:
        environment = {**os.environ, "PYTHONWARNINGS": filters}
        code = subprocess.run(command, stdout=stdout, env=environment, check=False).returncode
    if code:
        msg = f"The demo's step {name} failed with exit code {code}: see the lines above and {log}."
        raise UserError(msg)


# -- what a person reads ---------------------------------------------------------------------


def make_table(columns: dict[str, dict[str, Any] | None], classes: Sequence[str]) -> Table:
    """The table of the demo; a column that is None shows dashes."""
    table = Table("", title="Best epoch on the validation phantoms")
    cells: list[list[str]] = []
    for title, c in columns.items():
        table.add_column(title, justify="right")
        if c is None:
            cells.append(["-"] * (len(classes) + 4))
            continue
        dice = [f"{value:.4f}" for value in (*c["dice_per_class"], c["dice"])]
        epochs = f"{c['epochs']} (best {c['best_epoch']})"
        cells.append([*dice, f"{c['parameters']:,}", epochs, f"{c['seconds']:.0f}"])
    names = [f"Dice, {name}" for name in (*classes, "mean")]
    for row in zip([*names, "parameters", "epochs", "seconds"], *cells, strict=True):
        table.add_row(*row)
    return table


_FILES = """Written to {out} in {seconds:.0f} s:
  demo.png, demo.json          the picture, the numbers
  {bundle}    the bundle with the grown network, plain
  masks/                       of the held-out phantoms
  runs/                        both trainings: history, checkpoints, Dice curve
  phantoms/, logs/             the volumes, and what MONAI printed"""


def print_report(out: Path, facts: dict[str, Any], classes: list[str]) -> None:
    """Table, Dice and files of a demo; without dendrites, stderr says why; the last line counts."""
    Console().print(make_table(facts["validation"], classes))
    scores = np.mean(list(facts["held_out_dice"].values()), axis=0)
    shown = ", ".join(f"{name} {score:.4f}" for name, score in zip(classes, scores, strict=True))
    difference = facts["export_max_abs_difference"]
    _say(f"Export: outputs differ from the trained network's by {difference:.1e} at most.")
    _say(f"Exported network on {HELD_OUT} held-out phantoms: Dice {shown}.")
    _say("One seed on phantoms proves nothing, neither about dendrites nor about patients.")
    folder = os.path.relpath(out)
    _say(_FILES.format(out=folder, bundle=f"{BUNDLE}/", seconds=facts["seconds"]))
    if not facts["integrated_dendrite_sets"]:
        history = RunFolder(Path(folder, "runs", "with_dendrites")).history_file
        why = f"see reject and complete in {history}"
        print(f"No dendrite was integrated: Dice did not rise enough; {why}.", file=sys.stderr)
    _say(f"integrated_dendrite_sets={facts['integrated_dendrite_sets']}")


def _draw(out: Path, runs: dict[str, Events], dice: dict[str, list[float]], names: list) -> None:
    from .demo_picture import draw_demo  # matplotlib comes with an extra, see copy_bundle

    # The case in the middle: the picture shows neither luck nor bad luck.
    case = sorted(dice, key=lambda c: sum(dice[c]))[len(dice) // 2]
    paths = (f"phantoms/imagesTs/{case}", f"phantoms/labelsTs/{case}", f"masks/{case}_seg")
    volumes = [read_voxels(out / f"{path}.nii.gz") for path in paths]
    title = f"Held-out {case}, mean Dice {np.mean(dice[case]):.3f}"
    with atomic(out / "demo.png") as temporary:
        draw_demo(temporary, runs, volumes, names[1:], title)


def _say(text: str) -> None:
    print(text, flush=True)
