"""``report RUN``: the page of a training run says what happened, and nothing of when or where."""

import json
import shutil
from pathlib import Path

import pytest

from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.training.life_page import life_page
from perforated_monai.training.run_folder import RunFolder


@pytest.fixture
def moved(grown_run: Path, tmp_path: Path) -> Path:
    """A grown run elsewhere, as a slower machine would have written it."""
    folder = tmp_path / "moved"
    folder.mkdir()
    for name in ("config.json", "dice.png"):
        shutil.copy(grown_run / name, folder)
    events = [json.loads(line) for line in (grown_run / "history.jsonl").read_text().splitlines()]
    for event in events:
        if "seconds" in event:
            event["seconds"] += 100
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "history.jsonl").write_text(text)
    return folder


def test_every_event_of_a_grown_run_is_told(grown_run: Path) -> None:
    events = RunFolder(grown_run).history()
    page = life_page(RunFolder(grown_run))
    for event in events:
        if event["event"] == "epoch" and event["dice"] is not None:
            assert f"| {event['dice']:.4f} |" in page
    grown = [e for e in events if e["event"] == "grow"]
    assert grown and page.count("**the tracker adds set") == len(grown)
    for event in grown:
        assert f"(places: {event['layers']}): {event['parameters']:,} parameters" in page
    end = events[-1]
    assert end["event"] == "complete" and f"that of epoch {end['best_epoch']}" in page
    assert f"{end['best_dice']:.4f}" in page and "![Dice by epoch" in page
    assert "- `patience: " in page and "not finished" not in page


def test_the_same_training_gives_the_same_page(grown_run: Path, moved: Path) -> None:
    page = life_page(RunFolder(moved))
    assert page == life_page(RunFolder(grown_run))
    assert str(moved) not in page and str(grown_run) not in page


def test_a_plain_run_has_no_growth_to_tell(plain_run: Path) -> None:
    page = life_page(RunFolder(plain_run))
    assert "no set of dendrites" in page and "tracker" not in page


def test_a_run_that_still_goes_on(moved: Path) -> None:
    file = moved / "history.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0])
    assert "it is not finished" in life_page(RunFolder(moved))
    first = json.loads(lines[0]) | {"dice": None}
    file.write_text(json.dumps(first) + "\n")
    with pytest.raises(UserError, match="has no validation yet"):
        life_page(RunFolder(moved))


def test_the_command_writes_it_beside_the_picture(moved: Path, capsys) -> None:
    assert main(["report", str(moved)]) == 0
    assert (moved / "report.md").read_text() == life_page(RunFolder(moved))
    assert capsys.readouterr().out.strip() == str(moved / "report.md")
    assert main(["report", str(moved), "--scans", "x"]) == 2
    assert "is a training run" in capsys.readouterr().err
    (moved / "report.md").write_text("my own notes\n")
    assert main(["report", str(moved)]) == 1
    assert "is no page of a run: it is kept" in capsys.readouterr().err
    assert (moved / "report.md").read_text() == "my own notes\n"
