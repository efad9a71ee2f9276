"""Settings and folders that a training refuses at once, before it writes anything."""

import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.harness import BUNDLE, SMALL, history, refused, train, workflow
from perforated_monai.training.validation import MOST_WITHOUT, NothingFound


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number of 1 or more; got 1.5"),
        ({"epochs": 0}, "epochs must be a whole number of 1 or more; got 0"),
        ({"epochs": -3}, "got -3"),
        ({"epochs": 2, "val_interval": 3}, "val_interval must be at most epochs.*got 3 of 2"),
        ({"seed": 1.5}, "seed must be a whole number of 0 or more; got 1.5"),
        ({"seed": -1}, "seed must be a whole number of 0 or more; got -1"),
    ],
)
def test_a_setting_that_leads_nowhere(
    changes: dict, said: str, few_phantoms: Path, tmp_path: Path
) -> None:
    with refused(said):
        workflow(few_phantoms, tmp_path / "run", **changes).parser.get_parsed_content(
            "train::trainer"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["output_dir", "dataset_dir"])
def test_an_empty_name_is_not_the_current_folder(
    name: str, few_phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(few_phantoms)  # where both would do
    places = {"dataset_dir": str(few_phantoms), "output_dir": str(tmp_path)} | {name: ""}
    with refused("got an empty"):
        made = workflow(few_phantoms, tmp_path)
        made.parser.update(places)
        made.parser.get_parsed_content("train::trainer", lazy=False)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", '{"theirs": 1}', "config.json exists and is no run's configuration"),
        ("history.jsonl", "theirs\n", "holds history.jsonl without a run's config.json"),
        ("checkpoints/best.pt", "theirs", "holds checkpoints without a run's config.json"),
        ("dice.png", "theirs", "holds dice.png without"),
    ],
)
def test_files_of_someone_else_are_kept(
    name: str, content: str, said: str, few_phantoms: Path, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with refused(said):
        train(few_phantoms, tmp_path)
    assert file.read_text() == content
    assert {p.name for p in tmp_path.iterdir()} <= {name.split("/")[0], ".lock"}


def test_validations_that_find_nothing_are_said_once_in_a_row() -> None:
    found = NothingFound()
    for score in [0.0, math.nan] * (MOST_WITHOUT // 2 - 1) + [0.0]:
        assert found.line(score) is None
    said = found.line(0.0)
    assert said is not None and f"of {MOST_WITHOUT} validations in a row is 0" in said
    assert found.line(0.0) is None
    assert found.line(0.5) is None
    assert [found.line(0.0) is not None for _ in range(MOST_WITHOUT)][-1]


def test_a_run_that_finds_nothing_says_so(
    few_phantoms: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perforated_monai.training.validation.MOST_WITHOUT", 1)
    nothing = "$lambda outputs: ([o['pred'] * 0 for o in outputs], [o['label'] for o in outputs])"
    empty = {
        "_target_": "MeanDice",
        "include_background": False,
        "output_transform": nothing,
    }
    train(few_phantoms, tmp_path, epochs=1, **{"validate::key_metric::val_mean_dice": empty})
    assert "warning: the score of 1 validations in a row is 0" in capfd.readouterr().err


@pytest.mark.slow  # a process of its own imports MONAI and trains: a minute on a shared core
def test_a_training_goes_on_without_a_reader_and_ends_with_our_line(
    few_phantoms: Path, tmp_path: Path
) -> None:
    settings = {
        **{key: value for key, value in SMALL.items() if key != "device"},
        "bundle_root": BUNDLE,
        "dataset_dir": few_phantoms,
        "manifest": few_phantoms / "manifest.json",
        "output_dir": tmp_path / "run",
        "epochs": 1,
    }
    words = [sys.executable, "-m", "monai.bundle", "run"]
    words += ["--config_file", str(BUNDLE / "configs" / "train.json")]
    words += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    line = f"set -o pipefail; {shlex.join(words)} 2>&1 | head -1"
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=False).returncode == 0
    assert history(tmp_path / "run")[-1]["event"] == "complete"
    ended = subprocess.run(
        [*words, "--learning_rate", "fast"], capture_output=True, text=True, check=False
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith("Error: TypeError: ") and "while making torch.optim.AdamW" in last
