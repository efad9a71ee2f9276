"""Trackers beside TensorBoard, where they are installed."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from helpers.harness import BUNDLE, SMALL, refused
from perforated_monai.commands import study_run as commands
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
    end = time.monotonic() + 60  # wandb's own process writes, and ends a little after the run
    while b"val_mean_dice" not in file.read_bytes() and time.monotonic() < end:
        time.sleep(0.2)
    content = file.read_bytes()
    assert b"val_mean_dice" in content and b"loss" in content


def test_mlflow_writes_into_the_run_folder(phantoms: Path, tmp_path: Path) -> None:
    tracked_run("mlflow", phantoms, tmp_path / "run")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "phantom"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert {"val_mean_dice", "Loss"} <= set(run.data.metrics)
    assert len(client.get_metric_history(run.info.run_id, "val_mean_dice")) == 2


def test_none_is_the_default() -> None:
    assert trackers([], "x") == {}


def test_unknown_and_missing_trackers(tmp_path: Path) -> None:
    with refused("must be of mlflow, wandb; got 'neptune'"):
        commands.run(
            commands.Wanted(
                file=str(BUNDLE / "studies" / "phantom.yaml"),
                dataset_dir=str(tmp_path),
                tracking="neptune",
            )
        )
    for name in ("mlflow", "wandb"):
        if importlib.util.find_spec(name) is None:
            with refused(f"--tracking {name} needs the package"):
                trackers([name], "x")
