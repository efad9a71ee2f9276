"""One data stream: seed, epoch and case decide alone, whatever loads it."""

import hashlib

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    MapTransform,
    NormalizeIntensityd,
    OneOf,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandomizableTransform,
    RandSpatialCropd,
)

from perforated_monai import CaseDataset, EpochSampler, UserError

KEYS = ["image", "label"]


class TorchNoised(RandomizableTransform, MapTransform):
    """A random transform that draws from torch's own generator, as third-party ones do."""

    def __init__(self) -> None:
        RandomizableTransform.__init__(self)
        MapTransform.__init__(self, "image")

    def __call__(self, data: dict) -> dict:
        return {**data, "image": data["image"] + 0.1 * torch.randn(data["image"].shape)}


class InPlaced(RandomizableTransform, MapTransform):
    """A random transform that writes into the array it was given."""

    def __init__(self) -> None:
        RandomizableTransform.__init__(self)
        MapTransform.__init__(self, "image")

    def __call__(self, data: dict) -> dict:
        data["image"] *= 2
        return data


def transforms() -> Compose:
    return Compose(
        [
            EnsureTyped(KEYS),
            Compose([NormalizeIntensityd("image")]),
            RandFlipd(KEYS, prob=0.5, spatial_axis=0),
            RandAffined(KEYS, prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"]),
            OneOf([RandGaussianNoised("image", prob=1.0), Lambdad("image", lambda x: -x)]),
            RandSpatialCropd(KEYS, roi_size=[8, 8, 8], random_size=False),
            TorchNoised(),
        ]
    )


@pytest.fixture
def cases() -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.normal(size=(1, 16, 16, 16)).astype(np.float32),
            "label": rng.integers(0, 3, (1, 16, 16, 16)).astype(np.uint8),
            "case": f"case_{i}",
        }
        for i in range(5)
    ]


def digest(batch: dict) -> str:
    parts = [batch[k].as_tensor().numpy().tobytes() for k in KEYS]
    return hashlib.sha256(b"".join(parts) + "".join(batch["case"]).encode()).hexdigest()


def stream(
    cases: list[dict], epochs: range, seed: int = 0, workers: int = 0, cache: bool = True
) -> list[list[str]]:
    """Hash of every batch of every epoch, from fresh objects."""
    dataset = CaseDataset(cases, transforms(), seed=seed, cache=cache)
    sampler = EpochSampler(dataset, seed=seed)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        num_workers=abs(workers),
        persistent_workers=workers < 0,
    )
    hashes = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        hashes.append([digest(batch) for batch in loader])
    return hashes


PERSISTENT = -2


@pytest.mark.parametrize("workers", [0, 1, 2, PERSISTENT])
def test_equal_for_any_workers(workers: int, cases: list[dict]) -> None:
    torch.manual_seed(workers + 10)  # generators outside do not matter
    np.random.seed(workers + 10)
    torch.manual_seed(0)
    expected = stream(cases, range(1, 4))
    torch.manual_seed(workers + 10)
    np.random.seed(workers + 10)
    assert stream(cases, range(1, 4), workers=workers) == expected


def test_equal_after_a_restart_and_without_a_cache(cases: list[dict]) -> None:
    whole = stream(cases, range(1, 5))
    assert stream(cases, range(3, 5)) == whole[2:]
    assert stream(cases, range(1, 5), cache=False) == whole


def test_every_epoch_and_seed_differs(cases: list[dict]) -> None:
    hashes = [h for epoch in stream(cases, range(1, 5)) for h in epoch]
    hashes += [h for epoch in stream(cases, range(1, 5), seed=1) for h in epoch]
    assert len(set(hashes)) == len(hashes) == 24


def test_a_case_is_the_same_in_any_order_and_company(cases: list[dict]) -> None:
    dataset = CaseDataset(cases, transforms())
    first = [dataset[(2, i)]["image"] for i in range(5)]
    again = CaseDataset(cases, transforms())
    for i in (4, 2, 0, 3, 1):
        assert torch.equal(again[(2, i)]["image"], first[i])
    assert torch.equal(again[(2, 4)]["image"], first[4])


def test_loading_leaves_the_generators_outside_alone(cases: list[dict]) -> None:
    dataset = CaseDataset(cases, transforms())
    torch.manual_seed(3)
    np.random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    dataset[(1, 0)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_deterministic_transforms_run_once_a_case(cases: list[dict]) -> None:
    calls: list[str] = []
    counted = Lambdad("case", lambda name: calls.append(name) or name)
    steps = [EnsureTyped("image"), counted, RandFlipd("image", prob=0.5)]
    dataset = CaseDataset(cases, steps)
    for epoch in range(3):
        for i in range(5):
            dataset[(epoch, i)]
    assert calls == [f"case_{i}" for i in range(5)]


def test_the_cache_stays_as_it_was_filled(cases: list[dict]) -> None:
    """Even where a transform writes in place, or notes itself in the tensor without firing."""
    steps = [EnsureTyped("image"), RandFlipd("image", prob=0.0), InPlaced()]
    dataset = CaseDataset(cases, steps)
    for epoch in range(1, 6):
        image = dataset[(epoch, 0)]["image"]
        assert torch.equal(image.as_tensor(), 2 * torch.from_numpy(cases[0]["image"]))
        assert len(image.applied_operations) == 1  # the flip


def test_plain_tensors_stay_plain(cases: list[dict]) -> None:
    """MONAI's random transforms would give them meta data that nobody reads."""
    steps = [EnsureTyped(KEYS, track_meta=False), RandGaussianNoised("image", prob=1.0)]
    found = CaseDataset(cases, steps)[(1, 0)]
    assert type(found["image"]) is type(found["label"]) is torch.Tensor
    assert monai.data.get_track_meta()
    assert isinstance(CaseDataset(cases, [EnsureTyped(KEYS), *steps[1:]])[0]["image"], MetaTensor)


def test_by_index_alone_is_epoch_0(cases: list[dict]) -> None:
    dataset = CaseDataset(cases, transforms())
    assert torch.equal(dataset[3]["image"], dataset[(0, 3)]["image"])
    assert len(dataset) == 5


def test_validation_without_random_transforms_needs_no_sampler(cases: list[dict]) -> None:
    dataset = CaseDataset(cases, [EnsureTyped(KEYS)])
    names = [batch["case"][0] for batch in DataLoader(dataset, batch_size=1)]
    assert names == [case["case"] for case in cases]


def test_no_case_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="datalist is empty"):
        CaseDataset([], transforms())


# -- errors ----------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path) -> list[dict]:
    voxels = np.arange(512, dtype=np.float32).reshape(8, 8, 8)
    for name in ("image_0", "label_0", "label_1"):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii")
    (tmp_path / "image_1.nii").write_bytes(b"no volume")
    return [
        {"image": tmp_path / f"image_{i}.nii", "label": tmp_path / f"label_{i}.nii"} for i in (0, 1)
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named(workers: int, broken: list[dict]) -> None:
    dataset = CaseDataset(broken, [LoadImaged(KEYS, reader="NibabelReader")])
    loader = DataLoader(dataset, batch_size=1, num_workers=workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    last = str(caught.value).strip().splitlines()[-1]
    assert str(broken[1]["image"]) in last and str(broken[1]["label"]) in last
    assert "ImageFileError" in last and "Replace or remove this case" in last


def test_a_failing_random_transform_names_the_case(broken: list[dict]) -> None:
    crop = RandSpatialCropd("missing", roi_size=[8, 8, 8])
    dataset = CaseDataset(broken[:1], [LoadImaged(KEYS, reader="NibabelReader"), crop])
    with pytest.raises(UserError, match=r"image_0\.nii, .*label_0\.nii: KeyError"):
        dataset[(1, 0)]


# -- sampler ---------------------------------------------------------------------------------


def order(length: int, epoch: int, **options: object) -> list[int]:
    sampler = EpochSampler(range(length), **options)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {e for e, _ in keys} <= {epoch} and len(keys) == len(sampler)
    return [i for _, i in keys]


def test_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    orders = [tuple(order(20, epoch, seed=seed)) for epoch in (1, 2) for seed in (0, 1)]
    assert all(sorted(o) == list(range(20)) for o in orders)
    assert len(set(orders)) == 4
    assert order(20, 2, seed=1) == list(orders[3])


def test_without_shuffle_the_order_is_the_lists() -> None:
    assert order(7, 3, shuffle=False) == list(range(7))


@pytest.mark.parametrize("length, world", [(8, 2), (9, 2), (11, 4), (3, 4)])
def test_ranks_get_equal_shares_without_overlap(length: int, world: int) -> None:
    shares = [order(length, 5, seed=1, rank=rank, world=world) for rank in range(world)]
    assert {len(share) for share in shares} == {length // world}
    everything = [i for share in shares for i in share]
    assert len(set(everything)) == len(everything) == length // world * world
    # Side by side, the shares are the single process's order: the same global batches.
    together = [i for step in zip(*shares, strict=True) for i in step]
    assert together == order(length, 5, seed=1)[: len(together)]


# -- real volumes ----------------------------------------------------------------------------


def test_real_volumes_give_equal_batches(hippocampus) -> None:
    files = sorted((hippocampus / "imagesTr").glob("[!.]*.nii.gz"))[:3]
    listed = [
        {"image": str(f), "label": str(hippocampus / "labelsTr" / f.name), "case": f.name}
        for f in files
    ]
    steps = [LoadImaged(KEYS, reader="NibabelReader", ensure_channel_first=True)]
    steps += list(transforms().transforms)[1:]
    hashes = []
    for workers in (0, 2):
        dataset = CaseDataset(listed, steps)
        sampler = EpochSampler(dataset)
        sampler.set_epoch(1)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)
        hashes.append([digest(batch) for batch in loader])
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2
