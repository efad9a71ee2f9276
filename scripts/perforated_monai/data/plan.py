"""Patch, strides and batch for a dataset, by the rules of nnU-Net's planner, for MONAI's UNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from .fingerprint import Fingerprint

ANISOTROPY = 3.0  # nnU-Net's ANISO_THRESHOLD: an axis so much thicker than the others is apart
SMALLEST_MAP = 4  # voxels that an axis keeps at the lowest level (UNet_featuremap_min_edge_length)
FEWEST_IN_BATCH = 2  # nnU-Net's UNet_min_batch_size: one alone makes gradients too noisy
SHARE_OF_DATA = 0.05  # a batch never sees more of all voxels (max_dataset_covered)
FIRST_CHANNELS, MOST_CHANNELS = 32, 320  # UNet_base_num_features, UNet_max_features_3d
MOST_STRIDES = 5  # a sixth halving leaves 4 of 256 voxels and costs parameters only
MOST_MEMORY = 8 * 2**30  # the memory nnU-Net plans for; a larger patch hardly scores higher
SHARE_OF_MEMORY = 0.7  # the rest is for weights, optimizer, cases and the validation's windows
_LIKE_ISOTROPIC = 2.0  # axes whose spacings differ by less are halved together
_START_VOXELS = 256**3

# Tensors of a level that live until the backward pass (two residual units of convolution,
# normalisation and activation, and the sum), and what autograd adds at its peak. Fitted to the peak
# of one CPU process, see tests/data/test_plan.py.
_LIVE, _PEAK = 7, 1.5


@dataclass(frozen=True)
class Plan:
    """What a training may begin with.

    Attributes:
        spacing: mm that volumes are resampled to, or their own where it is `given` by hand.
        given: the spacing was given, because headers do not hold it.
        median: voxels of the median case at that spacing, without its border of 0.
        roi_size: voxels of a training crop.
        strides: of each level but the last, one number an axis.
        channels: of each level.
        batch_size: crops of a step.
        memory: bytes that were planned for.
        bytes_needed: estimate for a training step.
        halvings: reason of each stride, one sentence each.
    """

    spacing: list[float]
    given: bool
    median: list[int]
    roi_size: list[int]
    strides: list[list[int]]
    channels: list[int]
    batch_size: int
    memory: int
    bytes_needed: int
    halvings: list[str]

    @property
    def multiples(self) -> list[int]:
        """What the sizes of a crop are multiples of."""
        return [math.prod(row[axis] for row in self.strides) for axis in range(3)]


def make_plan(
    fingerprint: Fingerprint, memory: int, classes: int = 2, spacing: Sequence[float] | None = None
) -> Plan:
    """Follow nnU-Net's planner from a fingerprint to a patch, strides and a batch.

    Args:
        fingerprint: of the training cases.
        memory: bytes at hand; more than 8 GiB are not used.
        classes: channels of the prediction.
        spacing: true mm of a voxel (axes of RAS), where the headers do not hold it. Nothing is
            resampled then.

    Raises:
        UserError: a spacing that is not three numbers above 0, or too little memory for the
            smallest patch.
    """
    if spacing is not None:
        target = checked_spacing(spacing)
        median = np.median(fingerprint.filled, axis=0)
    else:
        target = target_spacing(fingerprint)
        median = np.median(fingerprint.filled * fingerprint.spacings / target, axis=0)
    median = np.maximum(1, np.round(median)).astype(int)
    memory = min(memory, MOST_MEMORY)
    # A cube in mm, as far as the median case reaches: context counts in mm, not in voxels.
    edge = (_START_VOXELS * float(np.prod(target))) ** (1 / 3)
    patch = np.minimum(np.maximum(1, np.round(edge / target)), median).astype(int)
    while True:
        strides, reasons = strides_of(patch.tolist(), target.tolist())
        step = np.array([math.prod(row[axis] for row in strides) for axis in range(3)])
        padded = -(-patch // step) * step
        channels = channels_of(len(strides) + 1)
        needed = step_bytes(padded.tolist(), strides, channels, classes, FEWEST_IN_BATCH)
        if needed <= memory * SHARE_OF_MEMORY:
            break
        # nnU-Net: the axis that covers most of the median case gives way first.
        large = [a for a in range(3) if padded[a] > max(step[a], 2 * SMALLEST_MAP)]
        if not large:
            msg = (
                f"a plan needs memory for {FEWEST_IN_BATCH} crops of {_sizes(padded)} voxels, "
                f"about {needed / 2**30:.2g} GiB; {memory / 2**30:.2g} GiB are at hand. Free some, "
                "or name what training will have with --memory GIB."
            )
            raise UserError(msg)
        axis = max(large, key=lambda a: padded[a] / median[a])
        patch = padded.copy()
        patch[axis] -= step[axis]
    one = needed / FEWEST_IN_BATCH
    by_memory = int(memory * SHARE_OF_MEMORY // one)
    by_data = int(SHARE_OF_DATA * fingerprint.cases * np.prod(median) // np.prod(padded))
    batch = max(FEWEST_IN_BATCH, min(by_memory, by_data))
    return Plan(
        spacing=[round(float(mm), 4) for mm in target],
        given=spacing is not None,
        median=median.tolist(),
        roi_size=padded.tolist(),
        strides=strides,
        channels=channels,
        batch_size=batch,
        memory=memory,
        bytes_needed=round(one * batch),
        halvings=reasons,
    )


def checked_spacing(spacing: Sequence[float]) -> np.ndarray:
    """Three numbers of mm.

    Raises:
        UserError: for anything else.
    """
    try:
        mm = np.array([float(v) for v in spacing])
    except (TypeError, ValueError):
        mm = np.zeros(0)
    if mm.shape != (3,) or not (np.isfinite(mm) & (mm > 0)).all():
        msg = (
            f"a spacing must be three numbers of mm above 0, as 0.9,0.9,6.5; got {spacing!r}. "
            "Correct it."
        )
        raise UserError(msg)
    return mm


def target_spacing(fingerprint: Fingerprint) -> np.ndarray:
    """Median spacing; on an axis with thick slices the 10th percentile.

    The median loses least by resampling. Thick slices are resampled to the finer of what there is,
    as nnU-Net does: many cases would lose slices at the median.
    """
    target = np.median(fingerprint.spacings, axis=0)
    sizes = np.median(fingerprint.shapes * fingerprint.spacings / target, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    thick = target[worst] > ANISOTROPY * max(target[others])
    few = sizes[worst] * ANISOTROPY < min(sizes[others])
    if thick and few:
        finer = float(np.percentile(fingerprint.spacings[:, worst], 10))
        target[worst] = max(finer, max(target[others]) + 1e-5)
    return target


def strides_of(patch: list[int], spacing: list[float]) -> tuple[list[list[int]], list[str]]:
    """Halve axes until the lowest level has about four voxels; thick ones wait for the others.

    Returns:
        Strides of each level, at least one, and why each is what it is.
    """
    size, mm = [int(n) for n in patch], list(spacing)
    strides: list[list[int]] = []
    reasons: list[str] = []
    while len(strides) < MOST_STRIDES:
        large = [a for a in range(3) if size[a] >= 2 * SMALLEST_MAP]
        if not large:
            break
        finest = min(mm[a] for a in large)
        halved = [a for a in large if mm[a] / finest < _LIKE_ISOTROPIC]
        if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_MAP:
            break  # one axis alone, and nearly done
        strides.append([2 if a in halved else 1 for a in range(3)])
        waits = [a for a in large if a not in halved]
        done = [a for a in range(3) if a not in large]
        why = f"{_sizes(size)} voxels of {_sizes(mm)} mm"
        why += f"; axis {_axes(waits)} waits until the others are as thick" if waits else ""
        why += f"; axis {_axes(done)} has too few voxels to halve" if done else ""
        reasons.append(why)
        for a in halved:
            size[a], mm[a] = -(-size[a] // 2), 2 * mm[a]
    if not strides:  # a UNet has two levels at least
        strides, reasons = [[1, 1, 1]], [f"{_sizes(size)} voxels are too few to halve"]
    return strides, reasons


def channels_of(levels: int) -> list[int]:
    """Channels of each level: twice as many at half the resolution keeps the cost even."""
    return [min(FIRST_CHANNELS * 2**level, MOST_CHANNELS) for level in range(levels)]


def step_bytes(
    patch: list[int], strides: list[list[int]], channels: list[int], classes: int, batch: int
) -> int:
    """Rough bytes of one training step of MONAI's UNet with two residual units a level, float32.

    Its first level strides at once, and the last one does not, so that only the prediction has the
    full resolution.
    """
    voxels, size = [float(math.prod(patch))], float(math.prod(patch))
    for row in strides:
        size /= math.prod(row)
        voxels.append(size)
    down = sum(c * v for c, v in zip(channels, [*voxels[1:], voxels[-1]], strict=True))
    up = classes * voxels[0] + sum(c * v for c, v in zip(channels, voxels[1:-1], strict=False))
    return round(4 * _PEAK * _LIVE * batch * (down + up))


def _sizes(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:.3g}" for v in values)


def _axes(axes: list[int]) -> str:
    return " and ".join("xyz"[a] for a in axes)
