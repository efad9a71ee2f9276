"""Cheap dendrites in real runs: growth and roll-back, kill and resume, export."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from ignite.engine import Events

from helpers.harness import BUNDLE, history, in_child, kill_in, same_run, train, workflow
from perforated_monai.export.into_bundle import export_run

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
pytestmark = pytest.mark.filterwarnings("ignore:Layers without:UserWarning")
KINDS = ["depthwise", "pointwise", "grouped", "low_rank"]
# The default suite trains one: two convolutions a dendrite, and layers of every sort.
SOME = [pytest.param(k, marks=() if k == "low_rank" else pytest.mark.slow) for k in KINDS]
SETTINGS = {
    "epochs": 6,
    "dendrites::tries": 2,
    "dendrites::improvement_threshold": [0.0, 0.9],  # the first set is drawn twice and rejected
    "dendrites::max_dendrites": 1,
    "dendrites::patience": 2,
}


@pytest.mark.parametrize("kind", SOME)
def test_a_killed_run_ends_bit_for_bit_alike(kind: str, phantoms: Path, tmp_path: Path) -> None:
    """Killed before growth, and after it while the set is on trial; sets are rejected."""
    changes = SETTINGS | {"dendrites::kind": kind}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(phantoms, whole, dendrites=True, **changes)
    events = history(whole)
    grown = [e["epoch"] for e in events if e["event"] == "grow"]
    assert len(grown) == 2 and [e["event"] for e in events].count("reject") >= 1
    for epoch in (grown[0], grown[0] + 1, grown[1] + 1):
        assert in_child(lambda e=epoch: kill_in(e, phantoms, killed, **changes)) == -signal.SIGKILL
    assert in_child(lambda: train(phantoms, killed, dendrites=True, **changes) and None) == 0
    same_run(whole, killed)
    assert events[-1]["integrated_dendrite_sets"] == 0


@pytest.mark.parametrize("kind", [*SOME, pytest.param(None, id="sets of the overlay")])
def test_a_run_becomes_a_bundle(kind: str | None, phantoms: Path, tmp_path: Path) -> None:
    settings = {"dendrites::kind": kind, "dendrites::patience": 2, "epochs": 4}
    train_with_rising_scores(phantoms, tmp_path / "run", **settings)
    assert history(tmp_path / "run")[-1]["integrated_dendrite_sets"] == 1
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    record = export_run(tmp_path / "run", bundle)
    entries = record["dendrites"].values()
    kinds = {"distal", "apical"} if kind is None else {kind}
    assert {e["kind"] for e in entries} == kinds and record["max_abs_difference"] < 1e-5
    written = json.loads((bundle / "configs" / "inference.json").read_text())
    assert written["network_def"]["spec"]["dendrites"] == record["dendrites"]
    parity = json.loads((bundle / "models" / "parity.json").read_text())
    shares = [parity[cost]["total"] / parity[cost]["base"] for cost in ("parameters", "flops")]
    assert all(1 < share < (3 if kind is None else 1.5) for share in shares), shares


def train_with_rising_scores(data: Path, out: Path, **changes: object) -> None:
    """Each epoch's Dice gives way to one that rises, so that the grown network is the best."""
    made = workflow(data, out, dendrites=True, **changes)
    trainer = made.parser.get_parsed_content("train::trainer")
    evaluator = made.parser.get_parsed_content("validate::evaluator")

    def score() -> None:
        evaluator.state.metrics["val_mean_dice"] = 0.1 * trainer.state.epoch

    evaluator.add_event_handler(Events.COMPLETED, score)
    made.run()
