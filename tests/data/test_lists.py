"""Datalists refuse broken cases by name; volumes to segment are found."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.msd import fill, image_of, label_of, problems, save
from perforated_monai.data.lists import datalist, find_volumes
from perforated_monai.data.prepare import describe, write_manifest
from perforated_monai.data.schema import FOLDS
from perforated_monai.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    return fill(tmp_path / "data")


@pytest.fixture
def manifest(dataset, tmp_path):
    return write_manifest(dataset, tmp_path / "manifest.json", "tiny")


# --- datalists


@pytest.mark.parametrize("fold", range(FOLDS))
def test_parts_are_disjoint_and_complete(fold, dataset, manifest):
    parts = [
        {entry["case"] for entry in datalist(dataset, manifest, part, fold)}
        for part in ("train", "validation", "test")
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    everything = [entry["case"] for entry in datalist(dataset, manifest, "all")]
    assert everything == sorted(set.union(*parts)) == sorted(manifest.cases)


def test_each_case_is_validated_in_exactly_one_fold(dataset, manifest):
    seen = [
        entry["case"]
        for fold in range(FOLDS)
        for entry in datalist(dataset, manifest, "validation", fold)
    ]
    assert sorted(seen) == sorted(set(manifest.cases) - set(manifest.test))


@pytest.mark.parametrize("test_fold", range(FOLDS))
def test_a_fold_held_out_for_a_study_neither_trains_nor_validates(test_fold, dataset, manifest):
    fold = (test_fold + 1) % FOLDS
    train, validation, held_out = (
        {entry["case"] for entry in datalist(dataset, manifest, part, *folds)}
        for part, folds in (
            ("train", (fold, test_fold)),
            ("validation", (fold, test_fold)),
            ("validation", (test_fold,)),
        )
    )
    assert held_out and not held_out & (train | validation) and not train & validation
    assert len(train | validation | held_out) == len(manifest.cases) - len(manifest.test)
    with pytest.raises(UserError, match="test_fold and fold must differ"):
        datalist(dataset, manifest, "train", fold, fold)


def test_entries_are_what_monai_can_load(dataset, manifest):
    for entry in datalist(dataset, manifest, "all"):
        assert set(entry) == {"image", "label", "case"}
        for key in ("image", "label"):
            path = Path(entry[key])
            assert path.is_absolute()
            assert path.is_file()
            assert path.name == f"{entry['case']}.nii.gz"


def test_manifest_may_be_given_by_path(dataset, manifest, tmp_path):
    by_path = datalist(dataset, tmp_path / "manifest.json", "train")
    assert by_path == datalist(dataset, manifest, "train")


def test_extra_volumes_do_not_enter_a_datalist(dataset, manifest):
    before = datalist(dataset, manifest, "all")
    fill(dataset, range(20, 22))
    assert datalist(dataset, manifest, "all") == before


@pytest.mark.parametrize(
    ("part", "fold", "expected"),
    [
        ("valid", 0, "part must be one of train, validation, test, all; got 'valid'"),
        ("train", 5, "fold must be a number from 0 to 4; got 5"),
        ("train", "0", "fold must be a number from 0 to 4; got '0'"),
    ],
)
def test_unknown_part_or_fold_is_refused(part, fold, expected, dataset, manifest):
    with pytest.raises(UserError, match=expected):
        datalist(dataset, manifest, part, fold)


def test_missing_and_empty_folders_are_refused(manifest, tmp_path):
    with pytest.raises(UserError, match=r"nowhere cannot be read: No such file.*dataset_dir"):
        datalist(tmp_path / "nowhere", manifest, "train")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.DS_Store").touch()
    with pytest.raises(UserError, match=r"empty is empty.*dataset_dir"):
        datalist(tmp_path / "empty", manifest, "train")


def with_channels(root):
    save(root / "imagesTr/case_00.nii.gz", image_of(0, (4, 5, 6, 2)))


def with_label_shape(root):
    save(root / "labelsTr/case_00.nii.gz", label_of(0, (4, 5, 5)))


def with_label_channels(root):
    save(root / "labelsTr/case_00.nii.gz", label_of(0, (4, 5, 6, 2)))


def as_slices(root):
    save(root / "imagesTr/case_00.nii.gz", image_of(0, (4, 5)))
    save(root / "labelsTr/case_00.nii.gz", label_of(0, (4, 5)))


def with_label_shift(root, millimetres=2e-3):
    affine = np.eye(4)
    affine[2, 3] = millimetres
    save(root / "labelsTr/case_00.nii.gz", label_of(0), affine)


def with_nan_affine(root):
    path = root / "labelsTr/case_00.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[280:284] = np.float32("nan").tobytes()  # srow_x[0]
    path.write_bytes(gzip.compress(raw))


def as_text(root):
    (root / "imagesTr/case_00.nii.gz").write_bytes(gzip.compress(b"not a volume"))


def as_link_outside(root):
    outside = root.parent / "outside.nii.gz"
    shutil.move(root / "imagesTr/case_00.nii.gz", outside)
    (root / "imagesTr/case_00.nii.gz").symlink_to(outside)


BROKEN_FOLDERS = {
    "no labelsTr/case_00": lambda root: (root / "labelsTr/case_00.nii.gz").unlink(),
    "no imagesTr/case_00": lambda root: (root / "imagesTr/case_00.nii.gz").unlink(),
    "2 channels (shape (4, 5, 6, 2)), expected 1 channels": with_channels,
    "must have the shape of its image; got (4, 5, 5), imagesTr": with_label_shape,
    "a side (an image also 4-D); got (4, 5, 6, 2)": with_label_channels,
    "must be 3-D with two or more voxels a side (an image also 4-D); got (4, 5).": as_slices,
    "the affine of its image to 0.001 mm; got a difference of 0.002": with_label_shift,
    "must have a finite, invertible affine; got NaN": with_nan_affine,
    "must be a readable NIfTI file; got another kind of file": as_text,
    "must lie inside the dataset folder; got a link": as_link_outside,
}


@pytest.mark.parametrize("expected", BROKEN_FOLDERS)
def test_broken_case_is_refused_by_name_wherever_it_is_read(expected, dataset, manifest):
    assert problems(dataset, manifest) == []
    assert len(datalist(dataset, manifest, "all")) == 12
    BROKEN_FOLDERS[expected](dataset)
    with pytest.raises(UserError) as caught:
        datalist(dataset, manifest, "all")
    assert expected in str(caught.value)
    assert "case_00" in str(caught.value)
    assert any(expected in finding for finding in problems(dataset, manifest))
    with pytest.raises(UserError):
        write_manifest(dataset, dataset / "again.json", "again")
    assert not (dataset / "again.json").exists()


def test_affines_within_the_tolerance_and_single_channel_4d_images_pass(dataset, manifest):
    with_label_shift(dataset, 5e-4)
    save(dataset / "imagesTr/case_01.nii.gz", image_of(1, (4, 5, 6, 1)))
    assert len(datalist(dataset, manifest, "all")) == 12


def test_links_inside_the_dataset_folder_pass(dataset, manifest):
    moved = shutil.move(dataset / "imagesTr/case_00.nii.gz", dataset / "store.nii.gz")
    (dataset / "imagesTr/case_00.nii.gz").symlink_to(moved)
    assert problems(dataset, manifest) == []


def test_all_problems_are_listed_at_once(dataset, manifest):
    (dataset / "labelsTr/case_01.nii.gz").unlink()
    with_label_shape(dataset)
    (dataset / "imagesTr/case_02.nii.gz").write_bytes(b"")
    for case in (3, 4, 5, 6, 7, 8):
        for folder in ("imagesTr", "labelsTr"):
            (dataset / f"{folder}/case_{case:02d}.nii.gz").unlink()
    with pytest.raises(UserError) as caught:
        datalist(dataset, manifest, "all")
    text = str(caught.value)
    assert "6 of the 12 cases" in text
    assert "case_07 and 1 more" in text
    assert all(f"case_{case:02d}" in text for case in range(8))
    assert len(text.splitlines()) == 5


def test_absent_test_part_blocks_neither_training_nor_verification(dataset, manifest):
    for case in manifest.test:
        for file in manifest.files(case):
            (dataset / file).unlink()
    assert problems(dataset, manifest) == []
    assert "kept apart" in describe(manifest, dataset)
    assert len(datalist(dataset, manifest, "train")) > 0
    with pytest.raises(UserError, match="held-out test part: choose train or validation"):
        datalist(dataset, manifest, "test")


# --- volumes to segment


def names(folder):
    return [Path(entry["image"]).relative_to(folder).as_posix() for entry in find_volumes(folder)]


def test_volumes_are_those_in_the_folder(tmp_path):
    for name in ("b.nii", "a.nii.gz", "._a.nii.gz", "note.txt", "imagesTr/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.nii.gz", "b.nii"]
    assert all(set(entry) == {"image"} for entry in find_volumes(tmp_path))


def test_a_pipe_among_the_volumes_is_refused_and_not_read(tmp_path):
    (tmp_path / "a.nii").touch()
    os.mkfifo(tmp_path / "b.nii.gz")
    with pytest.raises(UserError, match=r"b\.nii\.gz must be a regular file"):
        find_volumes(tmp_path)


def test_volumes_of_both_msd_folders(dataset):
    assert names(dataset) == [f"imagesTr/case_{case:02d}.nii.gz" for case in range(12)]
    save(dataset / "imagesTs/case_30.nii.gz", image_of(30))
    assert names(dataset)[-1] == "imagesTs/case_30.nii.gz"
    assert len(names(dataset)) == 13


@pytest.mark.parametrize(
    "clash",
    [("a.nii", "a.nii.gz"), ("imagesTr/a.nii.gz", "imagesTs/a.nii.gz")],
    ids=["two endings", "two folders"],
)
def test_two_volumes_with_one_mask_name_are_refused(clash, tmp_path):
    for name in clash:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        find_volumes(tmp_path)
    assert all(name in str(caught.value) for name in clash)
    (tmp_path / clash[1]).unlink()
    assert names(tmp_path) == [clash[0]]


def test_folders_without_volumes_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere cannot be read"):
        find_volumes(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is empty"):
        find_volumes(tmp_path)
    (tmp_path / "note.txt").touch()
    with pytest.raises(UserError, match="found none"):
        find_volumes(tmp_path)


# --- the real data


def test_real_hippocampus_volumes_are_those_of_the_manifest(hippocampus):
    parts = [datalist(hippocampus, "hippocampus_msd", part) for part in ("train", "validation")]
    assert [len(part) for part in parts] == [166, 42]
    assert len(find_volumes(hippocampus)) == 208
