"""The commands for someone else's bundle, as printed, on one in the style of the zoo's."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from monai.bundle.scripts import run as bundle_run

from helpers.foreign_bundles import FAST, grown_sets, spleen, tree_hash, write_cases
from helpers.pages import ALL, EVERY_RUN, FOREIGN, OURS, REPOSITORY
from perforated_monai.commands.main import main

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")

COMMANDS = [words for _, words in ALL if FOREIGN in " ".join(words)]
# A few epochs, and growth in them whatever the score does; all else as printed.
QUICK = {"train::trainer::max_epochs": 5, **FAST}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the bundle and its data under the names of the pages."""
    spleen(tmp_path / FOREIGN)
    write_cases(tmp_path / "Task09_Spleen")
    return tmp_path


def test_the_first_screen_shows_the_overlay() -> None:
    text = (REPOSITORY / "README.md").read_text()
    first_screen = "\n".join(text.splitlines()[:30])
    assert f"overlay {FOREIGN} > dendrites.yaml" in first_screen
    assert "dendrites.yaml']" in first_screen


def test_all_of_them_are_run_here() -> None:
    assert len(COMMANDS) == 6
    assert all(words in EVERY_RUN or words in OURS for words in COMMANDS)


def test_they_run_as_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: the same functions that the command lines call."""
    before = tree_hash(folder / FOREIGN)
    monkeypatch.chdir(folder)
    for words in COMMANDS:
        if words in OURS:
            ours(words[3:])
        else:
            options = dict(zip(words[4::2], words[5::2], strict=True))
            arguments = {key.removeprefix("--"): value for key, value in options.items()}
            arguments["config_file"] = yaml.safe_load(arguments["config_file"])
            # Dendrites alone take longer to lift the score.
            longer = {"dendrites::patience": 9, "train::trainer::max_epochs": 9}
            quick = QUICK | (longer if "delta" in options["--output_dir"] else {})
            bundle_run(**arguments, **quick, logging_file=False)
    monkeypatch.undo()
    assert tree_hash(folder / FOREIGN) == before
    assert grown_sets(folder / "runs" / "spleen")
    assert (folder / "spleen_dendritic" / "models" / "model.pt").is_file()
    assert (folder / "spleen_delta" / "dendrites.pt").is_file()


def ours(words: list[str]) -> None:
    """Run one of our commands; ``> FILE`` as a shell has it."""
    said = io.StringIO()
    place = words.index(">") if ">" in words else len(words)
    with contextlib.redirect_stdout(said):
        code = main([*words[:place], *(["--formats", "none"] if words[0] == "export" else [])])
    assert code == 0
    if place < len(words):
        Path(words[place + 1]).write_text(said.getvalue())


@pytest.mark.slow
def test_they_run_in_a_shell(folder: Path) -> None:
    """The first three, each in a process of its own."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)
    block = next(b for b in blocks if FOREIGN in b)
    quick = " ".join(f"--{key} '{value}'" for key, value in QUICK.items())
    script = block.replace("--output_dir runs/spleen", f"--output_dir runs/spleen {quick}")
    python = f'python() {{ {sys.executable} "$@"; }}\nset -e\n'
    done = subprocess.run(
        ["bash", "-c", python + script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "max abs difference to the trained network" in done.stdout
    assert (folder / "spleen_dendritic" / "configs" / "inference.json").is_file()
