"""Stitched windows are those of MONAI, bit for bit, without its full-size buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from perforated_monai.inference.segment.window import (
    NotStitchableError,
    Windows,
    buffer_bytes,
    stitch_windows,
)

# Volume, window, overlap, windows a batch, blending; axes smaller than, equal to and no multiple
# of the window, clamped last windows, overlaps over three windows.
CASES = [
    ((20, 18, 22), (8, 8, 8), 0.25, 4, "gaussian"),
    ((20, 18, 22), (8, 8, 8), 0.5, 3, "gaussian"),
    ((17, 9, 30), (8, 8, 12), 0.25, 1, "constant"),
    ((25, 23, 11), (8, 6, 4), 0.7, 5, "gaussian"),
    ((9, 9, 9), (8, 8, 8), 0.0, 2, "constant"),
    ((6, 20, 5), (8, 8, 8), 0.25, 2, "gaussian"),
    ((5, 6, 7), (8, 8, 8), 0.25, 4, "gaussian"),
    ((8, 30, 8), (8, 8, 8), 0.6, 4, "gaussian"),
    ((30, 8, 8), (8, 8, 8), (0.6, 0.1, 0.0), 4, "gaussian"),
    ((12, 13, 1), (8, 8, 8), 0.25, 4, "gaussian"),
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    # Depends on the place in the window, as padding at its border makes real networks do.
    return torch.nn.Conv3d(2, 3, 3, padding=1).eval().requires_grad_(False)


def stitched(inputs, network, windows, channels=3):
    """Everything that came out, and how often each voxel came."""
    found = torch.full((channels, *inputs.shape[2:]), torch.nan)
    times = torch.zeros(inputs.shape[2:])

    def take(part, where):
        found[(slice(None), *where)] = part
        times[where] += 1

    stitch_windows(inputs, network, take, windows)
    return found, times


@pytest.mark.parametrize(("size", "roi", "overlap", "batch", "mode"), CASES)
def test_output_is_that_of_monai_bit_for_bit(size, roi, overlap, batch, mode, network):
    inputs = torch.randn((1, 2, *size), generator=torch.Generator().manual_seed(1))
    windows = Windows(roi, batch, overlap, mode)
    found, times = stitched(inputs, network, windows)
    expected = SlidingWindowInferer(roi, batch, overlap, mode)(inputs, network)[0]
    assert torch.equal(times, torch.ones(size))
    assert torch.equal(found, expected)


def test_padding_modes_are_those_of_monai(network):
    inputs = torch.randn((1, 2, 6, 9, 7), generator=torch.Generator().manual_seed(1))
    for mode, value in (("reflect", 0.0), ("replicate", 0.0), ("constant", 2.5)):
        settings = {"padding_mode": mode, "cval": value, "sigma_scale": 0.3}
        found, _ = stitched(inputs, network, Windows((8, 8, 8), 2, 0.25, "gaussian", **settings))
        inferer = SlidingWindowInferer((8, 8, 8), 2, 0.25, "gaussian", **settings)
        assert torch.equal(found, inferer(inputs, network)[0])


def test_half_precision_rounds_as_monai_does(network):
    inputs = torch.randn((1, 2, 11, 9, 12), generator=torch.Generator().manual_seed(1))
    windows = Windows((8, 8, 8), 2, 0.5, "gaussian")
    found, _ = stitched(inputs, lambda x: network(x).bfloat16(), windows)
    inferer = SlidingWindowInferer((8, 8, 8), 2, 0.5, "gaussian")
    assert torch.equal(found, inferer(inputs, lambda x: network(x).bfloat16())[0])
    assert not torch.equal(found, stitched(inputs, network, windows)[0])


def test_window_as_large_as_the_volume_where_roi_says_so(network):
    inputs = torch.randn((1, 2, 11, 9, 12), generator=torch.Generator().manual_seed(1))
    found, _ = stitched(inputs, network, Windows((-1, 8, 0), 2, 0.5, "gaussian"))
    inferer = SlidingWindowInferer((-1, 8, 0), 2, 0.5, "gaussian")
    assert torch.equal(found, inferer(inputs, network)[0])


def test_buffers_do_not_grow_with_the_first_axis():
    windows = Windows((96, 96, 96), 2, 0.25, "gaussian")
    small = buffer_bytes((512, 512, 600), windows, 3)
    large = buffer_bytes((1024, 512, 600), windows, 3)
    assert abs(large - small) < 0.5 * small  # only the clamped last window differs
    assert small < 0.15 * 4 * 4 * 512 * 512 * 600  # logits and count map of the volume


def test_network_that_changes_the_size_is_left_to_monai():
    inputs = torch.zeros(1, 1, 12, 12, 12)
    pool = torch.nn.AvgPool3d(2)
    with pytest.raises(NotStitchableError):
        stitch_windows(inputs, pool, lambda *_: None, Windows((8, 8, 8)))
    with pytest.raises(NotStitchableError):
        stitch_windows(inputs, lambda x: (x, x), lambda *_: None, Windows((8, 8, 8)))


def test_parts_arrive_in_order_of_the_first_axis(network):
    starts = []
    inputs = torch.zeros(1, 2, 30, 12, 12)
    stitch_windows(inputs, network, lambda _, w: starts.append(w[0].start), Windows((8, 8, 8)))
    assert starts == sorted(starts) and len(set(starts)) > 3
    assert np.diff(sorted(set(starts))).max() <= 8
