"""Manifests: nnU-Net's folds, the schema, and every rule that a dataset folder can break."""

import gzip
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perforated_monai.errors import UserError
from perforated_monai.manifest import (
    FOLDS,
    datalist,
    describe,
    find_volumes,
    kfold,
    load_manifest,
    resolve,
    verify,
    write_manifest,
)
from perforated_monai.phantom import make_phantoms

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted((REPOSITORY / "data_manifests").glob("*.json"))
LISTED = [path.stem for path in SHIPPED if path.stem != "phantom"]
REAL = REPOSITORY.parent / "shared/data/Task04_Hippocampus"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL.name} at hand")

# sha256, first 16 digits, of the comma-joined validation ids of each fold, computed once with
# scikit-learn's KFold(5, shuffle=True, random_state=12345).
FOLDS_OF_260 = [
    "307960dda8a3c5c7",
    "0992fe564ef49d1c",
    "9fcea2a27fffd489",
    "a4c44a0ee71447e8",
    "16ff40c2ccf95539",
]
FOLDS_OF_208 = [
    "107507db3a9f7e2c",
    "00bd47362ccfcd11",
    "b67db38229827369",
    "6fd2384423a9653f",
    "076f58d0b116ecb2",
]


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def image_of(case: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(case).random(shape, dtype=np.float32)


def label_of(case: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(case).integers(0, 3, shape, dtype=np.uint8)


def fill(root: Path, cases: range = range(12), where: str = "Tr", suffix: str = ".nii.gz") -> Path:
    for case in cases:
        save(root / f"images{where}/case_{case:02d}{suffix}", image_of(case))
        save(root / f"labels{where}/case_{case:02d}{suffix}", label_of(case))
    return root


@pytest.fixture
def dataset(tmp_path):
    return fill(tmp_path / "data")


@pytest.fixture
def manifest(dataset, tmp_path):
    return write_manifest(dataset, tmp_path / "manifest.json", "tiny")


def digests(folds):
    return [hashlib.sha256(",".join(ids).encode()).hexdigest()[:16] for ids in folds]


# --- the split


def test_hippocampus_folds_are_those_of_nnunet():
    manifest = load_manifest("hippocampus_msd")
    outer = kfold(manifest.cases)
    assert digests(outer) == FOLDS_OF_260
    assert digests(manifest.folds) == FOLDS_OF_208
    assert manifest.test == outer[0]


@given(st.sets(st.integers(0, 999), min_size=5, max_size=40), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_kfold_is_a_balanced_partition_whatever_the_order(numbers, seed):
    ids = [f"case_{number}" for number in numbers]
    shuffled = np.random.default_rng(seed).permutation(ids).tolist()
    folds = kfold(shuffled)
    assert folds == kfold(ids)
    assert sorted(case for fold in folds for case in fold) == sorted(ids)
    sizes = [len(fold) for fold in folds]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ids", [list("abcd"), list("abcdee")], ids=["too few", "twice"])
def test_kfold_refuses(ids):
    with pytest.raises(UserError, match="5 folds need at least 5 cases with distinct ids"):
        kfold(ids)


# --- shipped manifests and the schema


def test_four_manifests_are_shipped():
    assert len(SHIPPED) == 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_manifest_loads_by_name_and_by_path(path):
    assert load_manifest(path.stem) == load_manifest(path)
    assert load_manifest(path).name == path.stem


@pytest.mark.parametrize("name", LISTED)
def test_shipped_split_follows_the_rule(name):
    manifest = load_manifest(name)
    rest = set(manifest.cases) - set(manifest.test)
    assert manifest.test == kfold(manifest.cases)[0]
    assert manifest.folds == kfold(rest)


def test_shipped_case_counts():
    assert {name: len(load_manifest(name).cases) for name in LISTED} == {
        "hippocampus_msd": 260,
        "brain_tumor_msd": 484,
        "spleen_msd": 41,
    }
    manifest = load_manifest("hippocampus_msd")
    unknown = [case for case, checksums in manifest.cases.items() if checksums is None]
    assert unknown == manifest.test
    assert len(unknown) == 52


def test_written_manifest_survives_loading(manifest, tmp_path):
    loaded = load_manifest(tmp_path / "manifest.json")
    assert loaded == manifest
    assert loaded.hash() == manifest.hash()


def test_each_case_stands_on_its_own_line(manifest, tmp_path):
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    for case in manifest.cases:
        assert sum(f'"{case}"' in line for line in lines) == 1


def test_hash_follows_content_not_key_order(manifest, tmp_path):
    data = json.loads((tmp_path / "manifest.json").read_text())
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(dict(reversed(data.items()))))
    assert load_manifest(turned).hash() == manifest.hash()
    assert replace(manifest, note="changed").hash() != manifest.hash()


def case_entry(data, **changes):
    data["cases"]["case_00"] |= changes


def without_label_checksum(data):
    del data["cases"]["case_00"]["label"]


def into_fold_1(data):
    for entry in data["cases"].values():
        entry["fold"] = 1 if entry["fold"] == 2 else entry["fold"]


BROKEN_SCHEMAS = {
    "schema_version 1; got 99": lambda data: data.update(schema_version=99),
    "schema_version 1; got None": lambda data: data.pop("schema_version"),
    "unknown key 'licens'": lambda data: data.update(licens="x"),
    "lacks the key 'layout'": lambda data: data.pop("layout"),
    "under 'channel_names'; got 'MRI'": lambda data: data.update(channel_names="MRI"),
    "must have the keys": lambda data: data["layout"].pop("suffix"),
    "the suffix": lambda data: data["layout"].update(suffix=".mha"),
    "inside the dataset folder in 'layout'; got ['../imagesTr']": lambda data: data[
        "layout"
    ].update(image_dir="../imagesTr"),
    "inside the dataset folder in 'layout'; got ['/imagesTr']": lambda data: data["layout"].update(
        label_dir="/imagesTr"
    ),
    "whole numbers as keys of 'label_names'; got 'one'": lambda data: data["label_names"].update(
        one="spleen"
    ),
    "case id '../case'": lambda data: data["cases"].update({"../case": {"fold": 0}}),
    "case id '._case'": lambda data: data["cases"].update({"._case": {"fold": 0}}),
    "or 'test'; got 5": lambda data: case_entry(data, fold=5),
    "64 hex digits": lambda data: case_entry(data, image="abc"),
    "both checksums or none": without_label_checksum,
    "folds [2] are empty": into_fold_1,
}


@pytest.mark.parametrize("expected", BROKEN_SCHEMAS)
def test_broken_schema_is_refused_by_name(expected, manifest, tmp_path):
    path = tmp_path / "manifest.json"
    load_manifest(path)
    data = json.loads(path.read_text())
    BROKEN_SCHEMAS[expected](data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    assert expected in str(caught.value)
    assert "manifest.json" in str(caught.value).splitlines()[-1]


def test_case_listed_twice_is_refused(manifest, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"case_01"', '"case_00"'))
    with pytest.raises(UserError, match="'case_00' stands twice"):
        load_manifest(path)


def test_damaged_json_is_refused_with_its_line(manifest, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"cases": {', '"cases": {{'))
    with pytest.raises(UserError, match=r"manifest\.json cannot be read: .*line \d+"):
        load_manifest(path)


def test_unknown_manifests_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"hippocampus does not exist.*hippocampus_msd"):
        load_manifest("hippocampus")
    with pytest.raises(UserError, match=r"nothing\.json does not exist"):
        load_manifest(tmp_path / "nothing.json")


def test_names_outside_a_checkout_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("perforated_monai.manifest.SHIPPED", tmp_path / "nowhere")
    assert load_manifest(SHIPPED[0]).name == SHIPPED[0].stem
    with pytest.raises(UserError, match="names work in a checkout of the repository only"):
        load_manifest("hippocampus_msd")


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
    "must have 1 channels": with_channels,
    "of equal shape; got (4, 5, 6) and (4, 5, 5)": with_label_shape,
    "must be 3-D; got (4, 5, 6, 2)": with_label_channels,
    "must be 3-D and of equal shape; got (4, 5) and (4, 5)": as_slices,
    "equal affines to 0.001 mm; they differ by 0.002": with_label_shift,
    "equal affines to 0.001 mm; they differ by nan": with_nan_affine,
    "is not a readable NIfTI file": as_text,
    "must not be a link that leaves": as_link_outside,
}


@pytest.mark.parametrize("expected", BROKEN_FOLDERS)
def test_broken_case_is_refused_by_name_wherever_it_is_read(expected, dataset, manifest):
    assert verify(dataset, manifest) == []
    assert len(datalist(dataset, manifest, "all")) == 12
    BROKEN_FOLDERS[expected](dataset)
    with pytest.raises(UserError) as caught:
        datalist(dataset, manifest, "all")
    assert expected in str(caught.value)
    assert "case_00" in str(caught.value)
    assert any(expected in finding for finding in verify(dataset, manifest))
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
    assert verify(dataset, manifest) == []


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
    assert verify(dataset, manifest) == []
    assert "kept apart" in describe(manifest, dataset)
    assert len(datalist(dataset, manifest, "train")) > 0
    with pytest.raises(UserError, match="held-out test part: choose train or validation"):
        datalist(dataset, manifest, "test")


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
    assert verify(dataset, manifest) == []


def test_case_in_training_and_test_folder_is_refused(dataset, tmp_path):
    fill(dataset, range(1), where="Ts")
    with pytest.raises(UserError, match=r"case_00 .* test cases are never trained on"):
        write_manifest(dataset, tmp_path / "manifest.json", "tiny")


def test_unlabelled_images_ts_is_left_alone(dataset, manifest):
    save(dataset / "imagesTs/case_30.nii.gz", image_of(30))
    assert verify(dataset, manifest) == []
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
    assert verify(root, manifest) == []
    fill(root, range(20, 21))
    with pytest.raises(UserError, match=r"\.nii\.gz or \.nii files, not both"):
        write_manifest(root, tmp_path / "manifest.json", "tiny")


def test_dataset_json_gives_names_and_its_absence_measures_them(dataset, manifest, tmp_path):
    assert manifest.channel_names == ["channel 0"]
    assert manifest.label_names == {0: "background", 1: "label 1", 2: "label 2"}
    assert manifest.spacing_mm == [1, 1, 1]
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}
    (dataset / "dataset.json").write_text(json.dumps(described | {"licence": "CC0"}))
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny")
    assert (manifest.channel_names, manifest.licence) == (["CT"], "CC0")
    assert manifest.label_names == {0: "background", 1: "liver"}
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
    assert verify(dataset, manifest) == []


def test_another_voxel_is_found(dataset, manifest):
    voxels = image_of(3)
    voxels[0, 0, 0] += 1
    save(dataset / "imagesTr/case_03.nii.gz", voxels)
    (finding,) = verify(dataset, manifest)
    assert "imagesTr/case_03.nii.gz must have the sha256" in finding


def test_every_flipped_bit_of_a_compressed_file_is_found(dataset, manifest):
    path = dataset / "imagesTr/case_00.nii.gz"
    whole = path.read_bytes()
    # The ten bytes of the gzip header (time, operating system) carry no data and no CRC.
    for bit in np.random.default_rng(0).integers(80, 8 * len(whole), 40):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert any("case_00" in finding for finding in verify(dataset, manifest)), bit


def test_truncated_file_with_a_good_header_is_found(dataset, tmp_path):
    save(dataset / "imagesTr/case_00.nii.gz", image_of(0, (16, 16, 16)))
    save(dataset / "labelsTr/case_00.nii.gz", label_of(0, (16, 16, 16)))
    manifest = write_manifest(dataset, tmp_path / "manifest.json", "tiny")
    path = dataset / "labelsTr/case_00.nii.gz"
    path.write_bytes(path.read_bytes()[:-4])
    (finding,) = verify(dataset, manifest)
    assert "labelsTr/case_00.nii.gz is damaged" in finding


def test_extra_volumes_are_found_and_hidden_files_are_not_volumes(dataset, manifest):
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder / "._case_00.nii.gz").write_bytes(b"macOS")
    assert verify(dataset, manifest) == []
    assert len(datalist(dataset, manifest, "all")) == 12
    assert write_manifest(dataset, dataset / "manifest.json", "tiny") == manifest
    save(dataset / "imagesTr/case_40.nii.gz", image_of(40))
    (finding,) = verify(dataset, manifest)
    assert "imagesTr/case_40.nii.gz is in no case of manifest tiny" in finding


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
    assert verify(root, manifest) == []


def test_phantom_manifest_describes_the_generator(tmp_path):
    shipped = load_manifest("phantom")
    root = make_phantoms(tmp_path / "p", 5)
    made = write_manifest(root, root / "manifest.json", "phantom", test=False)
    assert shipped.generator == made.generator
    assert shipped.label_names == made.label_names
    assert shipped.channel_names == made.channel_names


# --- volumes to segment


def names(folder):
    return [Path(entry["image"]).relative_to(folder).as_posix() for entry in find_volumes(folder)]


def test_volumes_are_those_in_the_folder(tmp_path):
    for name in ("b.nii", "a.nii.gz", "._a.nii.gz", "note.txt", "imagesTr/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.nii.gz", "b.nii"]
    assert all(set(entry) == {"image"} for entry in find_volumes(tmp_path))


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


@needs_real_data
def test_real_hippocampus_volumes_are_those_of_the_manifest():
    assert verify(REAL, "hippocampus_msd") == []
    parts = [datalist(REAL, "hippocampus_msd", part) for part in ("train", "validation")]
    assert [len(part) for part in parts] == [166, 42]
    assert len(find_volumes(REAL)) == 208
