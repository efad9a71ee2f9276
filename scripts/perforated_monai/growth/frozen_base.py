"""``FrozenBase``: the network a training starts from, held bit for bit while dendrites grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.wrapped import base_tensors, is_part_of_dendrite, is_scaffold
from ..errors import UserError
from ..networks.weights import weights_hash


class FrozenBase:
    """A copy of a network's tensors and the means to keep them.

    Order of use: make it before any layer is wrapped; ``restore`` after the one training step that
    the tracker needs (it must see a gradient through every layer before it can grow); ``hold``
    after each growth and each load; ``release`` at the end.

    While the base is held, its normalisation runs as in evaluation, so that running statistics stay
    as well. The normalisation inside a dendrite is the dendrite's own, and trains.

    Args:
        network: the network before any layer is wrapped.
    """

    def __init__(self, network: nn.Module) -> None:
        self._tensors = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.sha256 = weights_hash(self._tensors)
        self._norms: list[nn.Module] = []
        self._hook: Any = None

    def restore(self, network: nn.Module) -> None:
        """Undo what training did to the base."""
        with torch.no_grad():
            for name, tensor in base_tensors(network, self._tensors).items():
                tensor.copy_(self._tensors[name])

    def hold(self, network: nn.Module) -> None:
        """Let dendrites alone train from now on."""
        self.release()
        for name, parameter in network.named_parameters():
            if not is_scaffold(name) and not is_part_of_dendrite(name):
                parameter.requires_grad_(False)
                parameter.grad = None
        self._norms = [
            module
            for name, module in network.named_modules()
            if getattr(module, "running_mean", None) is not None and not is_part_of_dendrite(name)
        ]
        # A trainer sets the whole network to training mode before each step.
        self._hook = network.register_forward_pre_hook(self._fix_statistics)

    def release(self) -> None:
        """Take the hook off again; what is frozen stays frozen."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def verify(self, network: nn.Module) -> None:
        """Refuse a base that changed all the same.

        Raises:
            UserError: naming the first tensors that differ.
        """
        changed = differing(self._tensors, base_tensors(network, self._tensors))
        if changed:
            msg = (
                f"freeze_base: {len(changed)} tensors of the base network changed in training "
                f"({', '.join(changed[:3])}): something of this bundle writes to them. "
                "Train with freeze_base: false."
            )
            raise UserError(msg)

    def _fix_statistics(self, network: nn.Module, _: Any) -> None:
        if network.training:
            for module in self._norms:
                module.training = False


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names whose tensors are not equal bit for bit (NaN equals NaN)."""
    return [k for k, v in one.items() if not _same(v, other[k].to(v.device))]


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)
