"""New contents for an optimizer and a scheduler that keep their identity.

``LrScheduleHandler``, gradient scaler, loggers and savers hold references to both objects, so
growth changes what is inside them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..dendrites.wrapped import base_name
from ..errors import UserError


class OptimizerRefresh:
    """Remembers how a run's optimizer and scheduler started, and starts them again after growth.

    Make it before the first step, on the network before any layer is wrapped: parameters are
    remembered by their names in the base network, together with their parameter group.

    Args:
        network: the network whose parameters the optimizer holds.
        optimizer: any ``torch.optim.Optimizer``.
        scheduler: a scheduler of that optimizer, or None.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any | None = None
    ) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        names = {id(p): n for n, p in network.named_parameters()}
        self._group_of = {
            names[id(p)]: i
            for i, group in enumerate(optimizer.param_groups)
            for p in group["params"]
            if id(p) in names
        }
        self._options = [
            {k: copy.deepcopy(v) for k, v in group.items() if k != "params"}
            for group in optimizer.param_groups
        ]
        self._schedule = copy.deepcopy(scheduler.state_dict()) if scheduler is not None else None

    def __call__(self, trainable: Iterable[tuple[str, nn.Parameter]], restart: bool = True) -> None:
        """Fill the optimizer with ``trainable`` and forget all moments.

        The parameters of a copy join the groups of the layer's own parameters. Those of another
        kind of dendrite join the groups of the layer's weight and bias. The weights of the
        dendritic sum join the layer's first group.

        Args:
            trainable: every parameter to train, with its name in the grown network.
            restart: also set learning rates and schedule back to the run's start.
        """
        groups: list[list[nn.Parameter]] = [[] for _ in self.optimizer.param_groups]
        for name, parameter in trainable:
            groups[self._group(name)].append(parameter)
        self.optimizer.state.clear()
        for group, members, options in zip(
            self.optimizer.param_groups, groups, self._options, strict=True
        ):
            group["params"][:] = members
            if restart:
                group.update(copy.deepcopy(options))
        if restart and self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(self._schedule))

    def _group(self, name: str) -> int:
        if len(self._options) == 1:
            return 0
        base = base_name(name)
        if base in self._group_of:
            return self._group_of[base]
        layer = name.split(".dendrite")[0]
        alike = f"{layer}.{name.rpartition('.')[2]}"
        if alike in self._group_of:
            return self._group_of[alike]
        beside = (g for n, g in self._group_of.items() if n.startswith(layer + "."))
        return min(beside, default=0)


def assert_complete(
    optimizer: torch.optim.Optimizer, trainable: Iterable[tuple[str, nn.Parameter]]
) -> None:
    """Refuse an optimizer that misses a trainable parameter or holds one that is gone.

    Raises:
        UserError: naming up to three parameters.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = dict(trainable)
    missing = [name for name, p in wanted.items() if id(p) not in held]
    stale = len(held - {id(p) for p in wanted.values()})
    if missing or stale:
        msg = (
            f"The optimizer misses {len(missing)} trainable parameters ({', '.join(missing[:3])}) "
            f"and holds {stale} that the network no longer has: refresh it after growth."
        )
        raise UserError(msg)


def refuse_other_parameters(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that growth would change unasked: growth refills it from the network.

    Raises:
        UserError: when the optimizer holds parameters that are not the network's, or leaves out
            some of the network's that train.
    """
    names = {id(p): n for n, p in network.named_parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    foreign = len(held - names.keys())
    left_out = [n for n, p in network.named_parameters() if p.requires_grad and id(p) not in held]
    if foreign:
        msg = (
            f"The optimizer holds {foreign} parameters that are not the network's (of a loss?): "
            "growth would drop them. Give them an optimizer of their own."
        )
        raise UserError(msg)
    if left_out:
        msg = (
            f"The optimizer leaves out {len(left_out)} trainable parameters of the network "
            f"({', '.join(left_out[:3])}): growth would train them. Set their requires_grad to "
            "False, or give them to the optimizer."
        )
        raise UserError(msg)
