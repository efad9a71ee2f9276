"""The cache serves exactly what the transforms would make, and nothing else."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    Invertd,
    Lambdad,
    LoadImaged,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    RandFlipd,
    ScaleIntensityd,
    Spacingd,
    SpatialPadd,
)

from helpers.harness import same_run, train
from helpers.msd import image_of, label_of, save
from perforated_monai import CaseDataset, UserError
from perforated_monai.data.cache import DiskCache, transform_hash

KEYS = ["image", "label"]
SHAPE = (10, 12, 9)


def steps(pad: int = 16, spacing: float = 1.5) -> list:
    return [
        LoadImaged(KEYS, reader="NibabelReader", ensure_channel_first=True),
        Orientationd(KEYS, axcodes="LPS", labels=None),
        Spacingd(KEYS, pixdim=[spacing] * 3, mode=["bilinear", "nearest"]),
        NormalizeIntensityd("image"),
        SpatialPadd(KEYS, spatial_size=[pad] * 3),
    ]


@pytest.fixture
def cases(tmp_path) -> list[dict]:
    listed = []
    for k in range(3):
        entry = {key: str(tmp_path / key / f"case_{k}.nii.gz") for key in KEYS}
        save(Path(entry["image"]), image_of(k, SHAPE), np.diag([1, 2, 1.5, 1]))
        save(Path(entry["label"]), label_of(k, SHAPE), np.diag([1, 2, 1.5, 1]))
        listed.append({**entry, "case": f"case_{k}"})
    return listed


MADE: list[str] = []  # cases that were transformed


@pytest.fixture(autouse=True)
def nothing_made():
    MADE.clear()


def dataset(cases: list[dict], tmp_path: Path, **changes) -> CaseDataset:
    """A new dataset on the same cache."""
    counted = Lambdad("case", lambda name: MADE.append(name) or name)
    return CaseDataset(cases, [*steps(**changes), counted], cache_dir=tmp_path / "cache")


def same(a: object, b: object) -> bool:
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return (
            type(a) is type(b) and a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=True))
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.pt"))


def test_a_cached_case_is_what_the_transforms_make(cases, tmp_path):
    plain = CaseDataset(cases, steps())
    for _ in range(2):  # made, then read
        cached = CaseDataset(cases, steps(), cache_dir=tmp_path / "cache")
        for k in range(3):
            for key in KEYS:
                a, b = plain[k][key], cached[k][key]
                assert isinstance(b, MetaTensor)
                assert same(a, b) and a.dtype == b.dtype
                assert same(dict(a.meta), dict(b.meta))
                ours, theirs = (
                    [{k: v for k, v in op.items() if k != "id"} for op in x.applied_operations]
                    for x in (b, a)
                )
                assert same(theirs, ours)
            assert plain[k]["case"] == cached[k]["case"]
    assert len(files(tmp_path)) == 3


def test_cached_cases_can_be_inverted(cases, tmp_path):
    for _ in range(2):  # made, then read, by transforms that are other objects
        transform = Compose(steps())
        inverse = Invertd("pred", transform, orig_keys="image", nearest_interp=True)
        item = CaseDataset(cases, transform, cache_dir=tmp_path / "cache")[0]
        pred = inverse({**item, "pred": item["image"]})["pred"]
        assert pred.shape[1:] == SHAPE
        assert np.allclose(np.abs(pred.affine), np.diag([1, 2, 1.5, 1]), atol=1e-5)


def test_a_later_run_transforms_nothing(cases, tmp_path, capsys):
    for _ in range(3):
        data = dataset(cases, tmp_path)
        for k in range(3):
            data[k]
    assert MADE == ["case_0", "case_1", "case_2"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_cache(workers, cases, tmp_path):
    data = CaseDataset(cases, [*steps(), RandFlipd(KEYS, prob=0.5)], cache_dir=tmp_path / "cache")
    loaded = [b["image"].as_tensor() for b in DataLoader(data, batch_size=1, num_workers=workers)]
    plain = CaseDataset(cases, [*steps(), RandFlipd(KEYS, prob=0.5)])
    assert all(torch.equal(batch[0], plain[k]["image"]) for k, batch in enumerate(loaded))
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("key", KEYS)
def test_a_replaced_file_is_read_again_even_with_the_old_time_stamp(key, cases, tmp_path, capsys):
    before = dataset(cases, tmp_path)[1][key]
    path = Path(cases[1][key])
    stamp = path.stat()
    save(path, (label_of if key == "label" else image_of)(44, SHAPE), np.diag([1, 2, 1.5, 1]))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = dataset(cases, tmp_path)[1][key]
    assert not torch.equal(before, after)
    assert torch.equal(after, CaseDataset(cases, steps())[1][key])
    assert capsys.readouterr().out == "cache: case_1 was changed: made again\n"


@pytest.mark.parametrize("changes", [{"pad": 20}, {"spacing": 1.2}])
def test_a_changed_transform_is_never_served_the_old_case(changes, cases, tmp_path):
    old = dataset(cases, tmp_path)[0]["image"]
    new = dataset(cases, tmp_path, **changes)[0]["image"]
    assert old.shape != new.shape
    assert torch.equal(new, CaseDataset(cases, steps(**changes))[0]["image"])
    MADE.clear()
    assert torch.equal(dataset(cases, tmp_path)[0]["image"], old) and MADE == []


def test_a_case_in_two_folders_has_two_entries(cases, tmp_path):
    other = {**cases[0], "image": cases[1]["image"]}
    data = CaseDataset([cases[0], other], steps(), cache_dir=tmp_path / "cache")
    assert not torch.equal(data[0]["image"], data[1]["image"])
    assert len(files(tmp_path)) == 2


def cut_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(position: float):
    def flipped(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[int(position * (len(data) - 1))] ^= 1
        return bytes(changed)

    return flipped


DAMAGE = {
    "empty": lambda data: b"",
    "half": cut_half,
    "text": lambda data: b"this is no cache file" * 20,
    "head alone": lambda data: data[:150],
    **{f"flip at {x}": flip(x) for x in (0, 0.001, 0.01, 0.3, 0.6, 0.999, 1.0)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again_with_one_line(damage, cases, tmp_path, capsys):
    whole = dataset(cases, tmp_path)[0]["image"]
    (file,) = files(tmp_path)
    data = file.read_bytes()
    file.write_bytes(DAMAGE[damage](data))
    assert torch.equal(dataset(cases, tmp_path)[0]["image"], whole)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("cache: case_0 ") and line.endswith("made again")
    assert torch.equal(dataset(cases, tmp_path)[0]["image"], whole)
    assert capsys.readouterr().out == "", "it was repaired"


def test_every_flipped_byte_is_noticed(cases, tmp_path, capsys):
    whole = dataset(cases, tmp_path)[0]["image"]
    (file,) = files(tmp_path)
    data = file.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 30):
        changed = bytearray(data)
        changed[position] ^= 1 << int(position) % 8
        file.write_bytes(changed)
        assert torch.equal(dataset(cases, tmp_path)[0]["image"], whole)
        assert "made again" in capsys.readouterr().out, position


def test_an_entry_that_would_run_code_is_not_loaded(cases, tmp_path, capsys):
    """Its checksum is right; only `weights_only` stands between it and the process."""

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    dataset(cases, tmp_path)[0]
    (file,) = files(tmp_path)
    head = file.read_bytes().split(b"\n")
    body = pickle.dumps(Evil())
    key = head[1].split(b" ")[0]
    digest = hashlib.sha256(body).hexdigest().encode()
    file.write_bytes(head[0] + b"\n" + key + b" " + digest + b"\n" + body)
    assert isinstance(dataset(cases, tmp_path)[0]["image"], MetaTensor)
    assert "is damaged" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_training_goes_on_where_the_cache_cannot_be_written(cases, tmp_path, capsys):
    data = dataset(cases, tmp_path)
    folder = next((tmp_path / "cache").iterdir())
    folder.rmdir()
    folder.touch()  # no file can be made below a file, not even by root
    assert torch.equal(data[0]["image"], CaseDataset(cases, steps())[0]["image"])
    data[1]
    lines = capsys.readouterr().out.splitlines()
    assert sum("Going on without" in line for line in lines) == 1


def test_a_cache_folder_that_cannot_be_made_is_refused(cases, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache_dir .*file/cache cannot be made"):
        CaseDataset(cases, steps(), cache_dir=tmp_path / "file/cache")


# --- the hash of transforms


class Shift(MapTransform):
    def __init__(self, by: float) -> None:
        super().__init__("image")
        self.by = by

    def __call__(self, data: dict) -> dict:
        return {**data, "image": data["image"] + self.by}


class Minus(Shift):
    def __call__(self, data: dict) -> dict:
        return {**data, "image": data["image"] - self.by}


def scaled(factor: float):
    return Lambdad("image", lambda x: x * factor)


def test_equal_transforms_have_equal_hashes():
    assert transform_hash(Compose(steps())) == transform_hash(Compose(steps()))
    assert transform_hash(scaled(2)) == transform_hash(scaled(2))
    assert transform_hash(Shift(1.0)) == transform_hash(Shift(1.0))


def test_whatever_changes_the_result_changes_the_hash():
    transforms = [
        Compose(steps()),
        Compose(steps(pad=20)),
        Compose(steps(spacing=1.0)),
        Compose(steps()[:-1]),
        Compose(steps()[::-1]),
        ScaleIntensityd("image"),
        ScaleIntensityd("image", minv=-1.0),
        NormalizeIntensityd("image", subtrahend=np.array([1.0])),
        NormalizeIntensityd("image", subtrahend=np.array([2.0])),
        scaled(2),
        scaled(3),
        Lambdad("image", lambda x: x + 2),
        Shift(1.0),
        Shift(2.0),
        Minus(1.0),
        EnsureTyped("image", dtype=torch.float32),
        EnsureTyped("image", dtype=torch.float64),
    ]
    hashes = [transform_hash(t) for t in transforms]
    assert len(set(hashes)) == len(hashes)


def test_use_does_not_change_the_hash(cases):
    transform = Compose([*steps(), RandFlipd(KEYS, prob=0.5)])
    before = transform_hash(transform)
    transform(cases[0])
    assert transform_hash(transform) == before


def test_a_setting_without_a_stable_description_is_refused(cases, tmp_path):
    generator = (x for x in range(3))
    with pytest.raises(UserError, match="cannot tell when a generator changes"):
        DiskCache(tmp_path / "cache", Compose([Lambdad("image", lambda x: next(generator))]))


# --- the knob of the training configs


def test_a_training_with_a_cache_ends_as_one_without(phantoms, tmp_path, capsys):
    train(phantoms, tmp_path / "plain", epochs=1)
    for name in ("filled", "read"):
        train(phantoms, tmp_path / name, epochs=1, cache_dir=str(tmp_path / "cache"))
        same_run(tmp_path / "plain", tmp_path / name)
    assert len(files(tmp_path)) == 10
    assert "cache:" not in capsys.readouterr().out
