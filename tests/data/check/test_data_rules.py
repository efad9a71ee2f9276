"""Every rule on data finds the file that breaks it, and nothing in a folder that does not."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.msd import fill, image_of, label_of, save
from helpers.spoiled_volumes import (
    BREAKS,
    IMAGE,
    LABEL,
    ONE_CASE,
    SHAPE,
    add,
    colour,
    declare_huge,
    edit_header,
    nan_slab,
    pack_again,
    unpair,
)
from perforated_monai.data.check import ERROR, NOTE, WARNING, check_dataset, check_volume
from perforated_monai.data.check import check as lists
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.prepare import write_manifest

DATA_RULES = {rule.name: rule for rule in ONE_CASE + lists.DATASET_RULES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Twelve cases with their manifest, which no test changes."""
    root = tmp_path_factory.mktemp("whole") / "data"
    for case in range(12):
        save(root / f"imagesTr/case_{case:02d}.nii.gz", image_of(case, SHAPE))
        save(root / f"labelsTr/case_{case:02d}.nii.gz", label_of(case, SHAPE))
    write_manifest(root, root / "manifest.json", "tiny")
    return root


@pytest.fixture
def data(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def edit_manifest(root: Path, **changes: object) -> None:
    content = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(content | changes))


CASES = [(name, k) for name, changes in BREAKS.items() for k in range(len(changes))]


def test_every_data_rule_is_tested():
    assert set(BREAKS) == set(DATA_RULES)


def test_a_whole_folder_has_no_finding(whole):
    audit = check_dataset(whole)
    assert audit.findings == []
    assert len(audit.pairs) == 12


@pytest.mark.parametrize(("name", "k"), CASES, ids=[f"{name}-{k}" for name, k in CASES])
def test_a_broken_file_is_named_with_rule_value_and_cure(name, k, data):
    file = BREAKS[name][k](data)
    findings = check_dataset(data, workers=1).findings
    (found, *_) = [finding for finding in findings if finding.rule == name]
    assert found.file == file
    assert found.message and found.value and found.cure
    assert (file in found.text(data)) and "\n" not in found.text()


HEADER_RULES = [name for name, rule in DATA_RULES.items() if not rule.voxels]


@pytest.mark.parametrize("name", sorted(set(HEADER_RULES) - {"whole"}))
def test_rules_on_headers_need_no_voxels(name, data):
    BREAKS[name][0](data)
    audit = check_dataset(data, read="headers", workers=1)
    assert name in [finding.rule for finding in audit.findings]
    assert all(v.content is None for pair in audit.pairs.values() for v in pair)


def test_a_header_that_promises_more_than_the_file_can_hold_is_found_without_reading(data):
    """Deflate packs 1032 to 1 at the most."""
    edit_header(data, IMAGE, 40, "<4h", 3, 900, 900, 900)
    findings = check_dataset(data, read="headers").findings
    assert "whole" in [finding.rule for finding in findings]


def test_all_findings_are_listed_at_once_worst_first(data):
    add(data)
    nan_slab(data)
    (data / "labelsTr/case_05.nii.gz").unlink()
    save(data / "labelsTr/case_06.nii.gz", np.zeros(SHAPE, np.uint8))
    lose_severity = [f.severity for f in check_dataset(data).findings]
    assert {ERROR, WARNING} <= set(lose_severity)
    order = [(ERROR, WARNING, NOTE).index(severity) for severity in lose_severity]
    assert order == sorted(order)
    rules = {finding.rule for finding in check_dataset(data).findings}
    assert {"extra", "finite", "unpaired", "label-empty", "checksum"} <= rules


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_findings_do_not_depend_on_the_number_of_workers(workers, data):
    add(data)
    nan_slab(data)
    unpair(data)
    assert check_dataset(data, workers=workers).findings == check_dataset(data).findings


def test_other_storage_types_orders_and_versions_are_whole(data):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 200, SHAPE)
    for case, dtype in enumerate((">f4", "<f8", ">i2", "<i4", "u1", "<u2", ">f8")):
        header = nib.Nifti1Header(endianness="<" if dtype[0] == "u" else dtype[0])
        volume = nib.Nifti1Image(voxels.astype(dtype), np.eye(4), header, dtype=dtype)
        nib.save(volume, data / f"imagesTr/case_{case:02d}.nii.gz")
    second = nib.Nifti2Image(voxels.astype("f4") + 1, np.eye(4))
    nib.save(second, data / "imagesTr/case_07.nii.gz")
    rules = {finding.rule for finding in check_dataset(data).findings}
    assert rules <= {"checksum", "leak", "duplicate"}


def test_statistics_are_those_of_the_scaled_voxels(data):
    voxels = image_of(5, SHAPE) * 100 - 20
    volume = nib.Nifti1Image(voxels, np.eye(4))
    volume.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    nib.save(volume, data / IMAGE)
    content = check_dataset(data).pairs["case_03"][0].content
    read = nib.load(data / IMAGE).get_fdata()
    assert content.low == [pytest.approx(read.min(), rel=1e-6)]
    assert content.high == [pytest.approx(read.max(), rel=1e-6)]


def test_the_middle_slice_is_that_of_nibabel(data):
    audit = check_dataset(data, pictures=12)
    for case, pair in audit.pairs.items():
        for volume in pair:
            voxels = np.asanyarray(nib.load(data / volume.file).dataobj)
            assert np.array_equal(volume.content.picture, voxels[:, :, SHAPE[2] // 2]), case


def test_four_channels_are_read_channel_by_channel(tmp_path):
    root = tmp_path / "data"
    for case in range(10):
        voxels = image_of(case, (*SHAPE, 4))
        voxels[..., 2] *= 50
        save(root / f"imagesTr/case_{case:02d}.nii.gz", voxels)
        save(root / f"labelsTr/case_{case:02d}.nii.gz", label_of(case, SHAPE))
    assert check_dataset(root).findings == []
    highest = check_dataset(root).pairs["case_00"][0].content.high
    assert len(highest) == 4 and highest[2] > 10 * highest[1]
    voxels[..., 1] = 0
    save(root / "imagesTr/case_09.nii.gz", voxels)
    (finding,) = check_dataset(root).findings
    assert (finding.rule, finding.severity) == ("constant", WARNING)
    assert "channel 1" in finding.value


def test_without_a_manifest_the_folder_speaks_for_itself(data):
    (data / "manifest.json").unlink()
    assert check_dataset(data).findings == []
    described = {"labels": {"0": "background", "1": "one"}, "modality": {"0": "MRI"}}
    (data / "dataset.json").write_text(json.dumps(described))
    assert {f.rule for f in check_dataset(data).findings} == {"label-values"}


def test_a_volume_alone_is_judged_by_its_header(data):
    assert check_volume(data / IMAGE) == []
    assert check_volume(data / IMAGE, channels=1) == []
    assert [f.rule for f in check_volume(data / IMAGE, channels=4)] == ["channels"]
    nan_slab(data)
    assert check_volume(data / IMAGE) == []
    for change, rule in ((declare_huge, "voxel-budget"), (colour, "datatype")):
        change(data)
        assert [f.rule for f in check_volume(data / IMAGE)] == [rule]


def test_fuzzed_headers_never_crash_and_never_pass_with_another_geometry(data):
    fuzz_headers(data, 1000)


@pytest.mark.slow
def test_ten_thousand_fuzzed_headers(data):
    fuzz_headers(data, 10_000)


def fuzz_headers(root: Path, count: int) -> None:
    """Set one to three random bytes of an image's header, as faults.md section 2 did."""
    raw = gzip.decompress((root / IMAGE).read_bytes())
    whole = nib.Nifti1Image.from_bytes(raw)
    manifest = load_manifest(root / "manifest.json")
    rng = np.random.default_rng(16)
    changed = 0
    for _ in range(count):
        fuzzed = bytearray(raw)
        for position in rng.integers(0, 348, rng.integers(1, 4)):
            fuzzed[position] = rng.integers(256)
        (root / IMAGE).write_bytes(gzip.compress(fuzzed, 1))
        audit = check_dataset(root, manifest, cases=["case_03"], workers=1)
        changed += fuzzed != raw
        if fuzzed == raw:
            assert audit.errors() == []
        else:
            assert audit.errors(), fuzzed[:348].hex()
            assert not _passes_as_another(fuzzed, whole, audit), fuzzed[:348].hex()
    assert changed > 0.9 * count


def _passes_as_another(fuzzed: bytes, whole: nib.Nifti1Image, audit: object) -> bool:
    """Whether nibabel reads another geometry and no finding names the file."""
    try:
        read = nib.Nifti1Image.from_bytes(bytes(fuzzed))
        same = read.shape == whole.shape and np.array_equal(read.affine, whole.affine)
    except Exception:
        return False
    return not same and not any(IMAGE in line for line in audit.errors())


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_is_found(seed, data):
    """An error, unless the file still unpacks to the very same bytes; then a note.

    The gzip header's time stamp carries nothing, nor do code lengths of symbols that never occur.
    """
    manifest = load_manifest(data / "manifest.json")
    content = (data / IMAGE).read_bytes()
    harmless = 0
    for bit in np.random.default_rng(seed).integers(0, 8 * len(content), 100):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (data / IMAGE).write_bytes(flipped)
        audit = check_dataset(data, manifest, cases=["case_03"], workers=1)
        found = {f.severity for f in audit.findings if f.file == IMAGE}
        assert found & {ERROR, NOTE}, bit
        if ERROR not in found:
            assert gzip.decompress(flipped) == gzip.decompress(content), bit
            harmless += 1
    assert harmless <= 3


def test_compressing_again_is_no_error(data):
    for file in (IMAGE, LABEL):
        pack_again(data, file)
    audit = check_dataset(data)
    assert audit.errors() == [] and [f.rule for f in audit.findings] == ["packing", "packing"]


def test_real_hippocampus_volumes_have_no_error(hippocampus):
    audit = check_dataset(hippocampus, "hippocampus_msd")
    assert [f.rule for f in audit.findings] == ["test-absent"]
    assert "52 test cases absent, as expected" in audit.findings[0].value
    assert len(audit.pairs) == 208


def test_fill_makes_what_check_accepts(tmp_path):
    assert check_dataset(fill(tmp_path / "data")).findings == []
