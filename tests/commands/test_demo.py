"""The demo: what its table counts, its picture, its folder, and (slow) the whole of it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from perforated_monai import DendriteConfig, UserError, build_network
from perforated_monai.commands import demo
from perforated_monai.commands.demo_picture import draw_demo
from perforated_monai.networks.grown_spec import grown_entries
from perforated_monai.networks.spec import plain_spec
from perforated_monai.training.dice_plot import dice_axes
from perforated_monai.training.run_folder import RunFolder

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / demo.BUNDLE


def history(dice: list[float], grow_after: int | None = None) -> list[dict]:
    """Events as RunHandler writes them: the epoch line first, with what the epoch ended with."""
    events = []
    for epoch, value in enumerate(dice, start=1):
        grown = grow_after is not None and epoch >= grow_after
        line = {"event": "epoch", "epoch": epoch, "dice": value, "seconds": 2.0}
        line |= {"dice_per_class": [value + 0.05, value - 0.05]}
        events.append(line | {"parameters": 200 if grown else 100})
        if epoch == grow_after:
            events.append({"event": "grow", "epoch": epoch, "sets": 1, "parameters": 200})
    best = max(range(len(dice)), key=dice.__getitem__)
    end = {"event": "complete", "epoch": len(dice), "best_epoch": best + 1}
    return [*events, end | {"best_dice": dice[best], "integrated_dendrite_sets": 1}]


def test_columns_split_a_run_at_its_growth() -> None:
    # The best epoch before growth is the one in which growth came: its Dice is the old network's.
    grown = history([0.2, 0.5, 0.6, 0.4, 0.7, 0.65], grow_after=3)
    columns = demo.table_columns(grown, {demo.PLAIN: history([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])})
    before, after, plain = columns.values()
    assert (before["dice"], before["best_epoch"], before["parameters"]) == (0.6, 3, 100)
    assert (after["dice"], after["best_epoch"], after["parameters"]) == (0.7, 5, 200)
    assert plain["parameters"] == before["parameters"]
    assert plain["epochs"] == after["epochs"] == 6
    assert [c["seconds"] for c in (before, after, plain)] == [6.0, 12.0, 12.0]
    assert np.mean(after["dice_per_class"]) == pytest.approx(after["dice"])


@pytest.mark.parametrize("grow_after", [None, 3])
def test_a_run_that_no_epoch_follows_growth_shows_dashes(grow_after: int | None) -> None:
    columns = demo.table_columns(
        history([0.2, 0.5, 0.4], grow_after), {demo.PLAIN: history([0.2, 0.5, 0.4])}
    )
    assert columns["after growth"] is None
    text = render(columns)
    assert text.count("0.5000") == 2
    assert all(line.count(" - ") == 1 for line in text.splitlines() if "Dice," in line)


def test_table_has_every_row_and_fits_eighty_columns() -> None:
    columns = demo.table_columns(
        history([0.2, 0.5, 0.7], 2), {demo.PLAIN: history([0.3, 0.4, 0.6])}
    )
    text = render(columns)
    for name in (
        "Dice, anterior",
        "Dice, posterior",
        "Dice, mean",
        "parameters",
        "epochs",
        "seconds",
    ):
        assert sum(name in line for line in text.splitlines()) == 1
    row = next(line for line in text.splitlines() if "Dice, posterior" in line)
    assert re.findall(r"\d\.\d{4}", row) == ["0.4500", "0.6500", "0.5500"]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def render(columns: dict) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(demo.make_table(columns, ["anterior", "posterior"]))
    return capture.get()


@pytest.mark.parametrize("sets", [0, 1])
def test_report_ends_with_the_number_of_sets(
    sets: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {
        "integrated_dendrite_sets": sets,
        "validation": demo.table_columns(
            history([0.2, 0.5, 0.7], 2), {demo.PLAIN: history([0.3, 0.4, 0.6])}
        ),
        "held_out_dice": {"a": [0.8, 0.6], "b": [0.6, 0.6]},
        "export_max_abs_difference": 1e-6,
        "seconds": 9.0,
    }
    demo.print_report(tmp_path, facts, ["anterior", "posterior"])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"integrated_dendrite_sets={sets}"
    assert "anterior 0.7000, posterior 0.6000" in printed.out
    assert "proves nothing" in printed.out
    assert ("No dendrite was integrated" in printed.err) == (sets == 0)
    assert len(printed.err.splitlines()) == (1 if sets == 0 else 0)


def test_each_growth_has_its_vertical_line() -> None:
    events = history([0.2, 0.5, 0.4, 0.6, 0.7], grow_after=2)
    events.append({"event": "grow", "epoch": 4, "sets": 2, "parameters": 300})
    axes = Figure().add_subplot()
    dice_axes(axes, events, "with dendrites")
    vertical = [
        line for line in axes.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())
    ]
    assert [line.get_xdata()[0] for line in vertical] == [2.5, 4.5]
    labels = axes.get_legend_handles_labels()[1]
    assert labels.count("dendrites added") == 1
    assert any("0.7000" in label for label in labels)


def test_picture_shows_a_wrong_mask_and_survives_an_empty_one(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(16, 20, 12))
    true = np.zeros(image.shape, np.uint8)
    true[4:12, 4:10, 3:9], true[4:12, 10:16, 3:9] = 1, 2
    runs = {"with dendrites": history([0.2, 0.5, 0.6], 2), "plain": history([0.2, 0.4, 0.5])}
    masks = {"same": true, "shifted": np.roll(true, 2, 1), "empty": np.zeros_like(true)}
    pictures = set()
    for name, mask in masks.items():
        file = tmp_path / f"{name}.png"
        draw_demo(file, runs, [image, true, mask], ["Anterior", "Posterior"], "a case")
        pictures.add(file.read_bytes())
        assert file.read_bytes().startswith(b"\x89PNG")
    assert len(pictures) == len(masks)


def test_only_sets_with_weights_count_as_integrated(tmp_path: Path) -> None:
    base = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    spec = {"format": 1, "base": base | {"channels": [2, 4], "strides": [2]}, "dendrites": {}}
    layers = ["model.0.conv", "model.2.conv"]
    file = tmp_path / "model.pt"
    torch.save(build_network(spec).state_dict(), file)
    assert demo.integrated_sets(spec, file) == 0
    grown = {name: {"count": 2, "kind": "copy", "activation": "relu"} for name in layers}
    network = build_network(spec | {"dendrites": grown})
    for sets in range(3):
        if sets:
            with torch.no_grad():
                network.get_submodule(layers[0]).to_output[sets - 1, 0] = 0.1
        torch.save(network.state_dict(), file)
        assert demo.integrated_sets({"dendrites": grown}, file) == sets


def test_sets_at_sites_count_as_well(tmp_path: Path) -> None:
    """An apical dendrite changes the names of all tensors."""
    base = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    spec = plain_spec(base | {"channels": [2, 4], "strides": [2]})
    sets = DendriteConfig(sets=[{"kind": "distal"}, {"kind": "apical"}], activation="kind")
    spec["dendrites"] = grown_entries(build_network(spec), sets)
    network = build_network(spec)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("to_output"):
                weights.fill_(1)
    file = tmp_path / "model.pt"
    torch.save(network.state_dict(), file)
    assert demo.integrated_sets(spec, file) == 1


def test_dice_of_masks_compares_in_one_orientation(tmp_path: Path) -> None:
    labels, masks = tmp_path / "labels", tmp_path / "masks"
    labels.mkdir()
    masks.mkdir()
    true = np.zeros((8, 9, 10), np.uint8)
    true[:3], true[3:5] = 1, 2
    nib.save(nib.Nifti1Image(true, np.eye(4)), labels / "a.nii.gz")
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 7
    nib.save(nib.Nifti1Image(true[::-1], flipped), masks / "a_seg.nii.gz")
    assert demo.dice_of_masks(masks, labels, [1, 2]) == {"a": [1.0, 1.0]}
    nib.save(
        nib.Nifti1Image(np.where(true == 1, 2, 0).astype("u1"), np.eye(4)), masks / "a_seg.nii.gz"
    )
    assert demo.dice_of_masks(masks, labels, [1, 2]) == {"a": [0.0, 0.0]}


def test_demo_touches_no_folder_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another --out"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_demo_replaces_the_first(tmp_path: Path) -> None:
    copy = demo.copy_bundle(tmp_path / "out")
    (copy / "configs" / "train.json").write_text("changed")
    (copy.parent / "notes.txt").write_text("mine")
    assert demo.copy_bundle(tmp_path / "out") == copy
    for path in (BUNDLE / "configs").iterdir():
        assert (copy / "configs" / path.name).read_bytes() == path.read_bytes()
    assert (copy.parent / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_failing_step_is_named(tmp_path: Path) -> None:
    demo.copy_bundle(tmp_path / "out")
    settings = {"dataset_dir": tmp_path / "nowhere", "output_dir": tmp_path / "masks"}
    with pytest.raises(UserError, match="segmentation failed with exit code 1"):
        demo.run_bundle(tmp_path / "out", "segmentation", ["inference.json"], settings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    shipped = hashes(BUNDLE)
    command = [sys.executable, "-m", "perforated_monai", "demo", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sets = re.fullmatch(r"integrated_dendrite_sets=(\d+)", done.stdout.splitlines()[-1])
    assert sets
    assert int(sets[1]) >= 1
    assert hashes(BUNDLE) == shipped
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    out = tmp_path / "out"
    for word in ("epoch  1/", "dendrite set 1 added", "done: best Dice"):
        assert word in done.stderr
    assert len(done.stderr.splitlines()) < 150

    assert_fair(out / "runs" / "with_dendrites", out / "runs" / "plain")
    assert_exported(out / demo.BUNDLE, int(sets[1]))
    images = sorted((out / "phantoms" / "imagesTs").glob("*.nii.gz"))
    assert len(images) == demo.HELD_OUT
    for path in images:
        image, mask = (
            nib.load(path),
            nib.load(out / "masks" / path.name.replace(".nii", "_seg.nii")),
        )
        assert mask.shape == image.shape
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, image.affine)
    facts = json.loads((out / "demo.json").read_text())
    assert np.mean(list(facts["held_out_dice"].values())) > 0.6
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def assert_fair(grown: Path, plain: Path) -> None:
    """Both runs trained as long, from the same weights, and differ by the overlay alone."""
    first, second = RunFolder(grown).history(), RunFolder(plain).history()
    assert [e["epoch"] for e in second if e["event"] == "epoch"] == [
        e["epoch"] for e in first if e["event"] == "epoch"
    ]
    assert first[0]["loss"] == second[0]["loss"]
    accepted = [e for e in first if e["event"] == "accept"]
    assert accepted
    assert accepted[0]["dice_after"] > accepted[0]["dice_before"] * 1.0001
    configs = [json.loads((run / "config.json").read_text())["config"] for run in (grown, plain)]
    overlay = configs[0].pop("dendrites")
    assert overlay["improvement_threshold"] == [0.001, 0.0001, 0.0]
    assert configs[0]["train"]["handlers"].pop()["_target_"].endswith("DendriteHandler")
    for config in configs:
        del config["output_dir"], config["epochs"]
    assert configs[0] == configs[1]


def assert_exported(bundle: Path, sets: int) -> None:
    record = json.loads((bundle / "models" / "network.json").read_text())
    assert max(d["count"] for d in record["dendrites"].values()) == sets
    assert record["max_abs_difference"] <= 1e-5
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert any(state[f"{name}.to_output"].any() for name in record["dendrites"])


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
