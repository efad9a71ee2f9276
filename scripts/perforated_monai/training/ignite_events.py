"""What a run needs of Ignite's engine beyond attaching handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events


def call_first(trainer: Engine, event: Events, handler: Callable[..., Any]) -> None:
    """Attach a handler before those that an event has; Ignite itself only appends."""
    trainer.add_event_handler(event, handler)
    handlers = trainer._event_handlers[event]
    handlers.insert(0, handlers.pop())


def set_sampler_epoch(trainer: Any, epoch: int) -> None:
    """Tell the sampler of the trainer's loader the epoch, where it wants to know."""
    sampler: Any = getattr(getattr(trainer, "data_loader", None), "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def end_epoch_here(trainer: Any) -> None:
    """Leave out the rest of the epoch's steps; they count as done."""
    trainer.terminate_epoch()
    if trainer.state.epoch_length is not None:
        # Ignite takes what is beyond whole epochs for the place to resume inside one.
        trainer.state.iteration = trainer.state.epoch * trainer.state.epoch_length
    # Ignite makes the next epoch's iterator at once, and its workers ask the sampler then.
    set_sampler_epoch(trainer, trainer.state.epoch + 1)


def validation_interval(trainer: Any, evaluator: Any) -> int | None:
    """Epochs from one validation to the next; None where no handler of the trainer tells."""
    for function, *_ in trainer._event_handlers[Events.EPOCH_COMPLETED]:
        # Ignite wraps a handler of every n-th event, and keeps the handler itself there.
        parent = getattr(function, "_parent", None)
        handler = parent() if parent is not None else function
        if getattr(handler, "validator", None) is evaluator and handler.epoch_level:
            return int(handler.interval)
    return None


def loss_of(output: Any) -> float:
    """The loss of a step; a trainer that decollates has one entry a case, with the loss in each."""
    return float((output if isinstance(output, Mapping) else output[0])["loss"])
