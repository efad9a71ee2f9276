"""Which layers grow: types and patterns, nesting, aliases, frozen layers, and "matched nothing"."""

import pytest
from monai.networks.nets import DynUNet, SegResNet
from torch import nn

from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.targets import NoMatchingLayerError, find_layers


def choose(network: nn.Module, **settings: object) -> list[str]:
    return find_layers(network, DendriteConfig(**settings))


def test_every_convolution_by_default(tiny_unet) -> None:
    network = tiny_unet()
    expected = [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))
    ]
    assert choose(network) == expected
    assert len(expected) == 6


def test_types_and_patterns_narrow_it(tiny_unet) -> None:
    network = tiny_unet()
    everything = choose(network)
    assert choose(network, layer_types=["ConvTranspose3d"]) == ["model.2.0.conv"]
    decoder = choose(network, layer_names=["model.2.*"])
    assert decoder == [n for n in everything if n.startswith("model.2.")]
    rest = choose(network, exclude=["model.2.*"])
    assert sorted(rest + decoder) == sorted(everything)


def test_patterns_are_case_sensitive() -> None:
    network = nn.ModuleDict({"A": nn.Conv1d(1, 1, 1), "a": nn.Conv1d(1, 1, 1)})
    assert choose(network, layer_names=["a"]) == ["a"]


def test_the_outer_of_nested_matches_grows(tiny_unet) -> None:
    network = tiny_unet()
    blocks = choose(network, layer_types=["Convolution", "Conv3d"])
    for name in blocks:
        assert not any(name.startswith(outer + ".") for outer in blocks)
    # A residual path is a bare convolution, so it grows beside the blocks.
    kinds = {type(network.get_submodule(name)).__name__ for name in blocks}
    assert kinds == {"Convolution", "Conv3d"}


def test_the_inner_grows_where_a_pattern_passes_over_the_outer(tiny_unet) -> None:
    network = tiny_unet()
    chosen = choose(network, layer_types=["Convolution", "Conv3d"], layer_names=["*.conv"])
    assert all(type(network.get_submodule(name)).__name__ == "Conv3d" for name in chosen)


def test_names_that_only_share_a_prefix_are_not_nested() -> None:
    network = nn.ModuleDict({"conv": nn.Conv1d(1, 1, 1), "conv2": nn.Conv1d(1, 1, 1)})
    assert choose(network) == ["conv", "conv2"]


@pytest.mark.parametrize(
    "network",
    [
        DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]),
        SegResNet(3, 8, 1, 2, blocks_down=[1, 1], blocks_up=[1]),
    ],
    ids=["DynUNet", "SegResNet"],
)
def test_a_module_with_two_names_grows_once(network: nn.Module) -> None:
    chosen = [network.get_submodule(name) for name in choose(network)]
    assert len(chosen) == len({id(m) for m in chosen})
    convolutions = {
        id(m) for m in network.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))
    }
    assert {id(m) for m in chosen} == convolutions


def test_frozen_layers_are_left_alone_with_a_warning(tiny_unet) -> None:
    network = tiny_unet()
    frozen = "model.0.residual"
    network.get_submodule(frozen).requires_grad_(False)
    everything = choose(tiny_unet())
    with pytest.warns(UserWarning, match=frozen):
        assert choose(network) == [n for n in everything if n != frozen]


def test_all_frozen_is_an_error(tiny_unet) -> None:
    network = tiny_unet().requires_grad_(False)
    with pytest.warns(UserWarning), pytest.raises(NoMatchingLayerError, match=r"frozen.*unfreeze"):
        choose(network)


def test_no_such_type_lists_the_types_there(tiny_unet) -> None:
    with pytest.raises(NoMatchingLayerError) as caught:
        choose(tiny_unet(), layer_types=["Conv4d"])
    assert "Conv4d" in str(caught.value)
    assert "Conv3d, ConvTranspose3d, PReLU" in str(caught.value)


def test_a_pattern_without_a_match_is_echoed_with_near_names(tiny_unet) -> None:
    with pytest.raises(NoMatchingLayerError) as caught:
        choose(tiny_unet(), layer_names=["model.0.residul"])
    assert "model.0.residul" in str(caught.value)
    assert "Nearest: model.0.residual" in str(caught.value)


def test_one_mistyped_pattern_among_good_ones_is_refused(tiny_unet) -> None:
    with pytest.raises(NoMatchingLayerError, match=r"'modle\.2\.\*' matches none"):
        choose(tiny_unet(), layer_names=["model.0.*", "modle.2.*"])


def test_excluding_everything_is_an_error(tiny_unet) -> None:
    with pytest.raises(NoMatchingLayerError, match=r"exclude=\['model\*'\]"):
        choose(tiny_unet(), exclude=["model*"])
