"""``build_network`` and ``load_weights``: the named network, its dendrites, and strict loading."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from perforated_monai import UserError, build_network, load_weights
from perforated_monai.dendrites.convolutions import FUSIBLE
from perforated_monai.dendrites.layer import DendriticLayer
from perforated_monai.networks.build import base_spec
from perforated_monai.networks.surgery import count_parameters, replace_module

# name: base entry, spatial dims, input size
BASES = {
    "UNet": (
        {"channels": [4, 8], "strides": [2], "num_res_units": 1, "out_channels": 3},
        3,
        16,
    ),
    "BasicUNet": ({"features": [4, 4, 4, 4, 4, 4], "out_channels": 2}, 3, 32),
    "DynUNet": (
        {
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [4, 8, 8],
            "out_channels": 2,
        },
        3,
        16,
    ),
    "SegResNet": ({"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, 3, 16),
    "Unet": ({"channels": [4, 8], "strides": [2], "out_channels": 2}, 2, 16),
}
LAYER = "model.0.conv.unit0.conv"


def base(name: str) -> dict:
    arguments, dims, _ = BASES[name]
    return {"name": name, "spatial_dims": dims, "in_channels": 1, **arguments}


def spec(dendrites: dict | None = None, **changes: object) -> dict:
    return {"format": 1, "base": base("UNet"), "dendrites": dendrites or {}, **changes}


def dendrite(count: int = 1, activation: str = "sigmoid", **more: object) -> dict:
    return {"count": count, "kind": "copy", "activation": activation, **more}


def convolutions(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, FUSIBLE)]


@pytest.mark.parametrize("name", BASES)
def test_builds_a_network_with_dendrites_on_every_convolution(name: str, volume) -> None:
    plain = build_network({"format": 1, "base": base(name), "dendrites": {}}).eval()
    layers = convolutions(plain)
    assert layers and not any(isinstance(m, DendriticLayer) for m in plain.modules())
    counts = {layer: 1 + i % 2 for i, layer in enumerate(layers)}
    grown = build_network(
        {
            "format": 1,
            "base": base(name),
            "dendrites": {layer: dendrite(n, "relu") for layer, n in counts.items()},
        }
    ).eval()
    found = {n: m for n, m in grown.named_modules() if isinstance(m, DendriticLayer)}
    assert {n: m.count for n, m in found.items()} == counts
    assert {m.activation for m in found.values()} == {"relu"}
    x = volume(dims=BASES[name][1], batch=1, size=BASES[name][2])
    assert grown(x).shape == plain(x).shape
    assert count_parameters(grown) > count_parameters(plain)


@pytest.mark.parametrize("name", BASES)
def test_state_dict_fits_a_second_build_exactly(name: str, volume) -> None:
    layers = convolutions(build_network({"format": 1, "base": base(name)}))
    full = {"format": 1, "base": base(name), "dendrites": {n: dendrite(2) for n in layers}}
    first, second = build_network(full).eval(), build_network(full).eval()
    x = volume(dims=BASES[name][1], batch=1, size=BASES[name][2])
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(x), second(x))


def test_the_spec_is_not_changed() -> None:
    wanted = spec({LAYER: dendrite()})
    build_network(wanted)
    assert wanted == spec({LAYER: dendrite()})


def test_extra_entries_of_network_json_are_ignored() -> None:
    assert build_network(spec(written_by="perforated_monai 9", params={"base": 1}))


def test_plain_spec_is_the_plain_network(tiny_unet, volume) -> None:
    built, direct = build_network(spec()).eval(), tiny_unet().eval()
    built.load_state_dict(direct.state_dict(), strict=True)
    assert torch.equal(built(volume()), direct(volume()))


@pytest.mark.parametrize("found", [2, 0, "1", None])
def test_unknown_format_is_refused(found: object) -> None:
    with pytest.raises(UserError, match=f"format must be 1; got {found!r}"):
        build_network(spec(format=found))


@pytest.mark.parametrize("name", ["UNett", "numpy", "__doc__", "", "torch.nn.Conv3d"])
def test_unknown_network_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"got '{name}'"):
        build_network(spec(base={**base("UNet"), "name": name}))


def test_base_must_be_there_and_named() -> None:
    with pytest.raises(UserError, match=r"base must map .* got None"):
        build_network({"format": 1, "dendrites": {}})
    with pytest.raises(UserError, match=r"base must map .* got 'UNet'"):
        build_network(spec(base="UNet"))
    with pytest.raises(UserError, match=r"base.name must be"):
        build_network(spec(base={"spatial_dims": 3}))


def test_unknown_argument_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"UNet.*'chanels'"):
        build_network(spec(base={**base("UNet"), "chanels": [4, 8]}))


def test_missing_argument_is_refused_by_name() -> None:
    short = {k: v for k, v in base("UNet").items() if k != "strides"}
    with pytest.raises(UserError, match=r"UNet.*'strides'"):
        build_network(spec(base=short))


def test_networks_that_pass_arguments_on_are_accepted(volume) -> None:
    entry = {"name": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    network = build_network({"format": 1, "base": {**entry, "init_features": 8, "growth_rate": 4}})
    assert network.features.conv0.out_channels == 8


@pytest.mark.parametrize("layer", ["model.9.conv", "model.0.conv.unit0.convv", ""])
def test_unknown_layer_is_refused_by_name(layer: str) -> None:
    with pytest.raises(UserError, match=f"{layer!r}"):
        build_network(spec({layer: dendrite()}))


def test_layer_that_takes_no_dendrites_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'model.0'.*ResidualUnit"):
        build_network(spec({"model.0": dendrite()}))


@pytest.mark.parametrize(
    "entry",
    [
        dendrite(kind="lowrank"),
        dendrite(count=0),
        dendrite(count=1.5),
        dendrite(activation="gelu"),
        {"count": 1},
        {"activation": "relu"},
        {},
    ],
)
def test_bad_dendrites_are_refused_by_layer(entry: dict) -> None:
    with pytest.raises(UserError, match=f"'{LAYER}'"):
        build_network(spec({LAYER: entry}))


def test_base_spec_of_a_component_builds_the_same_network(tiny_unet) -> None:
    definition = {"_target_": "monai.networks.nets.UNet", "_desc_": "tiny", **base("UNet")}
    del definition["name"]
    built = build_network({"format": 1, "base": base_spec(definition), "dendrites": {}})
    built.load_state_dict(tiny_unet().state_dict(), strict=True)
    with pytest.raises(UserError, match="'Nothing'"):
        base_spec({"_target_": "some.where.Nothing"})


def test_replace_module_leaves_every_other_one(tiny_unet) -> None:
    network = tiny_unet()
    others = {n: m for n, m in network.named_modules() if n and not LAYER.startswith(n)}
    new = nn.Identity()
    replace_module(network, LAYER, new)
    assert network.get_submodule(LAYER) is new
    assert all(network.get_submodule(n) is m for n, m in others.items())


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(layer, layer)) == 8


# -- weights ---------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    network = build_network(spec({LAYER: dendrite()})).eval()
    file = tmp_path / "model.pt"
    torch.save(network.state_dict(), file)
    return network, file


def empty() -> nn.Module:
    return build_network(spec({LAYER: dendrite()})).eval()


def test_weights_come_back(saved, volume) -> None:
    network, file = saved
    target = empty()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_weights(target, file, digest) is target
    assert torch.equal(target(volume()), network(volume()))


def test_wrong_hash_is_refused_and_loads_nothing(saved) -> None:
    _, file = saved
    target = empty()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(UserError, match=rf"{file.name}.*sha256"):
        load_weights(target, file, "0" * 64)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_each_tensor_that_does_not_fit_is_named(saved) -> None:
    network, file = saved
    state = dict(network.state_dict())
    missing = f"{LAYER}.to_output"
    reshaped = f"{LAYER}.fused.bias"
    del state[missing]
    state["extra.weight"] = torch.zeros(1)
    state[reshaped] = torch.zeros(3)
    torch.save(state, file)
    with pytest.raises(UserError) as caught:
        load_weights(empty(), file)
    message = str(caught.value)
    assert file.name in message and "3 tensors" in message
    assert f"missing {missing}" in message
    assert "unexpected extra.weight" in message
    assert f"{reshaped} is (3,), the network has (8,)" in message


def test_plain_weights_do_not_load_into_a_grown_network(tiny_unet, saved) -> None:
    _, file = saved
    torch.save(tiny_unet().state_dict(), file)
    with pytest.raises(UserError, match=rf"missing {LAYER}\.to_output"):
        load_weights(empty(), file)


class Trap:
    """Runs code when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_pickle_is_refused_and_not_run(saved, tmp_path: Path) -> None:
    network, file = saved
    marker = tmp_path / "was run"
    torch.save({**network.state_dict(), "trap": Trap(marker)}, file)
    with pytest.raises(UserError, match=file.name):
        load_weights(empty(), file)
    torch.save(network, file)  # a whole module, as older code saves it
    with pytest.raises(UserError, match=file.name):
        load_weights(empty(), file)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_damaged_file_is_named(content: bytes | None, saved) -> None:
    _, file = saved
    file.write_bytes(file.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UserError, match=file.name):
        load_weights(empty(), file)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"network": {}}, torch.zeros(1)])
def test_a_file_of_another_kind_is_named(content: object, saved) -> None:
    _, file = saved
    torch.save(content, file)
    with pytest.raises(UserError, match=f"{file.name} must hold a flat state dict"):
        load_weights(empty(), file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.pt"):
        load_weights(empty(), tmp_path / "nothing.pt")
