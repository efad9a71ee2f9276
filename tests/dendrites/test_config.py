"""``DendriteConfig``: frozen, to and from JSON, and errors that say rule, value and cure."""

import dataclasses
import json
import math

import pytest
import yaml

from perforated_monai import DendriteConfig, UserError

OTHERS = ("rank", "kernel", "dilation", "hidden", "reads", "sets")


def test_round_trip_through_json() -> None:
    config = DendriteConfig(
        patience=3,
        switch="fixed",
        improvement_threshold=[0.01, 0],
        improvement_threshold_raw=0.0,
        max_dendrites=5,
        tries=1,
        kind="grouped",
        groups=4,
        activation="relu",
        initialisation="layer",
        scale=1,
        layer_types=["Convolution"],
        layer_names=["model.2.*"],
        exclude=["*.residual"],
        lr_restart=False,
        freeze_base=True,
        verbose=True,
    )
    assert all(
        getattr(config, f.name) != getattr(DendriteConfig(), f.name)
        for f in dataclasses.fields(config)
        if f.name not in OTHERS  # these belong to another kind, or exclude another setting
    )
    assert DendriteConfig.from_dict(json.loads(config.to_json())) == config
    assert DendriteConfig.from_dict(config.to_dict()) == config


def test_files_from_before_the_probe_went() -> None:
    every = {"layers": "all", "auto_layers": 0, "parameter_budget": 0, "probe_batches": 12}
    assert DendriteConfig.from_dict(every | {"patience": 3}) == DendriteConfig(patience=3)
    for key, value in {"layers": "auto", "auto_layers": 2, "parameter_budget": 100}.items():
        with pytest.raises(UserError, match=f"{key} .* no longer chosen by a probe"):
            DendriteConfig.from_dict({key: value})


def test_defaults_are_valid_and_not_shared() -> None:
    first, second = DendriteConfig.from_dict({}), DendriteConfig()
    assert first == second
    first.exclude.append("*")
    assert second.exclude == []


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DendriteConfig().patience = 3


def test_dict_is_a_copy() -> None:
    config = DendriteConfig()
    config.to_dict()["layer_types"].clear()
    assert config.layer_types


@pytest.mark.parametrize("key, near", [("patiance", "patience"), ("max_dendrite", "max_dendrites")])
def test_unknown_setting_is_refused_with_the_near_name(key: str, near: str) -> None:
    with pytest.raises(UserError, match=f"'{key}' is no dendrite setting.*{near}"):
        DendriteConfig.from_dict({key: 1})


def test_unknown_setting_without_a_near_name_lists_all() -> None:
    with pytest.raises(UserError) as caught:
        DendriteConfig.from_dict({"zzz": 1})
    assert all(f.name in str(caught.value) for f in dataclasses.fields(DendriteConfig))


BAD = [
    *[
        (name, v)
        for name in ("patience", "max_dendrites", "tries")
        for v in (0, -1, 1.0, "2", True)
    ],
    *[(name, None) for name in ("patience", "switch", "scale", "layer_types", "verbose")],
    ("switch", "History"),
    ("switch", ["history"]),
    ("activation", "gelu"),
    ("activation", len),
    ("initialisation", "zero"),
    *[("improvement_threshold_raw", v) for v in (-0.1, 1.1, math.nan, math.inf, "1e-5", True)],
    *[("scale", v) for v in (0, -1.0, math.nan, math.inf, 101, "0.01")],
    *[
        ("improvement_threshold", v)
        for v in (0.001, (0.1,), [], ["0.1"], [2.0], [True], [math.nan])
    ],
    *[("layer_types", v) for v in ("Conv3d", ("Conv3d",), [], [3], [None])],
    *[("layer_names", v) for v in ("*", ("*",), [], [3])],
    *[("exclude", v) for v in ("*", (), [3])],
    *[(name, v) for name in ("lr_restart", "freeze_base", "verbose") for v in (1, 0, "true")],
]


@pytest.mark.parametrize("name, value", BAD)
def test_bad_value_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        DendriteConfig.from_dict({name: value})
    assert name in str(caught.value)
    shown = value[0] if isinstance(value, list) and value else value
    assert repr(shown) in str(caught.value) or "empty list" in str(caught.value)


def test_a_tuple_is_told_to_be_a_list() -> None:
    with pytest.raises(UserError, match=r"must be a list of numbers.*square brackets"):
        DendriteConfig(improvement_threshold=(0.1, 0.0))


def test_no_dendrites_is_said_to_be_plain_training() -> None:
    with pytest.raises(UserError, match=r"max_dendrites must be .* >= 1; got 0.*leave the overlay"):
        DendriteConfig(max_dendrites=0)


def test_shipped_overlays_are_valid(repo) -> None:
    overlays = sorted(repo.glob("bundles/*/configs/dendrites*.yaml"))
    assert overlays
    for overlay in overlays:
        settings = yaml.safe_load(overlay.read_text())["dendrites"]
        DendriteConfig.from_dict({k: v for k, v in settings.items() if k != "_desc_"})
