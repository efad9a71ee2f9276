"""``layers: auto`` in real runs: chosen once, before the first growth; kills and exports."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from helpers.foreign_bundles import prostate, train_with_overlay, write_cases
from helpers.harness import BUNDLE, history, in_child, kill_self, refused, same_run, train, workflow
from helpers.ranks import on_ranks, two_rank_workflow, values
from perforated_monai.bundle.overlay.make import Choices
from perforated_monai.export.delta import export_delta
from perforated_monai.export.into_bundle import export_run
from perforated_monai.growth import layer_choice as choosing
from perforated_monai.growth import tracker
from perforated_monai.growth.trained import load_trained
from perforated_monai.training import checkpoints as checkpoint
from perforated_monai.training.checkpoints import load_hashed

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
pytestmark = pytest.mark.filterwarnings("ignore:Layers without:UserWarning")
AUTO: dict[str, Any] = {
    "dendrites::layers": "auto",
    "dendrites::parameter_budget": 500,
    "dendrites::patience": 2,
    "epochs": 5,
}


SHORT = {"dendrites::patience": 2, "epochs": 5}  # sets are added after epochs 1 and 3


def events(out: Path) -> list[dict[str, Any]]:
    """History without the choice itself."""
    return [e for e in history(out) if e["event"] != "choose"]


def chosen(out: Path) -> list[str]:
    return next(e["layers"] for e in history(out) if e["event"] == "choose")


@pytest.fixture(scope="module")
def whole(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(phantoms, out, dendrites=True, **AUTO)
    return out


def test_choosing_every_layer_is_growing_everywhere_bit_for_bit(
    phantoms: Path, tmp_path: Path
) -> None:
    """Two sets: taking the first decision back leaves no trace in the tracker's."""
    train(phantoms, tmp_path / "all", dendrites=True, **SHORT)
    every = {"dendrites::layers": "auto", "dendrites::auto_layers": 6}
    train(phantoms, tmp_path / "auto", dendrites=True, **(SHORT | every))
    assert events(tmp_path / "auto") == events(tmp_path / "all")
    assert [e["event"] for e in events(tmp_path / "all")].count("grow") == 2
    states = [load_hashed(tmp_path / n / "checkpoints" / "best.pt") for n in ("all", "auto")]
    one, other = ({k: v for k, v in s["network"].items() if k != "tracker_string"} for s in states)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_only_the_chosen_layers_grow(whole: Path) -> None:
    record = json.loads((whole / "layers.json").read_text())
    names = [e["name"] for e in record["layers"] if e["grows"]]
    grown = next(e for e in history(whole) if e["event"] == "grow")
    assert 0 < len(names) < len(record["layers"]) == 6
    assert sorted(chosen(whole)) == sorted(names) and grown["layers"] == len(names)
    assert record["added_parameters"] <= 500 and record["batches"] == 8
    assert record["epoch"] == grown["epoch"]
    before = next(e for e in history(whole) if e["event"] == "epoch")["parameters"]
    assert grown["parameters"] == before + record["added_parameters"]
    worth = [e["gain_per_parameter"] for e in record["layers"]]
    assert worth == sorted(worth, reverse=True) and worth[0] > 0
    assert (whole / "layers.png").stat().st_size > 5000


def test_the_network_before_growth_can_still_be_exported(
    phantoms: Path, tmp_path: Path, whole: Path
) -> None:
    """Where every set is rejected the best network is older than the choice."""
    changes = AUTO | {"dendrites::improvement_threshold": [0.0, 0.9], "dendrites::tries": 1}
    train(phantoms, tmp_path / "run", dendrites=True, **changes)
    assert history(tmp_path / "run")[-1]["integrated_dendrite_sets"] == 0
    trained = load_trained(tmp_path / "run")
    assert trained.best["growth"]["layers"] == chosen(tmp_path / "run")
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    assert export_run(tmp_path / "run", bundle)["dendrites"] == {}


def test_a_chosen_network_is_exported(phantoms: Path, tmp_path: Path) -> None:
    changes = AUTO | {"dendrites::kind": "low_rank", "dendrites::parameter_budget": 200}
    made = workflow(phantoms, tmp_path / "run", dendrites=True, **changes)
    trainer = made.parser.get_parsed_content("train::trainer")
    evaluator = made.parser.get_parsed_content("validate::evaluator")

    def score() -> None:
        evaluator.state.metrics["val_mean_dice"] = 0.1 * trainer.state.epoch

    evaluator.add_event_handler(Events.COMPLETED, score)
    made.run()
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    record = export_run(tmp_path / "run", bundle)
    assert sorted(record["dendrites"]) == sorted(chosen(tmp_path / "run"))
    assert record["max_abs_difference"] < 1e-5


def dies_in(owner: object, name: str, call: int = 1) -> None:
    original = getattr(owner, name)
    calls = {"n": 0}

    def dies(*arguments: object, **named: object) -> object:
        calls["n"] += 1
        if calls["n"] == call:
            kill_self()
        return original(*arguments, **named)

    setattr(owner, name, dies)


POINTS: dict[str, Callable[[], None]] = {
    "while the probe runs": lambda: dies_in(choosing, "expected_gains"),
    "between wrapping anew and the ranking's file": lambda: dies_in(choosing, "write_json"),
    "before the best is saved anew": lambda: dies_in(choosing.LayerChoice, "rename_best"),
    "between the choice and the growth": lambda: dies_in(tracker.Tracker, "add_score", 3),
    "before the checkpoint of the growth": lambda: dies_in(checkpoint.Checkpoints, "save", 2),
    "after the growth": lambda: dies_in(checkpoint.Checkpoints, "save", 3),
}
QUICK = ("before the best is saved anew",)


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in POINTS]
)
def test_a_killed_run_keeps_its_choice(
    point: str, phantoms: Path, tmp_path: Path, whole: Path
) -> None:
    def work() -> None:
        POINTS[point]()
        train(phantoms, tmp_path, dendrites=True, **AUTO)

    assert in_child(work) == -signal.SIGKILL
    (tmp_path / "layers.json").unlink(missing_ok=True)  # it is made again from the checkpoint
    assert in_child(lambda: train(phantoms, tmp_path, dendrites=True, **AUTO) and None) == 0
    same_run(whole, tmp_path)
    assert (tmp_path / "layers.json").read_text() == (whole / "layers.json").read_text()


@pytest.mark.slow
def test_random_layers(phantoms: Path, tmp_path: Path, whole: Path) -> None:
    found = set()
    for seed in range(3):
        out = tmp_path / str(seed)
        train(phantoms, out, dendrites=True, **(AUTO | {"dendrites::layers": "random"}), seed=seed)
        record = json.loads((out / "layers.json").read_text())
        assert record["ranking"] == "random" and record["layers"][0]["gain"] is None
        assert record["added_parameters"] <= 500
        found.add(tuple(chosen(out)))
    assert len(found) > 1


@pytest.mark.slow
def test_a_frozen_base_chooses_too(tmp_path: Path) -> None:
    """The first validation grows at once; the base stays bit for bit."""
    bundle, data = prostate(tmp_path / "bundle"), write_cases(tmp_path / "data")
    settings = {"dendrites::layers": "auto", "dendrites::auto_layers": 2, "dendrites::patience": 4}
    train_with_overlay(bundle, data, tmp_path / "run", Choices(freeze_base=True), **settings)
    assert len(chosen(tmp_path / "run")) == 2
    record = export_delta(tmp_path / "run", bundle, tmp_path / "delta")
    assert sorted(record["dendrites"]) == sorted(chosen(tmp_path / "run"))


@pytest.mark.slow
def test_two_ranks_make_one_choice(phantoms: Path, tmp_path: Path) -> None:
    """Rank 0 probes; both train the same layers to the same bits; a killed run goes on."""

    def work(rank: int, out: Path, kill: int = 0) -> None:
        changes = AUTO | {"dendrites::kind": "low_rank", "dendrites::parameter_budget": 200}
        made = two_rank_workflow(phantoms, out, True, **changes)
        trainer = made.parser.get_parsed_content("train::trainer")
        if kill:
            trainer.add_event_handler(Events.EPOCH_STARTED(once=kill), kill_self)
        made.run()
        torch.save(values(trainer.network), tmp_path / f"{out.name}{rank}.pt")

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert on_ranks(lambda rank: work(rank, whole)) == [0, 0]
    one, other = (torch.load(tmp_path / f"whole{r}.pt", weights_only=True) for r in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert 0 < len(chosen(whole)) < 6
    assert on_ranks(lambda rank: work(rank, killed, 4)) == [-signal.SIGKILL] * 2
    assert on_ranks(lambda rank: work(rank, killed)) == [0, 0]
    same_run(whole, killed)


def test_a_budget_that_nothing_fits_ends_before_training(phantoms: Path, tmp_path: Path) -> None:
    with refused("parameter_budget 3 is less than the smallest set"):
        train(phantoms, tmp_path, dendrites=True, **(AUTO | {"dendrites::parameter_budget": 3}))
    assert not (tmp_path / "checkpoints").exists()
