"""One sample on a CPU: a dendritic 3D convolution runs by oneDNN, with the same outputs."""

import pytest
import torch
from torch import nn
from torch.profiler import profile

from perforated_monai.dendrites.layer import DendriticLayer


def layer(**options: object) -> DendriticLayer:
    torch.manual_seed(0)
    made = DendriticLayer(nn.Conv3d(4, 8, 3, padding=1, **options), 2)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def operators(run: nn.Module, x: torch.Tensor) -> tuple[set[str], torch.Tensor]:
    with torch.no_grad(), profile() as profiled:
        out = run(x)
    return {event.key for event in profiled.key_averages()}, out


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"bias": False}])
def test_one_sample_takes_onednn(options: dict) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    made, x = layer(**options), torch.randn(1, 4, 8, 8, 8)
    names, out = operators(made, x)
    assert "aten::mkldnn_convolution" in names
    assert not [n for n in names if "slow_conv3d" in n]
    torch.testing.assert_close(out, made(x), rtol=0, atol=1e-5)  # with gradients: PyTorch's own way
    if not options:  # the trap is still there: remove meets_slow_path when this fails
        assert any("slow_conv3d" in n for n in operators(made.fused, x)[0])


@pytest.mark.parametrize(
    "x, options",
    [
        (torch.randn(1, 4, 8, 8, 8, dtype=torch.float64), {}),
        (torch.randn(4, 8, 8, 8), {}),  # without a batch axis
        (torch.randn(1, 4, 8, 8, 8), {"padding_mode": "circular"}),
    ],
)
def test_elsewhere_pytorch_decides(x: torch.Tensor, options: dict) -> None:
    made = layer(**options).to(x.dtype)
    if x.dim() == 4:
        with torch.no_grad():
            expected = made.fused(x[None])
            torch.testing.assert_close(made.wide(x)[None], expected, rtol=0, atol=1e-5)
        return
    with torch.no_grad():
        torch.testing.assert_close(made.wide(x), made.fused(x), rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_sum_in_place_leaves_the_input_and_is_repeatable(batch: int) -> None:
    made, x = layer(), torch.randn(batch, 4, 8, 8, 8)
    before = x.clone()
    with torch.no_grad():
        first, second = made(x), made(x)
    assert torch.equal(x, before) and torch.equal(first, second)
    torch.testing.assert_close(first, made(x), rtol=0, atol=1e-5)
    assert first.is_contiguous()
    # Its own memory: the wide output is freed when the layer returns.
    assert first.untyped_storage().nbytes() == first.numel() * first.element_size()


class OtherWeights(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return self.layer._conv_forward(x, weight, bias)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_a_convolution_runs_with_other_weights(kind: type, padding_mode: str) -> None:
    """Pins ``_conv_forward``, which is private to torch, in Python and in TorchScript."""
    options = {"stride": 2, "padding": 1, "groups": 2, "padding_mode": padding_mode}
    layer, other = kind(4, 6, 3, **options), kind(4, 6, 3, **options)
    x = torch.randn(2, 4, *[7] * (layer.weight.dim() - 2))
    for run in (OtherWeights(layer), torch.jit.script(OtherWeights(layer))):
        assert torch.equal(run(x, other.weight, other.bias), other(x))
