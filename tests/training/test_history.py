"""``history.jsonl``: whole lines, cut to a checkpoint, and what is drawn from it."""

import json
from pathlib import Path

import pytest

from perforated_monai.training.history import History
from perforated_monai.training.run_folder import RunFolder


def epoch(number: int, dice: float | None = 0.5) -> dict:
    return {
        "event": "epoch",
        "epoch": number,
        "loss": 1.0 / number,
        "dice": dice,
        "lr": [0.01, 0.001],
        "dendrite_sets": 0,
        "parameters": 100,
    }


def test_events_come_back_in_order(tmp_path: Path) -> None:
    history = History(RunFolder(tmp_path))
    history.add({"event": "grow", "epoch": 1})
    history.add({"event": "accept", "epoch": 1})
    history.add({"event": "note", "epoch": 1}, first=True)
    assert history.size() == 0
    history.flush()
    history.add({"event": "complete", "epoch": 2})
    history.flush()
    history.flush()  # nothing is written twice
    assert [e["event"] for e in history.folder.history()] == ["note", "grow", "accept", "complete"]
    lines = history.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.folder.history()
    assert history.size() == history.path.stat().st_size


def test_cut_forgets_what_came_after(tmp_path: Path) -> None:
    history = History(RunFolder(tmp_path))
    history.add({"event": "note", "epoch": 1})
    history.flush()
    kept = history.size()
    before = history.path.read_bytes()
    history.add({"event": "note", "epoch": 2})
    history.flush()
    history.add({"event": "note", "epoch": 3})
    with history.path.open("a") as handle:
        handle.write('{"event": "torn')  # a kill in the middle of a line
    history.cut(kept)
    history.flush()
    assert history.path.read_bytes() == before
    history.add({"event": "note", "epoch": 2})
    history.flush()
    assert [e["epoch"] for e in history.folder.history()] == [1, 2]


def test_cut_before_anything_was_written(tmp_path: Path) -> None:
    history = History(RunFolder(tmp_path))
    history.cut(0)
    assert not history.path.exists()


def test_a_full_disk_is_said_and_the_earlier_lines_stay(tmp_path: Path, full_disk) -> None:
    history = History(RunFolder(tmp_path))
    history.add({"event": "note", "epoch": 1})
    history.flush()
    kept = history.size()
    history.add({"event": "note", "epoch": 2, "text": "x" * 200})
    said = full_disk(history.flush, room=kept + 50)
    assert said.startswith("UserError: Cannot write") and "history.jsonl" in said
    history.cut(kept)
    assert [e["epoch"] for e in history.folder.history()] == [1]


def test_scalars_reach_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra train is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = History(RunFolder(tmp_path))
    history.add(epoch(1, dice=None))
    history.add(epoch(2, dice=0.75))
    history.add({"event": "grow", "epoch": 2})
    history.flush()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    loss = {s.step: s.value for s in board.Scalars("loss")}
    assert loss == {1: 1.0, 2: 0.5}
    assert [(s.step, s.value) for s in board.Scalars("dice")] == [(2, 0.75)]
    assert board.Scalars("lr")[0].value == pytest.approx(0.01)
    assert {"parameters", "dendrite_sets"} <= set(board.Tags()["scalars"])


def test_draws_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="extra train is not installed")
    history = History(RunFolder(tmp_path))
    for number in (1, 2, 3):
        history.add({**epoch(number), "dice_per_class": [0.4, 0.6]})
    history.add({"event": "grow", "epoch": 2})
    history.add({"event": "complete", "epoch": 3, "best_epoch": 2, "best_dice": 0.5})
    history.flush()
    history.draw()
    assert (tmp_path / "dice.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*.tmp"))
