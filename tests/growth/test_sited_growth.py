"""Distal and apical dendrites through the real tracker: growth, plain form, formats, runs."""

import copy
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import (
    UNETR,
    AttentionUnet,
    BasicUNet,
    DynUNet,
    SegResNet,
    SwinUNETR,
    UNet,
)
from torch import Tensor, nn

from helpers.harness import history, in_child, kill_in, same_run, train
from helpers.tiny import assert_nothing_of_the_library, outputs
from perforated_monai import DendriteConfig, build_network
from perforated_monai.dendrites.sited_layer import WithImage
from perforated_monai.growth.to_plain import (
    delta_of,
    dendritic_layer,
    make_plain,
    without_hooks,
)
from perforated_monai.growth.tracker import Tracker
from perforated_monai.networks.mobile import MobileUNet
from perforated_monai.networks.surgery import count_parameters, dendrites_entry

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")

SETS = [{"kind": "distal", "kernel": 3}, {"kind": "apical"}]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet": lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2)),
    "UNet, residual": lambda: UNet(3, 1, 2, (4, 8), (2,), num_res_units=2),
    "BasicUNet": lambda: BasicUNet(3, 1, 2, (4, 4, 4, 4, 4, 4)),
    "DynUNet": lambda: DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "AttentionUnet": lambda: AttentionUnet(3, 1, 2, (4, 8, 8), (2, 2)),
    "MobileUNet": lambda: MobileUNet(
        3, 1, 2, [4, 8, 8], [2, 2], expansion=2, reduction=2, blocks=1
    ),
    "UNETR": lambda: UNETR(1, 2, (32, 32, 32), 4, 24, 48, 3),
    "SwinUNETR": lambda: SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2),
}
# Voxels a side that a network's strides, or its positions, need.
SIDES = {"BasicUNet": 48, "UNETR": 32, "SwinUNETR": 64}


def grown(network: nn.Module, x: Tensor, folder: Path, sets: int = 2, **changes: object) -> Tracker:
    """Grow some sets by scores that stop, with a few steps of training in between."""
    settings: dict = {"sets": SETS, "activation": "identity", "initialisation": "layer"}
    settings |= {"scale": 1.0, "patience": 1, "max_dendrites": sets, "tries": 1}
    settings |= {"improvement_threshold": [0.0], "improvement_threshold_raw": 0.0}
    tracker = Tracker(network, DendriteConfig(**{**settings, **changes}), folder)
    tracker.open()
    score = 0.1
    while tracker.sets < sets:
        optimizer = step(network, x, tracker)
        before = outputs(network, x)
        tracker.add_score(score, optimizer)
        outcome = tracker.add_score(score, optimizer)
        assert outcome.event == "grow"
        assert torch.equal(outputs(network, x), before), "growth changed an output"
        score += 0.1
    step(network, x, tracker)
    return tracker


def step(network: nn.Module, x: Tensor, tracker: Tracker) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.02)
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    return optimizer


def plain_of(network: nn.Module, activation: str = "identity") -> tuple[dict, nn.Module]:
    plain = copy.deepcopy(network)
    counts = make_plain(plain, activation)
    entries = {n: dendrites_entry(dendritic_layer(plain, n)) for n in counts}
    return entries, without_hooks(plain)


@pytest.mark.parametrize("name", NETWORKS)
def test_growth_changes_nothing_and_the_plain_network_equals_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    dims = 2 if name == "SwinUNETR" else 3
    x = torch.randn(2, 1, *(SIDES.get(name, 16),) * dims)
    base = outputs(network, x)
    tracker = Tracker(network, DendriteConfig(sets=SETS), tmp_path / "first")
    tracker.open()
    assert torch.equal(outputs(network, x), base)  # no dendrite: the base to the bit
    tracker.unwrap()
    assert torch.equal(outputs(network, x), base)
    tracker = grown(network, x, tmp_path / "second")
    trained = outputs(network, x)
    assert (trained - base).abs().max() > 1e-4
    entries, plain = plain_of(network)
    assert {e["kind"] for e in entries.values()} == {"distal", "apical"}
    assert isinstance(plain, WithImage)
    torch.testing.assert_close(outputs(plain, x), trained, rtol=0, atol=1e-5)
    assert count_parameters(plain) == tracker.count_parameters()
    assert_nothing_of_the_library(plain)
    make_plain(network, "identity")  # in place, as at the end of a run
    torch.testing.assert_close(outputs(network, x), trained, rtol=0, atol=1e-5)
    tracker.close()


BASE = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
BASE |= {"channels": [4, 8, 16], "strides": [2, 2]}


@pytest.fixture
def plain_unet(tmp_path: Path) -> tuple[nn.Module, Tensor]:
    """A UNet with two sets, rebuilt from its spec, and what the trained one gave."""
    torch.manual_seed(0)
    network, x = NETWORKS["UNet"](), torch.randn(2, 1, 16, 16, 16)
    tracker = grown(network, x, tmp_path / "tracker")
    trained = outputs(network, x)
    entries, plain = plain_of(network)
    tracker.close()
    rebuilt = build_network({"format": 1, "base": BASE, "dendrites": entries}).eval()
    rebuilt.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(rebuilt(x), trained, rtol=0, atol=1e-5)
    return rebuilt, x


def test_torchscript_and_pt2_equal_it_at_other_sizes(plain_unet: tuple[nn.Module, Tensor]) -> None:
    network, x = plain_unet
    larger = torch.randn(1, 1, 24, 16, 32)
    script = torch.jit.script(network)
    dynamic = {0: torch.export.Dim.DYNAMIC, **dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)}
    program = torch.export.export(network, (x,), dynamic_shapes={"image": dynamic}).module()
    for volume in (x, larger):
        expected = network(volume)
        torch.testing.assert_close(script(volume), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(program(volume), expected, rtol=0, atol=1e-6)


def test_a_delta_names_the_layers_of_the_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = NETWORKS["UNet"](), torch.randn(2, 1, 16, 16, 16)
    tracker = grown(network, x, tmp_path, sets=1)
    names = list(delta_of(network))
    tracker.close()
    assert "model.2.dendrites.0.look.weight" in names and "model.2.to_output" in names
    assert not [n for n in names if "sited" in n or "dendritic_sum" in n]


CHANGES = {
    "dendrites::kind": None,
    "dendrites::sets": SETS,
    "dendrites::patience": 2,
    "dendrites::improvement_threshold": [0.0, 0.9],
    "epochs": 5,
}


def test_a_killed_run_ends_bit_for_bit_alike(phantoms: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(phantoms, whole, dendrites=True, **CHANGES)
    events = history(whole)
    epoch = next(e["epoch"] for e in events if e["event"] == "grow")
    assert in_child(lambda: kill_in(epoch + 1, phantoms, killed, **CHANGES)) == -signal.SIGKILL
    assert in_child(lambda: train(phantoms, killed, dendrites=True, **CHANGES) and None) == 0
    same_run(whole, killed)
