"""One channel a class equals MONAI's AsDiscreted, ties and missing numbers included."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted

from perforated_monai import OneHotd, UserError

KEYS = ["pred", "label"]


def both(data: dict) -> list[dict]:
    steps = [
        AsDiscreted(KEYS, argmax=[True, False], to_onehot=3),
        OneHotd(KEYS, 3, argmax=[True, False]),
    ]
    return [step(dict(data)) for step in steps]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32], ids=str)
def test_it_equals_monais(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pred = torch.randint(0, 4, (3, 7, 6, 5), generator=generator).float()  # many are equal
    pred[1, 0, 0, 0] = pred[2, 0, 0, 0] = float("inf")
    label = torch.randint(0, 3, (1, 7, 6, 5), generator=generator).to(dtype)
    expected, found = both({"pred": pred, "label": label, "case": "a"})
    for key in KEYS:
        assert found[key].dtype == torch.float32 and torch.equal(found[key], expected[key])
    assert found["case"] == "a"


def test_not_a_number_counts_as_in_argmax() -> None:
    pred = torch.randn(3, 4, 4)
    pred[1, 0, 0] = pred[0, 1, 1] = pred[2, 1, 1] = float("nan")
    expected, found = both({"pred": pred, "label": torch.zeros(1, 4, 4)})
    assert torch.equal(found["pred"], expected["pred"])


def test_the_input_and_its_meta_data_are_kept() -> None:
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    pred = MetaTensor(torch.randn(3, 4, 4, 4), affine=affine)
    before = pred.clone()
    found = OneHotd("pred", 3, argmax=True)({"pred": pred})["pred"]
    assert isinstance(found, MetaTensor) and torch.equal(found.affine, affine)
    assert torch.equal(pred, before)


@pytest.mark.parametrize("data", [{"pred": torch.zeros(2, 3)}, {"label": torch.zeros(3, 3)}])
def test_another_number_of_channels_is_refused(data: dict) -> None:
    step = OneHotd(KEYS, 3, argmax=[True, False], allow_missing_keys=True)
    with pytest.raises(UserError, match=r"must have [31] channel"):
        step(data)
