"""``SparsityHandler``: the penalty that closes branches of a masked network while it trains."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from ..dendrites.wrapped import wrapped_modules
from ..errors import UserError
from ..networks.catalogue import SparseUNet
from ..networks.sparse.branched import INNER
from ..networks.sparse.gates import DriveGate
from .run_handler import RunHandler


class SparsityHandler:
    """Bring the branches of a network down to its target sparsity.

    The masks of the network know the target; this handler adds to each loss

        weight * max(0, expected open share of operations - target of this epoch)
        + gate_weight * share of operations that the gates let through

    where the target goes from 1 to ``1 - sparsity`` in a straight line over ``ramp_epochs``. After
    ``settle_epochs`` the masks are no longer drawn: training then sees the network that is scored
    and exported. Everything follows from the epoch, so a killed run goes on exactly.

    Order of calls: ``STARTED`` refuses dendrites that could not be folded; ``EPOCH_STARTED``
    settles the masks; ``ITERATION_STARTED`` listens to the gates; ``LOSS_COMPLETED`` adds the
    penalty to ``engine.state.output["loss"]``; ``EPOCH_COMPLETED`` writes a ``sparsity`` event into
    the run's history. Place it behind ``RunHandler``.

    Args:
        network: a ``SparseUNet`` with ``sparsity``.
        weight: of the masks' part; the loss itself is about 0.2 to 1.
        gate_weight: of the gates' part; 0 leaves them to the data.
        ramp_epochs: epochs until the target is that of the network.
        settle_epochs: epochs with masks that are drawn, at least ``ramp_epochs``.

    Raises:
        UserError: a network without masks, a number out of range, or dendrites inside its blocks
            that are no copies of their layer.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float = 1.0,
        gate_weight: float = 0.05,
        ramp_epochs: int = 12,
        settle_epochs: int = 20,
    ) -> None:
        masks = getattr(network, "masks", None)
        if not isinstance(network, SparseUNet) or masks is None:
            msg = (
                "SparsityHandler needs a network with masked convolutions, a SparseUNet with a "
                f"sparsity; got {type(network).__name__} without. Set base_network_def::sparsity, "
                "or leave the handler out."
            )
            raise UserError(msg)
        for name, value in (("weight", weight), ("gate_weight", gate_weight)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                msg = f"SparsityHandler: {name} must be a number >= 0; got {value!r}."
                raise UserError(msg)
        for name, epochs in (("ramp_epochs", ramp_epochs), ("settle_epochs", settle_epochs)):
            if type(epochs) is not int or epochs < 1:
                msg = f"SparsityHandler: {name} must be a whole number >= 1; got {epochs!r}."
                raise UserError(msg)
        if settle_epochs < ramp_epochs:
            msg = (
                f"SparsityHandler: settle_epochs must be at least ramp_epochs ({ramp_epochs}), or "
                f"masks settle before they reach the target; got {settle_epochs}."
            )
            raise UserError(msg)
        self.network, self.weight, self.gate_weight = network, float(weight), float(gate_weight)
        self.ramp_epochs, self.settle_epochs = ramp_epochs, settle_epochs
        self._gates: list[Tensor] = []
        self._hooks: list[Any] = []

    def attach(self, trainer: Any) -> None:
        """Connect to the trainer's events."""
        self.run = RunHandler.of(trainer)
        trainer.add_event_handler(Events.STARTED, self._started)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def __call__(self, trainer: Any) -> None:
        """Add the penalty to the loss of this step."""
        for hook in self._hooks:
            hook.remove()
        masks = self.masks
        loss = trainer.state.output["loss"]
        if not masks.settled:
            above = masks.open_share() - self.target(trainer.state.epoch)
            loss = loss + self.weight * torch.relu(above)
        if self.gate_weight > 0 and self._gates:
            shares = torch.tensor(masks.shares, device=loss.device)
            loss = loss + self.gate_weight * (torch.cat(self._gates, dim=1).mean(0) * shares).sum()
        trainer.state.output["loss"] = loss

    @property
    def masks(self) -> Any:
        return self.network.masks

    def target(self, epoch: int) -> float:
        """Share of the branches' operations that may be open in an epoch, from 1."""
        return 1 - self.masks.sparsity * min(1.0, epoch / self.ramp_epochs)

    def _started(self, trainer: Any) -> None:
        """Refuse, before the first step, dendrites that export could not fold."""
        config = getattr(self.run.growth, "config", None)
        if config is None or config.kind == "copy":
            return
        inner = [f"{name}.{part}" for name, _ in self.network.blocks() for part in INNER]
        refused = [name for name, _ in wrapped_modules(self.network) if name in inner]
        if refused:
            patterns = ", ".join(f"*.{part}" for part in INNER)
            msg = (
                f"Dendrites of kind {config.kind} on {', '.join(refused[:3])} cannot be folded "
                f"with masked branches. Set dendrites::kind copy, or exclude [{patterns}]."
            )
            raise UserError(msg)

    def _epoch_started(self, trainer: Any) -> None:
        self.masks.settled = trainer.state.epoch > self.settle_epochs

    def _iteration_started(self, trainer: Any) -> None:
        self._gates, self._hooks = [], []
        if self.gate_weight > 0:
            # For one step only: a copy of the network must not carry them along.
            gates = [m for m in self.network.modules() if isinstance(m, DriveGate)]
            self._hooks = [g.register_forward_hook(self._listen) for g in gates]

    def _listen(self, gate: nn.Module, _: Any, out: Tensor) -> None:
        self._gates.append(out)

    def _epoch_completed(self, trainer: Any) -> None:
        masks = self.masks
        kept = torch.tensor(masks.kept()).split(masks.counts)
        self.run.log(
            "sparsity",
            open_share=round(float(masks.open_share().detach()), 4),
            target=round(self.target(trainer.state.epoch), 4),
            branches=[int(k.sum()) for k in kept],
            settled=masks.settled,
        )
