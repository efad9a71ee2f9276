"""The demo: phantoms, growth, plain networks beside it, a plain bundle, masks, table, picture."""

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

from ..data.phantoms import make_phantoms
from ..data.prepare import write_manifest
from ..errors import UserError
from ..export.into_bundle import export_run
from ..files import atomic, refuse_foreign, write_json
from ..study.equal_size import resolved_definition, wider_channels
from ..training.run_folder import RunFolder
from .demo_table import Events, make_table, table_columns

BUNDLE = "hippocampus_mri_dendritic"
CASES, HELD_OUT = 40, 4
NETWORK = "small.yaml"
# 20 epochs, growth, 25 epochs: one whole cosine for the grown network, one of 45 for the others.
# The thresholds stay those of the shipped overlay.
SETTINGS = {"val_interval": 5}
GROWTH = {"dendrites::switch": "fixed", "dendrites::patience": 5, "lr_cycle_epochs": 25}
EPOCHS = 45
STUDY = f"bundles/{BUNDLE}/studies/results/dendrites_that_pay/report.md"
PLAIN, WIDER = "plain, same budget", "wider, as large"


def run_demo(out: Path, seed: int = 0) -> int:
    """Do the whole demo in ``out``; the last line of stdout is ``integrated_dendrite_sets=N``.

    Args:
        out: folder to make; an earlier demo in it is replaced.
        seed: of the phantoms and the trainings.

    Returns:
        0 when at least one dendrite set was integrated, otherwise 1.

    Raises:
        UserError: no checkout, no ``train`` extra, a folder of other content, or a failed step.
    """
    out, start = Path(out).resolve(), time.monotonic()
    bundle = copy_bundle(out)
    _say(f"1/6 Phantoms: {CASES} for training and validation, {HELD_OUT} held out")
    data = make_phantoms(out / "phantoms", cases=CASES, seed=seed, test_cases=HELD_OUT)
    names = list(write_manifest(data, data / "manifest.json", "phantom").label_names.values())
    _say(f"2/6 Training of a small UNet with dendrites, {EPOCHS} epochs")
    common = {"seed": seed, **SETTINGS}
    settings = {**common, **GROWTH, "epochs": EPOCHS}
    grown = _train(out, "with_dendrites", ["dendrites.yaml"], settings)
    epochs = max(event["epoch"] for event in grown)
    _say(f"3/6 Training of the same network without dendrites, {epochs} epochs")
    common |= {"epochs": epochs, "lr_cycle_epochs": epochs}
    controls = {PLAIN: _train(out, "plain", [], common)}
    _say("4/6 Training of a wider network with as many parameters as the grown one")
    channels = {"base_network_def::channels": _wider(bundle, grown)}
    controls[WIDER] = _train(out, "wider", [], {**common, **channels})
    _say("5/6 Export of the grown network")
    record = export_run(out / "runs" / "with_dendrites", bundle)
    _say(f"6/6 Segmentation of {HELD_OUT} held-out phantoms")
    settings = {"dataset_dir": data / "imagesTs", "output_dir": out / "masks"}
    run_bundle(out, "segmentation", ["inference.json"], settings)

    held_out = dice_of_masks(out / "masks", data / "labelsTs", range(1, len(names)))
    _draw(out, {"with dendrites": grown, **controls}, held_out, names)
    facts = {
        "integrated_dendrite_sets": integrated_sets(record, bundle / "models" / "model.pt"),
        "seed": seed,
        "validation": table_columns(grown, controls),
        "held_out_dice": held_out,
        "export_max_abs_difference": record["max_abs_difference"],
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(out / "demo.json", facts)
    print_report(out, facts, [name.lower() for name in names[1:]])
    return 0 if facts["integrated_dendrite_sets"] else 1


def _wider(bundle: Path, grown: Events) -> list[int]:
    """Channels of a plain network with at least the parameters of the grown one."""
    files = [str(bundle / "configs" / name) for name in ("train.json", NETWORK)]
    parameters = max(e["parameters"] for e in grown if "parameters" in e)
    return wider_channels(resolved_definition(files, {}), parameters, "parameters", [])


# -- what is counted -------------------------------------------------------------------------


def integrated_sets(record: dict[str, Any], weights: Path) -> int:
    """Dendrite sets of an exported network that reach its output: weights not all zero."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    # By their last name: a network with an apical dendrite stands inside another module.
    rows = [value for name, value in state.items() if name.endswith(".to_output")]
    if len(rows) != len(record["dendrites"]):
        msg = f"{weights} has dendrites at {len(rows)} layers, {len(record['dendrites'])} recorded."
        raise UserError(msg)
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
    run_bundle(out, name, ["train.json", NETWORK, *overlays], {**paths, **settings})
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


_FILES = """Written to {out} in {seconds:.0f} s:
  demo.png, demo.json          the picture, the numbers
  {bundle}    the bundle with the grown network, plain
  masks/                       of the held-out phantoms
  runs/                        all trainings: history, checkpoints, Dice curve
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
    _say(f"Five seeds on patients, with their controls: {STUDY}")
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
