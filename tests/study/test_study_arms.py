"""What the arms do inside a run: real trainings of a two-level UNet on phantoms."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import nn

from helpers.harness import BUNDLE, SMALL, history, in_child, kill_self, refused, same_run
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.study.handlers.branch import add_branch, load_branches
from perforated_monai.study.handlers.reload import best_network

GROWTH = {
    "switch": "fixed",
    "patience": 3,
    "max_dendrites": 1,
    "tries": 1,
    "improvement_threshold": [0.0],
    "layer_types": ["Conv3d", "ConvTranspose3d"],
}
EVALUATOR = "@validate::evaluator"
HANDLERS: dict[str, list[dict[str, Any]]] = {
    "base": [],
    "base_long": [
        {"_target_": "perforated_monai.study.handlers.restart.RestartHandler", "epochs": [2, 5]}
    ],
    "dendrites": [
        {
            "_target_": "perforated_monai.study.handlers.settle.GrowAndSettle",
            "evaluator": EVALUATOR,
            "config": GROWTH,
        }
    ],
    "branch": [
        {
            "_target_": "perforated_monai.study.handlers.branch.BranchHandler",
            "evaluator": EVALUATOR,
            "config": GROWTH,
            "grow_epochs": [2, 4],
            "settle_epochs": [6],
        }
    ],
}


def train(
    phantoms: Path, folder: Path, arm: str, kill: int | None = None, name: str = ""
) -> tuple[Path, nn.Module]:
    """Train an arm for eight epochs; its run folder and final network."""
    out = folder / (name or arm)
    overlay = folder / f"{arm}.json"
    overlay.write_text(json.dumps({"+train::handlers": HANDLERS[arm], "lr_cycle_epochs": 4}))
    made = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / "train.json"), str(overlay)],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(phantoms),
        manifest=str(phantoms / "manifest.json"),
        output_dir=str(out),
        **(SMALL | {"epochs": 8}),
    )
    made.initialize()
    if kill is not None:
        trainer = made.parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.EPOCH_STARTED(once=kill), kill_self)
    made.run()
    return out, made.parser.get_parsed_content("network")


@pytest.fixture
def run(phantoms: Path, tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    """``run(arm, kill=None, name="")``: see ``train``."""
    return functools.partial(train, phantoms, tmp_path)


@pytest.fixture(scope="module")
def arms(
    phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, nn.Module]]:
    """Every arm, trained once."""
    folder = tmp_path_factory.mktemp("arms")
    return {arm: train(phantoms, folder, arm) for arm in HANDLERS}


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in history(out) if e["event"] == kind]


def test_arms_in_real_runs(arms: dict[str, tuple[Path, nn.Module]]) -> None:
    epochs = {arm: events(out, "epoch") for arm, (out, _) in arms.items()}
    assert {len(e) for e in epochs.values()} == {8}, "every arm uses its whole budget"
    first = [[(e["loss"], e["dice"]) for e in found[:2]] for found in epochs.values()]
    assert all(f == first[0] for f in first), "all arms are alike until the first growth"

    settled = events(arms["dendrites"][0], "settle")
    grown = events(arms["dendrites"][0], "grow")
    assert [e["epoch"] for e in grown] == [2] and [e["epoch"] for e in settled] == [5]
    assert epochs["dendrites"][-1]["lr"] == epochs["base_long"][-1]["lr"]

    rate = [e["lr"][0] for e in epochs["base_long"]]
    assert rate[2] == rate[5] == rate[0] and rate[1] < rate[0] and rate[4] < rate[0]
    assert epochs["base_long"][2]["loss"] != epochs["base"][2]["loss"]

    branches = arms["branch"][0]
    assert [e["epoch"] for e in events(branches, "grow")] == [2, 4]
    assert [e["epoch"] for e in events(branches, "settle")] == [6]
    assert len(events(branches, "accept")) + len(events(branches, "reject")) == 2
    # As large as a dendrite: the non-linearity has no parameters.
    assert events(branches, "grow")[0]["parameters"] == grown[0]["parameters"]


def test_an_interrupted_test_finds_the_same_network(arms, volume) -> None:
    x = volume()
    for arm in ("base", "dendrites", "branch"):
        out, trained = arms[arm]
        plain = base_network()
        found = best_network(plain, out).eval()
        with torch.no_grad():
            assert torch.equal(found(x), trained.eval()(x)), arm
        assert count_parameters(found) == count_parameters(trained)


@pytest.mark.parametrize(("arm", "epoch"), [("branch", 5), ("dendrites", 7), ("base_long", 4)])
def test_a_killed_arm_ends_bit_for_bit_alike(arm: str, epoch: int, run) -> None:
    whole, _ = run(arm, name="whole")
    assert in_child(lambda: run(arm, kill=epoch, name="killed")) == -9
    killed, _ = run(arm, name="killed")
    same_run(whole, killed)


def base_network() -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(3, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1)


@pytest.mark.parametrize("kind", ["copy", "depthwise", "pointwise", "grouped", "low_rank"])
@pytest.mark.parametrize("layer", ["conv", "transposed", "linear"])
def test_a_branch_changes_no_output_when_added(layer: str, kind: str) -> None:
    if layer == "linear" and kind in ("depthwise", "pointwise", "grouped"):
        pytest.skip("a Linear layer has no such dendrite")
    torch.manual_seed(0)
    made, x = {
        "conv": (nn.Conv3d(4, 8, 3, padding=1), torch.randn(2, 4, 4, 4, 4)),
        "transposed": (nn.ConvTranspose3d(4, 8, 3, stride=2), torch.randn(2, 4, 4, 4, 4)),
        "linear": (nn.Linear(4, 5, bias=False), torch.randn(3, 4)),
    }[layer]
    network = nn.Sequential(made)
    plain = copy.deepcopy(made)
    config = DendriteConfig(initialisation="layer", scale=1.0, kind=kind)
    before = network(x)
    for count in (1, 2, 3):
        add_branch(network, "0", plain, config)
        torch.testing.assert_close(network(x), before)
        with torch.no_grad():
            network[0].to_output[count - 1] = 0.5 * count
        assert not torch.allclose(network(x), before)
        before = network(x)
    other = nn.Sequential(copy.deepcopy(plain))
    load_branches(other, {"0": plain}, network.state_dict(), config.dendrite)
    assert torch.equal(other(x), network(x))


def test_branches_refuse_what_is_no_convolution(run) -> None:
    HANDLERS["blocks"] = [{**HANDLERS["branch"][0], "config": {"layer_types": ["Convolution"]}}]
    try:
        with refused("grows convolutions with groups = 1"):
            run("blocks")
    finally:
        del HANDLERS["blocks"]
