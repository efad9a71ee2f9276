"""Kept crops equal made ones bit for bit, and what was changed is never served."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import (
    EnsureTyped,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandGaussianNoised,
)

from helpers.harness import same_run, train
from helpers.msd import image_of, label_of, save
from perforated_monai import CaseDataset, EpochSampler, RandAffineCropd, UserError
from perforated_monai.data import crops

KEYS = ["image", "label"]
MADE: list[str] = []  # cases that were augmented


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    MADE.clear()


@pytest.fixture
def cases(tmp_path: Path) -> list[dict]:
    listed = []
    for k in range(4):
        entry = {key: str(tmp_path / key / f"case_{k}.nii.gz") for key in KEYS}
        save(Path(entry["image"]), image_of(k, (14, 12, 13)), np.eye(4))
        save(Path(entry["label"]), label_of(k, (14, 12, 13)), np.eye(4))
        listed.append({**entry, "case": f"case_{k}"})
    return listed


def dataset(cases: list[dict], folder: Path | None, std: float = 0.1, **options) -> CaseDataset:
    """A new data set, with its last random step counted."""
    steps = [
        LoadImaged(KEYS, reader="NibabelReader", ensure_channel_first=True),
        NormalizeIntensityd("image"),
        EnsureTyped(KEYS, track_meta=False, dtype=[torch.float32, torch.uint8]),
        RandFlipd(KEYS, prob=0.5, spatial_axis=0),
        RandAffineCropd(KEYS, (8, 8, 8), 0.5, 0.2, mode=["bilinear", "nearest"]),
        RandGaussianNoised("image", prob=0.5, std=std),
        Lambdad("case", lambda name: MADE.append(name) or name),
    ]
    return CaseDataset(cases, steps, crops_dir=folder, **options)


def stream(data: CaseDataset, epochs: range, workers: int = 0) -> list[dict]:
    sampler = EpochSampler(data, seed=data.seed)
    loader = DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers)
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys()
        and a["case"] == b["case"]
        and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in KEYS)
        for a, b in zip(one, other, strict=True)
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch*/*.crop"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_kept_crops_are_what_is_made_bit_for_bit(workers: int, cases, tmp_path) -> None:
    made = stream(dataset(cases, None), range(1, 4))
    folder = tmp_path / "crops"
    assert same(stream(dataset(cases, folder), range(1, 3), workers), made[:4])  # kept now
    MADE.clear()
    assert same(stream(dataset(cases, folder), range(1, 4), workers), made)  # read, then made
    assert len(files(folder)) == 12
    if workers == 0:
        assert len(MADE) == 4, "of the third epoch"


def test_another_seed_or_epoch_has_crops_of_its_own(cases, tmp_path) -> None:
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 2))
    other = stream(dataset(cases, folder, seed=1), range(1, 2))
    assert same(other, stream(dataset(cases, None, seed=1), range(1, 2)))
    assert len(files(folder)) == 8


def test_a_shared_folder_holds_other_lists_of_cases_as_well(cases, tmp_path) -> None:
    """Folds number their cases anew: the index alone does not say which case it is."""
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 2))
    fold = [cases[2], cases[0], cases[3]]
    assert same(
        stream(dataset(fold, folder), range(1, 2)), stream(dataset(fold, None), range(1, 2))
    )


def test_a_changed_transform_is_never_served(cases, tmp_path) -> None:
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 3))
    found = stream(dataset(cases, folder, std=0.2), range(1, 3))
    assert same(found, stream(dataset(cases, None, std=0.2), range(1, 3)))


@pytest.mark.parametrize("key", KEYS)
def test_a_replaced_file_is_never_served(key: str, cases, tmp_path) -> None:
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 3))
    path = Path(cases[1][key])
    state = path.stat()
    save(path, (label_of if key == "label" else image_of)(44, (14, 12, 13)), np.eye(4))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = stream(dataset(cases, folder), range(1, 3))
    assert same(found, stream(dataset(cases, None), range(1, 3)))


@pytest.mark.parametrize("what", ["__version__", "transform_hash", "MAGIC"])
def test_another_version_is_never_served(what: str, cases, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 2))
    MADE.clear()
    value = {"__version__": "9.9", "transform_hash": lambda _: "0" * 64, "MAGIC": b"crop 2\n"}
    monkeypatch.setattr(crops, what, value[what])
    assert same(
        stream(dataset(cases, folder), range(1, 2)), stream(dataset(cases, None), range(1, 2))
    )
    assert len(MADE) == 8


def test_every_flipped_byte_is_noticed(cases, tmp_path, capsys) -> None:
    folder = tmp_path / "crops"
    whole = dataset(cases, folder)[(1, 0)]
    (file,) = files(folder)
    data = file.read_bytes()
    positions = [*range(0, 40), *np.random.default_rng(0).integers(0, len(data), 20)]
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << int(position) % 8
        file.write_bytes(changed)
        found = dataset(cases, folder)[(1, 0)]
        assert all(torch.equal(found[k], whole[k]) for k in KEYS), position
        assert "is damaged: made again" in capsys.readouterr().out
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        assert torch.equal(dataset(cases, folder)[(1, 0)]["image"], whole["image"])
    assert file.read_bytes() == data


def test_the_folder_stays_below_its_bound_and_the_oldest_go_first(cases, tmp_path) -> None:
    folder = tmp_path / "crops"
    stream(dataset(cases, folder), range(1, 2))
    size = files(folder)[0].stat().st_size
    bound = 40 * size
    data = dataset(cases, folder, crops_gb=bound / 1e9)
    for epoch in range(2, 21):
        stream(data, range(epoch, epoch + 1))
        for file in (folder / "epoch1").glob("*.crop"):
            os.utime(file)  # somebody reads the first epoch again and again
        assert sum(f.stat().st_size for f in files(folder)) <= bound
    left = {f.parent.name for f in files(folder)}
    assert {"epoch1", "epoch20", "epoch16"} <= left and not {"epoch2", "epoch5"} & left


def test_the_folder_may_be_deleted_while_it_is_used(cases, tmp_path, capsys) -> None:
    import shutil

    folder = tmp_path / "crops"
    data = dataset(cases, folder)
    stream(data, range(1, 2))
    shutil.rmtree(folder)
    assert same(stream(data, range(1, 3)), stream(dataset(cases, None), range(1, 3)))
    assert capsys.readouterr().out.count("Going on without") == 1


def write_and_read(cases: list[dict], folder: Path, failed: object) -> None:
    try:
        data = dataset(cases, folder, crops_gb=2e-5)
        for _ in range(4):
            stream(data, range(1, 6))
    except BaseException:
        failed.set()  # type: ignore[attr-defined]
        raise


def test_processes_share_a_folder_that_is_too_small_for_them(cases, tmp_path, capfd) -> None:
    context = multiprocessing.get_context("fork")
    failed = context.Event()
    folder = tmp_path / "crops"
    children = [
        context.Process(target=write_and_read, args=(cases, folder, failed)) for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert not failed.is_set() and all(child.exitcode == 0 for child in children)
    assert "damaged" not in capfd.readouterr().out
    assert not list(folder.rglob("*.tmp"))
    assert same(
        stream(dataset(cases, folder), range(1, 6)), stream(dataset(cases, None), range(1, 6))
    )


def test_half_precision_rounds_images_also_where_they_are_made(cases, tmp_path) -> None:
    exact = stream(dataset(cases, None), range(1, 2))
    first, again = (
        stream(dataset(cases, tmp_path / "crops", crops_dtype="float16"), range(1, 2))
        for _ in range(2)
    )
    assert same(first, again)
    for rounded, batch in zip(first, exact, strict=True):
        assert torch.equal(rounded["image"], batch["image"].half().float())
        assert torch.equal(rounded["label"], batch["label"])


def test_whole_labels_take_a_byte_each_and_come_back_as_they_were(tmp_path) -> None:
    label = (torch.arange(512) % 3).reshape(1, 8, 8, 8).float()
    odd = torch.tensor([-0.0, float("nan"), 1e30, 255.0, 256.0, 0.5])
    data = CaseDataset(
        [{"label": label, "odd": odd, "n": 3, "none": None, "empty": torch.empty(0, 2)}],
        [EnsureTyped("label", track_meta=False)],
        crops_dir=tmp_path,
    )
    for _ in range(2):
        found = data[(1, 0)]
        assert found["label"].dtype == torch.float32 and torch.equal(found["label"], label)
        assert torch.equal(found["odd"].view(torch.int32), odd.view(torch.int32))
        assert (found["n"], found["none"], found["empty"].shape) == (3, None, (0, 2))
    (file,) = files(tmp_path)
    assert file.stat().st_size < 512 + 1024


@pytest.mark.parametrize(
    "options, said",
    [
        ({"crops_dtype": "int8"}, "crops_dtype must be one of float32, float16; got 'int8'"),
        ({"crops_gb": 0}, "crops_gb must be a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict, said: str, cases, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        dataset(cases, tmp_path / "crops", **options)


def test_a_folder_that_cannot_be_made_is_refused(cases, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"crops_dir .*file/crops cannot be made"):
        dataset(cases, tmp_path / "file" / "crops")


def test_tensors_with_meta_data_are_refused_with_the_cure(cases, tmp_path) -> None:
    steps = [LoadImaged(KEYS, reader="NibabelReader"), RandFlipd(KEYS)]
    with pytest.raises(UserError, match=r"image is a MetaTensor\. Put EnsureTyped with track_meta"):
        CaseDataset(cases, steps, crops_dir=tmp_path / "crops")[(1, 0)]
    with pytest.raises(UserError, match="keeps a dict of tensors a case; got list"):
        CaseDataset(cases, [lambda case: [case]], crops_dir=tmp_path / "crops")[(1, 0)]


def test_a_training_with_kept_crops_ends_as_one_without(phantoms, tmp_path, capsys) -> None:
    train(phantoms, tmp_path / "plain", epochs=2)
    for name in ("filled", "read"):
        train(phantoms, tmp_path / name, epochs=2, crops_dir=str(tmp_path / "crops"))
        same_run(tmp_path / "plain", tmp_path / name)
    assert "crops:" not in capsys.readouterr().out
