"""Growth from a bundle's trained weights begins where the bundle's own evaluation stands."""

import json
from pathlib import Path

import pytest

from helpers.foreign_bundles import spleen, train_with_overlay, write_cases
from helpers.harness import CPU, history, initialised
from perforated_monai.bundle.overlay.make import Choices

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")


def test_the_first_validation_is_the_bundles_own_evaluation(tmp_path: Path) -> None:
    bundle, data = spleen(tmp_path / "spleen"), write_cases(tmp_path / "data")
    before = (bundle / "models" / "model.pt").read_bytes()
    plain = {"device": CPU, "train::trainer::max_epochs": 3}
    made = initialised(bundle, ["train.json"], data, tmp_path / "plain", **plain)
    made.run()  # its CheckpointSaver writes models/model.pt
    assert (bundle / "models" / "model.pt").read_bytes() != before
    files = ["train.json", "evaluate.json"]
    evaluation = initialised(bundle, files, data, tmp_path / "evaluation", device=CPU)
    evaluation.run()
    own = evaluation.parser.get_parsed_content("validate::evaluator").state.metrics
    assert own["val_mean_dice"] > 0.05  # it learned something, or the comparison would be empty
    train_with_overlay(bundle, data, tmp_path / "run", Choices(freeze_base=True))
    first = next(e for e in history(tmp_path / "run") if e["event"] == "epoch")
    assert first["dice"] == pytest.approx(own["val_mean_dice"], abs=1e-6)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "models/model.pt" in json.dumps(config)
