"""Faults 51 to 54: trials that crash, studies that are killed, two workers, mistyped keys."""

import json
import re
from pathlib import Path

import pytest
import yaml

from helpers.harness import BUNDLE, refused
from helpers.study_runs import FILE, KILLED, Done, history_of, row_of
from perforated_monai.study.runner import trials_of
from perforated_monai.study.study_file import load_study


@pytest.mark.fault(51)
def test_a_crashed_trial_is_marked_and_the_others_go_on(phantom_study: Done) -> None:
    assert list(phantom_study.first) == [KILLED.id]
    assert phantom_study.statuses[KILLED.id] == "failed"
    assert [s for t, s in phantom_study.statuses.items() if t != KILLED.id] == ["done"] * 3


@pytest.mark.fault(52)
def test_the_same_command_continues_it_from_its_run_folder(phantom_study: Done) -> None:
    assert row_of(phantom_study, KILLED).status == "done"
    log = (phantom_study.places.run(KILLED) / "log.txt").read_text()
    bars = [int(n) for n in re.findall(r"^epoch +(\d+)", log, re.M)]
    epochs = [json.loads(x) for x in history_of(phantom_study, KILLED) if '"event": "epoch"' in x]
    assert [e["epoch"] for e in epochs] == list(range(1, 7))
    assert 5 <= len(bars) <= 7, "it began anew"


@pytest.mark.fault(53)
def test_two_runners_never_take_one_trial(phantom_study: Done) -> None:
    for trial in trials_of(phantom_study.study):
        log = (phantom_study.places.run(trial) / "log.txt").read_text()
        assert log.count("done: best Dice") == 1, trial.id
    finished = [line.split(":")[0] for line in phantom_study.said if "test Dice" in line]
    assert sorted(finished) == sorted(t.id for t in trials_of(phantom_study.study))


@pytest.mark.fault(54)
@pytest.mark.parametrize("key", ["train::trainer::max_epoch", "train#trainer#max_epoch", "learnig"])
def test_a_mistyped_override_is_refused(key: str, tmp_path: Path) -> None:
    root = tmp_path / BUNDLE.name
    (root / "configs").mkdir(parents=True)
    for name in ("train.json", "evaluate.json"):
        (root / "configs" / name).write_text((BUNDLE / "configs" / name).read_text())
    content = yaml.safe_load(FILE.read_text())
    content["settings"][key] = 1
    file = root / "studies" / "typo.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(content))
    with refused(f"{key} is no key of"):
        load_study(file)
