"""Label values split into regions, and the regions put together again by the bundle's own steps."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, ConvertToMultiChannelBasedOnBratsClassesd

from perforated_monai import LabelRegionsd, UserError

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "brain_tumor_mri_dendritic"
REGIONS = [[1, 2, 3], [2, 3], [3]]


def config(name: str) -> dict:
    return json.loads((BUNDLE / "configs" / name).read_text())


def label_map_of(regions: torch.Tensor) -> torch.Tensor:
    """The mask that ``inference.json`` makes of logits above 0 inside ``regions``."""
    steps = config("inference.json")["postprocessing"]["transforms"]
    steps = steps[: [s["_target_"] for s in steps].index("Invertd")]
    parser = ConfigParser({"steps": {"_target_": "Compose", "transforms": steps}})
    transform = parser.get_parsed_content("steps")
    return transform({"pred": torch.where(regions > 0, 0.1, -0.1)})["pred"]


def test_each_value_of_task01_falls_into_its_regions():
    label = torch.arange(4.0).reshape(1, 4, 1, 1)
    found = LabelRegionsd("label", REGIONS)({"label": label, "case": "a"})
    assert found["case"] == "a"
    assert found["label"].dtype == torch.float32
    whole, core, enhancing = found["label"].flatten(1).tolist()
    assert whole == [0, 1, 1, 1]
    assert core == [0, 0, 1, 1]
    assert enhancing == [0, 0, 0, 1]


def test_the_training_config_names_these_regions():
    assert config("train.json")["regions"] == REGIONS


def test_monais_brats_transform_takes_edema_for_core():
    """The reason why there is a transform of our own."""
    edema = torch.ones(1, 1, 1, 1)
    core = ConvertToMultiChannelBasedOnBratsClassesd("label")({"label": edema})["label"][0]
    ours = LabelRegionsd("label", REGIONS)({"label": edema})["label"]
    assert bool(core) and ours.flatten().tolist() == [1, 0, 0]


def test_geometry_and_dtypes_of_labels_are_kept():
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1]))
    for dtype in (torch.uint8, torch.int16, torch.float32):
        label = MetaTensor(torch.tensor([3, 0], dtype=dtype).reshape(1, 2, 1, 1), affine=affine)
        found = LabelRegionsd("label", REGIONS)({"label": label})["label"]
        assert isinstance(found, MetaTensor)
        assert torch.equal(found.affine, label.affine)
        assert found[:, 0].flatten().tolist() == [1, 1, 1]


def test_splitting_and_the_label_map_of_inference_are_inverse():
    label = torch.randint(0, 4, (1, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    regions = LabelRegionsd("label", REGIONS)({"label": label})["label"]
    assert torch.equal(label_map_of(regions), label.float())


def test_the_label_map_is_3_over_2_over_1_for_every_combination_of_regions():
    combinations = list(itertools.product((0, 1), repeat=3))  # nested or not
    regions = torch.tensor(combinations, dtype=torch.float32).T.reshape(3, 8, 1, 1)
    expected = [3 if e else 2 if c else 1 if w else 0 for w, c, e in combinations]
    found = label_map_of(regions)
    assert found.shape == (1, 8, 1, 1)
    assert found.flatten().tolist() == expected


def test_inference_names_monai_components_only():
    text = json.dumps([config("inference.json")[k] for k in ("preprocessing", "postprocessing")])
    assert "perforated_monai" not in text


@pytest.mark.parametrize("regions", [[], [[]], [[1], "12"], [[1.5]], [[True]], [3]])
def test_regions_that_are_no_values_are_refused(regions):
    with pytest.raises(UserError, match="whole label values"):
        LabelRegionsd("label", regions)


def test_a_label_of_several_channels_is_refused():
    with pytest.raises(UserError, match="one channel"):
        LabelRegionsd("label", REGIONS)({"label": torch.zeros(3, 2, 2, 2)})


def test_a_missing_key_is_left_out_only_where_allowed():
    assert Compose([LabelRegionsd("label", REGIONS, True)])({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError):
        LabelRegionsd("label", REGIONS)({"image": 1})
