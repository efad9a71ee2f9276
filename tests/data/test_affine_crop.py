"""One resampling for rotation, scaling and crop: the voxels are those of MONAI's two transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Affine, RandAffineGrid

from perforated_monai import RandAffineCropd, UserError
from perforated_monai.data.affine_crop import crop_grid
from perforated_monai.data.cache import transform_hash

KEYS = ["image", "label"]
RANGES = {"rotate_range": [0.3, 0.2, 0.1], "scale_range": [0.15, 0.15, 0.15]}
SIZE, ROI = (20, 26, 19), (12, 16, 10)


def volumes(size: tuple[int, ...] = SIZE) -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.avg_pool3d(torch.randn(1, *size, generator=generator), 3, 1, 1)
    return {"image": image, "label": (image > 0.1).to(torch.uint8), "case": "a"}


def transform(prob: float, **options) -> RandAffineCropd:
    made = {"mode": ["bilinear", "nearest"], **RANGES, **options}
    return RandAffineCropd(KEYS, roi_size=ROI, prob=prob, **made)


def drawn(seed: int) -> tuple[torch.Tensor, list[int]]:
    """The map and the corner that the transform draws, drawn beside it."""
    state = np.random.RandomState(seed)
    assert state.rand() < 1
    grid = RandAffineGrid(**RANGES, lazy=True)
    grid.set_random_state(state=state)
    grid(SIZE)
    corner = [int(state.randint(0, n - r + 1)) for n, r in zip(SIZE, ROI, strict=True)]
    return grid.get_transformation_matrix(), corner


@pytest.mark.parametrize("seed", range(5))
def test_voxels_are_those_of_affine_then_crop(seed: int) -> None:
    data = volumes()
    found = transform(1.0).set_random_state(seed)(data)
    matrix, corner = drawn(seed)
    inside = (slice(None), *(slice(c, c + r) for c, r in zip(corner, ROI, strict=True)))
    for key, mode in (("image", "bilinear"), ("label", "nearest")):
        affine = Affine(affine=matrix, mode=mode, padding_mode="border", image_only=True)
        whole = affine(data[key].float())
        expected = torch.as_tensor(whole).as_subclass(torch.Tensor)[inside]
        assert found[key].shape == (1, *ROI) and found[key].dtype == data[key].dtype
        if key == "image":
            assert torch.allclose(found[key], expected, atol=1e-4)
        else:  # a voxel on the border between two may round to either
            assert (found[key] != expected).float().mean() < 1e-3
    assert found["case"] == "a"


def test_without_a_map_it_is_a_plain_cut_at_uniform_places() -> None:
    data, corners = volumes(), set()
    for seed in range(40):
        found = transform(0.0).set_random_state(seed)(data)
        places = data["image"][0].unfold(0, 12, 1).unfold(1, 16, 1).unfold(2, 10, 1)
        (at,) = (places == found["image"][0]).flatten(3).all(-1).nonzero().tolist()
        corners.add(tuple(at))
        inside = tuple(slice(c, c + r) for c, r in zip(at, ROI, strict=True))
        assert torch.equal(found["label"][0], data["label"][0][inside])
        found["image"].zero_()
        assert data["image"].abs().max() > 0, "the crop is a copy"
    for axis, most in enumerate(n - r for n, r in zip(SIZE, ROI, strict=True)):
        seen = {corner[axis] for corner in corners}
        assert min(seen) < most / 4 and max(seen) > most * 3 / 4
        assert min(seen) >= 0 and max(seen) <= most


def test_the_identity_keeps_every_voxel() -> None:
    data = volumes()
    grid = crop_grid(torch.eye(4), SIZE, [1, 2, 3], ROI)
    cut = torch.nn.functional.grid_sample(data["image"][None], grid, align_corners=True)
    assert torch.allclose(cut[0, 0], data["image"][0, 1:13, 2:18, 3:13], atol=1e-5)


def test_seed_alone_decides_whatever_the_threads() -> None:
    data = volumes((60, 60, 60))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(RandAffineCropd("image", (48, 48, 48), 1.0, 0.2).set_random_state(3)(data))
    torch.set_num_threads(before)
    assert torch.equal(found[0]["image"], found[1]["image"])
    other = RandAffineCropd("image", (48, 48, 48), 1.0, 0.2).set_random_state(4)(data)
    assert not torch.equal(found[0]["image"], other["image"])


def test_slices_work_as_volumes_do() -> None:
    data = {"image": torch.rand(2, 9, 11)}
    found = RandAffineCropd("image", (4, 5), 1.0, 0.2, mode="bilinear").set_random_state(0)(data)
    assert found["image"].shape == (2, 4, 5)


def test_meta_data_end_here() -> None:
    data = {key: MetaTensor(value) for key, value in volumes().items() if key != "case"}
    for prob in (0.0, 1.0):
        found = transform(prob).set_random_state(0)(data)
        assert type(found["image"]) is type(found["label"]) is torch.Tensor


def test_use_does_not_change_its_hash() -> None:
    step = transform(1.0)
    before = transform_hash(step)
    step.set_random_state(0)(volumes())
    assert transform_hash(step) == before
    assert transform_hash(transform(1.0, rotate_range=0.1)) != before


@pytest.mark.parametrize(
    "change, said",
    [
        ({"label": torch.zeros(1, 20, 26, 18)}, "one shape in space"),
        ({key: torch.zeros(1, 20, 15, 19) for key in KEYS}, "Put SpatialPadd before it"),
        ({key: torch.zeros(1, 20, 26) for key in KEYS}, "Put SpatialPadd before it"),
    ],
)
def test_volumes_that_cannot_be_cropped_are_refused(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        transform(0.5)(volumes() | change)


def test_a_missing_key_is_left_out_only_where_allowed() -> None:
    data = {"image": volumes()["image"]}
    assert "label" not in transform(0.5, allow_missing_keys=True)(data)
    with pytest.raises(KeyError):
        transform(0.5)(data)


# --- crops around the foreground


def spotted(at: tuple[int, int, int]) -> dict:
    data = volumes((40, 40, 30))
    data["label"] = torch.zeros(1, 40, 40, 30, dtype=torch.uint8)
    data["label"][(0, *at)] = 1
    return data


@pytest.mark.parametrize("prob", [0.0, 1.0], ids=["cut", "rotated"])
def test_a_crop_around_the_foreground_holds_it(prob: float) -> None:
    """A single voxel of 48,000 is in few crops at uniform places."""
    corners = [(1, 38, 2), (20, 20, 15), (39, 0, 29)] if prob == 0 else [(22, 17, 14)]
    for at in corners:
        data = spotted(at)
        data["label"] = torch.nn.functional.max_pool3d(data["label"].float(), 3, 1, 1).byte()
        made = transform(prob, foreground=1.0)
        hits = [made.set_random_state(seed)(data)["label"].any().item() for seed in range(20)]
        assert all(hits)
    uniform = transform(prob)
    hits = [uniform.set_random_state(seed)(spotted(at))["label"].any().item() for seed in range(20)]
    assert sum(hits) < 10


def test_without_foreground_the_place_is_uniform_and_no_number_is_drawn_at_0() -> None:
    data = volumes()
    assert torch.equal(
        transform(1.0).set_random_state(3)(data)["image"],
        transform(1.0, foreground=0.0).set_random_state(3)(data)["image"],
    )
    data["label"] = torch.zeros_like(data["label"])
    assert transform(0.0, foreground=1.0).set_random_state(3)(data)["image"].shape == (1, *ROI)
    with pytest.raises(UserError, match=r"foreground from 0 to 1; got 1.5"):
        transform(0.0, foreground=1.5)
