"""``OptimizerRefresh``: the same objects with new contents, after growth by the real tracker."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LambdaLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from perforated_monai.errors import UserError
from perforated_monai.training.optimizer import OptimizerRefresh, assert_complete

SCHEDULERS: dict[str, Callable] = {
    "CosineAnnealingWarmRestarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=4, eta_min=1e-3),
    "PolynomialLR": lambda o: PolynomialLR(o, total_iters=30, power=0.9),
    "LambdaLR": lambda o: LambdaLR(o, lambda epoch: 0.8**epoch),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5, cooldown=1),
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=[0.2, 0.1], total_steps=30),
    "SequentialLR": lambda o: SequentialLR(
        o,
        [PolynomialLR(o, total_iters=3), CosineAnnealingWarmRestarts(o, T_0=5)],
        milestones=[3],
    ),
}


def two_groups(network: nn.Module) -> list[dict]:
    """Weights decay, everything else does not, as is usual."""
    named = list(network.named_parameters())
    weights = [p for n, p in named if n.endswith("weight") and p.dim() > 1]
    others = [p for n, p in named if not (n.endswith("weight") and p.dim() > 1)]
    return [
        {"params": weights, "weight_decay": 0.1, "lr": 0.1},
        {"params": others, "weight_decay": 0.0, "lr": 0.05},
    ]


def backward(network: nn.Module, x: Tensor) -> None:
    network.zero_grad()
    network(x).pow(2).mean().backward()


def advance(optimizer: torch.optim.Optimizer, scheduler: object, epochs: int) -> list[list[dict]]:
    """Options of the groups in each of the next epochs."""
    seen = []
    for epoch in range(epochs):
        seen.append([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1.0 + 0.01 * epoch)
        else:
            scheduler.step()
    return copy.deepcopy(seen)


# -- contents --------------------------------------------------------------------------------


def test_identity_is_kept_and_contents_are_new(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2), volume(dims=2)
    optimizer = AdamW(network.parameters(), lr=0.01)
    scheduler = PolynomialLR(optimizer, total_iters=10)
    refresh = OptimizerRefresh(network, optimizer, scheduler)
    inner = optimizer.param_groups[0]["params"]
    backward(network, x)
    optimizer.step()
    assert optimizer.state
    tracker = grow(network, x, 2)

    with pytest.raises(UserError, match=r"misses \d+ trainable parameters \(model"):
        assert_complete(optimizer, tracker.trainable())
    refresh(tracker.trainable())

    assert refresh.optimizer is optimizer and refresh.scheduler is scheduler
    assert scheduler.optimizer is optimizer
    assert optimizer.param_groups[0]["params"] is inner
    assert_complete(optimizer, tracker.trainable())
    assert [id(p) for p in inner] == [id(p) for _, p in tracker.trainable()]
    assert not optimizer.state
    assert len(optimizer.param_groups) == 1


def test_every_parameter_moves_in_the_next_step(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2), volume(dims=2)
    optimizer = AdamW(network.parameters(), lr=0.01)
    refresh = OptimizerRefresh(network, optimizer)
    tracker = grow(network, x, 2)
    refresh(tracker.trainable())
    before = {n: p.detach().clone() for n, p in tracker.trainable()}
    backward(network, x)
    optimizer.step()
    unmoved = [n for n, p in tracker.trainable() if torch.equal(p, before[n])]
    assert not [n for n in unmoved if before[n].numel()]


def test_the_applied_learning_rate_is_the_started_one(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2).double(), volume(dims=2, dtype=torch.float64)
    optimizer = SGD(two_groups(network), lr=1.0)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    scheduler = PolynomialLR(optimizer, total_iters=10)
    refresh = OptimizerRefresh(network, optimizer, scheduler)
    backward(network, x)
    advance(optimizer, scheduler, 5)
    assert optimizer.param_groups[0]["lr"] < 0.06
    tracker = grow(network, x, 1)
    refresh(tracker.trainable())
    rate = {
        id(p): r
        for g, r in zip(optimizer.param_groups, (0.1, 0.05), strict=True)
        for p in g["params"]
    }
    backward(network, x)
    expected = {n: p.detach() - rate[id(p)] * p.grad for n, p in tracker.trainable()}
    optimizer.step()
    for name, p in tracker.trainable():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-12)
    assert set(rate.values()) == {0.1, 0.05}


@pytest.mark.parametrize("layer_types", [["Conv2d", "ConvTranspose2d"], ["Convolution", "Conv2d"]])
def test_dendrites_join_the_group_of_what_they_copy(layer_types, tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2), volume(dims=2)
    optimizer = AdamW(two_groups(network))
    refresh = OptimizerRefresh(network, optimizer)
    base = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    tracker = grow(network, x, 2, layer_types=layer_types)
    refresh(tracker.trainable())
    group = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    assert {id(p) for _, p in tracker.trainable()} == set(group)
    assert all(group[key] == i for key, i in base.items() if key in group)
    copies = 0
    for _, module in tracker.modules():
        original = dict(module.main_module.named_parameters())
        for dendrite in module.dendrite_module.layers:
            for name, p in dendrite.named_parameters():
                assert group[id(p)] == group[id(original[name])], name
                copies += 1
    assert copies == 2 * sum(len(list(m.main_module.parameters())) for _, m in tracker.modules())
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_frozen_parameters_stay_out(tiny_unet, volume, grow) -> None:
    network, x = tiny_unet(dims=2), volume(dims=2)
    frozen = network.get_submodule("model.0.residual").weight.requires_grad_(False)
    optimizer = SGD(network.parameters(), lr=0.1)
    refresh = OptimizerRefresh(network, optimizer)
    tracker = grow(network, x, 1, exclude=["model.0.residual"])
    refresh(tracker.trainable())
    assert id(frozen) not in {id(p) for p in optimizer.param_groups[0]["params"]}


def test_an_optimizer_of_another_network_is_refused(tiny_unet) -> None:
    network, other = tiny_unet(dims=2), tiny_unet(dims=2)
    both = [*network.parameters(), *other.parameters()]
    named = list(network.named_parameters())
    with pytest.raises(UserError, match=rf"holds {len(named)} that the network no longer has"):
        assert_complete(SGD(both, lr=0.1), named)
    assert_complete(SGD(network.parameters(), lr=0.1), named)


# -- schedules -------------------------------------------------------------------------------


def started(name: str) -> tuple[nn.Module, torch.optim.Optimizer, object]:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = SGD(
        [{"params": network[0].parameters(), "lr": 0.1}, {"params": network[1].parameters()}],
        lr=0.05,
        momentum=0.9,
    )
    return network, optimizer, SCHEDULERS[name](optimizer)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # inside SequentialLR
def test_the_schedule_starts_again(name: str) -> None:
    network, optimizer, scheduler = started(name)
    refresh = OptimizerRefresh(network, optimizer, scheduler)
    first = advance(optimizer, scheduler, 12)
    assert len({tuple(g["lr"] for g in epoch) for epoch in first}) > 2  # the rate did change
    extra = nn.Linear(3, 1)
    grown = nn.Sequential(*network, extra)
    refresh(list(grown.named_parameters()))
    assert advance(optimizer, scheduler, 12) == first
    refresh(list(grown.named_parameters()))
    assert advance(optimizer, scheduler, 12) == first


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # inside SequentialLR
def test_without_restart_the_schedule_goes_on(name: str) -> None:
    network, optimizer, scheduler = started(name)
    uninterrupted = advance(optimizer, scheduler, 12)
    network, optimizer, scheduler = started(name)
    refresh = OptimizerRefresh(network, optimizer, scheduler)
    seen = advance(optimizer, scheduler, 5)
    refresh(list(network.named_parameters()), restart=False)
    if name == "ReduceLROnPlateau":  # its scores go on as well
        for epoch in range(5, 12):
            seen.append(
                [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            )
            scheduler.step(1.0 + 0.01 * epoch)
    else:
        seen += advance(optimizer, scheduler, 7)
    assert seen == uninterrupted


def test_no_scheduler_restores_the_learning_rate() -> None:
    network, optimizer, _ = started("PolynomialLR")
    refresh = OptimizerRefresh(network, optimizer)
    optimizer.param_groups[0]["lr"] = 0.003
    refresh(list(network.named_parameters()), restart=False)
    assert optimizer.param_groups[0]["lr"] == 0.003
    refresh(list(network.named_parameters()))
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.05]


def test_a_restored_optimizer_trains_on_exactly(volume) -> None:
    """State dicts of refreshed objects load into a second pair: a resumed run goes on alike."""
    outcomes = []
    saved = None
    for restored in (False, True):
        torch.manual_seed(0)
        network, optimizer, scheduler = started("CosineAnnealingWarmRestarts")
        refresh = OptimizerRefresh(network, optimizer, scheduler)
        extra = nn.Linear(1, 1)
        grown = nn.Sequential(*network, extra)
        refresh(list(grown.named_parameters()))
        x = torch.ones(2, 3)
        if restored:
            grown.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            scheduler.load_state_dict(saved[2])
        else:
            for _ in range(3):
                backward(grown, x)
                optimizer.step()
                scheduler.step()
            parts = (grown.state_dict(), optimizer.state_dict(), scheduler.state_dict())
            saved = copy.deepcopy(parts)
        for _ in range(3):
            backward(grown, x)
            optimizer.step()
            scheduler.step()
        outcomes.append([p.detach().clone() for p in grown.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
