"""The table of a sweep in its report, from a results folder without a database."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from helpers.harness import BUNDLE
from perforated_monai.study.report import write_report
from perforated_monai.study.results import claim
from perforated_monai.study.study_file import load_study
from perforated_monai.study.sweep_report import ended, trials
from perforated_monai.study.trial import Places


def test_trials_are_listed_best_first_and_the_others_with_their_reason(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "width8_sweep.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    done = {"status": "done", "sets": 1, "parameters": 29_463, "dice_a": 0.9, "dice_b": 0.8}
    facts = ("device", "commit", "manifest_sha256")
    done |= dict.fromkeys(facts, "x") | {"versions": {"monai": "1"}}
    results = {
        0: {**done, "validation_dice": 0.8},
        1: {"status": "failed", "reason": "pruned: below the median"},
        2: {**done, "validation_dice": 0.85},
        3: {"status": "failed", "reason": "UserError: none"},
        4: None,  # killed before it ended
    }
    for number, result in results.items():
        folder = places.results / f"width8-sweep{number:04d}-fold0-seed0"
        folder.mkdir()
        chosen = {"dendrites": number, "learning_rate": 0.00123456, "layers": "model.0*"}
        (folder / "sweep.json").write_text(json.dumps(chosen))
        if result is not None:
            (folder / "result.json").write_text(json.dumps(result))
    header, rows = trials(study, places)
    assert header[:5] == ["trial", "validation Dice", "test Dice", "sets", "parameters"]
    assert header[5:] == list(yaml.safe_load(study.file.read_text())["sweep"]["space"])
    assert [row[0] for row in rows] == ["0002", "0000", "0001", "0003"]
    assert rows[0][1:7] == ["0.8500", "0.8500", "1", "29,463", "2", "0.00123"]
    assert rows[2][1] == "pruned: below the median" and rows[2][5] == "1"
    assert ended(study, places) == "2 done, 1 pruned, 1 failed, of 60"
    page, text = write_report(study, places)
    for shown in (page.read_text(), text.read_text()):
        assert "pruned: below the median" in shown and "2 done, 1 pruned, 1 failed" in shown
    assert "## width8" not in text.read_text()  # no table of arms without runs
