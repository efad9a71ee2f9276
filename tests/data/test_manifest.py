"""Manifests: nnU-Net's folds, and the schema."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.msd import fill
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.prepare import write_manifest
from perforated_monai.data.splits import kfold
from perforated_monai.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "data_manifests").glob("*.json"))
# The rule over cases: phantoms have none of their own, and gliomas are split by patient.
LISTED = [path.stem for path in SHIPPED if path.stem not in ("phantom", "glioma_t1c")]

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


def test_five_manifests_are_shipped():
    assert len(SHIPPED) == 5


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
    "under 'schema_version'; got True": lambda data: data.update(schema_version=True),
    "three numbers of mm above 0 in 'spacing_mm', or null; got ['a']": lambda data: data.update(
        spacing_mm=["a"]
    ),
    "or null; got [0, 1, 1]": lambda data: data.update(spacing_mm=[0, 1, 1]),
    "or null; got [inf, 1, 1]": lambda data: data.update(spacing_mm=[float("inf"), 1, 1]),
    "names in 'channel_names'; got {'a': 1}": lambda data: data.update(channel_names=[{"a": 1}]),
    "must give label 1 a name; got None": lambda data: data["label_names"].update({"1": None}),
    "'label_names'; got '01'": lambda data: data["label_names"].update({"01": "x"}),
    "'label_names'; got '9999": lambda data: data["label_names"].update({"9" * 5000: "x"}),
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
    with pytest.raises(UserError, match="the key 'case_00' twice"):
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
    monkeypatch.setattr("perforated_monai.data.manifest.SHIPPED", tmp_path / "nowhere")
    assert load_manifest(SHIPPED[0]).name == SHIPPED[0].stem
    with pytest.raises(UserError, match="names work in a checkout of the repository only"):
        load_manifest("hippocampus_msd")


def test_a_bundle_holds_an_equal_copy_of_its_manifest():
    copies = [
        path
        for path in REPOSITORY.glob("bundles/*/configs/*.json")
        if path.name in [shipped.name for shipped in SHIPPED]
    ]
    assert {path.parts[-3] for path in copies} == {
        path.name for path in (REPOSITORY / "bundles").iterdir() if path.is_dir()
    }
    for path in copies:
        assert path.read_bytes() == (REPOSITORY / "data_manifests" / path.name).read_bytes()
