"""The loss without a one-hot copy equals MONAI's in value and gradient."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from perforated_monai import SoftmaxDiceCELoss, UserError

SHAPES = [(2, 3, 6, 7, 5), (1, 2, 8, 8, 8), (3, 5, 9, 4), (4, 3, 40, 40, 40)]


def both(logits: torch.Tensor, label: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Value and gradient of MONAI's loss and of ours, each scaled by 3 as a scaler would."""
    found = []
    for loss in (DiceCELoss(to_onehot_y=True, softmax=True, batch=True), SoftmaxDiceCELoss()):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, label)
        (3 * value).backward()
        found.append((value.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_value_and_gradient_are_monais(shape: tuple, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(shape, dtype=dtype)
    label = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]))
    (value, slope), (ours, our_slope) = both(logits, label)
    assert ours.dtype == dtype and abs(float(value - ours)) < 1e-6
    scale = float(slope.abs().max())
    assert float((slope - our_slope).abs().max()) < 1e-6 * max(scale, 1e-3)


@pytest.mark.parametrize("only", [0, 2])
def test_a_class_that_is_absent_counts_as_in_monai(only: int) -> None:
    logits = torch.randn(2, 3, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    (value, slope), (ours, our_slope) = both(logits, torch.full((2, 1, 5, 5, 5), only))
    assert abs(float(value - ours)) < 1e-6 and torch.allclose(slope, our_slope, atol=1e-8)


def test_the_gradient_is_that_of_the_value() -> None:
    logits = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, 3, 2))
    assert torch.autograd.gradcheck(lambda x: SoftmaxDiceCELoss()(x, label), logits)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32], ids=str)
def test_labels_of_any_dtype_give_one_value(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    label = (torch.arange(16) % 3).reshape(1, 1, 4, 4)
    assert torch.equal(
        SoftmaxDiceCELoss()(logits, label), SoftmaxDiceCELoss()(logits, label.to(dtype))
    )


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(1, 3, 8, 8).bfloat16().requires_grad_()
    loss = SoftmaxDiceCELoss()(logits, torch.zeros(1, 1, 8, 8))
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "logits, label",
    [((1, 3, 4, 4), (1, 3, 4, 4)), ((1, 3, 4, 4), (1, 4, 4)), ((1, 1, 4, 4), (1, 1, 4, 4))],
)
def test_shapes_that_are_no_index_map_are_refused(logits: tuple, label: tuple) -> None:
    with pytest.raises(UserError, match="at least two classes and a label"):
        SoftmaxDiceCELoss()(torch.zeros(logits), torch.zeros(label))
