"""Phantoms: what is drawn, what is written, and what is refused."""

import gzip
import json
import multiprocessing
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from perforated_monai.data.phantoms import (
    ct_phantom,
    hippocampus_phantom,
    make_phantoms,
    tumour_phantom,
)
from perforated_monai.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

SMALL = (24, 24, 24)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, label and affine of twelve hippocampus phantoms."""
    return [hippocampus_phantom(np.random.default_rng(seed)) for seed in range(12)]


def volumes(folder: Path) -> dict[str, bytes]:
    """Uncompressed bytes of every volume by ``folder/name``."""
    return {
        f"{path.parent.name}/{path.name}": gzip.decompress(path.read_bytes())
        for path in sorted(folder.rglob("*.nii.gz"))
    }


# --- hippocampus


def test_crops_have_the_sizes_of_task04(drawn):
    for image, label, affine in drawn:
        assert image.shape == label.shape
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        for size, low, high in zip(image.shape, (31, 40, 24), (43, 59, 47), strict=True):
            assert low <= size <= high
        assert nib.aff2axcodes(affine) == ("R", "A", "S")
        assert np.allclose(nib.affines.voxel_sizes(affine), 1)


def test_both_parts_have_about_the_real_volumes(drawn):
    counts = np.array([np.bincount(label.ravel(), minlength=3) for _, label, _ in drawn])
    assert counts.shape[1] == 3  # no other label
    assert counts[:, 1:].min() > 700
    assert counts[:, 1:].max() < 3500
    assert np.allclose(counts[:, 1:].mean(0), (1700, 1580), rtol=0.2)


def test_parts_are_whole_and_share_a_face_with_the_head_in_front(drawn):
    for _, label, _ in drawn:
        assert ndimage.label(label == 1)[1] == ndimage.label(label == 2)[1] == 1
        front, back = (np.unique(np.nonzero(label == value)[1]) for value in (1, 2))
        assert front.min() == back.max() + 1
        assert ((label[:, 1:] == 1) & (label[:, :-1] == 2)).any()


def test_object_is_not_cut_by_the_crop(drawn):
    for _, label, _ in drawn:
        inner = label[1:-1, 1:-1, 1:-1]
        assert np.count_nonzero(inner) == np.count_nonzero(label)


def test_poses_differ(drawn):
    tilts = []
    for _, label, _ in drawn:
        points = np.argwhere(label > 0) - np.argwhere(label > 0).mean(0)
        axis = np.linalg.svd(points, full_matrices=False)[2][0]
        tilts.append(np.degrees(np.arctan2(axis[2], axis[1])))
    assert np.ptp(np.unwrap(tilts, period=180)) > 10


def test_no_intensity_window_finds_the_object(drawn):
    """Even the window drawn from the answer mistakes the neighbours for it."""
    for image, label, _ in drawn:
        low, high = np.percentile(image[label > 0], (10, 90))
        found = (image > low) & (image < high)
        dice = 2 * np.count_nonzero(found & (label > 0))
        assert dice / (np.count_nonzero(found) + np.count_nonzero(label)) < 0.6


def test_object_is_darker_than_what_lies_around_it_on_average(drawn):
    """T1: grey matter in white matter, in spite of the dark fluid beside it."""
    for image, label, _ in drawn:
        ring = ndimage.binary_dilation(label > 0, iterations=4) & (label == 0)
        assert image[label > 0].mean() < image[ring].mean()


def test_intensity_scales_are_wild(drawn):
    maxima = np.array([image.max() for image, _, _ in drawn])
    assert maxima.min() >= 99
    assert maxima.max() <= 1.7e6
    assert maxima.max() / maxima.min() > 1000
    assert all(image.min() >= 0 for image, _, _ in drawn)


# --- tumour


@pytest.mark.parametrize("seed", range(4))
def test_tumour_is_nested(seed):
    """From its surface inwards: edema, the enhancing rim, the core that does not enhance."""
    image, label, affine = tumour_phantom(np.random.default_rng(seed), shape=SMALL)
    assert image.shape == (*SMALL, 4)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    depth = ndimage.distance_transform_edt(label > 0)
    edema, core, rim = (depth[label == value].mean() for value in (1, 2, 3))
    assert edema < rim < core


def test_tumour_contrasts_are_those_of_the_sequences():
    image, label, _ = tumour_phantom(np.random.default_rng(1), shape=(32, 32, 32))
    brain = (image > 0).any(-1)
    assert (label[~brain] == 0).all()
    assert 0.2 < brain.mean() < 0.8
    healthy = brain & (label == 0)
    flair, t1, t1gd, _ = np.moveaxis(image, -1, 0)
    assert flair[label == 1].mean() > flair[healthy].mean()
    assert t1[label > 0].mean() < t1[healthy].mean()
    assert t1gd[label == 3].mean() > t1gd[healthy].mean() > t1gd[label == 2].mean()


def test_one_channel_is_the_first_of_four():
    four, label, _ = tumour_phantom(np.random.default_rng(2), 4, SMALL)
    one, same, _ = tumour_phantom(np.random.default_rng(2), 1, SMALL)
    assert np.array_equal(one, four[..., 0])
    assert np.array_equal(label, same)


def test_tumour_draws_its_own_size():
    image, _, _ = tumour_phantom(np.random.default_rng(3), channels=2)
    assert all(48 <= size <= 64 for size in image.shape[:3])
    assert image.shape[3] == 2


# --- CT


def test_ct_does_not_depend_on_the_slab():
    def whole(slab: int) -> list[np.ndarray]:
        slabs, _ = ct_phantom(np.random.default_rng(0), (32, 40, 27), slab)
        return [np.concatenate(parts, -1) for parts in zip(*slabs, strict=True)]

    image, label = whole(4)
    for thin, thick in zip((image, label), whole(27), strict=True):
        assert np.array_equal(thin, thick)
    assert image.shape == label.shape == (32, 40, 27)
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert image[label == 1].mean() == pytest.approx(60, abs=5)
    assert -1024 <= image.min() < -950
    assert image.max() > 300


def test_ct_needs_the_memory_of_a_few_slabs():
    shape = (48, 48, 400)
    tracemalloc.start()
    slabs, _ = ct_phantom(np.random.default_rng(0), shape, slab=4)
    voxels = sum(image.size for image, _ in slabs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert voxels == np.prod(shape)
    assert peak < voxels  # the int16 volume and its labels would be three bytes a voxel


# --- the set on the disk


def test_layout_is_that_of_msd(tmp_path):
    out = make_phantoms(tmp_path / "new" / "set", cases=2, test_cases=1)
    index = json.loads((out / "dataset.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs",
    ]  # fmt: skip
    assert index["numTraining"] == len(index["training"]) == 2
    assert index["test"] == ["./imagesTs/phantom_002.nii.gz"]
    assert index["labels"] == {"0": "background", "1": "Anterior", "2": "Posterior"}
    assert index["generator"]["seed"] == 0
    pairs = [(case["image"], case["label"]) for case in index["training"]]
    for image_name, label_name in [*pairs, (index["test"][0], "labelsTs/phantom_002.nii.gz")]:
        image, label = nib.load(out / image_name), nib.load(out / label_name)
        assert image.shape == label.shape
        assert np.array_equal(image.affine, label.affine)
        assert label.get_data_dtype() == np.uint8
        for header in (image.header, label.header):
            assert header.get_xyzt_units()[0] == "mm"
            assert header["sform_code"] == header["qform_code"] == 1
            assert np.allclose(header.get_qform(), header.get_sform())


def test_files_hold_what_was_drawn(tmp_path):
    out = make_phantoms(tmp_path / "set", cases=4, seed=7)
    types = set()
    for k in range(4):
        rng = np.random.default_rng(np.random.SeedSequence([7, k]))
        image, label, affine = hippocampus_phantom(rng)
        name = f"phantom_{k:03d}.nii.gz"
        stored, mask = nib.load(out / "imagesTr" / name), nib.load(out / "labelsTr" / name)
        assert np.array_equal(np.asarray(stored.dataobj), image)
        assert np.array_equal(np.asarray(mask.dataobj), label)
        assert np.array_equal(stored.affine, affine)
        types.add(stored.get_data_dtype().name)
    assert types == {"float32", "uint8"}


def test_equal_seeds_give_equal_bytes_whatever_the_number_of_cases(tmp_path):
    first = volumes(make_phantoms(tmp_path / "a", cases=2, seed=3))
    longer = volumes(make_phantoms(tmp_path / "b", cases=3, seed=3))
    held_out = volumes(make_phantoms(tmp_path / "c", cases=1, seed=3, test_cases=2))
    other = volumes(make_phantoms(tmp_path / "d", cases=2, seed=4))
    assert first.items() <= longer.items()
    name = "phantom_002.nii.gz"
    for part in ("images", "labels"):
        assert held_out[f"{part}Ts/{name}"] == longer[f"{part}Tr/{name}"]
    assert not set(first.values()) & set(other.values())
    assert len(set(longer.values())) == 6


@pytest.mark.parametrize(
    ("kind", "shape", "channels"),
    [("tumour", (*SMALL, 4), 4), ("ct", (20, 24, 28), 1), ("glioma", (32, 32, 20), 1)],
)
def test_other_kinds_are_written_alike(tmp_path, kind, shape, channels):
    out = make_phantoms(tmp_path / kind, cases=1, kind=kind, shape=shape[:3])
    index = json.loads((out / "dataset.json").read_text())
    image, label = (nib.load(out / index["training"][0][key]) for key in ("image", "label"))
    assert image.shape == shape
    assert label.shape == shape[:3]
    assert len(index["modality"]) == channels
    assert index["tensorImageSize"] == ("4D" if channels > 1 else "3D")
    values = np.unique(np.asarray(label.dataobj))
    assert [str(v) for v in values] == sorted(index["labels"])
    assert np.isfinite(image.get_fdata()).all()


def test_the_same_set_is_used_again(tmp_path):
    out = make_phantoms(tmp_path, cases=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert make_phantoms(tmp_path, cases=1) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_an_interrupted_run_left_is_no_content(tmp_path):
    (tmp_path / ".partial-x").mkdir()
    assert (make_phantoms(tmp_path, cases=1) / "dataset.json").is_file()


def test_another_set_or_a_damaged_one_is_refused(tmp_path):
    out = make_phantoms(tmp_path, cases=1)
    before = volumes(out)
    with pytest.raises(UserError, match="holds other content"):
        make_phantoms(out, cases=1, seed=1)
    assert volumes(out) == before
    next((out / "labelsTr").iterdir()).unlink()
    with pytest.raises(UserError, match="holds other content"):
        make_phantoms(out, cases=1)


def test_a_folder_with_other_content_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=str(tmp_path)):
        make_phantoms(tmp_path, cases=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 0},
        {"cases": 2.5},
        {"seed": -1},
        {"test_cases": -1},
        {"kind": "liver"},
        {"channels": 4},
        {"channels": 0},
        {"kind": "tumour", "channels": 5},
        {"shape": SMALL},
        {"kind": "ct", "shape": (8, 32, 32)},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_before_anything_is_made(tmp_path, wrong):
    with pytest.raises(UserError) as caught:
        make_phantoms(tmp_path / "set", **wrong)
    assert str(list(wrong.values())[-1]) in str(caught.value)
    assert not (tmp_path / "set").exists()


def fail_on_a_full_disk(out: Path, limit: int, answers: Connection) -> None:
    """In a process of its own: no file may grow past ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        make_phantoms(out, cases=3)
    except UserError as error:
        answers.send(str(error))
    else:
        answers.send("")


@pytest.mark.skipif(resource is None, reason="needs a limit on file sizes, which this system lacks")
def test_a_full_disk_leaves_no_file(tmp_path):
    """Some volumes fit, the largest does not: the run fails and nothing is left, not even those."""
    complete = make_phantoms(tmp_path / "complete", cases=3)
    sizes = sorted(path.stat().st_size for path in complete.rglob("*.nii.gz"))
    out = tmp_path / "full"
    # A fork, because a fresh interpreter would spend its time importing.
    processes = multiprocessing.get_context("fork")
    answers, end = processes.Pipe(duplex=False)
    process = processes.Process(target=fail_on_a_full_disk, args=(out, sizes[-1] - 1, end))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    message = answers.recv()
    assert str(out) in message
    assert "Free space" in message
    assert list(out.rglob("*")) == []
