"""Every command of the READMEs: files exist, keys are known, and the trainings run as printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.harness import SMALL
from helpers.pages import (
    OURS,
    PAGES,
    REPOSITORY,
    RUN,
    RUNS,
    TRAININGS,
    commands,
)
from perforated_monai.bundle.overrides import check_overrides
from perforated_monai.commands.main import COMMANDS
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

KINDS = {"hippocampus_mri_dendritic": "hippocampus", "brain_tumor_mri_dendritic": "tumour"}


def override_of(words: list[str]) -> list[str]:
    """What makes a command of a bundle's page small: data, epochs and crops."""
    small = ["--epochs", "1", "--val_interval", "1", "--roi_size", str(SMALL["roi_size"])]
    config = words[words.index("--config_file") + 1]
    if "inference" in config:
        return []
    return ["--val_roi_size", "@roi_size", *small[4:]] if "evaluate" in config else small


def test_there_are_commands() -> None:
    assert len(RUNS) >= 6
    assert len(OURS) >= 2


@pytest.mark.parametrize("words", RUNS, ids=lambda w: w[-1])
def test_bundle_commands_name_files_and_keys_that_exist(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    check_overrides(words[4:])
    for file in re.findall(r"[\w./-]+\.(?:json|yaml)", words[words.index("--config_file") + 1]):
        assert (REPOSITORY / file).is_file(), file
    monkeypatch.undo()


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_our_commands_exist(words: list[str]) -> None:
    assert words[3] in COMMANDS
    done = subprocess.run(
        [sys.executable, "-m", "perforated_monai", words[3], "--help"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    shown = done.stdout + done.stderr
    for flag in (w for w in words[4:] if w.startswith("--")):
        assert flag[2:].replace("-", "_") in shown.replace("-", "_"), flag


@pytest.mark.slow
@pytest.mark.parametrize("words", TRAININGS, ids=lambda w: w[-1])
def test_training_commands_run_as_printed(words: list[str], phantoms: Path, tmp_path: Path) -> None:
    """As printed, but for the data and the folder; one epoch, small crops."""
    words = [sys.executable, *words[1:]]
    words[words.index("--dataset_dir") + 1] = str(phantoms)
    words[words.index("--output_dir") + 1] = str(tmp_path / "out")
    words += ["--manifest", str(phantoms / "manifest.json"), "--epochs", "1"]
    words += ["--roi_size", str(SMALL["roi_size"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "done: best Dice" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.parts[-3])
def test_every_command_of_a_bundles_page_runs_in_order(
    page: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a folder with a copy of the bundle; phantoms for the data, one epoch, small crops."""
    bundle, folder = page.parents[1], tmp_path_factory.mktemp("page")
    shutil.copytree(bundle, folder / "bundles" / bundle.name)
    data = make_phantoms(folder / "data", cases=10, kind=KINDS[bundle.name])
    write_manifest(data, data / "manifest.json", "phantom")
    printed = commands(page, DATA="data")
    assert len(printed) >= 5
    for words in printed:
        program = [sys.executable, *words[1:]]
        if words[0] == "torchrun":
            program = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            program += ["--backend", "gloo"]
        if RUN[1] in words:
            program += override_of(words)
            if "inference" not in str(words) and "--manifest" not in words:
                program += ["--manifest", "data/manifest.json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-2000:]}"
    assert not (folder / "configs").exists()


def test_four_trainings_are_printed() -> None:
    assert len({words[-1] for words in TRAININGS}) == 4
