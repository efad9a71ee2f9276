"""Devices that are not there, settings that make another mask, and cells of the table."""

from pathlib import Path

import pytest

from helpers.msd import save
from helpers.segment_bundle import blocks, change, make_bundle, read, segment
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.predictor import engine_device
from perforated_monai.inference.segment.table import CaseLog


@pytest.mark.parametrize("device", ["mps", "cuda:99", "xpu", "meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UserError, match=f"'{device}'.*Use --device cpu"):
        engine_device("torch", device)


def renamed_label(bundle: Path) -> None:
    formats = read(bundle, "metadata.json")["network_data_format"]
    formats["outputs"]["pred"]["channel_def"]["1"] = "other"
    change(bundle, "metadata.json", network_data_format=formats)


def other_postprocessing(bundle: Path) -> None:
    steps = read(bundle, "inference.json")["postprocessing"]
    keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    steps["transforms"].insert(-1, keep)
    change(bundle, "inference.json", postprocessing=steps)


def other_code(bundle: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "own.py").write_text("x = 1")


def mirrors(bundle: Path) -> None:
    segment = read(bundle, "metadata.json")["segment"] | {"mirror_axes": [0, 1]}
    change(bundle, "metadata.json", segment=segment)


@pytest.mark.parametrize("edit", [renamed_label, other_postprocessing, other_code, mirrors])
def test_what_makes_other_masks_or_names_makes_other_settings(edit, tmp_path: Path) -> None:
    """Else --resume would keep masks of the bundle as it was."""
    bundle = make_bundle(tmp_path / "b")
    before = Segmenter(bundle, device="cpu").settings_hash("")
    assert Segmenter(bundle, device="cpu").settings_hash("") == before
    edit(bundle)
    assert Segmenter(bundle, device="cpu").settings_hash("") != before


def test_cells_are_no_formulas_and_the_log_keeps_the_name(tmp_path: Path) -> None:
    log = CaseLog(tmp_path, ["left"])
    log.open()
    notes = ["-note", "second"]
    row = {"case": "=HYPERLINK(1)", "status": "failed", "reason": "@x", "notes": notes}
    log.append(row | {"volume_ml_left": -1.5})
    written = (tmp_path / "cases.csv").read_text().splitlines()[1]
    assert written.startswith("'=HYPERLINK(1),failed,'@x,'-note; second,,-1.5,")
    assert list(log.read()) == ["=HYPERLINK(1)"]


@pytest.mark.parametrize("spoiled", ["preview.png", "prob.nii.gz"])
def test_resume_checks_every_file_that_it_promises(spoiled: str, tmp_path: Path) -> None:
    """A preview or probabilities that were cut are made again, as a mask is."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    for name in ("a", "b"):
        save(scans / f"{name}.nii.gz", blocks((16, 16, 16)))
    segmenter = Segmenter(make_bundle(tmp_path / "b"), device="cpu", probabilities=True)
    assert segment(scans, out, segmenter, preview=True).exit_code == 0
    file = out / f"a_{spoiled}"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert segment(scans, out, segmenter, preview=True, resume=True).kept == 1
    assert file.read_bytes() == whole
    assert segment(scans, out, segmenter, preview=True, resume=True).kept == 2
