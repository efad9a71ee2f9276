"""``DendriticBlock`` against its formula, written with whole MONAI blocks."""

import copy
import io

import pytest
import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.export import Dim

from helpers.tiny import UNET, assert_nothing_of_the_library, outputs
from perforated_monai import UserError, build_network
from perforated_monai.dendrites.block_layer import Branches, DendriticBlock
from perforated_monai.growth.to_plain import make_plain
from perforated_monai.networks.surgery import count_parameters

# name: options of Convolution(spatial_dims, 4, 6, ...)
BLOCKS = {
    "instance, dropout, PReLU": {"dropout": 0.2},
    "PReLU a channel": {"act": ("prelu", {"num_parameters": 6})},
    "affine instance": {"norm": ("instance", {"affine": True}), "act": "leakyrelu"},
    "batch": {"norm": "batch", "act": ("elu", {"inplace": True})},
    "group": {"norm": ("group", {"num_groups": 3}), "act": "gelu"},
    "layer, branch by branch": {"norm": ("layer", {"normalized_shape": (6, 6)}), "act": "relu"},
    "softmax, branch by branch": {"norm": None, "act": ("softmax", {"dim": 1})},
    "activation first": {"adn_ordering": "AN", "act": "swish"},
    "convolution only": {"conv_only": True},
    "no bias, stride": {"bias": False, "strides": 2, "norm": "batch"},
    "groups": {"groups": 2, "norm": ("group", {"num_groups": 2})},
    "transposed": {"is_transposed": True, "strides": 2},
}


def build(options: dict, count: int) -> tuple[DendriticBlock, list[nn.Module], Tensor, Tensor]:
    torch.manual_seed(0)
    template = Convolution(2, 4, 6, **options).double()
    blocks = [copy.deepcopy(template) for _ in range(count + 1)]
    for block in blocks:
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
        block.train()(torch.randn(3, 4, 6, 6).double() + 1)  # running statistics of its own
    w, v = torch.randn(count, 6).double(), torch.randn(count * (count - 1) // 2, 6).double()
    fused = DendriticBlock(template, count, "tanh")
    fused.load_branches(blocks, w, v)
    return fused.eval(), [b.eval() for b in blocks], w, v


def formula(blocks: list[nn.Module], w: Tensor, v: Tensor, x: Tensor) -> Tensor:
    y, active = blocks[0](x), []
    for i, dendrite in enumerate(blocks[1:]):
        a = dendrite(x)
        for j in range(i):
            a = a + v[i * (i - 1) // 2 + j].view(-1, 1, 1) * active[j]
        active.append(torch.tanh(a))
        y = y + w[i].view(-1, 1, 1) * active[-1]
    return y


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_formula(name: str, count: int) -> None:
    fused, blocks, w, v = build(BLOCKS[name], count)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = formula(blocks, w, v, x)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-10)
    assert (expected - blocks[0](x)).abs().max() > 0.1  # the dendrites matter
    assert any(isinstance(m, Branches) for m in fused.modules()) == ("branch by branch" in name)
    assert count_parameters(fused) == sum(map(count_parameters, blocks)) + w.numel() + v.numel()


@pytest.mark.parametrize("name", ["instance, dropout, PReLU", "layer, branch by branch", "groups"])
def test_scripts_and_exports(name: str) -> None:
    fused, *_ = build(BLOCKS[name], 2)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(fused), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), fused(x), rtol=0, atol=1e-12)
    program = torch.export.export(fused, (x,), dynamic_shapes=({0: Dim.DYNAMIC},))
    other = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(program.module()(other), fused(other), rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter() -> None:
    fused, *_ = build(BLOCKS["affine instance"], 2)
    fused.train()(torch.randn(2, 4, 6, 6).double()).pow(3).sum().backward()
    # Instance normalisation takes the bias of a convolution away.
    for name, p in fused.named_parameters():
        assert p.grad is not None and (name == "fused.bias" or p.grad.abs().sum() > 0), name


def test_refuses_other_modules() -> None:
    with pytest.raises(TypeError, match="Conv2d"):
        DendriticBlock(nn.Conv2d(1, 1, 1), 1)
    with pytest.raises(ValueError, match="count"):
        DendriticBlock(Convolution(2, 1, 1), 0)


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_blocks_grown_by_the_tracker(norm: str, sets: int, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(norm=norm).double(), volume(dtype=torch.float64)
    tracker = grow(network, x, sets, layer_types=["Convolution"])
    parameters = tracker.count_parameters()
    grown = outputs(network, x)
    counts = make_plain(network, "sigmoid")
    assert counts == dict.fromkeys(tracker.layers, sets) and len(counts) > 2
    torch.testing.assert_close(outputs(network, x), grown, rtol=0, atol=1e-10)
    assert count_parameters(network) == parameters
    assert_nothing_of_the_library(network)
    dendrites = {
        n: {"count": c, "kind": "copy", "activation": "sigmoid"} for n, c in counts.items()
    }
    base = {**UNET, "norm": norm}
    rebuilt = build_network({"format": 1, "base": base, "dendrites": dendrites}).double()
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(outputs(rebuilt, x), outputs(network, x))


def test_dendrites_that_cannot_be_expressed_are_refused_by_name(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(), volume()
    grow(network, x, 1, layer_types=["ResidualUnit"])
    with pytest.raises(UserError, match=r"'model\.0' cannot be exported.*ResidualUnit"):
        make_plain(network, "sigmoid")
