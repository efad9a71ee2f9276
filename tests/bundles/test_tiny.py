"""The tiny and micro networks: limits, and shipped overlays from training to the bundle."""

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

LIMITS = {"tiny": (75_000, 0.30e9), "micro": (30_000, 0.17e9)}
WIDE = [14, 28, 55]  # the control of equal size that tiny.yaml names
each = pytest.mark.parametrize("name", LIMITS)
SHORT = {"epochs": 4, "lr_cycle_epochs": 2, "val_interval": 1, "roi_size": [32, 32, 32]}
SHORT |= {"val_roi_size": [48, 64, 48]}


def config(*names: str) -> ConfigParser:
    files = [str(BUNDLE / "configs" / name) for name in names]
    return ConfigParser(ConfigParser.load_config_files(files))


def flops(network: torch.nn.Module) -> int:
    return count_flops(network.eval(), torch.zeros(2, 1, 40, 56, 40))


def train(data: Path, out: Path, *names: str, **changes: Any) -> None:
    initialised(BUNDLE, names, data, out, device=CPU, **(SHORT | changes)).run()


def plain(name: str) -> tuple[str, ...]:
    return ("train.json", f"{name}.yaml")


def grown(name: str) -> tuple[str, ...]:
    return (*plain(name), "tiny_dendrites.yaml")


@each
def test_the_plain_networks_keep_the_limits(name: str) -> None:
    parameters, operations = LIMITS[name]
    network = config(*plain(name)).get_parsed_content("base_network_def")
    assert count_parameters(network) <= parameters and flops(network) <= operations
    text = (BUNDLE / "configs" / f"{name}.yaml").read_text()
    assert f"{count_parameters(network):,} parameters and {flops(network) / 1e9:.2f} GFLOP" in text


def test_the_control_is_at_least_as_large_as_the_grown_network() -> None:
    assert str(WIDE).replace(" ", "") in (BUNDLE / "configs" / "tiny.yaml").read_text()
    parser = config(*plain("tiny"))
    small = count_parameters(parser.get_parsed_content("base_network_def"))
    parser = config(*plain("tiny"))
    parser["base_network_def::channels"] = WIDE
    wide = parser.get_parsed_content("base_network_def")
    assert count_parameters(wide) >= small + 579 and flops(wide) <= LIMITS["tiny"][1]


@each
def test_the_cycle_after_growth_is_whole(name: str) -> None:
    parser = config(*grown(name))
    patience, interval = parser["dendrites"]["patience"], parser["val_interval"]
    growth = (patience - 1) * interval
    assert growth + parser["lr_cycle_epochs"] == parser["epochs"] <= growth + patience * interval


@each
def test_it_grows_within_the_limits_and_is_exported(
    name: str, few_phantoms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    grow = {"dendrites::patience": 3, "dendrites::improvement_threshold": [0.0]}
    train(few_phantoms, run, *grown(name), **grow, learning_rate=0.003)
    (event,) = [event for event in history(run) if event["event"] == "grow"]
    assert (event["epoch"], event["layers"]) == (2, 1)
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    record = export_run(run, bundle, volumes=few_phantoms / "imagesTr")
    network = build_network(json.loads((bundle / "models" / "network.json").read_text()))
    assert count_parameters(network) == record["parameters"]["total"] == event["parameters"]
    assert {n: e["kind"] for n, e in record["dendrites"].items()} == {"head": "apical"}
    parameters, operations = LIMITS[name]
    assert event["parameters"] <= parameters and flops(network) <= operations
    text = (BUNDLE / "configs" / f"{name}.yaml").read_text()
    assert f"({event['parameters']:,} and {flops(network) / 1e9:.2f} with dendrites)" in text


def test_without_growth_it_trains_on(few_phantoms: Path, tmp_path: Path) -> None:
    train(few_phantoms, tmp_path / "run", *plain("tiny"), epochs=2)
    events = history(tmp_path / "run")
    assert [event["event"] for event in events] == ["epoch", "epoch", "complete"]
    assert events[-1]["integrated_dendrite_sets"] == 0
