"""``RunHandler``: run folder, history, checkpoints, exact resume and progress of a training run."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from torch import Tensor, nn

from ..errors import UserError, is_bundle_run
from ..networks.surgery import count_parameters
from ..networks.weights import load_start
from . import distributed
from .cpu_memory import keep_freed_memory
from .definition import refuse_another_definition
from .federated import refuse_in_federation
from .history import History
from .optimizer import OptimizerRefresh
from .progress import Progress
from .provenance import NO_CONFIG, provenance, refuse_other_config
from .run_config import config_of_caller
from .run_folder import RunFolder
from .seeds import seed_everything

_runs: weakref.WeakKeyDictionary[Engine, RunHandler] = weakref.WeakKeyDictionary()


class Growth(Protocol):
    """What changes the network's structure during a run; ``DendriteHandler`` is one."""

    @property
    def sets(self) -> int: ...
    def open(self, run: RunHandler) -> None: ...
    def close(self) -> None: ...
    def finish(self) -> None: ...
    def accepts(self, score: float) -> bool: ...
    def count_parameters(self) -> int: ...
    def trainable(self) -> list[tuple[str, nn.Parameter]]: ...
    def describe(self) -> dict[str, Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], network: dict[str, Tensor]) -> None: ...
    def load_network(self, network: dict[str, Tensor]) -> None: ...


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
        self.folder = RunFolder(Path(output_dir).resolve())
        self.evaluator, self.network = evaluator, network
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.seed, self._show = int(seed), progress
        self.start_weights, self.metric = start_weights, metric
        self.config = dict(run_config) if run_config else config_of_caller()
        self.checkpoints = self.folder.checkpoints
        self.history = History(self.folder)
        self.growth: Growth | None = None
        self.score: float | None = None
        self.best_score, self.best_epoch = -math.inf, 0
        self.is_main = distributed.rank() == 0
        self._open = False
        self._old_sigterm: Any = None

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

    def attach(self, trainer: Any) -> None:
        """Connect to the trainer's events."""
        refuse_in_federation()
        _runs[trainer] = self
        self.trainer = trainer
        trainer.add_event_handler(Events.STARTED, self._started)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validated)
        trainer.add_event_handler(Events.COMPLETED, self._completed)
        # Others re-raise in their own handler (StatsHandler does), so cleaning up comes first.
        _call_first(trainer, Events.EXCEPTION_RAISED, self._failed)

    # -- 1. start --------------------------------------------------------------------------

    def _started(self, trainer: Any) -> None:
        if self._open:
            return
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
            self.growth.open(self)
        if saved is not None:
            self._resume(trainer, saved)
        self.distribute()
        self._progress = Progress(
            trainer.state.max_epochs,
            trainer.state.epoch_length or 0,
            self._show and self.is_main,
            done=trainer.state.epoch,
        )
        self._install_sigterm()

    def _open_folder(self) -> dict[str, Any] | None:
        """Lock the folder and read where the run stands; rank 0 does it for all."""
        if not self.config:  # said now, not after hours: it could not be continued or exported
            raise UserError(NO_CONFIG)
        self.folder.take()
        self._open = True
        saved = self.checkpoints.load_last()
        if saved is None:
            self.history.cut(0)
            provenance(self.config).write(self.folder.config_file)
        else:
            self._refuse_wrong_checkpoint(saved)
        return saved

    def distribute(self) -> None:
        """With several processes, let the trainer run the network as it is now in a new DDP."""
        if distributed.world() > 1:
            self.trainer.network = self.network
            self.trainer.network = distributed.wrap(self.network)

    def _refuse_wrong_checkpoint(self, saved: dict[str, Any]) -> None:
        if self.folder.config_file.exists():
            refuse_other_config(self.folder.config_file, self.config)
        if saved["finished"]:
            msg = (
                f"{self.folder.path} holds a finished run of {saved['epoch']} epochs. "
                "Choose another output_dir, or remove this one to train again."
            )
            raise UserError(msg)
        if (saved["growth"] is None) != (self.growth is None):
            kind = "without" if saved["growth"] is None else "with"
            msg = f"{self.folder.path} holds a run {kind} dendrites: choose another output_dir."
            raise UserError(msg)
        processes = saved.get("processes", 1)
        if processes != distributed.world():
            msg = (
                f"{self.folder.path} holds a run of {processes} process(es), not of "
                f"{distributed.world()}: start as many, or choose another output_dir."
            )
            raise UserError(msg)
        refuse_other_config(self.folder.config_file, self.config)

    def _resume(self, trainer: Any, saved: dict[str, Any]) -> None:
        if self.growth is not None:
            self.growth.load_state_dict(saved["growth"], saved["network"])
            self.refresh(self.growth.trainable())
        else:
            self.network.load_state_dict(saved["network"], strict=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(saved["lr_scheduler"])
        if getattr(trainer, "scaler", None) is not None and saved["scaler"]:
            trainer.scaler.load_state_dict(saved["scaler"])
        trainer.state.epoch = saved["epoch"]
        trainer.state.iteration = saved["iteration"]
        self.best_score, self.best_epoch = saved["best_score"], saved["best_epoch"]
        if self.is_main:
            self.history.cut(saved["history_bytes"])

    def _install_sigterm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: Any) -> None:
            # Checkpoints are atomic, so leaving at any line keeps the last epoch's whole.
            raise SystemExit(143)

        self._old_sigterm = signal.signal(signal.SIGTERM, stop)

    # -- 2. and 3. steps -------------------------------------------------------------------

    def end_epoch_here(self, trainer: Any) -> None:
        """Leave out the rest of the epoch's steps; they count as done."""
        trainer.terminate_epoch()
        if trainer.state.epoch_length is not None:
            # Ignite takes what is beyond whole epochs for the place to resume inside one.
            trainer.state.iteration = trainer.state.epoch * trainer.state.epoch_length
        # Ignite makes the next epoch's iterator at once, and its workers ask the sampler then.
        _set_sampler_epoch(trainer, trainer.state.epoch + 1)

    def _epoch_started(self, trainer: Any) -> None:
        _set_sampler_epoch(trainer, trainer.state.epoch)
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
        loss = float(from_engine("loss", first=True)(trainer.state.output))
        if not math.isfinite(loss):
            raise UserError(self._describe_bad_loss(trainer, loss))
        self._losses.append(loss)
        self._progress.step(loss)

    def _describe_bad_loss(self, trainer: Any, loss: float) -> str:
        batch = trainer.state.batch if isinstance(trainer.state.batch, list) else []
        cases = [str(b.get("case", "?")) for b in batch if isinstance(b, dict)]
        kept = f"epoch {trainer.state.epoch - 1} is kept in {self.checkpoints.folder}"
        return (
            f"The loss is {loss} in epoch {trainer.state.epoch}, case(s) {', '.join(cases)}. Look "
            f"for NaN in these volumes or lower the learning rate; the checkpoint of {kept}."
        )

    # -- 4. validation ---------------------------------------------------------------------

    def _validated(self, trainer: Any) -> None:
        state: Any = self.evaluator.state
        if state.epoch != trainer.state.epoch:
            return  # not an epoch of val_interval
        name = self.metric or state.key_metric_name
        if name not in state.metrics:
            msg = (
                f"metric must be one of the evaluator's, {', '.join(state.metrics) or 'none'}; "
                f"got {name!r}."
            )
            raise UserError(msg)
        self.score = float(state.metrics[name])
        self._per_class = _per_class(state.metric_details.get(name))
        if not self.is_main:
            return
        if math.isfinite(self.score) and self.score > self.best_score and self._accepted():
            self.best_score, self.best_epoch = self.score, trainer.state.epoch
            self.checkpoints.save_best(
                {
                    "epoch": self.best_epoch,
                    "dice": self.score,
                    "dice_per_class": self._per_class,
                    "network": self.network.state_dict(),
                    "growth": None if self.growth is None else self.growth.describe(),
                }
            )

    def _accepted(self) -> bool:
        return self.growth is None or self.growth.accepts(self.score or 0.0)

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
        parameters = self.count_parameters()
        sets = 0 if self.growth is None else self.growth.sets
        line = {
            "event": "epoch",
            "epoch": epoch,
            "loss": loss,
            "dice": self.score,
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

    def count_parameters(self) -> int:
        """Parameters of the network as it would be exported."""
        if self.growth is not None:
            return self.growth.count_parameters()
        return count_parameters(self.network)

    def _save(self, trainer: Any, finished: bool) -> None:
        scaler = getattr(trainer, "scaler", None)
        self.checkpoints.save(
            trainer.state.epoch,
            {
                "epoch": trainer.state.epoch,
                "iteration": trainer.state.iteration,
                "finished": finished,
                "processes": distributed.world(),
                "network": self.network.state_dict(),
                "growth": None if self.growth is None else self.growth.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
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
            msg = "the run ended before any validation, so there is no best network."
            raise UserError(f"{self.folder.path}: {msg}")
        sets = 0 if best["growth"] is None else int(best["growth"]["sets"])
        grown = self.growth is not None
        if self.is_main:
            facts = {"best_dice": best["dice"], "best_epoch": best["epoch"]}
            self.log("complete", **facts, integrated_dendrite_sets=sets)
            self.history.flush()
            self._save(trainer, finished=True)
        if self.growth is not None:
            self.growth.load_network(best["network"])
            self.growth.finish()
        else:
            self.network.load_state_dict(best["network"], strict=True)
        if self.is_main:
            self.history.draw()
        self.say(_last_line(best, sets, grown, self.folder.path))
        self._close()

    def _failed(self, trainer: Any, error: BaseException) -> None:
        self._close()
        advice = _advice(trainer, error)
        shown = error
        if advice is not None:
            shown = UserError(f"{advice} Checkpoints in {self.checkpoints.folder} are kept.")
        shown = distributed.explain(shown)
        if shown is error:
            raise error
        raise shown from error

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self.growth is not None:
            self.growth.close()
        if self._old_sigterm is not None:
            signal.signal(signal.SIGTERM, self._old_sigterm)
            self._old_sigterm = None
        self.folder.release()


def _call_first(trainer: Engine, event: Events, handler: Callable[..., Any]) -> None:
    """Attach a handler before those that an event has; Ignite itself only appends."""
    trainer.add_event_handler(event, handler)
    handlers = trainer._event_handlers[event]
    handlers.insert(0, handlers.pop())


def _advice(trainer: Any, error: BaseException) -> str | None:
    """What a person can do about an error that torch raises without saying so."""
    if isinstance(error, torch.OutOfMemoryError):
        return "Out of memory in a training step: lower batch_size, then roi_size."
    worker_died = "DataLoader worker" in str(error) and "exited unexpectedly" in str(error)
    if worker_died or isinstance(error, ConnectionError) or "killed by signal" in str(error):
        dataset: Any = getattr(getattr(trainer, "data_loader", None), "dataset", None)
        cases = dataset.cases_being_read() if hasattr(dataset, "cases_being_read") else []
        named = f" while reading {', '.join(cases)}" if cases else ""
        return f"A data worker died{named}: often too little memory; lower num_workers."
    return None


def _set_sampler_epoch(trainer: Any, epoch: int) -> None:
    sampler: Any = getattr(getattr(trainer, "data_loader", None), "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def _per_class(details: Any) -> list[float] | None:
    """Mean over cases of a metric's raw values ``(cases, classes)``, absent classes left out."""
    if not isinstance(details, Tensor) or details.dim() != 2:
        return None
    return [round(float(v), 6) for v in torch.nanmean(details.double(), dim=0)]


def _last_line(best: dict[str, Any], sets: int, grown: bool, folder: Path) -> str:
    result = f"best Dice {best['dice']:.4f} at epoch {best['epoch']}"
    if grown and sets == 0:
        result += "; no dendrite was integrated: the best network is the one without dendrites"
    elif grown:
        result += f"; {sets} dendrite set{'s' if sets > 1 else ''} integrated"
    return f"done: {result}. Run folder: {os.path.relpath(folder)}"
