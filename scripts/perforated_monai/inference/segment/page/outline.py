"""The border of a flat mask as a path of SVG: sharp at every size, and a few hundred bytes."""

from __future__ import annotations

import itertools

import numpy as np

Point = tuple[int, int]


def outline(mask: np.ndarray) -> str:
    """Closed paths around the pixels of a mask ``(height, width)``; empty without any.

    They go through the middles of the border pixels' edges, which is what marching squares gives
    at 0.5. The unit is half a pixel, from the upper left corner of pixel (0, 0).
    """
    ends = _edges(mask)
    parts = []
    while ends:
        loop = _loop(ends)
        middles = [
            (a[0] + b[0], a[1] + b[1]) for a, b in zip(loop, loop[1:] + loop[:1], strict=True)
        ]
        parts.append(_path(_corners(middles)))
    return "".join(parts)


def _edges(mask: np.ndarray) -> dict[Point, list[Point]]:
    """Start -> ends of the border's edges, each with the inside on its right."""
    padded = np.pad(np.asarray(mask, bool), 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),  # the pixel above is outside
        (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    ends: dict[Point, list[Point]] = {}
    for border, start, end in sides:
        for y, x in np.argwhere(border).tolist():
            ends.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return ends


def _loop(ends: dict[Point, list[Point]]) -> list[Point]:
    """Take one closed loop out of the edges; as many leave a corner as arrive there."""
    first = next(iter(ends))
    loop, here = [first], first
    while True:
        following = ends[here]
        there = following.pop()
        if not following:
            del ends[here]
        if there == first:
            return loop
        loop.append(there)
        here = there


def _corners(points: list[Point]) -> list[Point]:
    """Without the points at which a closed line goes straight on."""
    kept = []
    for before, here, after in zip(
        points[-1:] + points[:-1], points, points[1:] + points[:1], strict=True
    ):
        a = (here[0] - before[0], here[1] - before[1])
        b = (after[0] - here[0], after[1] - here[1])
        if a[0] * b[1] != a[1] * b[0]:
            kept.append(here)
    return kept


def _path(points: list[Point]) -> str:
    steps = [f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in itertools.pairwise(points)]
    return f"M{points[0][0]} {points[0][1]}l{' '.join(steps)}z".replace(" -", "-")
