"""Growth inside a real run: optimizer, outputs, roll-back, learning rate, what is written."""

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from helpers.harness import BUNDLE, GROW, SMALL, history, initialised, refused, train, workflow
from perforated_monai import DendriteHandler
from perforated_monai.dendrites.wrapped import wrapped_modules
from perforated_monai.training.optimizer import assert_complete


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


@pytest.fixture(scope="module")
def grown(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One run with two growths, watched from inside."""
    out = tmp_path_factory.mktemp("run")
    before = snapshot(BUNDLE)
    made = workflow(phantoms, out, dendrites=True)
    trainer = made.parser.get_parsed_content("train::trainer")
    optimizer, scheduler = trainer.optimizer, made.parser.get_parsed_content("lr_scheduler")
    handler = next(
        h
        for h in made.parser.get_parsed_content("train::handlers")
        if isinstance(h, DendriteHandler)
    )
    seen: dict = {
        "growths": [],
        "sets": 0,
        "lr": {},
        "out": out,
        "bundle": before,
        "trainer": trainer,
    }

    def after_epoch(engine) -> None:
        before, seen["sets"] = seen["sets"], handler.tracker.sets
        if seen["sets"] <= before:
            return
        trainable = handler.tracker.trainable()
        assert_complete(optimizer, trainable)
        evaluator = handler.evaluator
        evaluator.run(engine.state.epoch)
        seen["growths"].append(
            {
                "epoch": engine.state.epoch,
                "names": [n for n, _ in trainable],
                "same_objects": optimizer is engine.optimizer and scheduler.optimizer is optimizer,
                "dice_after": evaluator.state.metrics["val_mean_dice"],
                "zero_weights": [
                    float(m.dendrites_to_top[-1][-1].abs().max())
                    for _, m in wrapped_modules(engine.network)
                ],
            }
        )

    def step(engine) -> None:
        seen["lr"].setdefault(engine.state.epoch, optimizer.param_groups[0]["lr"])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, after_epoch)
    trainer.add_event_handler(Events.ITERATION_STARTED, step)
    made.run()
    return seen


def test_grows_and_says_so(grown: dict) -> None:
    events = [e["event"] for e in history(grown["out"])]
    assert events.count("grow") == 2
    assert events[-1] == "complete"
    assert len(grown["growths"]) == 2


def test_optimizer_holds_every_trainable_parameter(grown: dict) -> None:
    for growth in grown["growths"]:
        assert growth["same_objects"]
        assert any("dendrites_to_top" in n for n in growth["names"])
        assert not any("parent_module" in n for n in growth["names"])


def test_roll_back_returns_to_the_best_dice(grown: dict) -> None:
    """New dendrites have zero weights, so Dice right after growth is the best Dice before it."""
    events = [e for e in history(grown["out"]) if e["event"] == "grow"]
    for growth, event in zip(grown["growths"], events, strict=True):
        assert growth["epoch"] == event["epoch"]
        assert max(growth["zero_weights"]) == 0.0
        assert growth["dice_after"] == pytest.approx(event["dice_before"], abs=1e-4)


def test_learning_rate_restarts_in_the_epoch_after_growth(grown: dict) -> None:
    for growth in grown["growths"]:
        assert grown["lr"][growth["epoch"] + 1] == grown["lr"][1]
        assert grown["lr"][growth["epoch"]] < grown["lr"][1]


def test_nothing_is_written_outside_the_run_folder(grown: dict) -> None:
    assert snapshot(BUNDLE) == grown["bundle"]
    assert not (Path.cwd() / "tracker").exists() and not (Path.cwd() / "PAI").exists()


def test_the_network_ends_plain(grown: dict) -> None:
    modules = {type(m).__module__.split(".")[0] for m in grown["trainer"].network.modules()}
    assert "perforatedai" not in modules
    sets = next(e for e in history(grown["out"]) if e["event"] == "complete")
    kinds = [type(m).__name__ for m in grown["trainer"].network.modules()]
    assert ("DendriticLayer" in kinds) == (sets["integrated_dendrite_sets"] > 0)


def test_growth_changes_no_output(phantoms: Path, tmp_path: Path) -> None:
    """The best network's outputs before the switch equal the grown network's right after it."""
    made = workflow(phantoms, tmp_path, dendrites=True, epochs=3)
    trainer = made.parser.get_parsed_content("train::trainer")
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    before: dict[int, torch.Tensor] = {}
    after: dict[int, torch.Tensor] = {}

    def look(into: dict) -> None:
        training = trainer.network.training
        trainer.network.eval()
        with torch.no_grad():
            into[trainer.state.epoch] = trainer.network(x)
        trainer.network.train(training)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: look(after))
    first = trainer._event_handlers[Events.EPOCH_COMPLETED]
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: look(before))
    first.insert(0, first.pop())
    made.run()
    events = history(tmp_path)
    grow = next(e for e in events if e["event"] == "grow")
    best = next(e for e in events if e["event"] == "rollback")["to_epoch"]
    assert torch.equal(after[grow["epoch"]], before[best])


def test_a_run_handler_behind_is_refused(phantoms: Path, tmp_path: Path) -> None:
    files = [str(BUNDLE / "configs" / name) for name in ("train.json", "dendrites.yaml")]
    config = ConfigParser.load_config_files(files)
    handlers = config["train"]["handlers"]
    handlers.insert(0, handlers.pop())
    assert handlers[0]["_target_"].endswith("DendriteHandler")
    file = tmp_path / "behind.json"
    file.write_text(json.dumps(config))
    with refused("needs a RunHandler before it in train::handlers"):
        initialised(BUNDLE, [file], phantoms, tmp_path / "run", **(SMALL | GROW)).run()
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_rejected_dendrites_are_reported(phantoms: Path, tmp_path: Path, capfd) -> None:
    """A set that would have to double the Dice is thrown away, and the last line says so."""
    train(
        phantoms,
        tmp_path,
        dendrites=True,
        **{"dendrites::improvement_threshold": [0.0, 0.9], "dendrites::tries": 1},
    )
    events = history(tmp_path)
    assert [e["event"] for e in events].count("reject") == 1
    assert events[-1]["integrated_dendrite_sets"] == 0
    assert "no dendrite was integrated" in capfd.readouterr().err.strip().splitlines()[-1]
