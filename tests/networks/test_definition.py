"""Definitions of networks in configs: resolved by MONAI, or read without evaluating anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.harness import refused
from perforated_monai.bundle.ids import value_of
from perforated_monai.networks.definition import (
    definition_key,
    literal_definition,
    network_definition,
)

UNET = {"_target_": "UNet", "_desc_": "small", "channels": "@widths", "strides": [2]}
PLAIN = {"_target_": "UNet", "channels": [4, 8], "strides": [2]}


def literal(config: dict) -> dict | None:
    return literal_definition(config["network_def"], lambda name: value_of(config, name))


def test_both_ways_give_the_same_where_no_expression_is_in_it() -> None:
    config = {"widths": "@other", "other": [4, 8], "network_def": UNET}
    assert network_definition(config, "network_def") == literal(config) == PLAIN


def test_the_plain_definition_of_a_grown_network_is_taken() -> None:
    grown = {"_target_": "perforated_monai.build_network", "spec": {}}
    config = {"network_def": grown, "base_network_def": PLAIN}
    assert network_definition(config, "network_def") == PLAIN


def test_an_overlay_says_where_the_definition_is() -> None:
    assert definition_key({}) == "network_def"
    assert definition_key({"perforated_overlay": {"network_def": "net"}}) == "net"


@pytest.mark.parametrize(
    ("widths", "more"),
    [
        ("$[4, 8]", {}),
        ("@made", {"made": "$open('ran', 'w')"}),
        ("@made", {"made": {"_target_": "Path", "args": "ran"}}),
        ("@widths", {}),
    ],
    ids=["expression", "behind a reference", "component", "circle"],
)
def test_nothing_of_a_stranger_is_evaluated(
    widths: str, more: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert literal({"network_def": UNET, "widths": widths, **more}) is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()


def test_what_is_no_definition_is_refused_by_name() -> None:
    with refused("must hold network_def with a _target_"):
        network_definition({"network_def": {"channels": 3}}, "network_def")
    with refused("network_def must be made from plain values"):
        network_definition({"network_def": {**PLAIN, "act": "$torch.nn.ReLU()"}}, "network_def")
