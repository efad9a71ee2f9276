"""``MobileUNet``: shapes at any size and stride, depthwise throughout, wrong arguments by name."""

import pytest
import torch
from torch import nn

from perforated_monai import UserError, build_network
from perforated_monai.bundle.check.meta_network import build
from perforated_monai.bundle.verify.allowed import judge_target
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.targets import find_layers
from perforated_monai.networks.catalogue import MobileUNet

BASE = {
    "name": "MobileUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
}


def made(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network({"format": 1, "base": BASE | changes, "dendrites": {}}).eval()


@pytest.mark.parametrize("size", [(32, 48, 32), (40, 56, 40), (12, 8, 20)])
def test_windows_of_the_bundle_and_odd_ones_keep_their_size(size: tuple[int, ...]) -> None:
    network = made(channels=[4, 4, 8], strides=[2, 2])
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("dims", "strides", "size"),
    [(1, [2], (10,)), (2, [[2, 3]], (8, 9)), (3, [[2, 2, 1], 1], (6, 6, 5)), (3, [4], (8, 8, 8))],
)
def test_strides_of_each_axis(dims: int, strides: list, size: tuple[int, ...]) -> None:
    network = made(spatial_dims=dims, strides=strides, channels=[4] * (len(strides) + 1))
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_wide_convolutions_are_depthwise_and_blocks_add_their_input() -> None:
    network = made(blocks=2)
    inner = [m for n, m in network.named_modules() if isinstance(m, nn.Conv3d) and "stem" not in n]
    assert all(m.kernel_size == (1, 1, 1) or m.groups == m.in_channels for m in inner)
    assert any(m.groups > 1 for m in inner)
    adds = [m.adds_input for m in network.modules() if hasattr(m, "adds_input")]
    assert adds == [False, True, False, True]


def test_each_sample_of_a_batch_is_on_its_own(volume) -> None:
    network, x = made(), volume(batch=3)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=0, atol=1e-5)


def test_the_head_alone_grows_by_its_name() -> None:
    types = ["Conv3d", "ConvTranspose3d"]
    network = made(channels=[4, 4, 8], strides=[2, 2])
    assert find_layers(network, DendriteConfig(layer_types=types, layer_names=["head"])) == ["head"]
    everything = find_layers(network, DendriteConfig(layer_types=types))
    convolutions = (nn.Conv3d, nn.ConvTranspose3d)
    assert everything == [n for n, m in network.named_modules() if isinstance(m, convolutions)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": [8]}, "channels must be a list of at least two.*no convolution; got .8."),
        ({"channels": []}, "channels must be a list of at least two"),
        ({"channels": [8, 0]}, "channels must be a list"),
        ({"channels": 8}, "channels must be a list"),
        ({"strides": [2, 2]}, r"strides must have one entry fewer than channels \(1 for"),
        ({"strides": [0]}, "each of strides must be"),
        ({"strides": [[2, 2]]}, "each of strides must be a whole number >= 1 or a list of 3"),
        ({"strides": 2}, "strides must have one entry fewer"),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3; got 4"),
        ({"spatial_dims": True}, "spatial_dims must be a whole number"),
        ({"expansion": 0}, "expansion must be a whole number >= 1; got 0"),
        ({"expansion": 1.5}, "expansion must be a whole number"),
        ({"reduction": -1}, "reduction must be"),
        ({"norm": "layer"}, "norm must be one of instance, batch; got 'layer'"),
        ({"blocks": 0}, "blocks must be"),
        ({"out_channels": 0}, "out_channels must be"),
        ({"dropout": 0.1}, "MobileUNet got an unexpected keyword argument 'dropout'"),
    ],
)
def test_wrong_arguments_are_named(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(**change)


def test_a_patch_of_another_size_is_named() -> None:
    network = made(channels=[4, 4, 8], strides=[2, 2])
    with pytest.raises(UserError, match=r"16×18×16 voxels must be a multiple of 4×4×4"):
        network(torch.randn(1, 1, 16, 18, 16))
    with pytest.raises(UserError, match=r"16×16 voxels must be a multiple of 4×4×4"):
        network(torch.randn(1, 1, 16, 16))


def test_a_definition_of_ours_is_built_by_the_check_and_allowed_by_verify() -> None:
    definition = {k: v for k, v in BASE.items() if k != "name"}
    ours = build(definition | {"_target_": "perforated_monai.nets.MobileUNet"})
    assert isinstance(ours.network, MobileUNet)
    assert "not built for a check" in build(definition | {"_target_": "other.MobileUNet"}).reason
    assert judge_target("perforated_monai.nets.MobileUNet") == ""
    assert judge_target("perforated_monai.networks.checks") and judge_target(
        "perforated_monai.nets.X"
    )


def test_small_arguments_work() -> None:
    network = MobileUNet(2, 1, 1, [1, 1], [1], expansion=1, reduction=64)
    assert network(torch.randn(2, 1, 5, 7)).shape == (2, 1, 5, 7)


def test_without_squeeze_and_excitation(volume) -> None:
    network = made(reduction=0, blocks=2)
    names = [n for n, _ in network.named_parameters()]
    assert names and not any("squeeze" in n for n in names)
    assert torch.jit.script(network)(volume()).shape == (2, 3, 16, 16, 16)
    with pytest.raises(UserError, match="reduction must be a whole number >= 0; got -1"):
        made(reduction=-1)


def test_batch_normalisation_sees_a_window_as_it_sees_the_volume(volume) -> None:
    network, whole = made(norm="batch", reduction=0), volume(size=32)
    network.train()(whole)  # statistics that are not those of the start
    network.eval()
    with torch.no_grad():
        window, inside = network(whole[..., :16]), network(whole)[..., :16]
    reach = 8  # voxels at the cut, which see what is behind it
    torch.testing.assert_close(window[..., :-reach], inside[..., :-reach], rtol=0, atol=1e-5)
    assert not any(isinstance(m, nn.InstanceNorm3d) for m in network.modules())
