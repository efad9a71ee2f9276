"""The depthwise convolution with cheap gradients is torch's, forward to the bit."""

import copy

import pytest
import torch
from torch import nn

from perforated_monai.dendrites.depthwise_conv import DepthwiseConv3d

CASES = {
    "kernel 3": ((2, 5, 8, 6, 7), 3, 1, False),
    "bias": ((1, 4, 6, 6, 6), 3, 1, True),
    "wide": ((2, 4, 8, 9, 8), 5, 1, False),
    "dilated": ((2, 3, 9, 8, 10), 5, 2, False),
    "uneven": ((2, 3, 7, 6, 5), (1, 3, 5), (1, 2, 1), False),
    "thinner than its kernel": ((2, 3, 2, 3, 2), 5, 2, True),
    "one slice": ((3, 2, 1, 5, 5), 3, 1, False),
}


def pair(kernel: object, dilation: object, channels: int, bias: bool) -> tuple:
    kernels = (kernel,) * 3 if isinstance(kernel, int) else kernel
    dilations = (dilation,) * 3 if isinstance(dilation, int) else dilation
    reach = tuple(d * (k // 2) for d, k in zip(dilations, kernels, strict=True))
    torch.manual_seed(0)
    layer = nn.Conv3d(
        channels, channels, kernels, padding=reach, dilation=dilations, groups=channels, bias=bias
    )
    return layer, DepthwiseConv3d.of(copy.deepcopy(layer))


@pytest.mark.parametrize("name", CASES)
def test_it_is_torchs_convolution(name: str) -> None:
    shape, kernel, dilation, bias = CASES[name]
    layer, ours = pair(kernel, dilation, shape[1], bias)
    assert type(ours) is DepthwiseConv3d
    assert list(ours.state_dict()) == list(layer.state_dict())
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(ours(x), layer(x))
    results = []
    for module in (layer, ours):
        image = x.clone().requires_grad_()
        y = module(image)
        gradient = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y, *torch.autograd.grad(y, [image, *module.parameters()], gradient)))
    for theirs, own in zip(*results, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5 * scale)
        assert own.is_contiguous()


def test_its_gradients_are_those_of_differences() -> None:
    """In float64 through the same function: ``gradcheck`` against finite differences."""
    from perforated_monai.dendrites.depthwise_conv import _Depthwise

    x = torch.randn(2, 2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _Depthwise.apply(a, b, (1, 2, 1)), (x, weight))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 4, 3, 2, 1, groups=4),
        nn.Conv3d(4, 4, 3, 1, 0, groups=4),
        nn.Conv3d(4, 8, 3, 1, 1, groups=4),
        nn.Conv3d(4, 4, 2, 1, 1, groups=4),
        nn.Conv3d(4, 4, 3, 1, 1),
        nn.Conv3d(4, 4, 3, 1, 1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, 1, 1, groups=4),
        nn.Conv3d(4, 4, 1, groups=4),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    assert DepthwiseConv3d.of(layer) is layer


def test_it_scripts_exports_and_takes_other_precisions() -> None:
    _, ours = pair(3, 1, 4, True)
    x = torch.randn(2, 4, 6, 6, 6)
    with torch.no_grad():
        expected = ours(x)
    torch.testing.assert_close(torch.jit.script(ours)(x), expected)
    exported = torch.export.export(ours, (x,)).module()
    torch.testing.assert_close(exported(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x.requires_grad_()).dtype == torch.bfloat16
    assert ours.double()(x.double()).dtype == torch.float64
