"""Networks that add in place grow under MONAI's own tensors, whose metadata comes back."""

from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet, SegResNet
from torch import nn

from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.growth.plain_tensors import run_on_plain_tensors
from perforated_monai.growth.tracker import Tracker

IO = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "SegResNet": lambda: SegResNet(**IO, init_filters=8, blocks_down=[1, 1], blocks_up=[1]),
    "DynUNet": lambda: DynUNet(
        **IO,
        kernel_size=[3] * 3,
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 8],
        res_block=True,
    ),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_growth_under_meta_tensors(name: str, tmp_path, volume: Callable) -> None:
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    torch.manual_seed(0)
    network, x = IN_PLACE[name](), MetaTensor(volume(size=8))
    config = DendriteConfig(patience=1, max_dendrites=1, tries=1)
    tracker = Tracker(network, config, tmp_path / "tracker")
    tracker.open()
    try:
        events = []
        for score in (0.5, 0.5, 0.5):
            optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.01)
            network(x).pow(2).mean().backward()
            events.append(tracker.add_score(score, optimizer).event)
        assert "grow" in events
        assert tracker.sets == 1
    finally:
        tracker.close()


def test_the_metadata_comes_back_and_values_stay(tiny_unet: Callable, volume: Callable) -> None:
    network = tiny_unet().eval()
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    x = MetaTensor(volume(), affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    expected = network(x)
    inside = []
    probe = next(network.model.children()).register_forward_pre_hook(
        lambda _, inputs: inside.append(type(inputs[0]))
    )
    handles = run_on_plain_tensors(network)
    found = network(x)
    assert inside == [torch.Tensor]
    assert isinstance(found, MetaTensor) and torch.equal(found, expected)
    assert found.meta["filename_or_obj"] == "case.nii.gz" and torch.equal(found.affine, affine)
    assert type(network(volume())) is torch.Tensor
    for handle in [*handles, probe]:
        handle.remove()
    assert isinstance(network(x), MetaTensor) and inside == [torch.Tensor] * 2


def test_deep_supervision_keeps_its_list(volume: Callable) -> None:
    class Heads(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x + 1, x * 2]

    network = Heads()
    run_on_plain_tensors(network)
    outputs = network(MetaTensor(volume(), meta={"case": 1}))
    assert [o.meta["case"] for o in outputs] == [1, 1]
