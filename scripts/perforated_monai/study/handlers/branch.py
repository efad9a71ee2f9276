"""``BranchHandler``: ordinary parallel convolutions where and when the dendritic arm grew."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from ...dendrites.config import DendriteConfig
from ...dendrites.convolutions import FUSIBLE
from ...dendrites.kind import Kind
from ...dendrites.kinds.copies import Copy
from ...dendrites.layer import DendriticLayer
from ...dendrites.reduced_layer import ReducedDendriticLayer
from ...dendrites.targets import find_layers
from ...errors import UserError
from ...networks.surgery import add_dendrites, count_parameters, replace_module
from ...training import distributed
from ...training.optimizer import assert_complete
from ...training.records import Checkpoint, GrowthRecord
from ...training.run_handler import RunHandler
from ...training.seeds import DRAW_RULE, seed_of_draw

KIND = "branch"


class BranchHandler:
    """Grow parallel convolutions by our own layers, without the tracker.

    A branch is a dendrite whose non-linearity is the identity: what is left of a dendrite when its
    non-linearity is taken away. Layers, initialisation, roll-back to the best network, threshold
    of acceptance and fresh optimizer are those of the dendritic arm; the epochs are read from it.

    Order of calls: as for ``DendriteHandler``, whose place behind ``RunHandler`` it takes.

    Args:
        evaluator: the validation engine of ``RunHandler``.
        config: settings of growth; activation, patience and switch rule are not used.
        grow_epochs: epochs after which a set of branches is added.
        settle_epochs: epochs after which the network goes back to its best and trains on.
    """

    def __init__(
        self,
        evaluator: Any,
        config: Mapping[str, Any],
        grow_epochs: Sequence[int],
        settle_epochs: Sequence[int] = (),
    ) -> None:
        self.evaluator = evaluator
        self.config = DendriteConfig.from_dict({**config, "activation": "identity"})
        self.grow_epochs, self.settle_epochs = list(grow_epochs), list(settle_epochs)
        self._trial: dict[str, Any] | None = None
        self._draw_rule = DRAW_RULE

    def attach(self, trainer: Any) -> None:
        """Register with the trainer's run and its ``EPOCH_COMPLETED``."""
        self.run = RunHandler.of(trainer)
        self.run.grow_by(self)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Any) -> None:
        """Accept or reject the set on trial; grow or settle where the dendritic arm did."""
        epoch, score = trainer.state.epoch, self.run.score
        if self._trial is not None and score is not None and self.accepts(score):
            self.run.log("accept", **self._trial, dice_after=score)
            self._trial = None
        if epoch in self.grow_epochs or epoch in self.settle_epochs:
            self._roll_back()
        if epoch in self.grow_epochs:
            self._grow(epoch)
        elif epoch in self.settle_epochs:
            self._refresh()
            self.run.log("settle", to_epoch=self.run.best_epoch, dice=self.run.best_score)

    # -- what RunHandler calls -------------------------------------------------------------

    def open(self, run: RunHandler, saved: Checkpoint | None) -> None:
        """Choose the layers, and go on from a checkpoint.

        Raises:
            UserError: for several processes, or a layer that is no convolution.
        """
        if distributed.world() > 1:
            msg = "The arm branch runs in one process; start it without torchrun."
            raise UserError(msg)
        self.network = run.network
        self.layers = find_layers(run.network, self.config)
        self._plain = {n: copy.deepcopy(run.network.get_submodule(n)) for n in self.layers}
        wrong = [n for n, layer in self._plain.items() if not isinstance(layer, FUSIBLE)]
        if wrong or any(getattr(m, "groups", 1) != 1 for m in self._plain.values()):
            msg = (
                f"The arm branch grows convolutions with groups = 1; {(wrong or self.layers)[0]} "
                "is none. Correct layer_types or exclude in the study's growth settings."
            )
            raise UserError(msg)
        if saved is not None:
            self.load_state_dict(saved["growth"] or {}, saved["network"])
            run.refresh(list(self.network.named_parameters()))

    def close(self, best: dict[str, Tensor] | None = None) -> None:
        """The best network is plain already; there is nothing to give back."""
        if best is not None:
            self.load_network(best)

    def accepts(self, score: float) -> bool:
        """Whether a network with this score may be the run's best: the tracker's threshold."""
        if self._trial is None:
            return True
        relative = _threshold(self.config.improvement_threshold, self._trial["sets"])
        best, raw = self._trial["dice_before"], self.config.improvement_threshold_raw
        return bool(score * (1.0 - relative) > best and score - raw > best)

    @property
    def sets(self) -> int:
        """Sets of branches in the network now."""
        counts = [getattr(self.network.get_submodule(n), "count", 0) for n in self.layers]
        return max(counts, default=0)

    def describe(self) -> GrowthRecord:
        """What rebuilds the network from its state dict."""
        return {
            "kind": KIND,
            "sets": self.sets,
            "layers": self.layers,
            "config": self.config.to_dict(),
            "parameters": count_parameters(self.network),
        }

    def state_dict(self) -> dict[str, Any]:
        """The set on trial, and the rule of the draws."""
        return {"trial": self._trial, "draw_rule": self._draw_rule}

    def load_state_dict(self, state: dict[str, Any], network: dict[str, Tensor]) -> None:
        """Continue from ``state_dict`` and the network's own."""
        self.load_network(network)
        self._trial = state["trial"]
        self._draw_rule = state.get("draw_rule", 1)  # a run of before the rule was written

    def load_network(self, network: dict[str, Tensor]) -> None:
        """Give the network the structure and weights of a state dict, strictly."""
        load_branches(self.network, self._plain, network, self.config.dendrite)

    # -- growth ----------------------------------------------------------------------------

    def _roll_back(self) -> None:
        best = self.run.checkpoints.load_best()
        if best is None:
            msg = "The dendritic arm grew before any validation: study files need val_interval 1."
            raise UserError(msg)
        if self._trial is not None:
            self.run.log("reject", **self._trial)
            self._trial = None
        self.load_network(best["network"])
        self.network.train()
        self.run.log("rollback", to_epoch=self.run.best_epoch, dice=self.run.best_score)

    def _grow(self, epoch: int) -> None:
        seed = seed_of_draw(self.run.seed, epoch, self._draw_rule)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name in self.layers:
                add_branch(self.network, name, self._plain[name], self.config)
        self._refresh()
        self._trial = {"sets": self.sets, "dice_before": self.run.best_score}
        facts = {"layers": len(self.layers), "parameters": count_parameters(self.network)}
        self.run.log("grow", **self._trial, **facts)
        self.run.say(f"set {self.sets} of branches added to {len(self.layers)} layers")

    def _refresh(self) -> None:
        every = list(self.network.named_parameters())
        self.run.refresh(every, restart=self.config.lr_restart)
        assert_complete(self.run.optimizer, every)


def add_branch(network: nn.Module, name: str, plain: nn.Module, config: DendriteConfig) -> None:
    """Put one more parallel copy beside the layer ``name``; its output weight starts at 0.

    Args:
        network: changed in place.
        name: of a plain layer, or of one with branches made here before.
        plain: the layer as it was in the base network; the template of the branch.
        config: its ``kind``, ``initialisation`` and ``scale`` count.
    """
    old: Any = network.get_submodule(name)
    kind = config.dendrite
    if not isinstance(kind, Copy):
        replace_module(network, name, _with_one_more(old, plain, kind, config))
        return
    main: Any = old.fused if isinstance(old, DendriticLayer) else old
    count = old.count if isinstance(old, DendriticLayer) else 0
    branch = _fresh(plain, config)
    new: Any = add_dendrites(plain, count + 1, "identity")
    axis = (
        1 if isinstance(plain, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) else 0
    )
    with torch.no_grad():
        new.fused.weight.copy_(torch.cat([main.weight, branch.weight], dim=axis))
        if main.bias is not None:
            new.fused.bias.copy_(torch.cat([main.bias, branch.bias]))
        if count:
            new.to_output[:count].copy_(old.to_output)
            new.between[: old.between.size(0)].copy_(old.between)
    new.train(old.training)
    replace_module(network, name, new)


def load_branches(
    network: nn.Module,
    plain: Mapping[str, nn.Module],
    state: Mapping[str, Tensor],
    kind: Kind | None = None,
) -> None:
    """Rebuild a network with branches from its state dict, strictly, in place.

    Args:
        network: the base network, with or without branches.
        plain: each grown layer as it was in the base network.
        state: state dict of the network that is wanted.
        kind: of the branches; copies when not given.
    """
    for name, layer in plain.items():
        weights = state.get(f"{name}.to_output")
        if weights is None:
            replace_module(network, name, copy.deepcopy(layer))
        else:
            made = add_dendrites(layer, weights.size(0), "identity", kind)
            replace_module(network, name, made)
    network.load_state_dict(dict(state), strict=True)


def _with_one_more(old: Any, plain: Any, kind: Kind, config: DendriteConfig) -> nn.Module:
    """A new layer with the branches of ``old``, which are no copies, and one more."""
    grown = isinstance(old, ReducedDendriticLayer)
    branches = old.dendrites() if grown else []
    new: Any = add_dendrites(plain, len(branches) + 1, "identity", kind)
    to_output, between = torch.zeros_like(new.to_output), torch.zeros_like(new.between)
    if grown:
        to_output[:-1] = old.to_output.detach()
        between[: old.between.size(0)] = old.between.detach()
    every = [old.main if grown else old, *branches, _fresh(plain, config)]
    new.load_branches(every, to_output, between)
    new.train(old.training)
    return new  # type: ignore[no-any-return]


def _fresh(plain: nn.Module, config: DendriteConfig) -> Any:
    branch: Any = config.dendrite.make(plain)
    with torch.no_grad():
        if config.initialisation == "layer":
            branch.reset_parameters()
            for parameter in branch.parameters():
                parameter.mul_(config.scale)
        else:
            for parameter in branch.parameters():
                parameter.copy_(torch.randn_like(parameter) * config.scale)
    return branch


def _threshold(values: list[float], sets: int) -> float:
    """The tracker reads its list at the number of sets, the one on trial included."""
    return values[min(sets, len(values) - 1)]
