"""Transforms are found wherever a config of the zoo keeps them, before any object is made."""

from typing import Any

import pytest

from perforated_monai.errors import UserError
from perforated_monai.inference.segment.steps import image_keys, put_steps, without_macros

LOAD = {"_target_": "LoadImaged", "keys": "@image_key"}
SCALE = {"_target_": "ScaleIntensityd", "keys": "@image_key"}


def config(preprocessing: Any, **more: Any) -> dict[str, Any]:
    return {
        "image_key": "image",
        "one": [LOAD],
        "two": [SCALE],
        "preprocessing": preprocessing,
    } | more


@pytest.mark.parametrize(
    "preprocessing",
    [
        [LOAD, SCALE],
        {"_target_": "Compose", "transforms": [LOAD, SCALE]},
        {"_target_": "monai.transforms.Compose", "transforms": "$@one + @two"},
        {"_target_": "Compose", "transforms": "$@both"},
        "@both",
        {"_target_": "Compose", "transforms": ["@first", SCALE]},
    ],
)
def test_every_form_gives_the_same_list(preprocessing: Any) -> None:
    given = config(preprocessing, both=[LOAD, SCALE], first=LOAD)
    steps = put_steps(given, "preprocessing", "inference.yaml")
    assert steps == [LOAD, SCALE]
    assert given["preprocessing"] == {"_target_": "Compose", "transforms": steps}
    steps.pop()  # a list of its own: what it was made of stays
    assert given["both"] == [LOAD, SCALE]


@pytest.mark.parametrize("preprocessing", ["$make()", "@nowhere", "@preprocessing", 3, ["load"]])
def test_what_is_no_list_is_refused(preprocessing: Any) -> None:
    with pytest.raises(UserError, match=r"inference\.yaml: preprocessing must be a list"):
        put_steps(config(preprocessing), "preprocessing", "inference.yaml")


def test_keys_and_macros_are_followed() -> None:
    given = config("%one", pair=["@image_key", "label"])
    assert image_keys(given, {"keys": "@pair"}) == ["image", "label"]
    assert image_keys(given, LOAD) == ["image"]
    assert without_macros(given)["preprocessing"] == [LOAD]
