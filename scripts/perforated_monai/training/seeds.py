"""Seeds of a run: each follows from the run's own seed, so that no generator needs saving."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UserError

DRAW_RULE = 2  # how seed_of_draw counts now; a checkpoint keeps the rule that its run began under


def whole_seed(seed: Any) -> int:
    """The seed of a run, checked.

    Raises:
        UserError: for anything but a whole number of 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        msg = f"seed must be a whole number of 0 or more; got {seed!r}. Correct the setting."
        raise UserError(msg)
    return int(seed)


def seed_everything(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed torch, numpy and random from run seed, epoch and rank (dropout draws there)."""
    value = int(np.random.SeedSequence([seed, epoch, 2**31 + rank]).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def seed_of_draw(seed: int, number: int, rule: int = DRAW_RULE) -> int:
    """Seed of the dendrites that a run draws at its ``number``-th chance.

    Rule 1 is Python's hash of the pair, a detail of CPython. It stays only for runs that
    began under it, because they would draw other dendrites after a resume than without one.

    Args:
        seed: of the run.
        number: of the score, or of the epoch, that may lead to growth.
        rule: of the run's checkpoints; 1 where they name none.
    """
    if rule == 1:
        return hash((seed, number)) % 2**31
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@contextlib.contextmanager
def own_random_numbers(network: nn.Module, seed: int) -> Iterator[None]:
    """Let torch draw from ``seed`` inside; order, augmentation and dropout draw as without it."""
    devices = {p.device.index for p in network.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(i for i in devices if i is not None)):
        torch.manual_seed(seed)
        yield
