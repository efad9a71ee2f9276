"""Several bundles at once: the mean of their probabilities, and what cannot be averaged."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.segment_bundle import blocks, change, make_bundle, read, save, save_weights, segment
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.ensemble import MeanOfNetworks


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> list[Path]:
    """Three bundles that differ in their weights."""
    folder = tmp_path_factory.mktemp("members")
    bundles = [make_bundle(folder / "fold0")]
    for seed in (1, 2):
        bundles.append(folder / f"fold{seed}")
        shutil.copytree(bundles[0], bundles[-1])
        torch.manual_seed(seed)
        state = torch.load(bundles[0] / "models" / "model.pt")
        save_weights(bundles[-1], {k: v + torch.randn(v.shape) / 3 for k, v in state.items()})
    return bundles


@pytest.fixture
def scan(tmp_path) -> Path:
    return save(tmp_path / "in" / "a.nii.gz", blocks((16, 16, 16)))


@pytest.mark.parametrize("exclusive", [True, False])
def test_what_comes_out_is_the_mean_of_the_probabilities(exclusive: bool) -> None:
    torch.manual_seed(0)
    networks = [torch.nn.Conv3d(1, 3, 1) for _ in range(3)]
    x = 5 * torch.randn(2, 1, 4, 4, 4)
    kind = (lambda y: y.softmax(1)) if exclusive else torch.sigmoid
    expected = sum(kind(n(x)) for n in networks) / 3
    with torch.no_grad():
        mean = kind(MeanOfNetworks(networks, exclusive)(x))
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_networks_that_are_sure_leave_it_finite(exclusive: bool, size: float) -> None:
    network = torch.nn.Conv3d(1, 3, 1)
    x = size * torch.randn(1, 1, 4, 4, 4)
    assert torch.isfinite(MeanOfNetworks([network, network], exclusive)(x)).all()


def test_the_mask_is_that_of_the_mean(members, scan, tmp_path) -> None:
    """Windows as large as the volume: nothing is blended, so each can be averaged by hand."""
    kept = []
    for number, bundle in enumerate(members):
        out = tmp_path / str(number)
        segment(scan, out, Segmenter(bundle, device="cpu", probabilities=True))
        kept.append(nib.load(out / "a_prob.nii.gz").get_fdata())
    together = Segmenter(members, device="cpu", probabilities=True)
    segment(scan, tmp_path / "all", together)
    mean = np.mean(kept, 0)
    found = nib.load(tmp_path / "all" / "a_prob.nii.gz").get_fdata()
    np.testing.assert_allclose(found, mean, atol=1e-4)  # kept in 16 bits
    mask = np.asarray(nib.load(tmp_path / "all" / "a_seg.nii.gz").dataobj)
    sure = np.sort(mean, -1)[..., -1] - np.sort(mean, -1)[..., -2] > 1e-4
    assert (mask == mean.argmax(-1))[sure].all() and sure.mean() > 0.9
    assert any((kept[0].argmax(-1) != mean.argmax(-1)).ravel())


@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_engines_take_it_and_no_members_written_model(engine, members, scan, tmp_path) -> None:
    (members[0] / "models" / "model.onnx").write_bytes(b"another network's")
    try:
        segment(scan, tmp_path / "torch", Segmenter(members, device="cpu"))
        segment(scan, tmp_path / "other", Segmenter(members, device="cpu", engine=engine))
    finally:
        (members[0] / "models" / "model.onnx").unlink()
    one, other = (
        np.asarray(nib.load(tmp_path / k / "a_seg.nii.gz").dataobj) for k in ("torch", "other")
    )
    assert (one == other).mean() > 0.999


def test_settings_follow_every_member(members) -> None:
    hashes = {Segmenter(m, device="cpu").settings_hash("") for m in (members, members[:2])}
    assert len(hashes | {Segmenter(members[0], device="cpu").settings_hash("")}) == 3


def other_label(bundle: Path) -> None:
    formats = read(bundle, "metadata.json")["network_data_format"]
    formats["outputs"]["pred"]["channel_def"]["1"] = "other"
    change(bundle, "metadata.json", network_data_format=formats)


def other_window(bundle: Path) -> None:
    change(
        bundle,
        "inference.json",
        inferer=read(bundle, "inference.json")["inferer"] | {"roi_size": [8] * 3},
    )


def other_step(bundle: Path) -> None:
    steps = read(bundle, "inference.json")["preprocessing"]
    steps["transforms"].append({"_target_": "ScaleIntensityd", "keys": "image"})
    change(bundle, "inference.json", preprocessing=steps)


def other_value_behind_a_reference(bundle: Path) -> None:
    """The steps and what they name are alike; what that refers to is not."""
    steps = read(bundle, "inference.json")["preprocessing"]
    steps["transforms"].append({"_target_": "ScaleIntensityd", "keys": "image", "maxv": "@top"})
    change(bundle, "inference.json", preprocessing=steps, top="@highest", highest=len(bundle.name))


def other_code(bundle: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "own.py").write_text("x = 1")


def test_what_steps_refer_to_is_compared_to_its_end(members, tmp_path) -> None:
    for name in ("one", "other"):
        shutil.copytree(members[0], tmp_path / name)
        other_value_behind_a_reference(tmp_path / name)
    with pytest.raises(UserError, match="differ in preprocessing of"):
        Segmenter([tmp_path / "one", tmp_path / "other"], device="cpu")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (other_label, "differ in labels"),
        (other_window, "differ in inferer of"),
        (other_step, "differ in preprocessing of"),
        (other_code, "differ in their own code"),
    ],
)
def test_what_cannot_be_averaged(edit, words: str, members, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(members[1], other)
    edit(other)
    with pytest.raises(UserError, match=words):
        Segmenter([members[0], other], device="cpu")


def test_a_bundle_named_twice(members) -> None:
    with pytest.raises(UserError, match="named twice"):
        Segmenter([members[0], members[0].parent / "." / members[0].name], device="cpu")


def test_training_volumes_of_each_member_count(members, tmp_path) -> None:
    narrow = tmp_path / "narrow"
    shutil.copytree(members[1], narrow)
    ranges = {
        "axes": ["left-right", "posterior-anterior", "inferior-superior"],
        "size_mm": [[100, 200]] * 3,
        "spacing_mm": [[1, 1]] * 3,
        "tolerance": 1.5,
    }
    change(
        narrow,
        "metadata.json",
        segment=read(narrow, "metadata.json")["segment"] | {"training_ranges": ranges},
    )
    with pytest.raises(UserError, match="out-of-range"):
        Segmenter([members[0], narrow], device="cpu").check_range((16, 16, 16), np.eye(4))


def test_the_command_takes_a_bundle_several_times(members, scan, tmp_path) -> None:
    bundles = [word for m in members for word in ("--bundle", m)]
    words = ["segment", scan.parent, tmp_path / "out", *bundles, "--trust"]
    assert main(list(map(str, words))) == 0
    assert (tmp_path / "out" / "a_seg.nii.gz").exists()
    assert "fold0 + fold1 + fold2" in (tmp_path / "out" / "run.json").read_text()
