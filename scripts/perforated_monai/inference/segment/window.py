"""Sliding windows whose sums are handed on row by row: never the logits of a whole volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils import PytorchPadMode, ensure_tuple_rep, fall_back_tuple, look_up_option
from torch import Tensor
from torch.nn import functional

from ...errors import UserError

Where = tuple[slice, ...]


class NotStitchableError(Exception):
    """The network gives something else than one tensor of its input's size: use MONAI's inferer."""


@dataclass(frozen=True)
class Windows:
    """Settings of ``monai.inferers.SlidingWindowInferer``, by their names there."""

    roi_size: Sequence[int]
    sw_batch_size: int = 1
    overlap: Sequence[float] | float = 0.25
    mode: str = "constant"
    sigma_scale: Sequence[float] | float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no window can be, before a volume is read."""
        whole = [self.sw_batch_size, *self.roi_size]
        if any(type(v) is not int for v in whole) or self.sw_batch_size < 1:
            msg = (
                "windows need whole numbers, sw_batch_size 1 or more; got roi_size "
                f"{list(self.roi_size)} and sw_batch_size {self.sw_batch_size!r}. Correct them."
            )
            raise UserError(msg)


@torch.no_grad()
def stitch_windows(
    inputs: Tensor,
    predict: Callable[[Tensor], Tensor],
    consume: Callable[[Tensor, Where], None],
    windows: Windows,
    device: torch.device | str = "cpu",
    buffer_device: torch.device | str | None = None,
) -> None:
    """Run a network over a volume and hand on each finished part of the blended output.

    Windows run in the order and batches of MONAI's ``sliding_window_inference`` and are summed in
    that order, so finished parts equal its output bit for bit. Held at a time: the sums of one row
    of windows, and of the planes of axis 0 that the next row of windows reaches into (MONAI holds
    the whole volume; MONAI issue 6427).

    Args:
        inputs: ``(1, C, X, Y, Z)`` float tensor.
        predict: ``(B, C, *roi) -> (B, K, *roi)``.
        consume: called with logits ``(K, dx, dy, Z)`` and their place in the volume. Every voxel
            comes exactly once. The tensor may be changed but not kept: it is overwritten.
        windows: window size, batch, overlap and blending.
        device: where ``predict`` runs.
        buffer_device: where sums are held; as ``device`` when not given.

    Raises:
        NotStitchableError: when ``predict`` returns anything but a tensor of its input's size.
    """
    size = tuple(inputs.shape[2:])
    roi = fall_back_tuple(windows.roi_size, size)
    inputs, before = _pad(inputs, roi, windows)
    padded = tuple(inputs.shape[2:])
    slices = dense_patch_slices(padded, roi, _intervals(padded, roi, windows.overlap))
    weight = compute_importance_map(
        roi, mode=windows.mode, sigma_scale=windows.sigma_scale, device=device, dtype=inputs.dtype
    )
    rows: _Rows | None = None
    crop = _Crop(consume, size, before)
    for batch in _batches(slices, windows.sw_batch_size):
        data = torch.cat([inputs[(slice(None), slice(None), *s)] for s in batch]).to(device)
        out = predict(data)
        if not isinstance(out, Tensor) or out.shape[2:] != data.shape[2:]:
            raise NotStitchableError
        out = out.mul_(weight).to(buffer_device or device)  # in place: rounds half as MONAI does
        if rows is None:
            rows = _Rows(slices, padded, out, weight, crop)
        for where, part in zip(batch, out, strict=True):
            rows.add(where, part)
    if rows is not None:
        rows.finish()


def buffer_bytes(size: Sequence[int], windows: Windows, outputs: int) -> int:
    """Bytes of the sums that ``stitch_windows`` holds for a volume of ``size`` voxels."""
    roi = fall_back_tuple(windows.roi_size, size)
    padded = [max(s, r) for s, r in zip(size, roi, strict=True)]
    starts = _starts(padded[0], roi[0], _intervals(padded, roi, windows.overlap)[0])
    planes = _carried(starts, roi[0])
    return int(4 * (outputs + 1) * padded[2] * (roi[0] * roi[1] + planes * padded[1]))


class _Rows:
    """Weighted sums, and the sums of weights as one more channel, of the windows in work.

    ``row`` holds the windows that begin at the same place on axes 0 and 1. ``carry`` holds, for
    each line of axis 1, the planes of axis 0 that a later row adds to: the line's planes from the
    layer before until the row reaches them, those of this layer once the row has passed.
    """

    def __init__(
        self, slices: list[Where], size: Sequence[int], out: Tensor, weight: Tensor, crop: _Crop
    ) -> None:
        self.starts = [sorted({s[axis].start for s in slices}) for axis in (0, 1)]
        self.size, self.crop = size, crop
        self.roi = tuple(out.shape[2:])
        self.weight = weight.to(out.device)
        channels = out.shape[1] + 1
        self.row = self.weight.new_zeros(channels, self.roi[0], self.roi[1], size[2])
        depth = _carried(self.starts[0], self.roi[0])
        self.carry = self.weight.new_zeros(channels, depth, size[1], size[2])
        self.i = self.j = 0

    def add(self, where: Where, part: Tensor) -> None:
        """Add a weighted window ``(K, *roi)``."""
        i, j = self.starts[0].index(where[0].start), self.starts[1].index(where[1].start)
        if (i, j) != (self.i, self.j):
            self._close()
            self._open(i, j)
        self.row[:-1, :, :, where[2]] += part
        self.row[-1, :, :, where[2]] += self.weight

    def finish(self) -> None:
        """Hand on what is left."""
        self._close()

    def _done(self) -> tuple[int, int]:
        """First plane and line that later windows still add to."""
        after = [
            starts[k + 1] if k + 1 < len(starts) else size
            for starts, k, size in zip(self.starts, (self.i, self.j), self.size[:2], strict=True)
        ]
        return after[0], after[1]

    def _close(self) -> None:
        x, y = self.starts[0][self.i], self.starts[1][self.j]
        next_x, next_y = self._done()
        done = self.row[:, : next_x - x, : next_y - y]
        done[:-1] /= done[-1:]
        self.crop(done[:-1], (slice(x, next_x), slice(y, next_y), slice(0, self.size[2])))
        left = self.roi[0] - (next_x - x)
        if left and self.i + 1 < len(self.starts[0]):
            self.carry[:, :left, y:next_y] = self.row[:, next_x - x :, : next_y - y]

    def _open(self, i: int, j: int) -> None:
        """Move to another row: keep the lines it shares with the one before, load the carry."""
        kept = 0
        if i == self.i:
            step = self.starts[1][j] - self.starts[1][self.j]
            kept = self.roi[1] - step
            self.row[:, :, :kept] = self.row[:, :, step:].clone()
        self.i, self.j = i, j
        self.row[:, :, kept:] = 0
        if i:
            planes = self.starts[0][i - 1] + self.roi[0] - self.starts[0][i]
            y = self.starts[1][j]
            lines = slice(y + kept, y + self.roi[1])
            self.row[:, :planes, kept:] = self.carry[:, :planes, lines]


class _Crop:
    """Takes the padding off finished parts."""

    def __init__(
        self, consume: Callable[[Tensor, Where], None], size: Sequence[int], before: Sequence[int]
    ) -> None:
        self.consume, self.size, self.before = consume, size, before

    def __call__(self, part: Tensor, where: Where) -> None:
        keep, place = [], []
        for span, size, before in zip(where, self.size, self.before, strict=True):
            start = max(span.start, before)
            stop = min(span.stop, before + size)
            if start >= stop:
                return
            keep.append(slice(start - span.start, stop - span.start))
            place.append(slice(start - before, stop - before))
        self.consume(part[(slice(None), *keep)], (place[0], place[1], place[2]))


def _pad(inputs: Tensor, roi: Sequence[int], windows: Windows) -> tuple[Tensor, list[int]]:
    """Pad a volume that is smaller than a window, as MONAI does; voxels added before each axis."""
    missing = [max(r - s, 0) for r, s in zip(roi, inputs.shape[2:], strict=True)]
    before = [m // 2 for m in missing]
    if any(missing):
        pairs = [(b, m - b) for b, m in zip(before, missing, strict=True)]
        pad = [n for pair in reversed(pairs) for n in pair]
        mode = look_up_option(windows.padding_mode, PytorchPadMode)
        inputs = functional.pad(inputs, pad, mode=mode, value=windows.cval)
    return inputs, before


def _intervals(
    size: Sequence[int], roi: Sequence[int], overlap: Sequence[float] | float
) -> tuple[int, ...]:
    """Steps between windows, as ``monai.inferers.utils._get_scan_interval``."""
    overlaps = ensure_tuple_rep(overlap, len(roi))
    return tuple(
        r if r == s else max(int(r * (1 - o)), 1)
        for s, r, o in zip(size, roi, overlaps, strict=True)
    )


def _starts(size: int, roi: int, interval: int) -> list[int]:
    return [s[0].start for s in dense_patch_slices((size,), (roi,), (interval,))]


def _carried(starts: list[int], roi: int) -> int:
    """Most planes that a layer of windows shares with the next."""
    return max((a + roi - b for a, b in itertools.pairwise(starts)), default=0)


def _batches(slices: list[Where], count: int) -> list[list[Where]]:
    return [slices[k : k + count] for k in range(0, len(slices), count)]
