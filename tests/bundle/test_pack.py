"""Packing: what goes in, the same bytes again, and a zip that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import perforated_monai
from helpers.share_bundle import (
    INFERENCE,
    METADATA,
    MODEL,
    SPEC,
    TOP,
    VERSION,
    change,
    read_zip,
)
from perforated_monai import UserError, build_network
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.bundle.pack.contents import CASES
from perforated_monai.bundle.pack.requirements import needs
from perforated_monai.bundle.record import RECORD
from perforated_monai.files import sha256

PACKAGE = Path(perforated_monai.__file__).parent


def test_the_same_bundle_gives_the_same_bytes(bundle, tmp_path):
    first = pack_bundle(bundle, tmp_path / "first.zip")
    (tmp_path / "elsewhere").mkdir()
    other = shutil.copytree(bundle, tmp_path / "elsewhere" / TOP, copy_function=shutil.copyfile)
    for file in other.rglob("*"):
        os.utime(file, (10**9, 10**9))
        file.chmod(0o700)
    again = pack_bundle(other, tmp_path / "again.zip")
    assert again.sha256 == first.sha256 == sha256((tmp_path / "first.zip").read_bytes())


def test_an_unpacked_bundle_packs_to_the_same_zip(bundle, tmp_path):
    first = pack_bundle(bundle, tmp_path / "first.zip")
    with zipfile.ZipFile(first.file) as archive:
        archive.extractall(tmp_path / "there")
    again = pack_bundle(tmp_path / "there" / TOP, tmp_path / "again.zip")
    assert again.sha256 == first.sha256
    assert again.notes == ["left out: packed.json, perforated_monai"]


def test_entries_have_one_folder_one_order_one_time_and_no_compression(bundle, tmp_path):
    file = pack_bundle(bundle, tmp_path / "packed.zip").file
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    assert [e.filename for e in entries] == sorted(e.filename for e in entries)
    assert {e.filename.split("/")[0] for e in entries} == {TOP}
    assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {(e.compress_type, e.external_attr >> 16, e.create_system) for e in entries} == {
        (zipfile.ZIP_STORED, 0o100644, 3)
    }


def test_the_package_is_packed_unchanged(bundle, tmp_path):
    content = read_zip(pack_bundle(bundle, tmp_path / "packed.zip").file)
    packed = {k: v for k, v in content.items() if k.startswith("perforated_monai/")}
    sources = {
        f"perforated_monai/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == sources
    assert "perforated_monai/networks/build.py" in packed


def test_the_bundle_is_packed_unchanged_but_for_its_metadata(bundle, tmp_path):
    content = read_zip(pack_bundle(bundle, tmp_path / "packed.zip").file)
    for file in bundle.rglob("*"):
        name = file.relative_to(bundle).as_posix()
        if file.is_file() and name not in (METADATA, *CASES):
            assert content[name] == file.read_bytes(), name
    before, after = json.loads((bundle / METADATA).read_text()), json.loads(content[METADATA])
    assert {k for k in after if after.get(k) != before.get(k)} == {
        "required_packages_version",
        "optional_packages_version",
    }


def test_the_record_holds_size_and_hash_of_every_other_file(bundle, tmp_path):
    content = read_zip(pack_bundle(bundle, tmp_path / "packed.zip").file)
    record = json.loads(content.pop(RECORD))
    assert record["files"] == {
        path: {"size": len(data), "sha256": sha256(data)} for path, data in sorted(content.items())
    }
    assert (record["format"], record["bundle"], record["version"]) == (1, TOP, VERSION)
    assert record["written_by"] == f"perforated_monai {perforated_monai.__version__}"


LEFT_OUT = {
    "runs/plain/checkpoints/best.pt": "runs",
    "eval/case_seg.nii.gz": "eval",
    "cache/0a.case": "cache",
    "imagesTr/case.nii.gz": "imagesTr",
    "notes.txt": "notes.txt",
    ".git/config": ".git",
    "configs/.inference.json.swp": "configs/.inference.json.swp",
    "configs/scan.nii.gz": "configs/scan.nii.gz",
    "docs/patient.dcm": "docs/patient.dcm",
    "docs/.DS_Store": "docs/.DS_Store",
    "scripts/__pycache__/a.pyc": "scripts/__pycache__",
    "models/model.ts": "models/model.ts",
    "models/model.pt2": "models/model.pt2",
    "models/model.onnx": "models/model.onnx",
    "models/checkpoint_epoch=3.pt": "models/checkpoint_epoch=3.pt",
    "models/more/model.pt": "models/more",
    "studies/results/trial/model.yaml": "studies/results",
    "perforated_monai/networks/build.py": "perforated_monai",
}


def test_what_use_leaves_behind_is_left_out_and_said(bundle, tmp_path):
    before = read_zip(pack_bundle(bundle, tmp_path / "before.zip").file)
    for file in LEFT_OUT:
        (bundle / file).parent.mkdir(parents=True, exist_ok=True)
        (bundle / file).write_bytes(b"private")
    packed = pack_bundle(bundle, tmp_path / "packed.zip")
    assert read_zip(packed.file) == before
    note, _ = packed.notes  # the other one is about names of cases
    left_out = {*LEFT_OUT.values(), *CASES}
    assert sorted(note.removeprefix("left out: ").split(", ")) == sorted(left_out)


def test_names_of_cases_are_packed_when_asked_for(bundle, tmp_path):
    """A case's name may be a patient's; its figures are in the card."""
    (bundle / "docs").mkdir(exist_ok=True)
    (bundle / "docs" / "cases.csv").write_text("case,dice\nDOE^JANE,0.9\n")
    (bundle / "docs" / "cases.json").write_text("{}")
    without = pack_bundle(bundle, tmp_path / "without.zip")
    assert "docs/cases.csv names cases, so it is left out; --cases packs it" in without.notes
    assert b"DOE^JANE" not in without.file.read_bytes()
    asked = pack_bundle(bundle, tmp_path / "asked.zip", cases=True)
    assert b"DOE^JANE" in asked.file.read_bytes()
    assert not any("--cases" in note for note in asked.notes)


def test_weights_that_a_config_names_are_packed(bundle, tmp_path):
    shutil.copy(bundle / MODEL, bundle / "models" / "model_lowres.pt")
    change(bundle / INFERENCE, lowres="$@bundle_root + '/models/model_lowres.pt'")
    content = read_zip(pack_bundle(bundle, tmp_path / "packed.zip").file)
    assert content["models/model_lowres.pt"] == content[MODEL]


def test_formats_are_packed_when_asked_for_and_verify_names_them(bundle, tmp_path):
    network = build_network(SPEC).eval()
    scripted = torch.jit.script(network)
    torch.jit.save(scripted, bundle / "models" / "model.ts")
    program = torch.export.export(network, (torch.zeros(1, 1, 16, 16, 16),))
    torch.export.save(program, bundle / "models" / "model.pt2")
    packed = pack_bundle(bundle, tmp_path / "packed.zip", formats=["ts", "pt2"])
    assert {"models/model.ts", "models/model.pt2"} <= set(read_zip(packed.file))
    compiled = [note for note in packed.notes if "--trust" in note]
    assert len(compiled) == 2  # verify does not read what they would run
    assert "models/model.pt2" in compiled[0] and "models/model.ts" in compiled[1]
    with pytest.raises(UserError, match=r"model\.onnx is missing.*export --formats onnx"):
        pack_bundle(bundle, tmp_path / "packed.zip", formats=["onnx"])
    with pytest.raises(UserError, match="must be of ts, pt2, onnx; got 'tflite'"):
        pack_bundle(bundle, tmp_path / "packed.zip", formats=["tflite"])


def test_code_of_a_foreign_bundle_is_packed_and_said(bundle, tmp_path):
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "own.py").write_text("x = 1\n")
    packed = pack_bundle(bundle, tmp_path / "packed.zip")
    assert read_zip(packed.file)["scripts/own.py"] == b"x = 1\n"
    assert any("--trust" in note and "scripts/own.py" in note for note in packed.notes)


def test_inference_needs_four_packages(bundle, tmp_path):
    content = read_zip(pack_bundle(bundle, tmp_path / "packed.zip").file)
    metadata = json.loads(content[METADATA])
    declared = json.loads((bundle / METADATA).read_text())["required_packages_version"]
    assert set(metadata["required_packages_version"]) == {
        *("nibabel", "pytorch-ignite", "fire", "tqdm")
    }
    both = metadata["required_packages_version"] | metadata["optional_packages_version"]
    assert both == declared


def test_needs_follow_from_what_the_config_names():
    assert needs({}) == {"nibabel", "pytorch-ignite", "fire"}
    assert needs({"x": {"_target_": "ignite.handlers.ProgressBar"}}) - needs({}) == {"tqdm"}
    assert needs({"x": {"_target_": "SwinUNETR"}}) - needs({}) == {"einops"}
    assert "filelock" in needs({"x": {"_target_": "perforated_monai.RunHandler"}})
