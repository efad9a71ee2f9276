"""The door to perforatedai: settings, isolation, scores, and behaviours of 3.2.9 it answers."""

import pdb
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.dendrites.targets import NoMatchingLayerError
from perforated_monai.dendrites.wrapped import wrapped_modules
from perforated_monai.errors import UserError
from perforated_monai.growth.library import forward_settings, import_library
from perforated_monai.growth.tracker import Tracker
from perforated_monai.training.seeds import DRAW_RULE


def step(tracker: Tracker, x: torch.Tensor) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.01)
    tracker.network(x).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def feed(tracker: Tracker, x: torch.Tensor, scores: list[float]) -> list[str]:
    events = []
    for score in scores:
        events.append(tracker.add_score(score, step(tracker, x)).event)
    return events


@pytest.fixture
def opened(tiny_unet: Callable, tmp_path: Path) -> Callable[..., Tracker]:
    made: list[Tracker] = []

    def make(**settings: object) -> Tracker:
        config = DendriteConfig(**{"patience": 2, "tries": 1, "max_dendrites": 1, **settings})
        tracker = Tracker(tiny_unet(), config, tmp_path / f"tracker{len(made)}")
        tracker.open()
        made.append(tracker)
        return tracker

    yield make
    for tracker in made:
        tracker.close()


def test_grows_when_the_score_stops_improving(opened: Callable, volume: Callable) -> None:
    scores = [0.50, 0.60, 0.60, 0.60]  # two without a new best -> grow
    assert feed(opened(), volume(), scores) == ["", "", "", "grow"]


def test_the_first_score_counts_as_a_best(opened: Callable, volume: Callable) -> None:
    """The library alone takes 0.5 for the best of 0.9, 0.5, 0.5."""
    tracker = opened(patience=3)
    feed(tracker, volume(), [0.9, 0.5, 0.5])
    assert tracker.best == 0.9
    library, _ = import_library()
    assert library.pai_tracker.member_vars["global_best_validation_score"] == 0.9


def test_dice_of_zero_still_switches(opened: Callable, volume: Callable) -> None:
    """To the library 0 means "none yet": every epoch would count as an improvement."""
    assert "grow" in feed(opened(), volume(), [0.0] * 4)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(
    opened: Callable, volume: Callable, score: float
) -> None:
    with pytest.raises(UserError, match="must be finite"):
        feed(opened(), volume(), [score])


def test_roll_back_goes_to_the_real_best(opened: Callable, volume: Callable) -> None:
    """A gain below the improvement threshold is no new best to the library, but it is one."""
    tracker, x = opened(improvement_threshold=[0.1]), volume()
    outputs = []
    for score in (0.50, 0.51, 0.505):
        optimizer = step(tracker, x)
        outputs.append(tracker.network(x).detach())
        outcome = tracker.add_score(score, optimizer)
    assert outcome.event == "grow"
    torch.testing.assert_close(tracker.network(x), outputs[1], rtol=0, atol=0)


def test_a_set_without_gain_is_rejected_and_removed(opened: Callable, volume: Callable) -> None:
    tracker = opened(improvement_threshold=[0.0, 0.5])
    events = feed(tracker, volume(), [0.5, 0.5, 0.5, 0.51, 0.51, 0.51])
    assert events[2] == "grow" and events[-1] == "complete"
    assert tracker.sets == 0


def test_a_second_try_is_drawn_anew(opened: Callable, volume: Callable) -> None:
    tracker = opened(tries=2, improvement_threshold=[0.0, 0.5], scale=1.0)
    x, drawn, events = volume(), [], []
    for score in [0.5] * 12:
        outcome = tracker.add_score(score, step(tracker, x))
        events.append(outcome.event)
        if outcome.restructured:
            drawn.append(
                wrapped_modules(tracker.network)[0][1].dendrite_module.layers[0].weight.clone()
            )
        if outcome.event == "complete":
            break
    assert [e for e in events if e] == ["grow", "retry", "complete"]
    assert not torch.equal(*drawn)


def test_growth_draws_nothing_from_the_global_generator(opened: Callable, volume: Callable) -> None:
    tracker, x = opened(patience=1), volume()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert "grow" in feed(tracker, x, [0.5, 0.5, 0.5])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wrapped_network_without_dendrites_trains_as_the_plain_one(
    opened: Callable, tiny_unet: Callable, volume: Callable
) -> None:
    tracker, plain, x = opened(), tiny_unet(), volume()
    torch.testing.assert_close(tracker.network(x), plain(x), rtol=0, atol=0)
    for _ in range(3):
        step(tracker, x)
        optimizer = torch.optim.SGD(plain.parameters(), 0.01)
        plain(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(tracker.network(x), plain(x))


def test_two_runs_one_after_the_other_do_not_see_each_other(
    tiny_unet: Callable, volume: Callable, tmp_path: Path
) -> None:
    from perforatedai import globals_perforatedai as gpa

    x = volume()
    before = (gpa.pc, gpa.pai_tracker, Path.cwd(), pdb.set_trace, sys.stdin)
    ends = []
    for run in range(2):
        config = DendriteConfig(patience=1, tries=1, max_dendrites=1, activation="relu")
        tracker = Tracker(tiny_unet(), config, tmp_path / str(run))
        tracker.open()
        assert gpa.pc is not before[0]
        feed(tracker, x, [0.5, 0.5, 0.6])
        ends.append(tracker.network(x).detach())
        tracker.close()
        assert (gpa.pc, gpa.pai_tracker, Path.cwd(), pdb.set_trace, sys.stdin) == before
    assert torch.equal(*ends)


def test_process_is_as_before_also_when_opening_failed(
    tiny_unet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perforatedai import globals_perforatedai as gpa
    from perforatedai import utils_perforatedai as upa

    before = gpa.pc
    monkeypatch.setattr(upa, "perforate_model", lambda *_, **__: 1 / 0)
    tracker = Tracker(tiny_unet(), DendriteConfig(), tmp_path / "t")
    with pytest.raises(ZeroDivisionError):
        tracker.open()
    assert gpa.pc is before


def test_two_open_runs_are_refused(opened: Callable, tiny_unet: Callable, tmp_path: Path) -> None:
    opened()
    with pytest.raises(UserError, match="one dendritic run at a time"):
        Tracker(tiny_unet(), DendriteConfig(), tmp_path / "second").open()


def test_stray_rank_is_refused(
    tiny_unet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(UserError, match="RANK=3 is set but no process group"):
        Tracker(tiny_unet(), DendriteConfig(), tmp_path / "t").open()


def test_every_file_lies_in_the_trackers_folder(
    opened: Callable, volume: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tracker = opened(patience=1)
    feed(tracker, volume(), [0.5, 0.5, 0.5])
    assert list(Path().iterdir()) == []
    assert [f.name for f in tracker.folder.iterdir()] == ["best_model.pt"]
    monkeypatch.undo()


def test_frozen_layers_are_left_alone(tiny_unet: Callable, tmp_path: Path) -> None:
    network = tiny_unet()
    for p in network.get_submodule("model.0.conv.unit0.conv").parameters():
        p.requires_grad_(False)
    with pytest.warns(UserWarning, match="Frozen layers do not grow: model.0.conv.unit0.conv"):
        tracker = Tracker(network, DendriteConfig(), tmp_path / "t")
    assert "model.0.conv.unit0.conv" not in tracker.layers


def test_layers_that_the_library_does_not_find_are_named(tmp_path: Path) -> None:
    inner = nn.ModuleDict({"0": nn.Sequential(nn.Conv2d(1, 2, 1))})
    network = nn.Sequential(nn.Conv2d(1, 1, 1), inner)
    with pytest.warns(UserWarning, match=r"numbers for keys cannot grow: \['1.0.0'\]"):
        tracker = Tracker(network, DendriteConfig(), tmp_path / "t")
    assert tracker.layers == ["0"]
    tracker.open()  # without the warning it would end here
    tracker.close()
    with pytest.raises(UserError, match="Choose other layers"):
        Tracker(nn.Sequential(inner), DendriteConfig(), tmp_path / "u")


def test_pattern_without_a_match_names_the_nearest(tiny_unet: Callable, tmp_path: Path) -> None:
    config = DendriteConfig(layer_names=["modell.0.conv"])
    with pytest.raises(NoMatchingLayerError, match=r"modell\.0\.conv.*Nearest: model\."):
        Tracker(tiny_unet(), config, tmp_path / "t")


def test_bf16_autocast_keeps_activations_bf16(opened: Callable, volume: Callable) -> None:
    tracker, x = opened(patience=1, scale=1.0), volume()
    assert "grow" in feed(tracker, x, [0.5, 0.5, 0.5])
    layer = wrapped_modules(tracker.network)[0][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def test_no_setting_of_the_library_is_ignored(opened: Callable) -> None:
    """Unknown setters are accepted in silence by the library; ours are read back."""
    opened(activation="tanh", patience=7, improvement_threshold=[0.2, 0.1])
    pc = import_library()[0].pc
    assert pc.get_pai_forward_function() is torch.tanh
    assert pc.get_n_epochs_to_switch() == 7
    assert pc.get_improvement_threshold() == 0.2
    assert pc.get_testing_dendrite_capacity() is False


def test_forward_settings_give_the_trained_activation(opened: Callable, volume: Callable) -> None:
    """A grown network reads its activation from a global of the library (trap L3)."""
    tracker, x = opened(patience=1, activation="relu", scale=1.0), volume()
    feed(tracker, x, [0.5, 0.5, 0.5])
    with torch.no_grad():
        for _, module in wrapped_modules(tracker.network):
            module.dendrites_to_top[-1].fill_(0.5)
        inside = tracker.network(x)
        tracker.close()
        with warnings.catch_warnings():
            outside = tracker.network(x)
        with forward_settings(tracker.config):
            again = tracker.network(x)
    assert torch.equal(inside, again)
    assert not torch.allclose(inside, outside)


def test_network_in_eval_mode_comes_back_in_eval_mode(opened: Callable, volume: Callable) -> None:
    tracker, x = opened(patience=1), volume()
    optimizer = step(tracker, x)
    tracker.add_score(0.5, optimizer)
    step(tracker, x)
    tracker.network.eval()
    while tracker.add_score(0.5, optimizer).event != "grow":
        pass
    assert not any(m.training for m in tracker.network.modules() if isinstance(m, nn.Conv3d))


def test_the_rule_of_draws_lies_in_the_state(opened: Callable, volume: Callable) -> None:
    """A checkpoint of before the rule was written means Python's hash, which its run drew by."""
    tracker = opened()
    feed(tracker, volume(), [0.5])
    state, network = tracker.state_dict(), tracker.network.state_dict()
    assert state["draw_rule"] == tracker.draw_rule == DRAW_RULE
    del state["draw_rule"]
    tracker.load_state_dict(state, network)
    assert tracker.draw_rule == tracker.state_dict()["draw_rule"] == 1
