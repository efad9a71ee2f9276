"""Logits and label maps -> one channel a class, for metrics that count voxels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from torch import Tensor

from ..errors import UserError


class OneHotd(MapTransform):
    """MONAI's ``AsDiscreted(argmax=…, to_onehot=classes)`` without its index of the largest.

    torch finds the largest value many times faster than its index, and it is all that is needed
    here. Of equal logits the first class wins, as in ``argmax``.

    Args:
        keys: entries ``(classes, *space)`` where ``argmax`` is true, otherwise ``(1, *space)``
            class indices; they become ``(classes, *space)`` float32 of 0 and 1.
        classes: their number.
        argmax: for each key, whether it holds logits.
        allow_missing_keys: leave out entries that are not there.

    Raises:
        UserError: from calls, for another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: int,
        argmax: bool | Sequence[bool] = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes, self.argmax = classes, ensure_tuple_rep(argmax, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split each entry."""
        result = dict(data)
        for key, argmax in self.key_iterator(result, self.argmax):
            value = result[key]
            channels = self.classes if argmax else 1
            if value.shape[0] != channels:
                msg = f"{key} must have {channels} channel(s); got {value.shape[0]}."
                raise UserError(msg)
            plain = torch.as_tensor(value).as_subclass(Tensor)
            split = largest(plain) if argmax else of_indices(plain, self.classes)
            result[key] = convert_to_dst_type(split, value, dtype=torch.float32)[0]
        return result


def largest(logits: Tensor) -> Tensor:
    """``(C, *space)`` of numbers -> true at the largest of each voxel, the first of equal ones."""
    top = logits.amax(0)
    if bool(top.isnan().any()):  # NaN is the largest for argmax, and equal to nothing
        return of_indices(logits.argmax(0, keepdim=True), len(logits))
    found = logits == top
    taken = found[0].clone()
    for channel in found[1:]:
        channel &= ~taken
        taken |= channel
    return found


def of_indices(label: Tensor, classes: int) -> Tensor:
    """``(1, *space)`` of class indices -> ``(classes, *space)``, true at the class."""
    return torch.cat([label == index for index in range(classes)])
