"""What is not clear is asked for by name, and what cannot grow is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.overlay_reading import OURS, Change, add_handler, overlay
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.overlay.parts import Given, find_parts
from perforated_monai.bundle.overlay.train_config import read_train_config
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError


def second_validation(config: dict[str, Any]) -> None:
    config["validate"]["second"] = dict(config["validate"]["evaluator"])
    other = {"_target_": "ValidationHandler", "validator": "@validate::second"}
    config["train"]["handlers"].append(other)


def no_validation(config: dict[str, Any]) -> None:
    del config["train"]["handlers"][0]


def unused_schedule(config: dict[str, Any]) -> None:
    config["decay"] = {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer"}


def two_schedules(config: dict[str, Any]) -> None:
    unused_schedule(config)
    for name in ("decay", "warmup"):
        handler = {"_target_": "LrScheduleHandler", "lr_scheduler": f"@{name}"}
        config["train"]["handlers"].append(handler)


def renamed_trainer(config: dict[str, Any]) -> None:
    trainers = {"one": config["train"].pop("trainer"), "two": {"_target_": "GanTrainer"}}
    config.update(trainers)
    config["run"] = ["$@one.run()"]


def gan(config: dict[str, Any]) -> None:
    trainer = config["train"]["trainer"]
    trainer["_target_"] = "GanTrainer"
    trainer["g_network"] = trainer.pop("network")


def own_network(config: dict[str, Any]) -> None:
    config["network_def"]["_target_"] = "scripts.nets.MyNet"


def two_networks(config: dict[str, Any]) -> None:
    config["teacher"] = dict(config["network_def"])
    config["network"] = "$pick(@network_def, @teacher)"


def lower_is_better(config: dict[str, Any]) -> None:
    config["validate"]["key_metric"] = {"val_hd95": {"_target_": "HausdorffDistance"}}


def unknown_metric(config: dict[str, Any]) -> None:
    config["validate"]["key_metric"] = {"val_mine": {"_target_": "scripts.metrics.Mine"}}


def no_metric(config: dict[str, Any]) -> None:
    del config["validate"]["evaluator"]["key_val_metric"]


@pytest.mark.parametrize(
    ("change", "message", "named", "expected"),
    [
        (second_validation, "--evaluator.*validate::evaluator, validate::second",
         {"evaluator": "validate::second"}, {"evaluator": "validate::second"}),
        (no_validation, "0 evaluators.*--evaluator.*validate::evaluator",
         {"evaluator": "validate::evaluator"}, {"interval": None}),
        (unused_schedule, "No LrScheduleHandler steps it.*--scheduler.*decay",
         {"scheduler": "none"}, {"scheduler": None}),
        (two_schedules, "More than one.*--scheduler.*decay, warmup",
         {"scheduler": "decay"}, {"scheduler": "decay"}),
        (renamed_trainer, "no single component that is the trainer.*--trainer.*one, two",
         {"trainer": "one"}, {"trainer": "one", "handlers": "train::handlers"}),
        (two_networks, "one network; found network_def, teacher.*--network_def",
         {"network_def": "teacher"}, {"network_def": "teacher"}),
        (lower_is_better, "val_hd95 is a HausdorffDistance, where lower is better.*val_accuracy",
         {"metric": "val_accuracy"}, {"metric": "val_accuracy"}),
        (unknown_metric, "val_mine is a Mine.*not known here.*--metric",
         {"metric": "val_mine"}, {"metric": "val_mine"}),
        (no_metric, "has no key_val_metric.*--metric.*val_accuracy",
         {"metric": "val_accuracy"}, {"metric": "val_accuracy"}),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_asked_for_by_name(
    change: Change, message: str, named: dict, expected: dict, bundle: Callable
) -> None:
    folder = bundle(change)
    with pytest.raises(UserError, match=message):
        overlay(folder)
    found = find_parts(read_train_config(folder), Given(**named))
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gan, r"train::trainer \(GanTrainer\) has no network.*cannot grow"),
        (own_network, r"network_def is scripts\.nets\.MyNet.*add --trust"),
        (lambda c: c["train"].pop("trainer"), "nothing in it could be it"),
        (lambda c: c.update(run=["$print('hello')"]), "No expression of train.json runs"),
        (lambda c: c["validate"].update(postprocessing="%nowhere"), "macro .* leads nowhere"),
        (lambda c: c.update(_disabled_=1) or c["train"]["trainer"].update(_disabled_=True),
         "no single component that is the trainer"),
    ],
)  # fmt: skip
def test_what_cannot_be_found_is_said(change: Change, message: str, bundle: Callable) -> None:
    with pytest.raises(UserError, match=message):
        overlay(bundle(change))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"network": "model"}, "--network model: train.json has no such id.*network_def"),
        ({"trainer": "train::handlers"}, "no single component|no component"),
        ({"evaluator": "optimizer"}, "optimizer has no key_val_metric"),
        ({"metric": "dice"}, "no metric dice.*val_mean_dice, val_accuracy"),
        ({"network_def": "optimizer"}, "optimizer is .*Novograd, no network of monai"),
    ],
)
def test_a_wrong_name_is_said_with_the_right_ones(
    named: dict[str, str], message: str, bundle: Callable
) -> None:
    with pytest.raises(UserError, match=message):
        overlay(bundle(), given=named)


def test_a_network_of_own_code_is_not_asked_for_in_a_circle(bundle: Callable) -> None:
    with pytest.raises(UserError, match=r"network_def is scripts\.nets\.MyNet.*add --trust"):
        overlay(bundle(own_network), given={"network_def": "network_def"})


def test_which_of_two_config_files_is_asked_for(bundle: Callable) -> None:
    folder = bundle()
    config = json.loads((folder / "configs" / "train.json").read_text())
    (folder / "configs" / "train.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"train.json and train.yaml: name one with --config"):
        overlay(folder)
    assert "configs/train.yaml" in make_overlay(folder, Choices(config="train.yaml"))
    with pytest.raises(UserError, match=r"has no other.json"):
        overlay(folder, config="other.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "\x00"])
def test_a_broken_config_is_named(text: str, bundle: Callable) -> None:
    folder = bundle()
    (folder / "configs" / "train.json").write_text(text)
    with pytest.raises(UserError, match=r"train.json"):
        overlay(folder)


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_no_bundle_is_said(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["overlay", str(tmp_path / folder)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1


def test_the_command_prints_the_overlay_alone(bundle: Callable, capsys) -> None:
    folder = bundle(unused_schedule)
    words = ["overlay", str(folder), "--scheduler", "none", "--layers", "model.2.*,model.0.*"]
    assert main([*words, "--freeze_base"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["dendrites"]["layer_names"] == ["model.2.*", "model.0.*"]
    assert found["dendrites"]["freeze_base"] is True
    assert main([*words[:2], "--layer", "x"]) == 2


def wrapped(target: str) -> Change:
    return lambda c: c.update(network={"_target_": target, "module": "$@network_def.to(@device)"})


def network_of_objects(config: dict[str, Any]) -> None:
    config["activation"] = {"_target_": "torch.nn.Mish"}
    config["network_def"]["act"] = ["@activation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_handler("train", {"_target_": "ignite.handlers.EMAHandler", "model": "@network"}),
         "train::handlers::3 is a EMAHandler, which keeps a copy"),
        (lambda c: c.update(swa={"_target_": "torch.optim.swa_utils.AveragedModel"}),
         "swa is a AveragedModel"),
        (wrapped("torch.nn.parallel.DistributedDataParallel"), "network wraps .*DistributedData"),
        (lambda c: c.update(network="$torch.nn.DataParallel(@network_def)"), "in DataParallel"),
        (lambda c: c.update(network="$torch.compile(@network_def)"), "in torch.compile"),
        (add_handler("train", {"_target_": OURS[0]}), "already dendritic"),
        (lambda c: c.update(network_def={"_target_": "perforated_monai.build_network"}),
         "--network_def|already dendritic"),
        (lambda c: c.update(dendrites={}), "has a key 'dendrites'"),
        (network_of_objects, "network_def takes an object for act"),
    ],
)  # fmt: skip
def test_what_cannot_grow_is_refused_by_name(
    change: Change, message: str, bundle: Callable
) -> None:
    with pytest.raises(UserError, match=message):
        overlay(bundle(change))


def test_our_own_bundles_are_told_to_use_their_own_overlay(repo: Path) -> None:
    with pytest.raises(UserError, match=r"already dendritic. Use its own dendrites.yaml"):
        overlay(repo / "bundles" / "hippocampus_mri_dendritic")


def test_a_compiled_trainer_is_told_not_to(bundle: Callable) -> None:
    found = overlay(bundle(lambda c: c["train"]["trainer"].update(compile=True)))
    assert found["train::trainer::compile"] is False


def test_early_stopping_is_pointed_out(bundle: Callable) -> None:
    stop = {"_target_": "EarlyStopHandler", "patience": 3, "score_function": "$None"}
    assert "may end the run before dendrites" in make_overlay(bundle(add_handler("train", stop)))
