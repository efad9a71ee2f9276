"""``BranchMasks``: one learnable hard-concrete mask a branch, and which branches a budget keeps."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ...errors import UserError

# Louizos et al. 2018, section 4: temperature beta and the interval (gamma, zeta) that is clipped.
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
# Adam moves every parameter by about the learning rate; masks have to cross 5 units in few epochs.
SCALE = 5.0
START = 2.5  # log alpha: a branch is open with probability 0.98
SHIFT = BETA * math.log(-GAMMA / ZETA)


class BranchMasks(nn.Module):
    """Masks in [0, 1] of all branches of a network, zero for those that training removes.

    Hard-concrete distribution of Louizos, Welling and Kingma 2018 (https://arxiv.org/abs/1712.01312):
    while training each mask is drawn anew at every step; otherwise it is the distribution's
    clipped mean, and zero beyond the budget. So a validation always scores the network that
    ``fold.fold`` makes, at whatever epoch.

    Args:
        counts: branches of each block, in order.
        costs: operations of one branch of each block.
        sparsity: share of the branches' operations to be removed, between 0 and 1.

    Raises:
        UserError: for another sparsity, or one that leaves some block without a branch.
    """

    def __init__(self, counts: list[int], costs: list[float], sparsity: float) -> None:
        super().__init__()
        number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
        if not number or not 0 < sparsity < 1:
            msg = (
                f"sparsity must be a number between 0 and 1, both excluded; got {sparsity!r}. Use "
                "null for a network without masks."
            )
            raise UserError(msg)
        total = sum(n * c for n, c in zip(counts, costs, strict=True))
        most = 1 - sum(costs) / total
        if sparsity > most:
            msg = (
                f"sparsity must leave one branch in each block, at most {most:.3f} for branches "
                f"{counts}; got {sparsity!r}. Lower it, or raise branches."
            )
            raise UserError(msg)
        self.counts, self.sparsity = counts, float(sparsity)
        self.settled = False
        self.theta = nn.Parameter(torch.full((sum(counts),), START / SCALE))
        self.shares = [c / total for n, c in zip(counts, costs, strict=True) for _ in range(n)]

    @property
    def log_alpha(self) -> Tensor:
        return self.theta * SCALE

    def forward(self) -> list[Tensor]:
        """Masks of each block, ``(branches,)``."""
        if self.training and not self.settled:
            noise = torch.rand_like(self.theta).clamp(1e-6, 1 - 1e-6)
            values = _stretched((noise.logit() + self.log_alpha) / BETA)
        else:
            kept = torch.tensor(self.kept(), device=self.theta.device)
            values = _stretched(self.log_alpha) * kept
        return list(values.split(self.counts))

    def kept(self) -> list[bool]:
        """Which branches stay: the likeliest of each block, then the likeliest that fit in.

        Their operations are at most ``1 - sparsity`` of all; branches whose own mask is zero go as
        well.
        """
        strength = self.log_alpha.detach().tolist()
        values = _stretched(self.log_alpha.detach()).tolist()
        first = [0, *itertools.accumulate(self.counts)]
        best = [max(range(a, b), key=strength.__getitem__) for a, b in itertools.pairwise(first)]
        order = sorted(range(len(strength)), key=lambda i: -strength[i])
        room = 1 - self.sparsity + 1e-9
        chosen = [False] * len(strength)
        for i in [*best, *(i for i in order if i not in best)]:
            if self.shares[i] <= room and (values[i] > 0 or i in best):
                chosen[i] = True
                room -= self.shares[i]
        return chosen

    def open_share(self) -> Tensor:
        """Expected share of the branches' operations that is open; the penalty's differentiable
        L0 norm (equation 12 of the paper, weighted by cost).
        """
        shares = torch.tensor(self.shares, device=self.theta.device)
        return (torch.sigmoid(self.log_alpha - SHIFT) * shares).sum()


def _stretched(x: Tensor) -> Tensor:
    return (torch.sigmoid(x) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
