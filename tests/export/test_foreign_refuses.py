"""A stranger's bundle: what is refused, and kills of its run and export."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

from helpers.foreign_bundles import (
    grown_sets,
    run_overlay,
    spleen,
    train_with_overlay,
    tree_hash,
    write_cases,
)
from helpers.grown_foreign import prepared
from helpers.harness import (
    history,
    in_child,
    kill_self,
    refused,
    same_run,
)
from perforated_monai import UserError
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.overlay.parts import Given
from perforated_monai.commands.main import main
from perforated_monai.export import plain_network
from perforated_monai.export.new_bundle import export_to_new_bundle

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("bundle", "must be apart"),
        ("bundle/new", "must be apart"),
        ("run/new", "must be apart"),
        ("", "must be apart"),
        ("there", "exists: name a new folder"),
    ],
)
def test_an_export_never_writes_into_what_it_reads(
    out: str, message: str, grown: Callable, tmp_path: Path
) -> None:
    source = grown("spleen")
    shutil.copytree(source.bundle, tmp_path / "bundle")
    shutil.copytree(source.run, tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    before = tree_hash(tmp_path)
    with pytest.raises(UserError, match=message):
        export_to_new_bundle(tmp_path / "run", tmp_path / "bundle", tmp_path / out)
    assert tree_hash(tmp_path) == before


def test_the_commands_refuse_the_bundle_itself(
    grown: Callable, capsys: pytest.CaptureFixture
) -> None:
    source = grown("spleen")
    assert main(["export", str(source.run), "--bundle", str(source.bundle)]) == 1
    assert "add --out NEW_FOLDER" in capsys.readouterr().err
    assert main(["export", "--bundle", str(source.bundle), "--out", "x"]) == 2
    assert tree_hash(source.bundle) == source.before


def test_a_killed_export_leaves_nothing_under_its_name(
    grown: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = grown("spleen")
    new = tmp_path / "new"

    def killed() -> None:
        monkeypatch.setattr(plain_network, "prove", lambda *_: kill_self())
        export_to_new_bundle(source.run, source.bundle, new)

    assert in_child(killed) == -signal.SIGKILL
    assert not new.exists() and len(list(tmp_path.iterdir())) == 1
    export_to_new_bundle(source.run, source.bundle, new)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_missing_files_are_named(grown: Callable, tmp_path: Path) -> None:
    source = grown("spleen")
    for name in ("inference.json", "metadata.json"):
        copy = tmp_path / name
        shutil.copytree(source.bundle, copy)
        (copy / "configs" / name).unlink()
        with pytest.raises(UserError, match=name.split(".")[0]):
            export_to_new_bundle(source.run, copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_it_starts_from_the_bundles_weights(tmp_path: Path) -> None:
    """Another file under models/model.pt gives another first score; a wrong one is refused."""
    bundle, data = prepared(tmp_path, "spleen")
    weights = bundle / "models" / "model.pt"
    one = {"train::trainer::max_epochs": 1}
    train_with_overlay(bundle, data, tmp_path / "a", **one)
    state = torch.load(weights, weights_only=True)
    torch.save({"model": {k: v * 2 for k, v in state.items()}}, weights)
    train_with_overlay(bundle, data, tmp_path / "b", **one)
    train_with_overlay(bundle, data, tmp_path / "c", Choices(from_scratch=True), **one)
    losses = [history(tmp_path / name)[0]["loss"] for name in "abc"]
    assert len(set(losses)) == 3
    torch.save({f"x.{k}": v for k, v in state.items()}, weights)
    with refused("model.pt does not fit this network"):
        train_with_overlay(bundle, data, tmp_path / "d", **one)


def test_a_network_that_export_could_not_rebuild_stops_at_the_start(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    config = json.loads((bundle / "configs" / "train.json").read_text())
    config["network"] = "$torch.nn.Sequential(@network_def, torch.nn.Conv3d(2, 2, 1)).to(@device)"
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with refused("network_def does not make the network that trains"):
        train_with_overlay(bundle, data, tmp_path / "run", Choices(from_scratch=True))
    config["network"] = "$@network_def.to(@device)"
    config["network_def"]["bias"] = "$np.bool_(True)"
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with refused("network_def must be made from plain values"):
        train_with_overlay(bundle, data, tmp_path / "run", Choices(from_scratch=True))


def test_another_metric_may_lead(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "brats")
    choices = Choices(given=Given(metric="val_mean_dice_wt"))
    made = train_with_overlay(bundle, data, tmp_path / "run", choices, **{"epochs": 2})
    evaluator = made.parser.get_parsed_content("validate::evaluator")
    last = [e for e in history(tmp_path / "run") if e["event"] == "epoch"][-1]
    assert last["dice"] == pytest.approx(evaluator.state.metrics["val_mean_dice_wt"])
    assert evaluator.state.key_metric_name == "val_mean_dice"


@pytest.mark.parametrize(
    ("interval", "epochs", "killed_in"),
    [
        (1, 5, 4),  # after growth
        (3, 9, 2),  # before the first validation
    ],
)
def test_a_killed_run_goes_on(interval: int, epochs: int, killed_in: int, tmp_path: Path) -> None:
    """Not bit for bit: the order of cases is the bundle's own. But from where it was."""
    data = write_cases(tmp_path / "data")
    bundle = spleen(tmp_path / "spleen", val_interval=interval)
    file, out = tmp_path / "dendrites.yaml", tmp_path / "run"
    file.write_text(make_overlay(bundle))
    before = tree_hash(bundle)
    last = {"train::trainer::max_epochs": epochs}

    def killed() -> None:
        start = ConfigWorkflow.run

        def run(self: ConfigWorkflow) -> object:
            trainer = self.parser.get_parsed_content("train::trainer")
            trainer.add_event_handler(Events.EPOCH_STARTED(once=killed_in), kill_self)
            return start(self)

        ConfigWorkflow.run = run  # type: ignore[method-assign]
        run_overlay(bundle, data, out, file, **last)

    assert in_child(killed) == -signal.SIGKILL
    first = history(out)
    assert len([e for e in first if e["event"] == "epoch"]) == killed_in - 1
    run_overlay(bundle, data, out, file, **last)
    assert history(out)[: len(first)] == first
    done = [e for e in history(out) if e["event"] == "epoch"]
    assert [e["epoch"] for e in done] == list(range(1, epochs + 1))
    assert [e["epoch"] for e in done if e["dice"] is not None] == list(
        range(interval, epochs + 1, interval)
    )
    assert grown_sets(out) == [1]
    assert tree_hash(bundle) == before


def test_the_same_overlay_gives_the_same_run(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    for name in ("a", "b"):
        train_with_overlay(bundle, data, tmp_path / name)
    same_run(tmp_path / "a", tmp_path / "b")


def test_a_bundle_that_is_written_to_is_named(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    config = json.loads((bundle / "configs" / "train.json").read_text())
    config["run"].append("$open(@bundle_root + '/note.txt', 'w').write('x')")
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError) as caught:
        train_with_overlay(bundle, data, tmp_path / "run", **{"train::trainer::max_epochs": 1})
    assert "changed 1 files of the bundle (note.txt)" in str(caught.value.__cause__)


def test_parts_are_those_that_monai_makes(tmp_path: Path) -> None:
    """RunHandler holds the very objects of the trainer."""
    bundle, data = prepared(tmp_path, "brats")
    file = tmp_path / "dendrites.yaml"
    file.write_text(make_overlay(bundle))
    config = ConfigParser.load_config_files([str(bundle / "configs" / "train.json"), str(file)])
    parser = ConfigParser(config)
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data)})
    parser["output_dir"] = str(tmp_path / "run")
    trainer = parser.get_parsed_content("train::trainer")
    handler = parser.get_parsed_content("train::handlers")[-2]
    assert handler.network is trainer.network
    assert handler.optimizer is trainer.optimizer
    assert handler.evaluator is parser.get_parsed_content("validate::evaluator")
    assert handler.lr_scheduler is parser.get_parsed_content("lr_scheduler")
