"""Faults 28 to 42, 58 and 59: what can go wrong while segmenting; one test a number.

The bundle's network labels each voxel with its rounded value, so the right mask is known."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.harness import in_child
from helpers.segment_bundle import (
    blocks,
    labels_of,
    make_rounding_bundle,
    reasons,
    save,
    save_weights,
    segment,
)
from helpers.segment_faults import good_masks_are_right, refuses
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment import mask as write


def packed(values: np.ndarray) -> bytes:
    return gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes(), mtime=0)


@pytest.mark.fault(28)
def test_bad_files_do_not_cost_the_others(scans, segmenter):
    whole = packed(blocks(seed=5))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    (scans / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (scans / "tail.nii.gz").write_bytes(whole[:-6])
    (scans / "flip.nii.gz").write_bytes(bytes(flipped))
    (scans / "empty.nii").write_bytes(b"")
    (scans / "text.nii.gz").write_bytes(b"not a scan at all")
    (scans / "plain.nii").write_bytes(gzip.decompress(whole)[:-900])
    expected = {
        "cut.nii.gz": "cut",
        "tail.nii.gz": "cut",
        "flip.nii.gz": "damaged",
        "empty.nii": "empty",
        "text.nii.gz": "damaged",
        "plain.nii": "ends after",
    }
    refuses(scans, segmenter, expected)


@pytest.mark.fault(28)
def test_every_bit_flip_in_a_gzip_file_is_caught_or_harmless(scans, segmenter):
    """MONAI and nibabel let 279 of 300 pass as different data."""
    from perforated_monai.inference.segment.read import read_nifti

    whole = packed(np.round(blocks(seed=5)))
    rng = np.random.default_rng(0)
    caught = 0
    for position in rng.integers(0, len(whole), 300):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        (scans / "flip.nii.gz").write_bytes(bytes(flipped))
        try:
            found = read_nifti([scans / "flip.nii.gz"], 1)
        except UserError:
            caught += 1
        else:  # a bit of the gzip header that says nothing about the data
            assert position < 10
            assert np.array_equal(found.image[0].numpy(), np.round(blocks(seed=5)))
    assert caught > 280


@pytest.mark.fault(29)
def test_killed_while_running_leaves_only_whole_masks_and_goes_on(tmp_path, segmenter):
    kill_and_resume(tmp_path, segmenter, kills=3)


@pytest.mark.fault(29)
@pytest.mark.slow
def test_two_hundred_kills(tmp_path, segmenter):
    kill_and_resume(tmp_path, segmenter, kills=200)


def kill_and_resume(tmp_path: Path, segmenter: Segmenter, kills: int, cases: int = 12) -> None:
    for k in range(cases):
        save(tmp_path / "in" / f"p{k % 3}" / f"{k}.nii.gz", blocks(seed=k))
    start = time.perf_counter()
    segment(tmp_path / "in", tmp_path / "whole", segmenter)
    duration = time.perf_counter() - start
    expected = masks_of(tmp_path / "whole")
    rng = np.random.default_rng(0)
    output, hits = tmp_path / "out", 0
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                segment(tmp_path / "in", output, segmenter, resume=True)
            os._exit(0)
        time.sleep(float(rng.uniform(0, duration)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        hits += os.WIFSIGNALED(status)
        found = masks_of(output)
        assert found.items() <= expected.items()  # whole, right and nothing else
        if len(found) == cases:
            shutil.rmtree(output)
    assert hits > 0
    summary = segment(tmp_path / "in", output, segmenter, resume=True)
    assert summary.exit_code == 0 and masks_of(output) == expected
    assert not list(output.rglob("*.tmp"))
    assert [row["status"] for row in summary.rows] == ["done"] * cases
    rows = (output / "cases.csv").read_text().splitlines()
    assert (
        len(rows) == cases + 1 and len((output / "cases.jsonl").read_text().splitlines()) == cases
    )


def masks_of(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*_seg.nii.gz")}


@pytest.mark.fault(30)
def test_full_disk_leaves_no_truncated_mask(scans, segmenter):
    """A file-size limit fails a write as a full disk does, after some bytes went through."""
    large = np.random.default_rng(0).integers(0, 3, (60, 60, 60)).astype("f4")
    save(scans / "large.nii.gz", large)
    output = scans.parent / "out"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        summary = segment(scans, output, segmenter)
        assert summary.exit_code == 3
        assert list(reasons(summary)) == ["large.nii.gz"]
        assert "cannot be written" in reasons(summary)["large.nii.gz"]

    assert in_child(limited) == 0
    good_masks_are_right(output)
    assert not list(output.glob("*large*")) and not list(output.glob(".*.tmp"))


@pytest.mark.fault(31)
def test_two_files_of_one_name_keep_their_folders(scans, segmenter):
    for k in (1, 2):
        save(scans / f"p{k}" / "ct.nii.gz", blocks(seed=10 + k))
    output = scans.parent / "out"
    assert segment(scans, output, segmenter).exit_code == 0
    for k in (1, 2):
        found = labels_of(output / f"p{k}" / "ct_seg.nii.gz")
        assert np.array_equal(found, np.round(blocks(seed=10 + k)))


@pytest.mark.fault(32)
@pytest.mark.parametrize("wrong", ["voxel", "affine", "code", "type", "shape", "cut"])
def test_mask_that_reads_back_differently_gets_no_name(wrong, tmp_path):
    labels = np.round(blocks()).astype(np.uint8)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    path = tmp_path / "m_seg.nii.gz"
    write.write_mask(path, labels, affine)
    header = nib.load(path).header
    write.verify_mask(path, labels, affine, header)
    other = labels.copy()
    if wrong == "voxel":
        other[3, 3, 3] += 1
    elif wrong == "affine":
        affine = affine + 2e-4
    elif wrong == "code":
        header["qform_code"] = 3
    elif wrong == "type":
        other = labels.astype(np.uint16)
    elif wrong == "shape":
        other = labels[:-1]
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"read(s)? back"):
        write.verify_mask(path, other, affine, header)


@pytest.mark.fault(33)
def test_more_than_255_labels(tmp_path):
    bundle = make_rounding_bundle(tmp_path / "b", outputs=302)
    values = blocks()
    values[0, 0, :2] = 300, 301
    save(tmp_path / "in" / "many.nii", values)
    assert segment(tmp_path / "in", tmp_path / "out", bundle).exit_code == 0
    mask = nib.load(tmp_path / "out" / "many_seg.nii.gz")
    assert mask.get_data_dtype() == np.uint16
    assert np.array_equal(np.asarray(mask.dataobj), np.round(values))


@pytest.mark.fault(34)
def test_nan_and_inf_in_image_or_network(scans, segmenter, tmp_path):
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 1e300)):
        values = blocks(seed=9).astype(np.float64)
        values[:2, 3] = value
        save(scans / f"{name}.nii.gz", values)
    refuses(scans, segmenter, dict.fromkeys(["nan.nii.gz", "inf.nii.gz", "huge.nii.gz"], "finite"))
    broken = make_rounding_bundle(tmp_path / "broken")
    state = torch.load(broken / "models" / "model.pt", weights_only=True)
    state["model.0.conv.weight"].fill_(torch.inf)
    save_weights(broken, state)
    summary = segment(scans, tmp_path / "none", broken)
    assert summary.exit_code == 1 and "NaN or Inf" in reasons(summary)["good2.nii"]
    assert masks_of(tmp_path / "none") == {}
