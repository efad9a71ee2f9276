"""The rule on metadata agrees with MONAI's schema, key by key and kind by kind."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from perforated_monai.bundle.check.files import BundleFiles
from perforated_monai.bundle.check.metadata_rules import (
    METADATA,
    OPTIONAL,
    REQUIRED,
    TENSOR_KEYS,
    metadata_schema,
)

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((ROOT / "tests" / "helpers" / "schema_20240725.json").read_text())
SHIPPED = json.loads((ROOT / "bundles" / "hippocampus_mri_dendritic" / METADATA).read_text())
VALUES = [None, True, 3, 3.0, 2.5, "text", [], ["a"], [1], [1.5], [None], {}, {"a": 1}]
IMAGE = ("network_data_format", "inputs", "image")
PLACES = [
    *((key,) for key in sorted({*REQUIRED, *OPTIONAL, "more", "latent_data_format"})),
    ("network_data_format", "inputs"),
    ("network_data_format", "outputs"),
    ("network_data_format", "post_processed_outputs"),
    IMAGE,
    *((*IMAGE, key) for key in (*TENSOR_KEYS, "is_patch_data", "channel_def", "modality")),
]


def follows(metadata: dict) -> bool:
    """Whether our rule has nothing to say."""
    bundle = BundleFiles(Path("bundle"), {METADATA: metadata})
    return not list(metadata_schema(bundle))


def obeys_schema(metadata: dict) -> bool:
    return jsonschema.Draft201909Validator(SCHEMA).is_valid(metadata)


def without_or_with(place: tuple[str, ...], value: object) -> dict:
    """The shipped metadata with another value at a place; `...` removes it."""
    metadata = copy.deepcopy(SHIPPED)
    holder = metadata
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        holder.pop(place[-1], None)
    else:
        holder[place[-1]] = value
    return metadata


def test_shipped_metadata_follows_both():
    assert follows(SHIPPED) and obeys_schema(SHIPPED)


@pytest.mark.parametrize("place", PLACES, ids="::".join)
def test_the_rule_judges_as_the_schema_does(place):
    for value in (..., *VALUES):
        metadata = without_or_with(place, value)
        expected = obeys_schema(metadata)
        if expected:  # the one thing that is stricter here: a bundle without tensors is of no use
            formats = metadata["network_data_format"]
            expected = all(formats[end] for end in ("inputs", "outputs"))
        assert follows(metadata) == expected, value


def test_the_places_cover_every_property_of_the_schema():
    assert {place[0] for place in PLACES} >= set(SCHEMA["properties"])
    assert {place[-1] for place in PLACES} >= set(SCHEMA["$defs"]["tensor"]["properties"])
    assert set(REQUIRED) == set(SCHEMA["required"])
    assert set(TENSOR_KEYS) == set(SCHEMA["$defs"]["tensor"]["required"])
