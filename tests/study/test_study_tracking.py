"""Trackers beside TensorBoard, where they are installed."""

import importlib.util
import json
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from harness import BUNDLE, SMALL, refused
from perforated_monai.study import commands
from perforated_monai.study.tracking import trackers


def tracked_run(name: str, data: Path, out: Path) -> None:
    """Train two epochs with a tracker laid over the training as a study does it."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    overlay = out.parent / "tracked.json"
    overlay.write_text(json.dumps(trackers([name], "phantom")))
    made = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / "train.json"), str(overlay)],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(data),
        manifest=str(data / "manifest.json"),
        output_dir=str(out),
        **(SMALL | {"epochs": 2}),
    )
    made.initialize()
    made.run()


def test_wandb_works_offline_without_an_account(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracked_run("wandb", phantoms, tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"val_mean_dice" in content and b"loss" in content


def test_mlflow_writes_into_the_run_folder(phantoms: Path, tmp_path: Path) -> None:
    tracked_run("mlflow", phantoms, tmp_path / "run")
    assert b"val_mean_dice" in (tmp_path / "run" / "mlruns.db").read_bytes()


def test_none_is_the_default() -> None:
    assert trackers([], "x") == {}


def test_unknown_and_missing_trackers(tmp_path: Path) -> None:
    with refused("must be of mlflow, wandb; got 'neptune'"):
        commands.run(str(BUNDLE / "studies" / "phantom.yaml"), str(tmp_path), tracking="neptune")
    for name in ("mlflow", "wandb"):
        if importlib.util.find_spec(name) is None:
            with refused(f"--tracking {name} needs the package"):
                trackers([name], "x")
