"""A frozen base stays bit for bit while dendrites train, or the run stops and says so."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from torch import nn

from helpers.harness import history, in_child, kill_self, refused, same_run, train, workflow
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.wrapped import base_tensors, grown_name
from perforated_monai.growth.frozen_base import FrozenBase, differing
from perforated_monai.growth.tracker import Tracker
from perforated_monai.growth.trained import load_trained

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")


@pytest.fixture
def wrapped(tiny_unet: Callable, tmp_path: Path) -> Iterator[Callable[..., tuple]]:
    """``wrapped(**network)``: a network with batch normalisation, its copy, its tracker."""
    made: list[Tracker] = []

    def make(layer_types: list[str] | None = None) -> tuple[nn.Module, FrozenBase, Tracker]:
        network = tiny_unet(norm="batch")
        frozen = FrozenBase(network)
        kinds = {} if layer_types is None else {"layer_types": layer_types}
        config = DendriteConfig(
            patience=1, max_dendrites=2, tries=1, improvement_threshold=[0.0], **kinds
        )
        made.append(Tracker(network, config, tmp_path / "tracker"))
        made[-1].open()
        return network, frozen, made[-1]

    yield make
    for tracker in made:
        tracker.close()


def step(tracker: Tracker, x: torch.Tensor) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.1)
    tracker.network.train()
    (tracker.network(x) - 1).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("layer_types", [["Conv3d", "ConvTranspose3d"], ["Convolution"]])
def test_only_dendrites_change_over_two_sets(
    wrapped: Callable, volume: Callable, layer_types: list[str]
) -> None:
    network, frozen, tracker = wrapped(layer_types)
    x = volume()
    optimizer = step(tracker, x)
    with refused("tensors of the base network changed"):
        frozen.verify(network)
    frozen.restore(network)
    frozen.verify(network)
    assert tracker.add_score(0.5, optimizer, force=True).event == "grow"
    events, score = [], 0.5
    while tracker.sets < 2:
        frozen.hold(network)
        names = [name for name, _ in tracker.trainable()]
        assert names and all(".dendrite" in name for name in names)
        before = {n: p.detach().clone() for n, p in tracker.trainable()}
        step(tracker, x)  # changes the weights of the sum alone: they were 0
        optimizer = step(tracker, x)
        kept = [n for n, p in tracker.trainable() if torch.equal(p, before[n])]
        # A bias in front of a normalisation has no gradient to speak of.
        assert not [n for n in kept if not n.endswith(".bias")]
        frozen.verify(network)
        score += 0.1 if len(events) < 2 else 0.0
        events.append(tracker.add_score(score, optimizer).event)
    frozen.hold(network)
    step(tracker, x)
    frozen.verify(network)


def test_statistics_of_dendrites_train_and_those_of_the_base_do_not(
    wrapped: Callable, volume: Callable
) -> None:
    network, frozen, tracker = wrapped(["Convolution"])
    optimizer = step(tracker, volume())
    frozen.restore(network)
    tracker.add_score(0.5, optimizer, force=True)
    frozen.hold(network)
    step(tracker, volume())
    modes = {
        ".dendrite_module" in name: module.training
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm3d) and "parent_module" not in name
    }
    assert modes == {True: True, False: False}


def test_a_changed_base_is_named(wrapped: Callable) -> None:
    network, frozen, _ = wrapped()
    name = "model.0.conv.unit0.conv.weight"
    with torch.no_grad():
        base_tensors(network, [name])[name].add_(1e-7)
    with refused(f"1 tensors of the base network changed.*{name}"):
        frozen.verify(network)


FROZEN = {
    "dendrites::freeze_base": True,
    "dendrites::switch": "history",
    "dendrites::max_dendrites": 1,
    "epochs": 3,
}


@pytest.fixture(scope="module")
def base(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best network of a run, as weights."""
    file = tmp_path_factory.mktemp("base") / "model.pt"
    torch.save(load_trained(plain_run).network.state_dict(), file)
    return file


def last_base(out: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """The base's tensors in the last checkpoint of a run that grew."""
    state = torch.load(out / "checkpoints" / "epoch_0003.pt", weights_only=True)
    assert state["growth"]["tracker"]["calls"] == 3
    return {name: state["network"][grown_name(name, state["network"])] for name in names}


@pytest.mark.parametrize("kind", ["copy", None], ids=["copies", "sets of the overlay"])
def test_a_run_keeps_the_base(
    kind: str | None, phantoms: Path, tmp_path: Path, plain_run: Path, base: Path
) -> None:
    start = {"train::handlers::2::start_weights": str(base), "dendrites::kind": kind}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(phantoms, whole, dendrites=True, **FROZEN, **start)
    epochs = [e for e in history(whole) if e["event"] == "epoch"]
    assert [e["dendrite_sets"] for e in epochs] == [1, 1, 1]
    # The first validation scores the base as it was loaded.
    assert epochs[0]["dice"] == history(plain_run)[-1]["best_dice"]
    state = torch.load(base, weights_only=True)
    assert not differing(state, last_base(whole, list(state)))

    def killed_in_epoch_3() -> None:
        made = workflow(phantoms, killed, True, **FROZEN, **start)
        trainer = made.parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.EPOCH_STARTED(once=3), kill_self)
        made.run()

    assert in_child(killed_in_epoch_3) == -signal.SIGKILL
    train(phantoms, killed, dendrites=True, **FROZEN, **start)
    same_run(whole, killed)
    assert not differing(last_base(whole, list(state)), last_base(killed, list(state)))


def test_without_weights_to_start_from_it_is_refused(phantoms: Path, tmp_path: Path) -> None:
    with refused("freeze_base keeps the weights.*start_weights"):
        train(phantoms, tmp_path / "run", dendrites=True, **{"dendrites::freeze_base": True})
