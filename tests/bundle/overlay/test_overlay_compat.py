"""What fails under the installed MONAI is found, said, and mended by lines that train."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from helpers.overlay_reading import Change, merged, overlay
from perforated_monai.bundle.overlay.make import make_compat, make_overlay
from perforated_monai.commands.main import main


def img_size(config: dict[str, Any]) -> None:
    config["network_def"] |= {"img_size": 96}


def renamed_zoom(config: dict[str, Any]) -> None:
    zoom = {"_target_": "RandZoomd", "keys": ["image", "label"], "prob": 1e-05}
    config["train"]["random_transforms"].append(zoom | {"max": 1.1, "min": 0.9})


def byte_labels(config: dict[str, Any]) -> None:
    config["train"]["deterministic_transforms"][0]["dtype"] = "uint8"
    config["train"]["deterministic_transforms"].pop(3)
    config["loss"] = {"_target_": "DiceLoss", "sigmoid": True, "squared_pred": True}


def boolean_labels(config: dict[str, Any]) -> None:
    regions = {"_target_": "ConvertToMultiChannelBasedOnBratsClassesd", "keys": "label"}
    config["train"]["deterministic_transforms"].append(regions)
    config["loss"] = {"_target_": "DiceLoss", "sigmoid": True, "squared_pred": True}


CAST = [{"_target_": "CastToTyped", "keys": "label", "dtype": "$torch.float32"}]


@pytest.mark.parametrize(
    ("change", "said", "key", "value"),
    [
        (img_size, "UNet takes no img_size", "network_def", None),
        (renamed_zoom, "calls max max_zoom", "train::random_transforms::1",
         {"_target_": "RandZoomd", "keys": ["image", "label"], "prob": 1e-05,
          "max_zoom": 1.1, "min_zoom": 0.9}),
        (byte_labels, "DiceLoss fails with labels of torch.uint8",
         "+train::deterministic_transforms", CAST),
        (boolean_labels, "DiceLoss fails with labels of torch.bool",
         "+train::deterministic_transforms", CAST),
    ],
)  # fmt: skip
def test_a_failure_of_the_bundle_itself_is_mended(
    change: Change, said: str, key: str, value: Any, bundle: Callable[..., Path]
) -> None:
    folder = bundle(change)
    compat = make_compat(folder)
    assert said in " ".join(compat.replace("#", " ").split())
    lines = yaml.safe_load(compat)
    assert list(lines) == [key]
    if value is None:
        before = json.loads((folder / "configs" / "train.json").read_text())["network_def"]
        value = {k: v for k, v in before.items() if k != "img_size"}
    assert lines[key] == value
    assert overlay(folder)[key] == value  # the overlay needs no second file


def test_the_mended_loss_takes_what_failed_before(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = bundle(byte_labels)
    (tmp_path / "compat.yaml").write_text(make_compat(folder))
    parser = merged(folder, tmp_path / "compat.yaml")
    loss = parser.get_parsed_content("loss")
    cast = ConfigParser({"cast": parser["train"]["deterministic_transforms"][-1]})
    label = torch.ones(1, 1, 4, 4, 4, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="floating point"):
        loss(torch.rand(1, 1, 4, 4, 4), label)
    mended = cast.get_parsed_content("cast")({"label": label})["label"]
    assert torch.isfinite(loss(torch.rand(1, 1, 4, 4, 4), mended))


def test_a_bundle_that_works_is_left_alone(bundle: Callable[..., Path]) -> None:
    folder = bundle()
    assert make_compat(folder) == ""
    assert "--compat" not in make_overlay(folder)


def bundle_of_version(folder: Path, version: str) -> Path:
    file = folder / "configs" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"monai_version": version}))
    return folder


@pytest.mark.parametrize(("version", "said"), [("1.2.0", True), (monai.__version__, False)])
def test_the_version_that_a_bundle_names_is_compared(
    version: str, said: bool, bundle: Callable[..., Path]
) -> None:
    text = " ".join(make_overlay(bundle_of_version(bundle(), version)).replace("#", " ").split())
    assert (f"was written for monai {version}" in text) is said


def test_the_command_writes_the_file(bundle: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "compat.yaml"
    assert main(["overlay", str(bundle(img_size)), "--compat", str(file)]) == 0
    assert "img_size" not in yaml.safe_load(file.read_text())["network_def"]
