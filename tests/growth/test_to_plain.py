"""``make_plain``: the tracker's own network and the plain one give the same outputs."""

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet
from torch import nn

from helpers.tiny import UNET, assert_nothing_of_the_library, outputs
from perforated_monai import build_network
from perforated_monai.dendrites.layer import DendriticLayer
from perforated_monai.growth.to_plain import make_plain
from perforated_monai.networks.surgery import count_parameters


@pytest.mark.parametrize("sets", [1, 2, 3])
def test_plain_network_equals_the_trackers(sets: int, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet().double(), volume(dtype=torch.float64)
    tracker = grow(network, x, sets)
    parameters = tracker.count_parameters()
    grown = outputs(network, x)
    layers = tracker.layers
    assert make_plain(network, "sigmoid") == dict.fromkeys(layers, sets)
    plain = outputs(network, x)
    torch.testing.assert_close(plain, grown, rtol=0, atol=1e-10)
    single = outputs(network.float(), x.float())
    torch.testing.assert_close(single, grown.float(), rtol=0, atol=1e-5)
    assert count_parameters(network) == parameters
    assert_nothing_of_the_library(network)
    for layer in network.modules():
        if isinstance(layer, DendriticLayer):
            layer.to_output.data.zero_()
    assert (outputs(network, x.float()) - single).abs().max() > 0.01  # the dendrites mattered


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
def test_in_float32_with_every_activation(activation: str, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2), volume(dims=2)
    grow(network, x, 2, activation=activation)
    grown = outputs(network, x)
    make_plain(network, activation)
    torch.testing.assert_close(outputs(network, x), grown, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sets", [1, 3])
def test_the_spec_rebuilds_it(sets: int, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(), volume()
    grow(network, x, sets, activation="relu")
    counts = make_plain(network, "relu")
    dendrites = {n: {"count": c, "kind": "copy", "activation": "relu"} for n, c in counts.items()}
    rebuilt = build_network({"format": 1, "base": UNET, "dendrites": dendrites})
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(outputs(rebuilt, x), outputs(network, x))


def test_without_growth_it_is_the_base_network_again(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(), volume()
    keys = list(network.state_dict())
    grow(network, x, 0)
    assert list(network.state_dict()) != keys
    assert make_plain(network, "sigmoid") == {}
    assert list(network.state_dict()) == keys
    assert torch.equal(outputs(network, x), outputs(tiny_unet(), x))
    assert_nothing_of_the_library(network)


def test_only_the_chosen_layers_change(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(), volume()
    tracker = grow(network, x, 1, layer_names=["model.2.*"])
    grown = outputs(network, x)
    counts = make_plain(network, "sigmoid")
    assert list(counts) == tracker.layers and all(n.startswith("model.2.") for n in counts)
    torch.testing.assert_close(outputs(network, x), grown, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_training_go_on(training: bool, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(), volume()
    grow(network, x, 1)
    network.train(training)
    make_plain(network, "sigmoid")
    assert {m.training for m in network.modules()} == {training}
    network(x).pow(2).mean().backward()
    assert all(p.requires_grad and p.grad is not None for p in network.parameters() if p.numel())


class Mixed(nn.Module):
    """Every kind of layer that grows, grouped and anisotropic, with a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(2, 4, (3, 3, 1), stride=(2, 2, 1), padding=(1, 1, 0), groups=2)
        self.same = nn.Conv3d(4, 4, 3, padding=1, bias=False, padding_mode="circular")
        self.same_again = self.same
        self.up = nn.ConvTranspose3d(4, 6, (2, 2, 1), stride=(2, 2, 1), groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.same_again(torch.relu(self.same(self.down(x)))))
        return self.head(x.movedim(1, -1))


def test_groups_strides_transposed_linear_and_shared_layers(volume, grow) -> None:
    torch.manual_seed(0)
    network, x = Mixed().double(), volume(channels=2, dtype=torch.float64)
    grow(network, x, 3, layer_types=["Conv3d", "ConvTranspose3d", "Linear"])
    grown = outputs(network, x)
    counts = make_plain(network, "sigmoid")
    assert list(counts) == ["down", "same", "up", "head"]
    torch.testing.assert_close(outputs(network, x), grown, rtol=0, atol=1e-10)
    assert_nothing_of_the_library(network)


MONAI_NETWORKS = {
    "BasicUNet": lambda: BasicUNet(3, 1, 2, (4, 4, 4, 4, 4, 4)),
    "DynUNet": lambda: DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 2, blocks_down=[1, 1], blocks_up=[1]),
}


@pytest.mark.parametrize(
    "name, sets",
    [
        ("SegResNet", 1),
        ("DynUNet", 1),
        *[
            pytest.param(name, sets, marks=pytest.mark.slow)
            for name, sets in [("BasicUNet", 1), *[(n, s) for n in MONAI_NETWORKS for s in (2, 3)]]
        ],
    ],
)
def test_other_networks(name: str, sets: int, volume, grow) -> None:
    torch.manual_seed(0)
    network = MONAI_NETWORKS[name]().double()
    x = volume(size=32 if name == "BasicUNet" else 16, dtype=torch.float64)
    grow(network, x, sets)
    grown = outputs(network, x)
    counts = make_plain(network, "sigmoid")
    assert set(counts.values()) == {sets}
    torch.testing.assert_close(outputs(network, x), grown, rtol=0, atol=1e-10)
    assert_nothing_of_the_library(network)
