"""Where it pays: the probe's gradient, ranking and budget, and what is refused before training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perforated_monai import DendriteConfig, UserError
from perforated_monai.dendrites.kinds import KINDS
from perforated_monai.dendrites.kinds.sited import SitedKind
from perforated_monai.dendrites.ranking import choose_layers, costs_of, growing
from perforated_monai.dendrites.targets import NoMatchingLayerError, find_layers
from perforated_monai.growth.layer_picture import draw_layers
from perforated_monai.growth.layer_probe import DRAWS, expected_gains

COSTS = {"a": 100, "b": 40, "c": 30, "d": 10}
GAINS = {"a": 3.0, "b": 2.0, "c": 0.3, "d": 0.2}  # for each parameter: b, a, d, c


def config(**settings: object) -> DendriteConfig:
    return DendriteConfig(**{"layers": "auto", "auto_layers": 2, **settings})


# -- the choice ------------------------------------------------------------------------------


def chosen(**settings: object) -> list[str]:
    record = choose_layers(COSTS, GAINS, config(**settings), seed=0)
    assert [e["name"] for e in record["layers"]] == ["b", "a", "d", "c"]
    assert record["added_parameters"] == sum(COSTS[n] for n in growing(record, list(COSTS)))
    return growing(record, list(COSTS))


def test_the_best_layers_grow() -> None:
    assert chosen(auto_layers=1) == ["b"]
    assert chosen(auto_layers=3) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("budget", "layers"),
    [
        (10, ["d"]),
        (40, ["b"]),
        (80, ["b", "c", "d"]),
        (140, ["a", "b"]),
        (999, ["a", "b", "c", "d"]),
    ],
)
def test_all_up_to_the_budget_grow(budget: int, layers: list[str]) -> None:
    assert chosen(auto_layers=0, parameter_budget=budget) == layers


def test_a_gain_that_is_not_finite_comes_last() -> None:
    record = choose_layers(COSTS, GAINS | {"b": float("nan")}, config(), seed=0)
    assert record["layers"][-1]["name"] == "b"


def test_random_layers_depend_on_the_seed_alone() -> None:
    settings = config(layers="random")
    orders = []
    for seed in range(20):
        record = choose_layers(COSTS, None, settings, seed)
        assert record == choose_layers(COSTS, None, settings, seed)
        assert record["ranking"] == "random" and len(growing(record, list(COSTS))) == 2
        orders.append(tuple(e["name"] for e in record["layers"]))
    assert len(set(orders)) > 5


def test_the_picture_shows_every_layer(tmp_path) -> None:
    for gains in (GAINS, None):
        record = choose_layers(COSTS, gains, config(), seed=0)
        draw_layers(record | {"epoch": 3, "batches": 8, "draws": 4}, tmp_path / "layers.png")
        assert (tmp_path / "layers.png").stat().st_size > 5000


# -- the probe -------------------------------------------------------------------------------


class Net(nn.Module):
    """Two convolutions in a row, an activation in place between them, and one that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.unheard = nn.Conv2d(2, 8, 3, padding=1)
        self.unused = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.first(x), inplace=True)
        return self.norm(self.second(self.drop(y))) + 0 * self.unheard(x)


NAMES = ["first", "second", "unheard", "unused"]


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 2, 6, 6, generator=generator) for _ in range(count)]


def loss_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: (network(x) - x[:, :1]).pow(2).mean()


@pytest.mark.parametrize("kind", ["depthwise", "grouped"])
def test_gains_are_the_gradients_of_zero_weights(kind: str) -> None:
    """Against autograd through weights w = 0 that are really there."""
    network = Net().double()
    network.drop.p = 0.0
    xs = [x.double() for x in batches()]
    names = ["second"]
    settings = config(kind=kind, activation="tanh")
    found = expected_gains(network, names, settings, xs, loss_of(network), seed=5)["second"]

    torch.manual_seed(5)
    drawn = [KINDS[kind]().make(network.second) for _ in range(DRAWS)]
    network.train()
    gains = []
    for dendrite in drawn:
        w = torch.zeros(8, 1, 1, dtype=torch.float64, requires_grad=True)
        hook = network.second.register_forward_hook(
            lambda _, x, y, d=dendrite, w=w: y + w * d(x[0]).tanh()
        )
        loss = sum(loss_of(network)(x) for x in xs) / len(xs)
        hook.remove()
        gains.append(torch.autograd.grad(loss, w)[0].abs().sum())
    assert found == pytest.approx(float(sum(gains) / DRAWS), rel=1e-9)
    assert found > 0


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if not issubclass(v, SitedKind)])
def test_layers_that_matter_gain_and_others_do_not(kind: str) -> None:
    network = Net()
    names = [n for n in NAMES if kind != "grouped" or n == "second"]
    settings = config(kind=kind, activation="relu", initialisation="normal", scale=0.01)
    gains = expected_gains(network, names, settings, batches(8), loss_of(network), seed=0)
    assert gains["second"] > 1e-3  # the library's own dendrites would give some 1e-6
    assert gains.get("unheard", 0.0) == 0 and gains.get("unused", 0.0) == 0


def test_the_probe_leaves_everything_as_it_was() -> None:
    network = Net().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    settings = config()
    first = expected_gains(network, NAMES, settings, batches(), loss_of(network), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters()) and not network.training
    assert not any(m._forward_hooks for m in network.modules())
    assert first == expected_gains(network, NAMES, settings, batches(), loss_of(network), seed=3)
    assert first != expected_gains(network, NAMES, settings, batches(), loss_of(network), seed=4)


def test_a_loss_that_hears_no_layer_is_refused() -> None:
    network = Net()
    with pytest.raises(UserError, match="no loss that depends on the layers"):
        expected_gains(network, ["unused"], config(), batches(), loss_of(network), seed=0)


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "best"}, "layers must be one of all, auto, random"),
        ({"layers": "auto"}, "take one of auto_layers and parameter_budget"),
        ({"layers": "random"}, "take one of auto_layers and parameter_budget"),
        ({"auto_layers": 2}, "layers all takes none"),
        ({"parameter_budget": 100}, "layers all takes none"),
        ({"layers": "auto", "auto_layers": 1, "parameter_budget": 9}, "take one of"),
        ({"layers": "auto", "auto_layers": -1}, "auto_layers must be a whole number >= 0"),
        ({"layers": "auto", "parameter_budget": 1e3}, "parameter_budget must be a whole number"),
        ({"layers": "auto", "auto_layers": 1, "probe_batches": 7}, "probe_batches .* >= 8"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DendriteConfig.from_dict(settings)


def test_a_budget_below_the_smallest_set_is_refused(tiny_unet: Callable) -> None:
    network = tiny_unet()
    for kind in ("copy", "low_rank"):
        settings = config(kind=kind, auto_layers=0, parameter_budget=10)
        names = find_layers(network, settings)
        least = min(KINDS[kind]().cost(network.get_submodule(n)) for n in names)
        with pytest.raises(UserError, match=f"the smallest set costs, {least} parameters"):
            costs_of(network, names, settings)
        enough = config(kind=kind, auto_layers=0, parameter_budget=least)
        assert min(costs_of(network, names, enough).values()) == least


def test_more_layers_than_there_are_is_refused(tiny_unet: Callable) -> None:
    network = tiny_unet()
    names = find_layers(network, config())
    with pytest.raises(UserError, match=r"auto_layers must be at most 6.*got 7"):
        costs_of(network, names, config(auto_layers=7))
    assert len(costs_of(network, names, config(auto_layers=6))) == 6


def test_a_pattern_that_leaves_nothing_is_refused(tiny_unet: Callable) -> None:
    with pytest.raises(NoMatchingLayerError, match="leaves none of the 6 layers"):
        find_layers(tiny_unet(), config(exclude=["*"]))


def test_costs_are_what_growth_adds(tiny_unet: Callable, volume: Callable, grow: Callable) -> None:
    """Of layers, and of MONAI's blocks as a whole."""
    for types in (["Conv3d", "ConvTranspose3d"], ["Convolution"]):
        network = tiny_unet()
        settings = config(layer_types=types)
        costs = costs_of(network, find_layers(network, settings), settings)
        before = sum(p.numel() for p in network.parameters())
        tracker = grow(network, volume(), 1, layer_types=types)
        assert tracker.count_parameters() - before == sum(costs.values())
        tracker.close()
    linear = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.BatchNorm1d(3)})
    with pytest.raises(UserError, match="ranks convolutions, Linear and MONAI's"):
        costs_of(linear, ["a", "b"], config())
    assert costs_of(linear, ["a"], config(auto_layers=1)) == {"a": 20}
