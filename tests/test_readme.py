"""Every command of the READMEs: files exist, keys are known, and the trainings run as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import SMALL
from perforated_monai.__main__ import COMMANDS
from perforated_monai.cli_config import check_overrides

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("bundles/*/docs/README.md"))]
VARIABLES = {"B": "bundles/hippocampus_mri_dendritic", "DATA": "../shared/data/Task04_Hippocampus"}


def commands(page: Path) -> list[list[str]]:
    """Commands of a page's ``bash`` blocks, variables filled in, comments left out."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in VARIABLES.items():
                line = re.sub(rf"\${name}\b", value, line)
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


ALL = [(page, words) for page in PAGES for words in commands(page)]
RUNS = [words for _, words in ALL if words[:4] == ["python", "-m", "monai.bundle", "run"]]
OURS = [words for _, words in ALL if words[:3] == ["python", "-m", "perforated_monai"]]
TRAININGS = [
    w for w in RUNS if "--output_dir" in w and w[-1].startswith(("runs/full", "runs/comp"))
]


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


def test_four_trainings_are_printed() -> None:
    assert len({words[-1] for words in TRAININGS}) == 4
