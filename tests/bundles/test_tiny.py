"""The tiny network: its limits, and its shipped overlays from training to the exported bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from helpers.harness import BUNDLE, CPU, history, initialised
from perforated_monai.export.into_bundle import export_run
from perforated_monai.networks.build import build_network
from perforated_monai.networks.cost import count_flops
from perforated_monai.networks.surgery import count_parameters

PLAIN = ("train.json", "tiny.yaml")
GROWN = (*PLAIN, "tiny_dendrites.yaml")
PARAMETERS, FLOPS = 75_000, 0.25e9
WIDE = [14, 28, 58]  # the control of equal size that tiny.yaml names
SHORT = {"epochs": 4, "lr_cycle_epochs": 2, "val_interval": 1, "roi_size": [32, 32, 32]}
SHORT |= {"val_roi_size": [48, 64, 48]}


def config(*names: str) -> ConfigParser:
    files = [str(BUNDLE / "configs" / name) for name in names]
    return ConfigParser(ConfigParser.load_config_files(files))


def flops(network: torch.nn.Module) -> int:
    return count_flops(network.eval(), torch.zeros(2, 1, 40, 56, 40))


def train(data: Path, out: Path, *names: str, **changes: Any) -> None:
    initialised(BUNDLE, names, data, out, device=CPU, **(SHORT | changes)).run()


@pytest.mark.parametrize("channels", [None, WIDE], ids=["tiny", "wide"])
def test_the_plain_networks_keep_the_limits(channels: list[int] | None) -> None:
    parser = config(*PLAIN)
    if channels:
        assert str(channels).replace(" ", "") in (BUNDLE / "configs" / "tiny.yaml").read_text()
        parser["base_network_def::channels"] = channels
    network = parser.get_parsed_content("base_network_def")
    assert count_parameters(network) <= PARAMETERS
    assert flops(network) <= FLOPS


def test_the_micro_network_keeps_its_limits() -> None:
    network = config("train.json", "micro.yaml").get_parsed_content("base_network_def")
    assert count_parameters(network) <= 30_000
    assert flops(network) <= 0.17e9


def test_the_cycle_after_growth_is_whole() -> None:
    parser = config(*GROWN)
    patience, interval = parser["dendrites"]["patience"], parser["val_interval"]
    growth = (patience - 1) * interval
    assert growth + parser["lr_cycle_epochs"] == parser["epochs"] <= growth + patience * interval


def test_it_grows_within_the_limits_and_is_exported(few_phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    grow = {"dendrites::patience": 3, "dendrites::improvement_threshold": [0.0]}
    train(few_phantoms, run, *GROWN, **grow, learning_rate=0.003)
    events = history(run)
    (grown,) = [event for event in events if event["event"] == "grow"]
    assert (grown["epoch"], grown["layers"]) == (2, 2)
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    record = export_run(run, bundle, volumes=few_phantoms / "imagesTr")
    network = build_network(json.loads((bundle / "models" / "network.json").read_text()))
    assert count_parameters(network) == record["parameters"]["total"] == grown["parameters"]
    assert set(record["dendrites"]) == set(config(*GROWN)["dendrites"]["layer_names"])
    assert grown["parameters"] <= PARAMETERS and flops(network) <= FLOPS


def test_without_growth_it_trains_on(few_phantoms: Path, tmp_path: Path) -> None:
    train(few_phantoms, tmp_path / "run", *PLAIN, epochs=2)
    events = history(tmp_path / "run")
    assert [event["event"] for event in events] == ["epoch", "epoch", "complete"]
    assert events[-1]["integrated_dendrite_sets"] == 0
