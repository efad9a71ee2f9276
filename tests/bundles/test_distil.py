"""Distillation: the loss, the soft targets of cases, and the overlay from teacher to student."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss

from helpers.harness import BUNDLE, CPU, history, initialised
from perforated_monai import DistillationLoss
from perforated_monai.commands.main import main
from perforated_monai.data.soft_targets import add_soft_targets
from perforated_monai.errors import UserError
from perforated_monai.export.new_bundle import export_to_new_bundle

SMALL = {"base_network_def::channels": [4, 8, 8], "roi_size": [32, 32, 32]}
SHORT = {"epochs": 2, "lr_cycle_epochs": 2, "val_interval": 1, "val_roi_size": [32, 32, 32]}
STUDENT = ("train.json", "micro.yaml", "distil.yaml")


def target_of(label: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    return torch.cat([label.float(), soft], 1)


def test_without_teachers_it_is_the_loss_itself() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 1, 4, 4, 4))
    own = DiceCELoss(to_onehot_y=True, softmax=True)
    found = DistillationLoss(own, weight=0)(logits, target_of(label, torch.rand(2, 3, 4, 4, 4)))
    assert torch.equal(found, own(logits, label.float()))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_least_where_the_student_agrees(temperature: float) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, 4, 4)
    target = target_of(torch.zeros(2, 1, 4, 4, 4), teacher.softmax(1))
    loss = DistillationLoss(lambda a, b: a.new_zeros(()), weight=1, temperature=temperature)
    student = teacher.clone().requires_grad_()
    loss(student, target).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6
    entropy = loss(teacher, target)
    assert all(loss(teacher + 0.1 * torch.randn(teacher.shape), target) > entropy for _ in range(5))


def test_padding_by_zeros_is_background() -> None:
    loss = DistillationLoss(lambda a, b: a.new_zeros(()), weight=1)
    logits = torch.tensor([20.0, 0, 0]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 2, 2)
    assert loss(logits, torch.zeros(1, 4, 2, 2, 2)) < 1e-6


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"weight": -0.1}, {"temperature": 0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="weight from 0 to 1 and temperature above 0"):
        DistillationLoss(DiceCELoss(), **wrong)


def test_teachers_of_other_classes() -> None:
    with pytest.raises(UserError, match=r"label and 3 probabilities.*got 3 channels"):
        DistillationLoss(DiceCELoss())(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2))


def test_the_labels_have_the_loss_of_plain_training() -> None:
    """The overlay must repeat it, for it puts another in its place."""
    plain, distilled = (
        ConfigParser.load_config_file(str(BUNDLE / "configs" / name))
        for name in ("train.json", "distil.yaml")
    )
    assert distilled["labels_loss"] == plain["loss"]


def test_a_case_without_its_soft_target(tmp_path: Path) -> None:
    cases = [{"image": str(tmp_path / "images" / "a.nii.gz"), "case": "a"}]
    with pytest.raises(UserError, match=r"has no .*_prob.nii.gz"):
        add_soft_targets(cases, tmp_path)
    (tmp_path / "b_prob.nii.gz").touch()
    with pytest.raises(UserError, match=r"has no a_prob.nii.gz"):
        add_soft_targets(cases, tmp_path)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a_prob.nii.gz").touch()
    with pytest.raises(UserError, match=r"has two or more a_prob.nii.gz"):
        add_soft_targets(cases, tmp_path)
    shutil.rmtree(tmp_path / "y")
    assert add_soft_targets(cases, tmp_path)[0]["soft"] == str(tmp_path / "x" / "a_prob.nii.gz")


def test_from_teachers_to_a_student(few_phantoms: Path, tmp_path: Path) -> None:
    """The three steps on top of distil.yaml, with two teachers."""
    teachers = []
    for seed in (1, 2):
        run, out = tmp_path / f"run{seed}", tmp_path / f"teacher{seed}"
        names = ("train.json", "micro.yaml")
        initialised(BUNDLE, names, few_phantoms, run, device=CPU, seed=seed, **SMALL | SHORT).run()
        export_to_new_bundle(run, BUNDLE, out, formats=[])
        teachers += ["--bundle", str(out)]
    images, soft = str(few_phantoms / "imagesTr"), str(tmp_path / "soft")
    flags = ["--probabilities", "--allow-out-of-range", "--allow-phantom-weights"]
    assert main(["segment", images, soft, *teachers, *flags]) == 0

    settings = SMALL | SHORT | {"soft_targets": soft}
    student = initialised(BUNDLE, STUDENT, few_phantoms, tmp_path / "run", device=CPU, **settings)
    item = student.parser.get_parsed_content("train::dataset")[(1, 0)]
    assert item["label"].shape == (4, 32, 32, 32) and set(item) == {"image", "label", "case"}
    label, probabilities = item["label"][0], item["label"][1:]
    assert set(label.unique().tolist()) <= {0, 1, 2}
    assert probabilities.min() >= 0 and probabilities.sum(0).max() < 1.001
    student.run()
    assert [e["epoch"] for e in history(tmp_path / "run") if "dice" in e] == [1, 2]

    hard = initialised(BUNDLE, names, few_phantoms, tmp_path / "hard", device=CPU, **SMALL | SHORT)
    hard.run()
    losses = [[e["loss"] for e in history(tmp_path / k) if "loss" in e] for k in ("run", "hard")]
    assert losses[0] != losses[1]


def test_probabilities_lie_where_the_image_does(few_phantoms: Path, tmp_path: Path) -> None:
    """Soft targets made of the labels themselves stay the labels through every random transform."""
    soft = tmp_path / "soft"
    soft.mkdir()
    for path in (few_phantoms / "labelsTr").glob("*.nii.gz"):
        image = nib.load(path)
        hot = np.eye(3, dtype="f4")[np.asarray(image.dataobj).astype(int)]
        name = path.name.replace(".nii.gz", "_prob.nii.gz")
        nib.save(nib.Nifti1Image(hot, image.affine), soft / name)
    settings = SMALL | SHORT | {"soft_targets": str(soft)}
    made = initialised(BUNDLE, STUDENT, few_phantoms, tmp_path / "run", device=CPU, **settings)
    dataset = made.parser.get_parsed_content("train::dataset")
    equal = []
    for epoch in range(1, 6):
        target = dataset[(epoch, 0)]["label"]
        chosen = torch.cat([1 - target[2:].sum(0, keepdim=True), target[2:]])
        equal.append(float((chosen.argmax(0) == target[0]).float().mean()))
    assert max(equal) == 1 and min(equal) > 0.97  # rotated ones differ at the border, by rounding
