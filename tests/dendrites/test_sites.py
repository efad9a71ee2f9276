"""Dendrites that read a block's output or the image: where they go, what they refuse."""

import threading

import pytest
import torch
from monai.networks.nets import (
    UNETR,
    AttentionUnet,
    BasicUNet,
    DynUNet,
    SegResNet,
    UNet,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from perforated_monai import DendriteConfig, UserError, build_network
from perforated_monai.dendrites.default_sets import default_sets
from perforated_monai.dendrites.kinds.apical import Apical, depth_to_space
from perforated_monai.dendrites.kinds.distal import Distal
from perforated_monai.dendrites.sites import make_site
from perforated_monai.dendrites.targets import find_targets
from perforated_monai.dendrites.trace import trace
from perforated_monai.networks.mobile import MobileUNet
from perforated_monai.networks.surgery import count_parameters, replace_module

MIXED = {"sets": [{"kind": "distal"}, {"kind": "apical"}]}
NETWORKS = {
    "UNet": lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2)),
    "UNet, residual": lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2),
    "UNet, 2D": lambda: UNet(2, 3, 2, (4, 8), (2,)),
    "BasicUNet": lambda: BasicUNet(3, 1, 2, (4, 4, 8, 8, 8, 4)),
    "DynUNet": lambda: DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "AttentionUnet": lambda: AttentionUnet(3, 1, 2, (4, 8, 8), (2, 2)),
    "UNETR": lambda: UNETR(1, 2, (32, 32, 32), 4, 24, 48, 3),
    "MobileUNet": lambda: MobileUNet(
        3, 1, 2, [4, 8, 8], [2, 2], expansion=2, reduction=2, blocks=1
    ),
}


def config(**changes: object) -> DendriteConfig:
    return DendriteConfig(activation="identity", initialisation="layer", scale=1.0, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_kinds_find_their_places(name: str) -> None:
    """Distal at the coarsest blocks, apical at the layer that gives the network's output."""
    network = NETWORKS[name]()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    random = torch.get_rng_state()
    targets = find_targets(network, config(**MIXED))
    assert torch.equal(torch.get_rng_state(), random)
    kinds = [kind.name for kind in targets.values()]
    assert kinds.count("apical") == 1 and kinds.count("distal") >= 1
    assert list(targets) == [n for n, _ in network.named_modules() if n in targets]
    for layer, kind in targets.items():
        assert kind.outputs > 0 and network.get_submodule(layer) is not None
        one = kind.make(network)
        assert kind.cost(network) == count_parameters(one) + kind.outputs
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes


def test_the_formulas_are_what_their_pages_say() -> None:
    torch.manual_seed(0)
    distal = Distal(5, 1, 6, "output", 4, 4, 3).draw({"dtype": torch.float64})
    a = torch.randn(2, 4, 7, 6, 5, dtype=torch.float64)
    wide, norm, first, act, second = distal
    assert wide.groups == 4 and wide.bias is None and not norm.affine
    expected = second(act(first(nn.functional.instance_norm(wide(a)))))
    assert torch.equal(distal(a), expected) and distal(a).shape == a.shape

    kind = Apical(3, 1, 4, "image", 5, 2, 3, 1, (2, 2, 2))
    apical = kind.draw({"dtype": torch.float64})
    u, image = (torch.randn(2, c, n, n, n, dtype=torch.float64) for c, n in ((5, 4), (1, 8)))
    up = nn.ConvTranspose3d(5, 4, 2, stride=2, bias=False, dtype=torch.float64)
    with torch.no_grad():  # a transposed convolution whose kernel is its stride
        up.weight.copy_(apical.features.weight.view(4, 2, 2, 2, 5).permute(4, 0, 1, 2, 3))
    torch.testing.assert_close(depth_to_space(apical.features(u), [2, 2, 2]), up(u))
    assert apical(u, image).shape == (2, 2, 8, 8, 8)


def test_an_image_site_keeps_nothing_between_calls() -> None:
    """Threads, two forward calls before one backward, and checkpointing: equal gradients."""
    torch.manual_seed(0)
    network = NETWORKS["UNet"]().double()
    name, kind = next((n, k) for n, k in find_targets(network, config(kind="apical")).items())
    replace_module(network, name, make_site(network, name, kind))
    wrapped = network.get_submodule(name).dendritic_sum
    dendrite = kind.draw({"dtype": torch.float64})

    class Summed(nn.Module):
        def forward(self, u: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return wrapped(u, image) + dendrite(u, image)

    network.get_submodule(name).dendritic_sum = Summed()
    images = [torch.randn(1, 1, 16, 16, 16, dtype=torch.float64) for _ in range(2)]
    apart = [network(x) for x in images]
    together: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.update({i: network(images[i])}))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[i], apart[i]) for i in range(2))

    weight = dendrite.look.weight
    plain = torch.autograd.grad(sum(y.square().sum() for y in apart), weight)[0]
    kept = [checkpoint(network, x, use_reentrant=False) for x in images]
    again = torch.autograd.grad(sum(y.square().sum() for y in kept), weight)[0]
    assert torch.equal(plain, again) and plain.abs().max() > 0


class HalfSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = Both()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self.both(x))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x), self.conv(x)


def supervised() -> nn.Module:
    net = DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8], deep_supervision=True)
    assert isinstance(net, nn.Module)
    return net


REFUSED = {
    "output at half size": (
        HalfSize,
        {"kind": "apical", "layer_names": ["conv"]},
        "image's resolution",
    ),
    "deep supervision": (supervised, {"kind": "apical"}, "finds no place in DynUNet"),
    "not the last layer": (
        NETWORKS["UNet"],
        {"kind": "apical", "layer_names": ["model.0"]},
        "last layer",
    ),
    "a tuple": (Pair, {"kind": "distal", "layer_names": ["both"]}, "its output is a tuple"),
    "no block": (HalfSize, {"kind": "distal"}, "finds no place in HalfSize"),
    "no such name": (NETWORKS["UNet"], {"kind": "distal", "layer_names": ["model.9*"]}, "Nearest"),
    "overlap": (
        NETWORKS["UNet"],
        {"sets": [{"kind": "distal"}, {"kind": "copy", "layers": ["model.1.submodule.0*"]}]},
        "sets overlap",
    ),
    "another resolution": (
        NETWORKS["UNet"],
        {"kind": "distal", "reads": "input", "layer_names": ["model.0"]},
        "another resolution",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_place_is_refused_by_name(case: str) -> None:
    network, settings, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        find_targets(network(), config(**settings))
    assert "\n" not in str(error.value)


WRONG = [
    ({"kind": "apical", "reads": "output"}, "apical reads image"),
    ({"kind": "distal", "reads": "image"}, "distal reads output or input"),
    ({"kind": "distal", "kernel": 4}, "kernel must be an odd whole number"),
    ({"kind": "copy", "kernel": 5}, "kernel belongs to kinds distal, apical"),
    ({"sets": [{"kind": "distal"}], "hidden": 4}, "hidden belongs to one kind, and sets mix kinds"),
    ({"sets": [{"kind": "distal"}], "layer_names": ["model.2"]}, "layer_names as layers there"),
    (
        {"sets": [{"kind": "distal"}, {"kind": "copy"}], "activation": "kind"},
        "activation must be named for sets of kinds distal, copy",
    ),
    ({"sets": [{"kind": "distal", "patience": 3}]}, "part 1: a part has kind"),
    ({"sets": [{"layers": ["*"]}]}, "part 1: a part has kind"),
    ({"sets": [{"kind": "distal", "kernel": 2}]}, "kernel must be an odd"),
    ({"sets": "distal"}, "sets must be a list"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DendriteConfig.from_dict(settings)


def test_a_kernel_wider_than_the_map_is_refused_in_the_first_step() -> None:
    network = NETWORKS["UNet"]()
    targets = find_targets(network, config(kind="distal", dilation=3))
    for name, kind in targets.items():
        replace_module(network, name, make_site(network, name, kind))
    with pytest.raises(UserError, match=r"need at least 7 voxels an axis, .* a map of \(4, 4, 4\)"):
        network(torch.zeros(1, 1, 16, 16, 16))


def test_a_spec_with_a_shape_that_is_missing_or_wrong_is_refused() -> None:
    base = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    base |= {"channels": [4, 8], "strides": [2]}
    entry = Apical(3, 1, 4, "image", 12, 2, 3, 1, (2, 2, 2)).entry() | {
        "count": 1,
        "activation": "identity",
    }
    for change in ({"inputs": 0}, {"scale": [2, 0, 2]}, {"reads": "output"}, {"kernel": 2}):
        spec = {"format": 1, "base": base, "dendrites": {"model.2": entry | change}}
        with pytest.raises(UserError, match=r"Network spec, layer 'model.2'"):
            build_network(spec)
    network = build_network({"format": 1, "base": base, "dendrites": {"model.2": entry}})
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


def test_a_trace_needs_a_network_that_takes_one_image() -> None:
    with pytest.raises(UserError, match="Take kind copy"):
        trace(nn.Linear(2, 2))


def test_one_kind_stands_in_for_the_sets_of_an_overlay() -> None:
    sets = [{"kind": "distal"}, {"kind": "apical"}]
    mixed = DendriteConfig(sets=sets, activation="kind")
    assert (mixed.kind, mixed.activation) == (None, "identity")
    assert [part.kind for part in mixed.parts] == ["distal", "apical"]
    copies = DendriteConfig(sets=sets, kind="copy", activation="kind")
    assert (copies.sets, copies.activation) == ([], "relu") and copies.parts == (copies,)
    assert DendriteConfig().kind == "copy"
    for config in (mixed, copies):
        assert DendriteConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("network", "kinds", "why"),
    [
        (UNet(3, 1, 2, (4, 8, 16), (2, 2)), ["distal", "apical"], ""),
        (SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)), ["distal"], "own resolution"),
        (nn.Sequential(nn.Conv3d(1, 4, 3, 2), nn.Conv3d(4, 2, 1)), [], "distal finds no place"),
    ],
)
def test_the_shape_of_a_network_chooses_its_kinds(
    network: nn.Module, kinds: list[str], why: str
) -> None:
    sets, notes = default_sets(network, trace(network))
    assert [part["kind"] for part in sets] == kinds
    assert why in " ".join(notes)
