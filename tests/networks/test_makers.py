"""What a spec's ``base.name`` may be: classes, factories, DiNTS as values, a bundle's own code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import DiNTS, TopologyInstance

from helpers.odd_bundle import forget_own_code
from perforated_monai.bundle.own_code import own_code
from perforated_monai.errors import UserError
from perforated_monai.networks.build import base_spec, build_network
from perforated_monai.networks.definition import literal_definition, network_definition
from perforated_monai.networks.makers import factory_call
from perforated_monai.networks.spec import plain_spec
from perforated_monai.networks.surgery import add_dendrites

OWN = """from torch import nn

class Net(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.conv = nn.Conv3d(1, width, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

class NoNet:
    pass
"""


def built(definition: dict) -> torch.nn.Module:
    return build_network(plain_spec(base_spec(definition)))


def test_a_factory_call_in_an_expression_is_a_definition() -> None:
    text = "$monai.networks.nets.resnet10(spatial_dims=@dims, n_input_channels=1, num_classes=2)"
    config = {"dims": 3, "network_def": text}
    definition = network_definition(config, "network_def")
    assert definition == {
        "_target_": "monai.networks.nets.resnet10",
        "spatial_dims": 3,
        "n_input_channels": 1,
        "num_classes": 2,
    }
    assert literal_definition(text, config.get) == definition
    assert type(built(definition)).__name__ == "ResNet"


@pytest.mark.parametrize(
    "text",
    [
        "$monai.networks.nets.get_pretrained_resnet_medicalnet(resnet_depth=10)",
        "$torch.load('network.pt')",
        "$monai.networks.nets.resnet10(*@arguments)",
        "$os.system('true')",
        "@network",
        "$(",
    ],
)
def test_other_expressions_are_none(text: str) -> None:
    assert factory_call(text) is None


def searched() -> dict:
    """A config as the DiNTS bundles of the zoo have it."""
    links = np.zeros((4, 10))
    links[:, [0, 3]] = 1  # straight ahead on the two finest levels
    nodes = torch.zeros(5, 4)
    nodes[:, :2] = 1
    return {
        "arch": {"a": links, "c": np.ones((4, 10)), "nodes": nodes},
        "dints_space": {
            "_target_": "monai.networks.nets.TopologyInstance",
            "num_blocks": 4,
            "num_depths": 4,
            "use_downsample": True,
            "channel_mul": 0.125,
            "arch_code": ["$@arch['a']", "$@arch['c']"],
            "device": "$torch.device('nowhere')",  # never made on the device of its config
        },
        "network_def": {
            "_target_": "monai.networks.nets.DiNTS",
            "dints_space": "@dints_space",
            "in_channels": 1,
            "num_classes": 2,
            "use_downsample": True,
            "node_a": "$@arch['nodes']",
        },
    }


def test_a_searched_dints_is_held_as_values_and_gives_the_same_outputs() -> None:
    config = searched()
    spec = plain_spec(base_spec(network_definition(config, "network_def")))
    assert spec["base"]["name"] == "SearchedDiNTS"
    ours = build_network(spec).eval()
    arch = config["arch"]
    space = TopologyInstance(
        arch_code=[arch["a"], arch["c"]], channel_mul=0.125, num_blocks=4, num_depths=4
    )
    theirs = DiNTS(space, in_channels=1, num_classes=2, node_a=arch["nodes"]).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.rand(1, 1, 32, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def bundle_with_code(folder: Path, width: int) -> Path:
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "nets.py").write_text(OWN.replace("width=2", f"width={width}"))
    return folder


def test_own_code_is_importable_only_with_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_own_code(monkeypatch)
    definition = {"_target_": "scripts.nets.Net"}
    first, second = (bundle_with_code(tmp_path / str(w), w) for w in (3, 5))
    with pytest.raises(UserError, match=r"own code, which is not importable.*--trust"):
        base_spec(definition)
    for folder, width in ((first, 3), (second, 5)):  # not the class of the bundle before
        with own_code(folder):
            assert base_spec(definition) == {"name": "scripts.nets.Net"}
            assert built(definition).conv.out_channels == width
    assert not list(tmp_path.rglob("__pycache__"))


def test_own_code_that_is_no_module_is_refused(tmp_path: Path) -> None:
    with own_code(bundle_with_code(tmp_path, 2)), pytest.raises(UserError, match="must be a torch"):
        base_spec({"_target_": "scripts.nets.NoNet"})


def test_a_construction_that_fails_is_one_line() -> None:
    definition = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 1}
    definition |= {"channels": [4], "strides": []}
    with pytest.raises(UserError, match="UNet cannot be made here") as caught:
        built(definition)
    assert "\n" not in str(caught.value)


def test_a_dendritic_layer_answers_what_a_forward_pass_asks_of_its_layer() -> None:
    layer = torch.nn.Conv2d(1, 2, 3, stride=2, padding=1)  # HoVerNet compares stride in forward
    made = add_dendrites(layer, 1, "relu")
    assert (made.stride, made.kernel_size, made.padding) == ((2, 2), (3, 3), (1, 1))
    assert not [key for key in made.state_dict() if "stride" in key]


@pytest.mark.parametrize(
    "base",
    [
        {"name": "EfficientNetBN", "model_name": "efficientnet-b0", "spatial_dims": 2},
        {"name": "EfficientNetBN", "model_name": "efficientnet-b0", "pretrained": True},
    ],
)
def test_a_spec_never_fetches_weights(base, monkeypatch) -> None:
    """It would ask a server whenever a bundle's network is built."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr("monai.networks.nets.efficientnet.model_zoo.load_url", asked)
    assert build_network({"format": 1, "base": base, "dendrites": {}}) is not None
