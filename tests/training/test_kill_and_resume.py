"""A hundred kills, half at named points and half at random times: each ends bit-identical.

Run: python -m pytest -m slow tests/test_kill_and_resume.py (about ten minutes on one free core).
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.harness import in_child, kill_self, same_run, train
from perforated_monai.growth import tracker
from perforated_monai.training import checkpoints as checkpoint
from perforated_monai.training.history import History
from perforated_monai.training.run_handler import RunHandler

pytestmark = pytest.mark.slow
SMALL = {"epochs": 6}


@pytest.fixture(scope="module")
def whole(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert in_child(lambda: train(phantoms, out, dendrites=True, **SMALL) and None) == 0
    return out


def patched(owner: object, name: str, call: int, half: bool = False) -> None:
    """Make the n-th call of a function kill its process: before it, or half-way into writing."""
    original = getattr(owner, name)
    calls = {"n": 0}

    def dies(*arguments: object, **named: object) -> object:
        calls["n"] += 1
        if calls["n"] == call:
            if half:
                path, data = arguments
                Path(str(path) + ".half.tmp").write_bytes(data[: len(data) // 2])
            kill_self()
        return original(*arguments, **named)

    setattr(owner, name, dies)


POINTS: dict[str, Callable[[int], None]] = {
    "inside a checkpoint write": lambda n: patched(checkpoint, "write_bytes", 1 + n, half=True),
    "between hash and checkpoint": lambda n: patched(checkpoint, "write_bytes", 1 + n),
    "before a hash": lambda n: patched(checkpoint, "write_text", 1 + n),
    "before the history is written": lambda n: patched(History, "flush", 1 + n % 5),
    "between history and checkpoint": lambda n: patched(RunHandler, "_save", 1 + n % 5),
    "before a score reaches the tracker": lambda n: patched(
        tracker.Tracker, "add_score", 1 + n % 5
    ),
    "inside a restructure": lambda n: patched(tracker.Tracker, "_after_restructure", 1),
    "after a restructure": lambda n: patched(tracker, "_remove_all_but", 1 + n % 2),
    "before a best is saved": lambda n: patched(checkpoint.Checkpoints, "save_best", 1 + n % 3),
    "before growth is opened": lambda n: patched(tracker.Tracker, "open", 1),
}


@pytest.mark.parametrize("trial", range(50))
def test_killed_at_a_named_point(phantoms: Path, tmp_path: Path, whole: Path, trial: int) -> None:
    name = sorted(POINTS)[trial % len(POINTS)]

    def work() -> None:
        POINTS[name](trial // len(POINTS))
        train(phantoms, tmp_path, dendrites=True, **SMALL)

    assert in_child(work) == -signal.SIGKILL, name
    assert in_child(lambda: train(phantoms, tmp_path, dendrites=True, **SMALL) and None) == 0, name
    same_run(tmp_path, whole)


@pytest.mark.parametrize("trial", range(50))
def test_killed_at_a_random_time(phantoms: Path, tmp_path: Path, whole: Path, trial: int) -> None:
    share = random.Random(trial).random()
    seconds = _seconds(whole) * share
    pid = os.fork()
    if pid == 0:
        try:
            train(phantoms, tmp_path, dendrites=True, **SMALL)
        finally:
            os._exit(0)
    time.sleep(0.3 + seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    finished = (tmp_path / "dice.png").exists()
    if not finished:
        code = in_child(lambda: train(phantoms, tmp_path, dendrites=True, **SMALL) and None)
        # A run killed while it drew its picture is finished: its folder says so.
        assert code == 0 or _is_finished(tmp_path)
    same_run(tmp_path, whole)


def _seconds(out: Path) -> float:
    lines = (out / "history.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("seconds", 0.0) for line in lines)


def _is_finished(out: Path) -> bool:
    last = checkpoint.Checkpoints(out / "checkpoints").load_last()
    return bool(last and last["finished"])
