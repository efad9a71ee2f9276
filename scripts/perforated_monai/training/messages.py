"""What a run says to a person: its last line, and what to do about an error."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .records import Best


def last_line(best: Best, grown: bool, folder: Path) -> str:
    """The line at the end of a run.

    Args:
        best: content of ``best.pt``.
        grown: whether the run could grow dendrites.
        folder: of the run.
    """
    sets = 0 if best["growth"] is None else int(best["growth"]["sets"])
    result = f"best {best.get('metric', 'Dice')} {best['dice']:.4f} at epoch {best['epoch']}"
    if grown and sets == 0:
        result += "; no dendrite was integrated: the best network is the one without dendrites"
    elif grown:
        result += f"; {sets} dendrite set{'s' if sets > 1 else ''} integrated"
    return f"done: {result}. Run folder: {os.path.relpath(folder)}"


def bad_loss(trainer: Any, loss: float, checkpoints: Path) -> str:
    """A loss that is not finite, with the cases of its batch."""
    cases = _cases_of(trainer.state.batch)
    kept = f"the checkpoint of epoch {trainer.state.epoch - 1} is kept in {checkpoints}"
    if trainer.state.epoch == 1:
        kept = "no epoch was finished"
    return (
        f"The loss is {loss} in epoch {trainer.state.epoch}, case(s) {', '.join(cases)}. Look "
        f"for NaN in these volumes or lower the learning rate; {kept}."
    )


def _cases_of(batch: Any) -> list[str]:
    """Names of a batch's cases, of a trainer that decollates or of one that does not."""
    if isinstance(batch, dict):
        return [str(case) for case in batch.get("case", ["?"])]
    items = batch if isinstance(batch, list) else []
    return [str(item.get("case", "?")) for item in items if isinstance(item, dict)]


def advice(trainer: Any, error: BaseException) -> str | None:
    """What a person can do about an error that torch raises without saying so."""
    if isinstance(error, torch.OutOfMemoryError):
        return "Out of memory in a training step: lower batch_size, then roi_size."
    causes = list(_causes(error))
    if any(isinstance(e, ConnectionError) for e in causes):
        _await_end_of_worker()
    if any(_of_a_dead_worker(e) for e in causes):
        dataset: Any = getattr(getattr(trainer, "data_loader", None), "dataset", None)
        cases = dataset.cases_being_read() if hasattr(dataset, "cases_being_read") else []
        named = f" while reading {', '.join(cases)}" if cases else ""
        return f"A data worker died{named}: often too little memory; lower num_workers."
    return None


def _await_end_of_worker(seconds: float = 2.0) -> None:
    """Let torch's own word of a worker's end come now and be dropped.

    A connection to a worker that was killed breaks a moment before the system reports the end. The
    report is a signal, whose handler in torch raises RuntimeError wherever the process is just
    then: it would replace the line that names the case.
    """
    until = time.monotonic() + seconds
    with contextlib.suppress(RuntimeError, ChildProcessError):
        while time.monotonic() < until:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                time.sleep(0.05)  # the handler runs before the next line
                return
            time.sleep(0.01)


def _of_a_dead_worker(error: BaseException) -> bool:
    text = str(error)
    exited = "DataLoader worker" in text and "exited unexpectedly" in text
    return exited or isinstance(error, ConnectionError) or "killed by signal" in text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: a worker's end is raised wherever the process is just then."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
