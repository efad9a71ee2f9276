"""Exact continuation: what a checkpoint takes from a run, refuses of another, and gives back."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from ..errors import UserError
from . import distributed
from .provenance import refuse_other_config
from .records import Checkpoint
from .run_folder import RunFolder
from .trained_on import TrainedOn, refuse_changed_data


class Resumable:
    """The parts of a training whose state a checkpoint keeps.

    Args:
        network: the network that is trained.
        optimizer: its optimizer.
        lr_scheduler: its scheduler, or None.
    """

    def __init__(self, network: nn.Module, optimizer: Any, lr_scheduler: Any | None) -> None:
        self.network, self.optimizer, self.lr_scheduler = network, optimizer, lr_scheduler

    def capture(self, trainer: Any) -> dict[str, Any]:
        """Their part of a ``Checkpoint``; the generators need no saving, each epoch seeds them."""
        scaler = getattr(trainer, "scaler", None)
        return {
            "epoch": trainer.state.epoch,
            "iteration": trainer.state.iteration,
            "processes": distributed.world(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def restore(self, trainer: Any, saved: Checkpoint) -> None:
        """Bring optimizer, schedule, scaler and trainer to where a checkpoint left them.

        The network comes first: growth gives it its structure and weights.
        """
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(saved["lr_scheduler"])
        if getattr(trainer, "scaler", None) is not None and saved["scaler"]:
            trainer.scaler.load_state_dict(saved["scaler"])
        trainer.state.epoch = saved["epoch"]
        trainer.state.iteration = saved["iteration"]


def refuse_other_run(
    saved: Checkpoint, folder: RunFolder, config: dict[str, Any], data: TrainedOn, grows: bool
) -> None:
    """Refuse to continue a run that is finished or that this training is no continuation of.

    Raises:
        UserError: for another configuration or none, a finished run, one with or without dendrites,
            one of another number of processes, or one that began on other data.
    """
    if folder.config_file.exists():
        refuse_other_config(folder.config_file, config)
    if saved["finished"]:
        msg = (
            f"{folder.path} holds a finished run of {saved['epoch']} epochs. "
            "Choose another output_dir, or remove this one to train again."
        )
        raise UserError(msg)
    if (saved["growth"] is not None) != grows:
        kind = "without" if saved["growth"] is None else "with"
        msg = f"{folder.path} holds a run {kind} dendrites: choose another output_dir."
        raise UserError(msg)
    processes = saved.get("processes", 1)
    if processes != distributed.world():
        msg = (
            f"{folder.path} holds a run of {processes} process(es), not of "
            f"{distributed.world()}: start as many, or choose another output_dir."
        )
        raise UserError(msg)
    refuse_other_config(folder.config_file, config)  # a missing file, when all else is right
    began_on = folder.provenance().data
    if began_on is None:
        msg = f"{folder.path} was begun by a version that kept no checksums of its data."
        warnings.warn(msg, stacklevel=2)
    else:
        refuse_changed_data(folder.path, began_on, data)
