"""``SparseUNet``: masks and gates, what a budget keeps, and folding without a change of outputs."""

import itertools
import json

import pytest
import torch
from torch import nn

from perforated_monai import UserError, build_network
from perforated_monai.dendrites.convolutions import FUSIBLE
from perforated_monai.growth.folded import without_masks
from perforated_monai.networks.cost import count_flops
from perforated_monai.networks.fold import fold
from perforated_monai.networks.sparse.branched import BranchedConvolution
from perforated_monai.networks.sparse.gates import DriveGate
from perforated_monai.networks.sparse.hard_concrete import BranchMasks
from perforated_monai.networks.surgery import count_parameters

BASE = {
    "name": "SparseUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 6, 8],
    "strides": [2, 2],
    "branches": [4, 6, 5, 4],
    "width": 2,
    "sparsity": 0.5,
}


def spec_of(dendrites: dict | None = None, **changes: object) -> dict:
    return {"format": 1, "base": BASE | changes, "dendrites": dendrites or {}}


def made(seed: int = 0, dendrites: dict | None = None, **changes: object) -> nn.Module:
    """A network whose masks are open, half open and closed, in eval mode."""
    torch.manual_seed(seed)
    network = build_network(spec_of(dendrites, **changes)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name == "masks.theta":
                parameter.normal_(0, 0.4)
            elif "norm" in name or "to_output" in name or "between" in name:
                parameter.normal_(0.5, 0.5)
    return network


def convolutions(network: nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, FUSIBLE)]


# -- fold ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_folded_network_is_smaller_and_equal(dims, sparsity, gate, volume) -> None:
    network = made(seed=int(10 * sparsity), spatial_dims=dims, sparsity=sparsity, gate=gate)
    masks = torch.cat(network.masks())
    assert (masks == 0).any() and ((masks > 0) & (masks < 1)).any()
    spec, folded = fold(spec_of(spatial_dims=dims, sparsity=sparsity, gate=gate), network)
    assert folded.masks is None and spec["base"]["sparsity"] is None
    assert sum(spec["base"]["branches"]) == int(sum(network.masks.kept()))
    assert count_parameters(folded) < count_parameters(network)
    x = volume(dims=dims, size=12)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-5)
    again = build_network(json.loads(json.dumps(spec))).eval()
    again.load_state_dict(folded.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again(x), folded(x))
    assert fold(spec, folded)[1] is folded


@pytest.mark.parametrize("count", [1, 2, 3])
def test_dendrites_are_folded_with_their_layers(count: int, volume) -> None:
    layers = convolutions(build_network(spec_of()))
    inner = {name.rpartition(".")[2] for name in layers}
    assert {"reduce", "branch", "expand", "shortcut"} <= inner
    entry = {"count": count, "kind": "copy", "activation": "tanh"}
    network = made(dendrites=dict.fromkeys(layers, entry))
    spec, folded = fold(spec_of(dict.fromkeys(layers, entry)), network)
    assert spec["dendrites"].keys() == set(layers)
    assert count_parameters(folded) < 0.8 * count_parameters(network)
    x = volume(size=12)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-5)
        for name, parameter in folded.named_parameters():
            if "to_output" in name:
                parameter.zero_()
        assert (folded(x) - expected).abs().max() > 0.01  # they did something
    alone = without_masks(network)  # a study knows the network alone
    assert {n: t.shape for n, t in alone.state_dict().items()} == {
        n: t.shape for n, t in folded.state_dict().items()
    }


def test_dendrites_of_another_kind_inside_a_block_are_refused() -> None:
    dendrites = {"up.0.branch": {"count": 1, "kind": "pointwise", "activation": "relu"}}
    with pytest.raises(UserError, match=r"up\.0\.branch has dendrites of kind pointwise"):
        fold(spec_of(dendrites), made())


def test_another_network_is_not_changed(tiny_unet) -> None:
    network = tiny_unet()
    spec = {"format": 1, "base": {"name": "UNet"}, "dendrites": {}}
    assert fold(spec, network) == (spec, network)
    assert without_masks(network) is network


def test_folding_leaves_the_masked_network_and_its_mode(volume) -> None:
    network = made().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    _, folded = fold(spec_of(), network)
    assert network.training and folded.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


# -- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.01, 0.3, 0.5, 0.72])
@pytest.mark.parametrize("seed", range(5))
def test_the_kept_operations_are_within_the_budget(sparsity: float, seed: int) -> None:
    torch.manual_seed(seed)
    masks = BranchMasks([4, 8, 6], [1.0, 3.0, 0.5], sparsity)
    masks.theta.data.normal_(1.0, 0.3)
    kept = torch.tensor(masks.kept())
    spent = float((torch.tensor(masks.shares) * kept).sum())
    assert spent <= 1 - sparsity + 1e-6
    assert spent > 1 - sparsity - max(masks.shares) or kept.all()
    assert all(part.any() for part in kept.split(masks.counts))
    values = torch.cat(masks.eval()())
    assert torch.equal(values > 0, kept)


def test_masks_are_drawn_as_the_paper_says() -> None:
    torch.manual_seed(0)
    masks = BranchMasks([3], [1.0], 0.5)
    masks.theta.data.copy_(torch.tensor([-0.6, 0.0, 0.5]))
    drawn = torch.stack([masks()[0] for _ in range(4000)]).detach()
    assert ((drawn == 0) | (drawn == 1)).float().mean() > 0.3 and drawn.unique().numel() > 100
    expected = masks.open_share().item()
    assert (drawn > 0).float().mean().item() == pytest.approx(expected, abs=0.02)
    masks.settled = True
    assert torch.equal(masks()[0], masks.eval()()[0])


def test_gradients_reach_weights_masks_and_gates(volume) -> None:
    network = made().train()
    network(volume()).pow(2).mean().backward()
    assert network.masks.theta.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    share = network.masks.open_share()
    share.backward()
    assert (network.masks.theta.grad != 0).all()


# -- gates -----------------------------------------------------------------------------------


def test_a_gate_opens_with_the_drive_and_is_shut_without() -> None:
    gate = DriveGate(branches=3, width=2)
    x = torch.randn(1, 6, 4, 4)
    opened = [gate(x * scale) for scale in (0, 0.05, 0.2, 0.5, 100)]
    assert torch.equal(opened[0], torch.zeros(1, 3)) and torch.equal(opened[-1], torch.ones(1, 3))
    for weaker, stronger in itertools.pairwise(opened):
        assert (stronger >= weaker).all()
    assert 0 < opened[3].mean() < 1


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("shut", [[0], [1, 3], [0, 1, 2, 3]])
def test_shut_branches_are_left_out_with_the_same_outputs(dims: int, shut: list[int]) -> None:
    torch.manual_seed(0)
    block = BranchedConvolution(dims, 3, 5, [2] * dims, branches=4, width=2, gate=True).eval()
    with torch.no_grad():
        block.gate.bias[shut] = -100
    x = torch.randn(2, 3, *[9] * dims)
    multiplied = block(x).detach()  # with gradients every branch is run
    with torch.no_grad():
        left_out = block(x)
    torch.testing.assert_close(left_out, multiplied, rtol=0, atol=1e-5)
    less = count_flops(block, x)
    with torch.no_grad():
        block.gate.bias[:] = 100
    assert less < count_flops(block, x)


def test_a_branch_that_one_sample_of_a_batch_needs_is_run_for_it() -> None:
    torch.manual_seed(0)
    block = BranchedConvolution(2, 3, 5, [1, 1], branches=4, width=2, gate=True).eval()
    x = torch.stack([torch.randn(3, 8, 8), torch.zeros(3, 8, 8)])
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.cat([block(x[:1]), block(x[1:])]))
        assert block.gate(block.reduce(x))[1].sum() == 0


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sparsity": 0}, "sparsity must be a number between 0 and 1, both excluded; got 0"),
        ({"sparsity": 1}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": 1.5}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": -0.1}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": float("nan")}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": True}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": "0.5"}, "sparsity must be a number between 0 and 1"),
        ({"sparsity": 0.99}, r"must leave one branch in each block, at most 0\.7"),
        ({"branches": [4, 4]}, "branches must be one number or one for each of the 4 blocks"),
        ({"branches": 0}, "branches must be a whole number >= 1"),
        ({"branches": "8"}, "branches must be"),
        ({"branches": 2.5}, "branches must be one number"),
        ({"branches": [4, 6, 5, 0]}, "branches must be a whole number >= 1; got 0"),
        ({"gate": "no"}, "gate must be true or false; got 'no'"),
        ({"width": 0}, "width must be a whole number >= 1"),
        ({"channels": []}, "channels must be a list of at least two.*no convolution"),
        ({"strides": [2]}, "strides must have one entry fewer than channels"),
    ],
)
def test_wrong_arguments_are_named(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_network(spec_of(**change))


def test_a_patch_of_another_size_is_named(volume) -> None:
    with pytest.raises(UserError, match=r"14×14×14 voxels must be a multiple of 4×4×4"):
        made()(volume(size=14))
