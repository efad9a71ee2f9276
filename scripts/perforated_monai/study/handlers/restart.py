"""``RestartHandler``: the learning rate starts again where the dendritic arm grew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Events

from ...training.run_handler import RunHandler


class RestartHandler:
    """Give a plain network what growth gives beside dendrites: a fresh optimizer and schedule.

    Place it behind ``RunHandler`` in the trainer's handlers.

    Args:
        epochs: epochs after which optimizer and schedule start again.
    """

    def __init__(self, epochs: Sequence[int]) -> None:
        self.epochs = list(epochs)

    def attach(self, trainer: Any) -> None:
        """Register with the trainer's run and its ``EPOCH_COMPLETED``."""
        self.run = RunHandler.of(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Any) -> None:
        """Start again when this epoch is one of them."""
        if trainer.state.epoch in self.epochs:
            self.run.refresh(list(self.run.network.named_parameters()), restart=True)
            self.run.log("restart")
