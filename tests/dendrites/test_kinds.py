"""Dendrites that are no copies: shapes, costs, fusing, growth by the tracker, refusals."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import spec_of as tiny_spec
from perforated_monai import DendriteConfig, UserError, build_network
from perforated_monai.dendrites.kind import UnfitError
from perforated_monai.dendrites.kinds import KINDS
from perforated_monai.dendrites.kinds.reduced import ReducedKind
from perforated_monai.dendrites.reduced_layer import ReducedDendriticLayer
from perforated_monai.dendrites.targets import find_layers
from perforated_monai.growth.to_plain import delta_of, make_plain
from perforated_monai.networks.cost import count_flops
from perforated_monai.networks.surgery import add_dendrites, count_parameters, dendrites_entry
from perforated_monai.networks.weights import tensor_bytes, weights_hash
from perforated_monai.training.optimizer import OptimizerRefresh

CHEAP = [name for name, kind in KINDS.items() if issubclass(kind, ReducedKind)]
LAYERS = {
    "strided": lambda: nn.Conv3d(8, 16, 3, stride=2, padding=1),
    "one channel": lambda: nn.Conv3d(1, 8, 3, padding=1),
    "fewer outputs": lambda: nn.Conv3d(8, 4, 3, padding=1, bias=False),
    "dilated": lambda: nn.Conv3d(8, 8, 3, padding=2, dilation=2),
    "no padding": lambda: nn.Conv2d(8, 8, 5, stride=3),
    "same, even kernel": lambda: nn.Conv2d(8, 8, (4, 3), padding="same"),
    "reflected": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "grouped layer": lambda: nn.Conv2d(8, 16, 3, padding=1, groups=2),
    "1D": lambda: nn.Conv1d(8, 8, 2, stride=2),
    "transposed": lambda: nn.ConvTranspose3d(16, 8, 3, stride=2, padding=1, output_padding=1),
    "transposed, kernel 2": lambda: nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),
    "transposed, 1D": lambda: nn.ConvTranspose1d(8, 8, 4, stride=3, padding=1, dilation=2),
    "one tap": lambda: nn.Conv3d(16, 16, 1),
    "linear": lambda: nn.Linear(16, 12),
    "linear, no bias": lambda: nn.Linear(16, 12, bias=False),
}
UNFIT = {
    *[("linear", k) for k in ("depthwise", "pointwise", "grouped")],
    *[("linear, no bias", k) for k in ("depthwise", "pointwise", "grouped")],
    *[("one tap", k) for k in ("depthwise", "pointwise")],
    *[("grouped layer", k) for k in ("depthwise", "low_rank")],
    ("one channel", "grouped"),
}
FITTING = [(name, kind) for name in LAYERS for kind in CHEAP if (name, kind) not in UNFIT]


def layer_and_input(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    if isinstance(layer, nn.Linear):
        return layer, torch.randn(2, 5, layer.in_features, dtype=torch.float64)
    space = [9] * len(layer.kernel_size)
    return layer, torch.randn(2, layer.in_channels, *space, dtype=torch.float64)


def by_hand(layers: list[nn.Module], x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """The formula, dendrite by dendrite, with tanh."""
    out, active, row = layers[0](x), [], 0
    shape = [1] * out.dim()
    shape[-1 if isinstance(layers[0], nn.Linear) else 1] = -1
    for i, dendrite in enumerate(layers[1:]):
        a = dendrite(x)
        for j in range(i):
            a = a + v[row].view(shape) * active[j]
            row += 1
        active.append(a.tanh())
        out = out + w[i].view(shape) * active[i]
    return out


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_a_dendrite_has_the_shape_of_its_layer_and_costs_what_is_said(name, kind) -> None:
    layer, x = layer_and_input(name)
    made = KINDS[kind]().make(layer)
    out = made(x)
    assert out.shape == layer(x).shape and out.dtype == x.dtype
    outputs = out.size(-1 if isinstance(layer, nn.Linear) else 1)
    assert count_parameters(made) + outputs == KINDS[kind]().cost(layer)
    assert KINDS[kind]().cost(layer) < KINDS["copy"]().cost(layer)
    assert made.kind == KINDS[kind]().fits(layer) == made.kind.fits(layer)
    before = [p.clone() for p in made.parameters()]
    made.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_the_fused_layer_is_the_formula(name: str, kind: str, count: int) -> None:
    """Trained weights in; the same outputs with and without gradients; the same weights out."""
    layer, x = layer_and_input(name)
    fused = add_dendrites(layer, count, "tanh", KINDS[kind]())
    apart = ReducedDendriticLayer(layer, count, KINDS[kind]().make(layer), "tanh")
    assert fused.state_dict().keys() == apart.state_dict().keys()
    dendrites = [KINDS[kind]().make(layer) for _ in range(count)]
    w, v = torch.randn_like(fused.to_output), torch.randn_like(fused.between)
    zeros = fused(x) if fused.load_branches([layer, *dendrites], w * 0, v) is None else None
    torch.testing.assert_close(zeros, layer(x), rtol=1e-12, atol=1e-12)
    fused.load_branches([layer, *dendrites], w, v)
    expected = by_hand([layer, *dendrites], x, w, v)
    torch.testing.assert_close(fused(x), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.jit.script(fused)(x), expected, rtol=1e-9, atol=1e-9)
    for found, trained in zip(fused.dendrites(), dendrites, strict=True):
        for a, b in zip(found.parameters(), trained.parameters(), strict=True):
            assert torch.equal(a, b)
    assert count_parameters(fused) == count_parameters(layer) + v.numel() + count * KINDS[
        kind
    ]().cost(layer)


def test_a_pointwise_dendrite_is_the_middle_tap() -> None:
    for name in ("strided", "dilated", "no padding", "same, even kernel", "grouped layer", "1D"):
        layer, x = layer_and_input(name)
        made, middle = KINDS["pointwise"]().make(layer), copy.deepcopy(layer)
        with torch.no_grad():
            middle.weight.zero_()
            at = tuple((n - 1) // 2 for n in layer.kernel_size)
            weighted = next(s for s in made if hasattr(s, "weight"))
            middle.weight[(slice(None), slice(None), *at)] = weighted.weight.flatten(1)
            middle.bias.copy_(weighted.bias)
        torch.testing.assert_close(made(x), middle(x))


def test_a_transposed_pointwise_dendrite_repeats_each_voxel() -> None:
    layer, x = layer_and_input("transposed")
    made = KINDS["pointwise"]().make(layer)
    repeated = made[0](x)
    for axis in (2, 3, 4):
        repeated = repeated.repeat_interleave(2, axis)
    torch.testing.assert_close(made(x), repeated)


# -- what a set costs ------------------------------------------------------------------------

# Of a layer with a kernel of 27, from 8 to 160 channels; the two counts beside each other.
SHARES = {
    "depthwise": (0.04, 0.18),
    "pointwise": (0.035, 0.05),
    "grouped": (0.2, 0.26),
    "low_rank": (0.13, 0.16),
}


@pytest.mark.parametrize("kind", CHEAP)
@pytest.mark.parametrize("layer", ["same width", "twice as wide", "transposed"])
def test_a_set_costs_at_most_30_percent_of_a_layer(kind: str, layer: str) -> None:
    low, high = SHARES[kind]
    for width in (8, 16, 24, 40, 64, 128, 160):
        made: nn.Module = nn.Conv3d(width, width, 3, padding=1)
        if layer == "twice as wide":
            made = nn.Conv3d(width, 2 * width, 3, stride=2, padding=1)
        if layer == "transposed":
            options = {"stride": 2, "padding": 1, "output_padding": 1}
            made = nn.ConvTranspose3d(2 * width, width, 3, **options)
        share = KINDS[kind]().cost(made) / count_parameters(made)
        assert low <= share <= high, (width, share)
        with torch.device("meta"):
            x = torch.empty(2, made.in_channels, 8, 8, 8)
        dendrite, main = KINDS[kind]().make(made.to("meta")), made.to("meta")
        flops = count_flops(dendrite, x) / count_flops(main, x)
        assert 0.03 <= flops <= 0.30, (width, flops)


# -- in a network ----------------------------------------------------------------------------

LAYER = "model.1.submodule.conv.unit0.conv"
# Layers of the tiny UNet without a dendrite of a kind: a residual path of one tap, odd channels.
LEFT = {"depthwise": 5, "pointwise": 5, "grouped": 2, "low_rank": 6}
pytestmark = pytest.mark.filterwarnings("ignore:Layers without:UserWarning")


def spec_of(network: nn.Module, layers: list[str]) -> dict:
    entries = {name: dendrites_entry(network.get_submodule(name)) for name in layers}
    return json.loads(json.dumps(tiny_spec(entries)))


@pytest.mark.parametrize("initialisation", ["layer", "normal"])
@pytest.mark.parametrize("kind", CHEAP)
def test_growth_by_the_tracker(kind, initialisation, tiny_unet, volume, grow, tmp_path) -> None:
    """Several sets; plain network, spec and delta give the tracker's outputs."""
    network, x = tiny_unet(), volume()
    settings = {"kind": kind, "initialisation": initialisation, "activation": "tanh"}
    tracker = grow(network, x, 2, **settings, scale=1.0 if initialisation == "layer" else 0.01)
    assert len(tracker.layers) == LEFT[kind]
    base = dict(tiny_unet().state_dict())
    parameters, network = tracker.count_parameters(), network.eval()
    with torch.no_grad():
        grown = network(x)
        live = network.state_dict()
        for name in base:
            parts = name.rpartition(".")
            wrapped = f"{parts[0]}.main_module.{parts[2]}"
            base[name] = live.get(name, live.get(wrapped)).clone()
        dendrites = delta_of(network)
        counts = make_plain(network, "tanh")
        assert counts == dict.fromkeys(tracker.layers, 2)
        torch.testing.assert_close(network(x), grown, rtol=0, atol=1e-5)
        assert count_parameters(network) == parameters
        spec = spec_of(network, tracker.layers)
        rebuilt = build_network(spec).eval()
        rebuilt.load_state_dict(network.state_dict(), strict=True)
        assert torch.equal(rebuilt(x), network(x))
        (tmp_path / "base.pt").write_bytes(tensor_bytes(base))
        (tmp_path / "dendrites.pt").write_bytes(tensor_bytes(dendrites))
        record = spec | {
            "base_sha256": weights_hash(base),
            "delta_sha256": _sha256(tmp_path / "dendrites.pt"),
        }
        found = build_network(record, tmp_path / "base.pt", tmp_path / "dendrites.pt").eval()
        assert torch.equal(found(x), network(x))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", CHEAP)
def test_ordinary_initialisation_survives_the_library(kind, tiny_unet, volume, tmp_path) -> None:
    """It overwrites what the hook returns first by N(0, scale²)."""
    from perforated_monai.dendrites.wrapped import wrapped_modules
    from perforated_monai.growth.tracker import Tracker

    config = DendriteConfig(patience=1, kind=kind, initialisation="layer", scale=1.0)
    tracker = Tracker(tiny_unet(), config, tmp_path)
    tracker.open()
    try:
        for _ in range(3):
            tracker.network(volume()).pow(2).mean().backward()
            optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.01)
            if tracker.add_score(0.5, optimizer).restructured:
                break
        layers = dict(wrapped_modules(tracker.network))
        for name in tracker.layers:
            dendrite = layers[name].dendrite_module.layers[0]
            for stage in (s for s in dendrite if hasattr(s, "weight")):
                fan_in = stage.weight[0].numel()
                assert 0.2 < float(stage.weight.std()) * fan_in**0.5 < 1.0, name
            assert all(p.requires_grad for p in dendrite.parameters())
    finally:
        tracker.close()


def test_dendrites_join_the_groups_of_their_layers(tiny_unet, volume, grow) -> None:
    """Weight decay for weights, none for biases."""
    network = tiny_unet()
    named = dict(network.named_parameters())
    weights = [p for n, p in named.items() if n.endswith("weight")]
    biases = [p for n, p in named.items() if n.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    refresh = OptimizerRefresh(network, torch.optim.SGD(groups, lr=0.1))
    tracker = grow(network, volume(), 1, kind="low_rank")
    refresh(tracker.trainable())
    names = {id(p): n for n, p in tracker.trainable()}
    found = [[names[id(p)] for p in g["params"]] for g in refresh.optimizer.param_groups]
    own = [n for n in found[0] + found[1] if ".dendrite_module.layers." in n]
    assert own
    assert all((n in found[1]) == n.endswith("bias") for n in own)


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), sorted(UNFIT))
def test_what_a_layer_cannot_have_is_refused(name: str, kind: str) -> None:
    layer, _ = layer_and_input(name)
    with pytest.raises(UnfitError):
        KINDS[kind]().make(layer)


def test_layers_without_the_kind_stay_as_they_are(tiny_unet) -> None:
    with pytest.warns(UserWarning, match=r"do not grow: .*model.0.conv.unit0.conv \(no number of"):
        left = find_layers(tiny_unet(), DendriteConfig(kind="grouped"))
    assert left == [LAYER, "model.1.submodule.residual"]


BAD_LAYERS = [
    ({"kind": "depthwise", "layer_names": ["model.1.submodule.residual"]}, "'model.1.*one tap"),
    ({"kind": "grouped", "groups": 4}, "'model.0.conv.unit0.conv' cannot have.*groups 4 does not"),
    ({"kind": "grouped", "groups": 3, "layer_names": [LAYER]}, "groups 3 does not divide"),
    ({"kind": "grouped", "groups": 1, "layer_names": [LAYER]}, "above the layer's own 1"),
    ({"kind": "low_rank", "rank": 9}, "rank 9 would not be smaller"),
    ({"kind": "pointwise", "layer_types": ["Convolution"]}, "takes convolutions and Linear"),
    ({"kind": "grouped", "layer_names": ["model.0.*"]}, "kind grouped leaves none of the 2"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_LAYERS)
def test_settings_that_suit_no_layer_are_refused(settings: dict, message: str, tiny_unet) -> None:
    with pytest.raises(UserError, match=message):
        find_layers(tiny_unet(), DendriteConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "groupd"}, "kind must be one of copy, depthwise"),
        ({"kind": ["grouped"]}, "kind must be one of"),
        ({"groups": 4}, "groups belongs to kind grouped; got groups with kind 'copy'"),
        ({"kind": "grouped", "rank": 4}, "rank belongs to kind low_rank"),
        ({"kind": "grouped", "groups": -1}, "groups must be a whole number >= 0"),
        ({"kind": "low_rank", "rank": 1.5}, "rank must be a whole number >= 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DendriteConfig.from_dict(settings)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "dense"}, "kind must be one of copy, depthwise.*got 'dense'"),
        ({"kind": ["grouped"]}, "kind must be one of"),
        ({"kind": "grouped"}, "needs groups"),
        ({"kind": "grouped", "groups": 3}, "groups 3 does not divide"),
        ({"kind": "grouped", "groups": 4.0}, "needs groups, a whole number"),
        ({"kind": "grouped", "groups": True}, "needs groups, a whole number"),
        ({"kind": "low_rank", "rank": 0}, "needs rank"),
        ({"kind": "low_rank", "rank": 2, "groups": 4}, "groups belongs to kind grouped"),
        ({"kind": "copy", "rank": 2}, "rank belongs to kind low_rank"),
        ({"kind": "grouped", "group": 4}, "'group' is none of count, kind, groups"),
        ({"kind": "depthwise", "count": 0}, "count must be"),
        ({"kind": "depthwise", "activation": "gelu"}, "activation must be"),
    ],
)
def test_bad_entries_of_a_spec_are_refused_by_layer(entry: dict, message: str) -> None:
    full = {"count": 1, "activation": "relu", **entry}
    with pytest.raises(UserError, match=f"'{LAYER}'.*{message}"):
        build_network(tiny_spec({LAYER: full}))


def test_a_kind_that_a_layer_of_the_spec_cannot_have_is_refused() -> None:
    name, entry = "model.1.submodule.residual", {"count": 1, "activation": "relu"}
    with pytest.raises(UserError, match=f"'{name}'.*one tap"):
        spec = tiny_spec({name: {**entry, "kind": "pointwise"}})
        build_network(spec)


def test_branches_that_do_not_fit_are_refused() -> None:
    layer, _ = layer_and_input("strided")
    fused = ReducedDendriticLayer(layer, 2, KINDS["low_rank"]().make(layer), "relu")
    with pytest.raises(ValueError, match="1 main layer and 2 dendrites; got 2"):
        fused.load_branches([layer, KINDS["low_rank"]().make(layer)], *[fused.between] * 2)
