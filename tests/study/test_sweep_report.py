"""The table of a sweep in its report, from a results folder without a database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from helpers.harness import BUNDLE
from helpers.study_results import keep
from perforated_monai.study.collect import collect
from perforated_monai.study.report import write_report
from perforated_monai.study.results import StudyResults, claim
from perforated_monai.study.study_file import load_study
from perforated_monai.study.sweep_report import ended, rows_of, trials
from perforated_monai.study.trial import Places, Trial


def test_trials_are_listed_best_first_and_the_others_with_their_reason(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "width8_sweep.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    scores = {"sets": 1, "parameters": 29_463, "dice_anterior": 0.9, "dice_posterior": 0.8}
    ends: dict[int, dict[str, Any]] = {
        0: scores | {"validation_dice": 0.8},
        1: {"status": "failed", "reason": "pruned: below the median"},
        2: scores | {"validation_dice": 0.85},
        3: {"status": "failed", "reason": "UserError: none"},
        4: {},
    }
    for number, facts in ends.items():
        trial = Trial("width8", f"sweep{number:04d}", 0, 0)
        chosen = {"dendrites": number, "learning_rate": 0.00123456, "layers": "model.0*"}
        keep(places, trial, chosen=chosen, **facts)
    (places.kept(trial) / "result.json").unlink()  # killed before it ended
    results = StudyResults(places)
    header, rows = trials(study, results)
    assert header[:5] == ["trial", "validation Dice", "test Dice", "sets", "parameters"]
    assert header[5:] == list(yaml.safe_load(study.file.read_text())["sweep"]["space"])
    assert [row[0] for row in rows] == ["0002", "0000", "0001", "0003"]
    assert rows[0][1:7] == ["0.8500", "0.8500", "1", "29,463", "2", "0.00123"]
    assert rows[2][1] == "pruned: below the median" and rows[2][5] == "1"
    assert ended(study, rows_of(results)) == "2 done, 1 pruned, 1 failed, of 60"
    page, text = write_report(study, places)
    for shown in (page.read_text(), text.read_text()):
        assert "pruned: below the median" in shown and "2 done, 1 pruned, 1 failed" in shown
    assert "## width8" not in text.read_text()  # no table of arms without runs

    before = text.read_text()
    collect(study, places)
    for folder in places.results.glob("*-sweep*"):
        shutil.rmtree(folder)
    assert write_report(study, places)[1].read_text() == before
