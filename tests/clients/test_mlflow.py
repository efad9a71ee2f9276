"""``--tracking mlflow`` on the shipped configs, in an environment with mlflow."""

import sqlite3
import subprocess
from pathlib import Path

import pytest

from helpers.client_environments import python_of
from helpers.harness import BUNDLE, SMALL
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(3600)]
BRAIN = BUNDLE.with_name("brain_tumor_mri_dendritic")
KINDS = {BUNDLE: "hippocampus", BRAIN: "tumour"}


@pytest.mark.parametrize("bundle", KINDS, ids=lambda folder: folder.name)
def test_a_training_is_tracked(bundle: Path, tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", cases=10, kind=KINDS[bundle])
    write_manifest(data, data / "manifest.json", "phantom")
    settings = {
        "config_file": bundle / "configs" / "train.json",
        "bundle_root": bundle,
        "dataset_dir": data,
        "manifest": data / "manifest.json",
        "output_dir": tmp_path / "run",
        "epochs": 2,
        "tracking": "mlflow",
        "roi_size": SMALL["roi_size"],
        "base_network_def::channels": SMALL["base_network_def::channels"],
        "base_network_def::strides": SMALL["base_network_def::strides"],
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [str(python_of("mlflow")), "-m", "monai.bundle", "run", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done: best Dice" in done.stderr
    with sqlite3.connect(tmp_path / "run" / "mlruns.db") as database:
        counts = dict(database.execute("SELECT key, COUNT(*) FROM metrics GROUP BY key"))
        states = database.execute("SELECT status FROM runs").fetchall()
    assert counts["val_mean_dice"] == 2 and counts["train_loss"] > 2
    assert states == [("FINISHED",)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run"]
