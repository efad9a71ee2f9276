"""Manifests of own data: the split, the checksums, and what is refused."""

import gzip
import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.msd import fill, image_of, label_of, problems, save
from perforated_monai.data.lists import datalist
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import describe, download, write_manifest
from perforated_monai.data.schema import FOLDS
from perforated_monai.data.splits import kfold, resolve
from perforated_monai.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    return fill(tmp_path / "data")


@pytest.fixture
def manifest(dataset, tmp_path):
    return write_manifest(dataset, tmp_path / "manifest.json", "tiny")


# --- writing and verifying


def test_own_data_are_split_by_the_same_rule(manifest):
    outer = kfold(manifest.cases)
    assert manifest.test == outer[0]
    assert manifest.folds == kfold(case for fold in outer[1:] for case in fold)


def test_labels_ts_is_the_test_part(dataset, tmp_path):
    fill(dataset, range(20, 23), where="Ts")
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny")
    assert manifest.test == ["case_20", "case_21", "case_22"]
    assert [Path(e["label"]).parent.name for e in datalist(dataset, manifest, "test")] == [
        "labelsTs"
    ] * 3
    assert len(manifest.part("train")) + len(manifest.part("validation")) == 12
    assert problems(dataset, manifest) == []


def test_case_in_training_and_test_folder_is_refused(dataset, tmp_path):
    fill(dataset, range(1), where="Ts")
    with pytest.raises(UserError, match=r"case_00 .* test cases are never trained on"):
        write_manifest(dataset, tmp_path / "manifest.json", "tiny")


def test_unlabelled_images_ts_is_left_alone(dataset, manifest):
    save(dataset / "imagesTs/case_30.nii.gz", image_of(30))
    assert problems(dataset, manifest) == []
    assert write_manifest(dataset, dataset / "manifest.json", "tiny") == manifest


def test_without_a_test_part(dataset, tmp_path):
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny", test=False)
    assert manifest.test == []
    assert manifest.folds == kfold(manifest.cases)
    with pytest.raises(UserError, match="tiny has no test cases"):
        datalist(dataset, manifest, "test")


@pytest.mark.parametrize(("cases", "test", "enough"), [(10, True, 9), (5, False, 4)])
def test_fewest_cases(cases, test, enough, tmp_path):
    root = fill(tmp_path / "data", range(cases))
    assert len(write_manifest(root, tmp_path / "m.json", "tiny", test=test).cases) == cases
    for folder in ("imagesTr", "labelsTr"):
        (root / f"{folder}/case_00.nii.gz").unlink()
    with pytest.raises(UserError, match=f"at least {cases} labelled cases; .* has {enough} in"):
        write_manifest(root, tmp_path / "again.json", "tiny", test=test)
    assert not (tmp_path / "again.json").exists()


def test_plain_nifti_files_are_a_dataset_and_mixed_endings_are_not(tmp_path):
    root = fill(tmp_path / "data", suffix=".nii")
    manifest = write_manifest(root, tmp_path / "manifest.json", "tiny")
    assert problems(root, manifest) == []
    fill(root, range(20, 21))
    with pytest.raises(UserError, match=r"\.nii\.gz or \.nii files, not both"):
        write_manifest(root, tmp_path / "manifest.json", "tiny")


def test_dataset_json_gives_names_and_its_absence_measures_them(dataset, manifest, tmp_path):
    assert manifest.channel_names == ["channel 0"]
    assert manifest.label_names == {0: "background", 1: "label 1", 2: "label 2"}
    assert manifest.spacing_mm == [1, 1, 1]
    described = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
    }
    (dataset / "dataset.json").write_text(json.dumps(described | {"licence": "CC0"}))
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny")
    assert (manifest.channel_names, manifest.licence) == (["CT"], "CC0")
    assert manifest.label_names == {0: "background", 1: "liver", 2: "tumour"}
    (dataset / "dataset.json").write_text('{"labels": ["background"]}')
    with pytest.raises(UserError, match=r"dataset\.json must be JSON"):
        write_manifest(dataset, tmp_path / "manifest.json", "tiny")


def test_fractional_label_values_are_refused(dataset, tmp_path):
    save(dataset / "labelsTr/case_00.nii.gz", np.full((4, 5, 6), 0.999, np.float32))
    with pytest.raises(UserError, match=r"case_00.* must hold whole numbers"):
        write_manifest(dataset, tmp_path / "manifest.json", "tiny")


def test_unwritable_place_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*m\.json"):
        write_manifest(dataset, tmp_path / "nowhere/m.json", "tiny")


def test_compressing_again_leaves_the_checksums(dataset, manifest):
    for path in dataset.glob("*Tr/*.nii.gz"):
        before = path.read_bytes()
        path.write_bytes(gzip.compress(gzip.decompress(before), compresslevel=1, mtime=7))
        assert path.read_bytes() != before
    assert problems(dataset, manifest) == []


def test_another_voxel_is_found(dataset, manifest):
    voxels = image_of(3)
    voxels[0, 0, 0] += 1
    save(dataset / "imagesTr/case_03.nii.gz", voxels)
    (finding,) = problems(dataset, manifest)
    assert "imagesTr/case_03.nii.gz must have the manifest's sha256" in finding


def test_every_flipped_bit_of_a_compressed_file_is_found(dataset, manifest):
    path = dataset / "imagesTr/case_00.nii.gz"
    whole = path.read_bytes()
    # The ten bytes of the gzip header (time, operating system) carry no data and no CRC.
    for bit in np.random.default_rng(0).integers(80, 8 * len(whole), 40):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert any("case_00" in finding for finding in problems(dataset, manifest)), bit


def test_truncated_file_with_a_good_header_is_found(dataset, tmp_path):
    for case in range(12):
        save(dataset / f"imagesTr/case_{case:02d}.nii.gz", image_of(case, (16, 16, 16)))
        save(dataset / f"labelsTr/case_{case:02d}.nii.gz", label_of(case, (16, 16, 16)))
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny")
    path = dataset / "labelsTr/case_00.nii.gz"
    path.write_bytes(path.read_bytes()[:-4])
    (finding,) = problems(dataset, manifest)
    assert "labelsTr/case_00.nii.gz must be whole" in finding


def test_extra_volumes_are_found_and_hidden_files_are_not_volumes(dataset, manifest):
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder / "._case_00.nii.gz").write_bytes(b"macOS")
    assert problems(dataset, manifest) == []
    assert len(datalist(dataset, manifest, "all")) == 12
    assert write_manifest(dataset, dataset / "manifest.json", "tiny") == manifest
    save(dataset / "imagesTr/case_40.nii.gz", image_of(40))
    (finding,) = problems(dataset, manifest)
    assert "imagesTr/case_40.nii.gz must belong to a case of the manifest" in finding


def test_description_counts_the_parts(dataset, manifest):
    rows = [line.split() for line in describe(manifest, dataset).splitlines()]
    counts = {" ".join(row[:-2]): row[-2:] for row in rows if row[-1].isdigit()}
    assert counts["all"] == ["12", "12"]
    assert sum(int(counts[f"fold {k}"][0]) for k in range(FOLDS)) == 12 - int(counts["test"][0])
    assert manifest.hash() in describe(manifest, dataset)


# --- phantoms, which take their ids from the folder


def test_manifest_without_cases_takes_them_from_the_folder(dataset, manifest):
    found = resolve("phantom", dataset)
    assert (list(found.cases), found.test, found.folds) == (
        list(manifest.cases),
        manifest.test,
        manifest.folds,
    )
    assert len(datalist(dataset, "phantom", "test")) == len(manifest.test)


def test_phantoms_keep_their_own_test_part(tmp_path):
    root = make_phantoms(tmp_path / "p", 5, kind="tumour", test_cases=1, shape=(16, 16, 16))
    manifest = write_manifest(root, root / "manifest.json", "phantom")
    assert manifest.test == ["phantom_005"]
    assert len(manifest.channel_names) == 4
    assert manifest.generator is not None
    assert manifest.generator["seed"] == 0
    assert len(datalist(root, manifest, "all")) == 6
    assert problems(root, manifest) == []


def test_phantom_manifest_describes_the_generator(tmp_path):
    shipped = load_manifest("phantom")
    root = make_phantoms(tmp_path / "p", 5)
    made = write_manifest(root, root / "manifest.json", "phantom", test=False)
    assert shipped.generator == made.generator
    assert shipped.label_names == made.label_names
    assert shipped.channel_names == made.channel_names


# --- downloads


@pytest.fixture
def archive(tmp_path) -> tuple[dict, Path]:
    """Fields of a manifest whose archive lies on this machine, and that archive."""
    root = fill(tmp_path / "packed/Task99_Tiny")
    file = tmp_path / "Task99_Tiny.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(root, root.name)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    return {"source_url": file.as_uri(), "archive_md5": md5}, file


def test_a_download_is_verified_and_unpacked_under_the_name_asked_for(archive, manifest, tmp_path):
    root = tmp_path / "new/place"
    assert download(replace(manifest, **archive[0]), root) == root
    assert problems(root, manifest) == []
    assert [path.name for path in root.parent.iterdir()] == ["place"]


def test_a_cut_or_unreachable_archive_leaves_nothing(archive, manifest, tmp_path):
    fields, file = archive
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="could not be fetched"):
        download(replace(manifest, **fields), tmp_path / "new/place")
    file.unlink()
    with pytest.raises(UserError, match="could not be fetched"):
        download(replace(manifest, **fields), tmp_path / "new/place")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_download_never_touches_a_folder_with_content(archive, manifest, dataset):
    before = sorted(dataset.rglob("*"))
    with pytest.raises(UserError, match="must be new or empty"):
        download(replace(manifest, **archive[0]), dataset)
    assert sorted(dataset.rglob("*")) == before


def test_a_manifest_without_an_archive_cannot_be_downloaded(manifest, tmp_path):
    with pytest.raises(UserError, match="names no archive"):
        download(manifest, tmp_path / "new")


def test_shipped_msd_manifests_name_an_archive():
    for name in ("hippocampus_msd", "brain_tumor_msd", "spleen_msd"):
        manifest = load_manifest(name)
        assert manifest.source_url.endswith(".tar") and len(manifest.archive_md5) == 32
