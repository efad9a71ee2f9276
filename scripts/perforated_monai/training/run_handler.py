"""``RunHandler``: run folder, history, checkpoints, exact resume and progress of a training run."""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from ..errors import UserError, is_bundle_run
from ..networks.surgery import count_parameters
from ..networks.weights import load_start
from . import distributed
from .cpu_memory import keep_freed_memory
from .definition import refuse_another_definition
from .federated import refuse_in_federation
from .growth_protocol import Growth
from .history import History
from .ignite_events import call_first, loss_of, set_sampler_epoch
from .messages import advice, bad_loss, last_line
from .optimizer import OptimizerRefresh
from .progress import Progress
from .provenance import NO_CONFIG, provenance
from .records import Checkpoint
from .resume import Resumable, refuse_other_run
from .run_config import config_of_caller
from .run_folder import RunFolder
from .seeds import seed_everything, whole_seed
from .sigterm import LeaveOnSigterm
from .trained_on import trained_on
from .validation import NothingFound, refuse_epochs, score_of, shown_name

_runs: weakref.WeakKeyDictionary[Engine, RunHandler] = weakref.WeakKeyDictionary()


class RunHandler:
    """Keeps everything of a training run in one folder, and continues a killed run exactly.

    Order of calls, on the trainer's events:

    1. ``STARTED``: lock the folder; open growth; with a checkpoint there, load it and cut
       ``history.jsonl`` to it, otherwise write ``config.json``.
    2. ``EPOCH_STARTED``: tell the sampler the epoch. First ``ITERATION_STARTED`` of the epoch: seed
       torch, numpy and random from run seed and epoch, so that no generator needs saving.
    3. ``ITERATION_COMPLETED``: refuse a loss that is not finite, naming the batch's cases.
    4. ``EPOCH_COMPLETED``, behind ``ValidationHandler``: read the Dice; save ``best.pt`` when it is
       the best of an accepted structure.
    5. ``EPOCH_COMPLETED``, behind every other handler (growth and schedule included): append the
       epoch to the history, then write the checkpoint.
    6. ``COMPLETED``: load the best network, finish growth, close the history, draw ``dice.png``.

    With several processes (``distributed.py``) rank 0 locks, reads and writes; the others get what
    it read, the trainer runs the network inside DDP, made anew after each growth, and losses are
    averaged over ranks.

    Place it after ``ValidationHandler`` and before ``DendriteHandler`` in the trainer's handlers.

    Args:
        output_dir: the run folder; nothing is written outside it.
        evaluator: the validation engine whose key metric (higher is better) chooses the best.
        network: the network that is trained.
        optimizer: its optimizer.
        lr_scheduler: its scheduler, or None.
        seed: run seed of order, augmentation and dropout.
        start_weights: a file of weights to start from, strictly by name; None keeps the network's.
        metric: entry of the evaluator's metrics that counts; its key metric when not given.
        progress: show a progress bar, or lines away from a terminal.
        run_config: what the run is made from, ``$perforated_monai.merged_config()`` in a
            configuration file; when not given, that of the parser which makes this handler.

    Raises:
        UserError: no configuration to be seen; folder locked by another run, finished, or of
            another configuration; loss not finite; no usable checkpoint; disk full.
    """

    def __init__(
        self,
        output_dir: str | Path,
        evaluator: Engine,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any | None = None,
        seed: int = 0,
        start_weights: str | Path | None = None,
        metric: str | None = None,
        progress: bool = True,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        if not str(output_dir).strip():  # the current folder would become the run's
            msg = "output_dir must name a folder; got an empty name. Choose one."
            raise UserError(msg)
        self.folder = RunFolder(Path(output_dir).resolve())
        self.evaluator, self.network = evaluator, network
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.seed, self._show = whole_seed(seed), progress
        self.start_weights, self.metric = start_weights, metric
        self.config = dict(run_config) if run_config else config_of_caller()
        self.checkpoints = self.folder.checkpoints
        self.history = History(self.folder)
        self.growth: Growth | None = None
        self.score: float | None = None
        self.best_score, self.best_epoch = -math.inf, 0
        self.is_main, self._open = distributed.rank() == 0, False
        self._sigterm, self._nothing_found = LeaveOnSigterm(), NothingFound()
        self._resumable = Resumable(network, optimizer, lr_scheduler)

    @classmethod
    def of(cls, trainer: Any) -> RunHandler:
        """The run of a trainer.

        Raises:
            UserError: when the trainer has none in front of the asking handler.
        """
        if trainer not in _runs:
            msg = "DendriteHandler needs a RunHandler before it in train::handlers: add one."
            raise UserError(msg)
        return _runs[trainer]

    @property
    def score_name(self) -> str:
        """What the score is called: ``Dice``, or the metric's own name."""
        return shown_name(self.evaluator, self.metric)

    def grow_by(self, growth: Growth) -> None:
        """Let a handler change the network's structure during the run; call it on ``attach``."""
        self.growth = growth

    def attach(self, trainer: Any) -> None:
        """Connect to the trainer's events."""
        refuse_in_federation()
        refuse_epochs(trainer, self.evaluator)
        _runs[trainer] = self
        self.trainer = trainer
        trainer.add_event_handler(Events.STARTED, self._started)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validated)
        trainer.add_event_handler(Events.COMPLETED, self._completed)
        # Others re-raise in their own handler (StatsHandler does), so cleaning up comes first.
        call_first(trainer, Events.EXCEPTION_RAISED, self._failed)

    # -- 1. start --------------------------------------------------------------------------

    def _started(self, trainer: Any) -> None:
        if self._open:
            return
        refuse_epochs(trainer, self.evaluator)
        saved = distributed.from_main(self._open_folder)
        self._open = True
        on_cpu = next(self.network.parameters()).device.type == "cpu"
        if on_cpu and is_bundle_run(sys.argv):  # in a program of someone's own it is theirs to say
            keep_freed_memory()
        if "perforated_overlay" in self.config:
            refuse_another_definition(self.config, self.network)
        if self.start_weights is not None:
            load_start(self.network, self.start_weights)
        self.refresh = OptimizerRefresh(self.network, self.optimizer, self.lr_scheduler)
        # Registered now, behind every handler of the configuration.
        if not trainer.has_event_handler(self._epoch_finished):
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_finished)
        if self.growth is not None:
            self.growth.open(self, saved)
        if saved is not None:
            self._resume(trainer, saved)
        self.distribute()
        self._progress = Progress(
            trainer.state.max_epochs,
            trainer.state.epoch_length or 0,
            self._show and self.is_main,
            *(trainer.state.epoch, self.score_name),
        )
        self._sigterm.install()

    def _open_folder(self) -> Checkpoint | None:
        """Lock the folder and read where the run stands; rank 0 does it for all."""
        if not self.config:  # said now, not after hours: it could not be continued or exported
            raise UserError(NO_CONFIG)
        self.folder.take()
        self._open = True
        saved = self.checkpoints.load_last()
        data = trained_on(self.trainer, self.evaluator)
        if saved is None:
            self.history.cut(0)
            provenance(self.config, data).write(self.folder.config_file)
        else:
            refuse_other_run(saved, self.folder, self.config, data, self.growth is not None)
        return saved

    def distribute(self) -> None:
        """With several processes, let the trainer run the network as it is now in a new DDP."""
        if distributed.world() > 1:
            self.trainer.network = self.network
            self.trainer.network = distributed.wrap(self.network)

    def _resume(self, trainer: Any, saved: Checkpoint) -> None:
        if self.growth is None:
            self.network.load_state_dict(saved["network"], strict=True)
        self._resumable.restore(trainer, saved)
        self.best_score, self.best_epoch = saved["best_score"], saved["best_epoch"]
        if self.is_main:
            self.history.cut(saved["history_bytes"])

    # -- 2. and 3. steps -------------------------------------------------------------------

    def _epoch_started(self, trainer: Any) -> None:
        set_sampler_epoch(trainer, trainer.state.epoch)
        self.score = None
        self._losses: list[float] = []
        self._clock = time.monotonic()
        self._fresh_epoch = True
        self._progress.start_epoch(trainer.state.epoch)

    def _iteration_started(self, trainer: Any) -> None:
        if self._fresh_epoch:
            self._fresh_epoch = False
            self._lr = [group["lr"] for group in self.optimizer.param_groups]
            seed_everything(self.seed, trainer.state.epoch, distributed.rank())

    def _iteration_completed(self, trainer: Any) -> None:
        loss = loss_of(trainer.state.output)
        if not math.isfinite(loss):
            raise UserError(bad_loss(trainer, loss, self.checkpoints.folder))
        self._losses.append(loss)
        self._progress.step(loss)

    # -- 4. validation ---------------------------------------------------------------------

    def _validated(self, trainer: Any) -> None:
        if self.evaluator.state.epoch != trainer.state.epoch:
            return  # not an epoch of val_interval
        self.score, self._per_class = score_of(self.evaluator, self.metric)
        if not self.is_main:
            return
        if (warning := self._nothing_found.line(self.score)) is not None:
            self.say(warning)
        accepted = self.growth is None or self.growth.accepts(self.score)
        if math.isfinite(self.score) and self.score > self.best_score and accepted:
            self.best_score, self.best_epoch = self.score, trainer.state.epoch
            self.checkpoints.save_best(
                {
                    "epoch": self.best_epoch,
                    "dice": self.score,
                    "metric": self.score_name,
                    "dice_per_class": self._per_class,
                    "network": self.network.state_dict(),
                    "growth": None if self.growth is None else self.growth.describe(),
                }
            )

    # -- 5. end of an epoch ----------------------------------------------------------------

    def log(self, event: str, **facts: Any) -> None:
        """Add an event of this epoch to the history; written with the epoch's own line."""
        if self.is_main:
            self.history.add({"event": event, "epoch": self.trainer.state.epoch, **facts})

    def say(self, text: str) -> None:
        """One plain line for the person who watches."""
        self._progress.say(text)

    def _epoch_finished(self, trainer: Any) -> None:
        epoch, loss = trainer.state.epoch, distributed.mean(float(np.mean(self._losses)))
        if self.growth is None:
            sets, parameters = 0, count_parameters(self.network)
        else:
            structure = self.growth.describe()
            sets, parameters = structure["sets"], structure["parameters"]
        line = {
            "event": "epoch",
            "epoch": epoch,
            "loss": loss,
            "dice": self.score,
            "metric": self.score_name,
            "dice_per_class": self._per_class if self.score is not None else None,
            "lr": self._lr,
            "dendrite_sets": sets,
            "parameters": parameters,
            "seconds": round(time.monotonic() - self._clock, 3),
        }
        if self.is_main:
            self.history.add(line, first=True)
            self.history.flush()
            self._save(trainer, finished=False)
        self._progress.end_epoch(epoch, loss, self.score, sets, parameters)

    def _save(self, trainer: Any, finished: bool) -> None:
        self.checkpoints.save(
            trainer.state.epoch,
            {
                **self._resumable.capture(trainer),
                "finished": finished,
                "growth": None if self.growth is None else self.growth.state_dict(),
                "best_score": self.best_score,
                "best_epoch": self.best_epoch,
                "history_bytes": self.history.size(),
            },
        )

    # -- 6. end ----------------------------------------------------------------------------

    def _completed(self, trainer: Any) -> None:
        best = distributed.from_main(self.checkpoints.load_best)
        if distributed.world() > 1:
            trainer.network = self.network  # without DDP
        if best is None:
            self._close()
            msg = "no validation gave a score that is a number, so there is no best network."
            raise UserError(f"{self.folder.path}: {msg}")
        if self.is_main:
            sets = 0 if best["growth"] is None else int(best["growth"]["sets"])
            facts = {"best_dice": best["dice"], "best_epoch": best["epoch"]}
            self.log("complete", **facts, integrated_dendrite_sets=sets)
            self.history.flush()
            self._save(trainer, finished=True)
        if self.growth is not None:
            self.growth.close(best["network"])
        else:
            self.network.load_state_dict(best["network"], strict=True)
        if self.is_main:
            self.history.draw()
        self.say(last_line(best, self.growth is not None, self.folder.path))
        self._close()

    def _failed(self, trainer: Any, error: BaseException) -> None:
        self._close()
        cure = advice(trainer, error)
        kept = f"{cure} Checkpoints in {self.checkpoints.folder} are kept."
        shown = distributed.explain(error if cure is None else UserError(kept))
        if shown is error:
            raise error
        raise shown from error

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self.growth is not None:
            self.growth.close()
        self._sigterm.restore()
        self.folder.release()
