"""What the networks here refuse: arguments that do not fit together, patches of other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

Stride = int | Sequence[int]


def check_levels(name: str, dims: Any, channels: Any, strides: Any) -> list[list[int]]:
    """Strides of each level and axis, where channels and strides fit together.

    Args:
        name: of the network, for messages.
        dims: spatial axes, 1 to 3.
        channels: of each level, at least two.
        strides: one fewer; each a whole number or one a spatial axis.

    Raises:
        UserError: naming the argument.
    """
    whole_number(name, "spatial_dims", dims, 1)
    if dims > 3:
        msg = f"{name}: spatial_dims must be 1, 2 or 3; got {dims!r}."
        raise UserError(msg)
    if not _is_list(channels) or len(channels) < 2 or not all(map(_positive, channels)):
        msg = (
            f"{name}: channels must be a list of at least two whole numbers >= 1, one a level: "
            f"without levels there is no convolution; got {channels!r}."
        )
        raise UserError(msg)
    if not _is_list(strides) or len(strides) != len(channels) - 1:
        msg = (
            f"{name}: strides must have one entry fewer than channels ({len(channels) - 1} for "
            f"{list(channels)}); got {strides!r}."
        )
        raise UserError(msg)
    rows = [list(s) if _is_list(s) else [s] * dims for s in strides]
    if not all(len(row) == dims and all(map(_positive, row)) for row in rows):
        msg = (
            f"{name}: each of strides must be a whole number >= 1 or a list of {dims}; got "
            f"{strides!r}."
        )
        raise UserError(msg)
    return rows


def whole_number(name: str, argument: str, value: Any, least: int) -> None:
    """Raise UserError unless ``value`` is a whole number of at least ``least``."""
    if not _positive(value, least):
        msg = f"{name}: {argument} must be a whole number >= {least}; got {value!r}."
        raise UserError(msg)


def downsampling(strides: list[list[int]]) -> list[int]:
    """Product of the strides of each axis: patch sizes must be multiples of it."""
    return [math.prod(row[axis] for row in strides) for axis in range(len(strides[0]))]


def check_patch(x: Tensor, multiples: list[int]) -> None:
    """Raise UserError for a patch ``(B, C, *space)`` whose sizes are no multiples of the strides.

    Graphs that are being recorded are left alone: their sizes are symbols.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    size = list(x.shape[2:])
    if len(size) != len(multiples) or any(n % m for n, m in zip(size, multiples, strict=True)):
        msg = (
            f"A patch of {'×'.join(map(str, size))} voxels must be a multiple of "
            f"{'×'.join(map(str, multiples))}, the product of strides. Change roi_size."
        )
        raise UserError(msg)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _positive(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
