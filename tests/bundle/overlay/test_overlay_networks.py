"""Networks of the zoo that are no component of MONAI's: factories, own code, none at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.overlay_reading import overlay
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.errors import UserError

OWN = """from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 1))
"""


def own_network(config: dict[str, Any]) -> None:
    config["network_def"] = {"_target_": "scripts.nets.Net"}


def own_bundle(folder: Path) -> Path:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "nets.py").write_text(OWN)
    return folder


def test_a_factory_function_is_a_network(bundle: Callable[..., Path]) -> None:
    def factory(config: dict[str, Any]) -> None:
        config["width"] = 1
        config["network_def"] = (
            "$monai.networks.nets.resnet10(spatial_dims=3, n_input_channels=@width)"
        )

    text = make_overlay(bundle(factory))
    assert "a resnet10 of network_def" in text and "% parameters" in text


def test_an_own_network_is_asked_for_trust_at_the_first_message(
    bundle: Callable[..., Path],
) -> None:
    folder = own_bundle(bundle(own_network))
    with pytest.raises(UserError, match=r"scripts\.nets\.Net, .*own code.*add --trust"):
        make_overlay(folder)
    with pytest.raises(UserError, match="add --trust"):
        overlay(folder, given={"network_def": "network_def"})


def test_with_trust_it_grows_and_the_commands_say_what_they_need(
    bundle: Callable[..., Path],
) -> None:
    folder = own_bundle(bundle(own_network))
    text = make_overlay(folder, Choices(trust=True))
    assert "a Net of network_def" in text and "in 2 layers" in text
    assert f"PYTHONPATH={folder}:$PYTHONPATH python -m monai.bundle run" in text
    assert next(li for li in text.splitlines() if " export " in li).endswith("--trust")


def test_a_bundle_without_own_code_needs_no_path(bundle: Callable[..., Path]) -> None:
    assert "PYTHONPATH" not in make_overlay(bundle())


def test_a_network_of_another_library_is_refused_once_and_for_all(
    bundle: Callable[..., Path],
) -> None:
    def foreign(config: dict[str, Any]) -> None:
        config["network_def"] = {"_target_": "torchvision.models.resnet18"}

    with pytest.raises(UserError, match="cannot be rebuilt at export") as caught:
        make_overlay(bundle(foreign))
    assert "--network_def" not in str(caught.value)


def test_a_bundle_without_training_says_so(bundle: Callable[..., Path]) -> None:
    folder = bundle()
    (folder / "configs" / "train.json").unlink()
    (folder / "configs" / "evaluate.json").unlink()
    with pytest.raises(UserError, match="no training with one of MONAI's trainers"):
        make_overlay(folder)
    other = {"trainer": {"_target_": "monai.engines.SupervisedTrainer"}}
    (folder / "configs" / "train_stage1.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"--config.*train_stage1\.json"):
        make_overlay(folder)
