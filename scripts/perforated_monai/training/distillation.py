"""``DistillationLoss``: a student learns the labels, and what its teachers think of each voxel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError


class DistillationLoss(nn.Module):
    r"""A loss against labels, mixed with the cross-entropy against teachers' probabilities.

    .. math::
        L = (1 - w) L_{labels}(z, y) - w T^2 \sum_k q_k \log softmax(z / T)_k

    z are the logits, y the label, q the teachers' probabilities brought to temperature T
    (:math:`q_k \propto p_k^{1/T}`); the second term is a mean over voxels. T² keeps its gradients
    as large for every T (Hinton et al., arXiv:1503.02531).

    Args:
        loss: of logits ``(B, K, *space)`` and label ``(B, 1, *space)``.
        weight: w, 0 (labels alone) to 1 (teachers alone).
        temperature: T; above 1 the student sees more of what a teacher holds for unlikely.

    Raises:
        UserError: for a weight or temperature out of range; from calls, for a target of other
            channels.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        weight: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1 or not 0 < temperature < float("inf"):
            msg = (
                "DistillationLoss needs weight from 0 to 1 and temperature above 0; got "
                f"{weight!r} and {temperature!r}. Correct them."
            )
            raise UserError(msg)
        self.loss, self.weight, self.temperature = loss, weight, temperature

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of ``(B, K, *space)`` logits.

        Args:
            logits: of the student.
            target: ``(B, 1 + K, *space)``: the label, then the probabilities of each class. The
                background's are not read: it is what the other classes leave, so that padding by
                zeros is background.
        """
        classes = logits.shape[1]
        if target.shape[1] != 1 + classes:
            msg = (
                f"DistillationLoss needs the label and {classes} probabilities a voxel; got "
                f"{target.shape[1]} channels. Do the teachers have the student's classes?"
            )
            raise UserError(msg)
        hard = self.loss(logits, target[:, :1])
        chosen = target[:, 2:].clamp(0, 1)
        rest = (1 - chosen.sum(1, keepdim=True)).clamp_min(0)
        soft = torch.cat([rest, chosen], 1).pow(1 / self.temperature)
        soft = soft / soft.sum(1, keepdim=True)
        log = torch.log_softmax(logits / self.temperature, 1)
        teachers = -(soft * log).sum(1).mean() * self.temperature**2
        return (1 - self.weight) * hard + self.weight * teachers
