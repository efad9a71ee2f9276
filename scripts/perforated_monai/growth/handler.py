"""``DendriteHandler``: validation Dice to the tracker, and what follows when it grows dendrites."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

from ..dendrites.config import DendriteConfig
from ..errors import UserError
from ..training import distributed
from ..training.ignite_events import end_epoch_here
from ..training.optimizer import assert_complete, refuse_other_parameters
from ..training.records import Checkpoint, GrowthRecord
from ..training.run_handler import RunHandler
from .frozen_base import FrozenBase
from .outcome import Outcome
from .silent_layers import SilentLayers
from .to_plain import make_plain
from .tracker import Tracker


class DendriteHandler:
    """Grow dendrites when the validation score stops improving.

    Order of use: build network, optimizer and trainer as for plain training; put this handler
    behind ``ValidationHandler`` and ``RunHandler`` in the trainer's handlers; run the trainer.

    Order of calls: ``RunHandler`` calls ``open`` when the run starts (layers are wrapped) and
    ``accepts`` before it saves a best network; ``__call__`` gives each validation score to the
    tracker at ``EPOCH_COMPLETED``; on growth the optimizer and the scheduler get new contents and
    keep their identity; when the tracker has finished, the trainer is told to stop; ``close`` loads
    the best network and makes it a plain one in place.
    With several processes the tracker of rank 0 decides, and the others take the network it made.

    Layers that take no part in training are left out before the first growth, see ``SilentLayers``.

    With ``freeze_base`` the epochs up to the first validation are one step each, which is undone;
    that validation scores the network as it was loaded, and the first set follows at once.

    Args:
        evaluator: the validation engine; its key metric must be higher-is-better in [0, 1].
        config: a ``DendriteConfig`` or a mapping of its settings.

    Raises:
        UserError: unknown setting, no layer to grow, or no ``RunHandler`` in front.
    """

    def __init__(
        self, evaluator: Engine, config: DendriteConfig | Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(config, DendriteConfig):
            config = DendriteConfig.from_dict(config or {})
        self.evaluator, self.config = evaluator, config
        self.frozen: FrozenBase | None = None
        self._trial: dict[str, Any] | None = None

    def attach(self, trainer: Any) -> None:
        """Register with the trainer's run and its ``EPOCH_COMPLETED``."""
        self.run = RunHandler.of(trainer)
        if self.evaluator is not self.run.evaluator:
            msg = "DendriteHandler and RunHandler must watch the same evaluator."
            raise UserError(msg)
        self.run.grow_by(self)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.config.freeze_base:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._undo_step)

    def __call__(self, trainer: Any) -> None:
        """Give this epoch's score, if there is one, to the tracker."""
        score = self.run.score
        if score is None:
            return
        if left := self.silent.look():
            self.silent.rename_best(left)
        if self.run.is_main:
            self._log_acceptance(score)
        start = time.monotonic()
        outcome = self._add_score(score)
        seconds = round(time.monotonic() - start, 3)
        if outcome.rejected:
            self._log_rejection()
        if outcome.restructured:
            self._grown(trainer, outcome, seconds)
        elif outcome.event == "complete":
            self._growth_ended(trainer)

    # -- what RunHandler calls -------------------------------------------------------------

    def open(self, run: RunHandler, saved: Checkpoint | None) -> None:
        """Wrap the network's layers; until ``close`` the tracker owns the process's settings.

        With a checkpoint the network grows to where it stood, and the optimizer holds its parts.

        Raises:
            UserError: for an optimizer of other parameters than the network's, or ``freeze_base``
                without weights to start from.
        """
        refuse_other_parameters(run.network, run.optimizer)
        if self.config.freeze_base:
            if run.start_weights is None:
                msg = (
                    "freeze_base keeps the weights that training starts from, and there are none: "
                    "give start_weights to RunHandler, or set freeze_base: false."
                )
                raise UserError(msg)
            self.frozen = FrozenBase(run.network)
        self.tracker = Tracker(
            run.network, self.config, run.folder.tracker, seed=run.seed, writes=run.is_main
        )
        self.silent = SilentLayers(run, self.tracker)
        self.tracker.open()
        if saved is not None:
            self.load_state_dict(saved["growth"] or {}, saved["network"])
            run.refresh(self.tracker.trainable())

    def close(self, best: dict[str, Tensor] | None = None) -> None:
        """Give the process its own settings back; see ``Growth.close``."""
        if not hasattr(self, "tracker"):
            return
        if best is not None:
            self.tracker.load_network(best)
            if self.frozen is not None:
                self.frozen.release()
            make_plain(self.tracker.network, self.config.activation)
        self.tracker.close()

    def accepts(self, score: float) -> bool:
        """Whether a network with this score may be the run's best: see ``Tracker.accepts``."""
        return self.tracker.accepts(score)

    def describe(self) -> GrowthRecord:
        """What export needs beside the weights; with ``freeze_base`` they are checked first."""
        if self.frozen is not None:
            self.frozen.verify(self.tracker.network)
        return {
            "base_sha256": None if self.frozen is None else self.frozen.sha256,
            "sets": self.tracker.sets,
            "layers": self.tracker.layers,
            "left_out": self.silent.names or [],
            "config": self.config.to_dict(),
            "parameters": self.tracker.count_parameters(),
        }

    def state_dict(self) -> dict[str, Any]:
        """State of the tracker and of the set on trial."""
        return {
            "tracker": self.tracker.state_dict(),
            "trial": self._trial,
            "left_out": self.silent.names,
        }

    def load_state_dict(self, state: dict[str, Any], network: dict[str, Tensor]) -> None:
        """Continue from ``state_dict`` and the grown network's own state dict."""
        self.silent.restore(state.get("left_out"))
        self.tracker.load_state_dict(state["tracker"], network)
        self._trial = state["trial"]
        self._hold()

    # -- growth ----------------------------------------------------------------------------

    def _add_score(self, score: float) -> Outcome:
        """One decision for all ranks: rank 0's tracker makes it, the others take its network."""

        def decide() -> tuple[Outcome, dict[str, Tensor] | None]:
            first = self.config.freeze_base and self.tracker.sets == 0
            outcome = self.tracker.add_score(score, self.run.optimizer, force=first)
            if not outcome.event or distributed.world() == 1:
                return outcome, None
            return outcome, {k: v.cpu() for k, v in self.tracker.network.state_dict().items()}

        outcome, network = distributed.from_main(decide)
        if network is not None and not self.run.is_main:
            self.tracker.load_network(network)
        return outcome

    def _grown(self, trainer: Any, outcome: Outcome, seconds: float) -> None:
        run = self.run
        self._hold()
        trainable = self.tracker.trainable()
        run.refresh(trainable, restart=self.config.lr_restart)
        assert_complete(run.optimizer, trainable)
        run.distribute()
        scaler = getattr(trainer, "scaler", None)
        if scaler is not None:
            trainer.scaler = type(scaler)()
        before, after = run.best_score, self.tracker.count_parameters()
        self._trial = {"epoch": trainer.state.epoch, "dice_before": before, "sets": outcome.sets}
        run.log("rollback", to_epoch=run.best_epoch, dice=before)
        run.log(
            "grow",
            sets=outcome.sets,
            layers=len(self.tracker.layers),
            dice_before=before,
            parameters=after,
            seconds=seconds,
        )
        run.say(
            f"dendrite set {outcome.sets} added to {len(self.tracker.layers)} layers after epoch "
            f"{trainer.state.epoch}: back to {run.score_name} {before:.4f} of epoch "
            f"{run.best_epoch}, {after:,} parameters"
        )

    def _growth_ended(self, trainer: Any) -> None:
        """The tracker has finished and the best network is back: the run ends with it."""
        self.run.log("rollback", to_epoch=self.run.best_epoch, dice=self.run.best_score)
        trainer.terminate()

    def _hold(self) -> None:
        if self.frozen is not None and self.tracker.sets:
            self.frozen.hold(self.tracker.network)

    def _undo_step(self, trainer: Any) -> None:
        """Before the first set, put the base back: the tracker has seen its gradients."""
        if self.frozen is not None and not self.tracker.sets:
            self.frozen.restore(self.tracker.network)
            end_epoch_here(trainer)

    def _log_acceptance(self, score: float) -> None:
        if self._trial is not None and self.tracker.accepts(score):
            self.run.log("accept", **self._facts(), dice_after=score)
            self._trial = None

    def _log_rejection(self) -> None:
        if self._trial is not None:
            self.run.log("reject", **self._facts())
            name, sets = self.run.score_name, self._trial["sets"]
            self.run.say(f"dendrite set {sets} rejected: {name} did not pass the best")
            self._trial = None

    def _facts(self) -> dict[str, Any]:
        trial = self._trial or {}
        return {"sets": trial.get("sets"), "dice_before": trial.get("dice_before")}
