"""A hippocampus-like object in a T1-like crop."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .drawing import Grid, Shape, affine, ball, scan, smooth_noise

# T1 contrast as in Task04: medians in the labels and around them over the 1-99 % range.
_FLUID, _GREY, _WHITE = 0.1, 0.42, 0.85

# The hippocampus: t from tail (-1) to head (1) over 39 mm; per t the centre (x medial, z up), the
# half axes of the coronal section in mm and its tilt in degrees. Medians over the labels of MSD
# Task04, rounded.
_HALF_LENGTH = 19.5

_BORDER = 0.17

_SECTIONS = np.array(
    [  # t, x, z, half width, half height, tilt
        (-1.0, 3.5, 11.5, 7.0, 3.8, 30),
        (-0.8, 2.2, 9.0, 7.0, 4.0, 22),
        (-0.5, -1.5, 4.0, 6.8, 3.8, 4),
        (-0.1, -3.0, 0.5, 6.7, 3.7, -5),
        (0.12, -2.6, -1.1, 6.9, 3.9, -8),
        (0.22, -1.3, -1.7, 7.4, 4.4, -2),
        (0.4, 0.2, -2.8, 8.3, 4.9, 6),
        (0.6, 1.8, -4.1, 8.9, 4.8, 10),
        (0.8, 3.5, -5.5, 8.6, 4.4, 18),
        (1.0, 5.5, -6.8, 8.0, 4.2, 24),
    ]
)

# By depth under the object in steps of 1.2 mm: 0 white matter, 1 cortex, 2 a furrow.
_SHEETS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 1, 1, 0, 0], np.int8)


def hippocampus_phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a T1-like crop around a hippocampus-like object.

    One curved object along y (posterior to anterior): a bulky head with a medial hook (1), then a
    tapering, rising body and tail (2); the border is the coronal plane where the hook ends, as
    raters place it. Grey neighbours touch it without an edge; dark fluid and white matter lie
    around it. Two raters of a phantom would agree to a Dice of about 0.95.

    Returns:
        image ``(X, Y, Z)`` float32, 31-43 × 40-59 × 24-47 voxels, maxima log-uniform in 100 to
        1.7 million, or whole numbers up to 255 in one case of five; label ``(X, Y, Z)`` uint8;
        affine ``(4, 4)``, RAS, 1 mm.
    """
    curve, apex = _centre_line(rng)
    pose = _pose(rng)
    shape, origin = _crop(rng, curve, pose)
    grid = _object_grid(shape, origin, pose)
    depth, *section = _depth(grid, curve)
    depth = np.maximum(depth, _hook(grid, apex))
    depth += np.float32(0.25) * _fine(smooth_noise(rng, shape, 2.5))
    image = scan(rng, _coarse(_paint_temporal_lobe(rng, shape, grid, depth, section)))
    # The border is a plane of the image, whatever the pose, as raters work in coronal slices.
    border = pose[1] @ apex[[1, 0, 2]] - origin[1] + rng.normal(0, 0.2)
    return _rescale(rng, image), _label(rng, depth, border), affine((1.0, 1.0, 1.0))


def _centre_line(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sections every 0.1 mm as rows (y, x, z, half width, half height, tilt), and the border's
    centre (y, x, z).
    """
    t = np.linspace(-1.1, 1.1, 430)
    border = _BORDER + np.clip(rng.normal(0, 0.09), -0.2, 0.2)
    anatomical = np.interp(t, [-1, border, 1], [-1, _BORDER, 1])
    x, z, width, height, tilt = (np.interp(anatomical, _SECTIONS[:, 0], c) for c in _SECTIONS.T[1:])
    bend = np.outer(rng.normal(0, 1.2, 2), t**2 - 0.3) + np.outer(rng.normal(0, 0.6, 2), t**3 - t)
    cap = np.sqrt(np.maximum(1 - np.abs(t) ** 9, 1e-3))
    width, height = (c * cap * rng.uniform(0.92, 1.08) for c in (width, height))
    tilt = np.radians(tilt + rng.normal(0, 6))
    rows = np.stack([t * _HALF_LENGTH, x + bend[0], z + bend[1], width, height, tilt], 1)
    rows[:, 1:] = ndimage.gaussian_filter1d(rows[:, 1:], 8, axis=0)
    return rows, rows[np.searchsorted(t, border), :3]


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Rotation up to ±15° about each axis times scale up to ±15 %, ``(3, 3)``, object to world."""
    a, b, c = np.radians(rng.triangular(-15, 0, 15, 3))
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    scale = np.clip(rng.uniform(0.9, 1.06) * rng.uniform(0.94, 1.06, 3), 0.85, 1.15)
    return np.array(about_z) @ about_y @ about_x * scale


def _crop(
    rng: np.random.Generator, curve: np.ndarray, pose: np.ndarray
) -> tuple[Shape, np.ndarray]:
    """Size of the crop in voxels and its first voxel in world mm, from the object's own box."""
    y, x, z, width, height, tilt = curve[::10].T[:, :, None]
    angle = np.linspace(0, 2 * np.pi, 16)
    u, v = width * np.cos(angle), height * np.sin(angle)
    surface = [x + u * np.cos(tilt) - v * np.sin(tilt), y, z + u * np.sin(tilt) + v * np.cos(tilt)]
    points = pose @ np.stack([np.broadcast_to(a, u.shape).ravel() for a in surface])
    low, high = points.min(1), points.max(1)
    margin = rng.uniform((6, 4, 5), (8, 6, 7.5), (2, 3))
    size = np.clip(np.round(high - low + margin.sum(0)), (31, 40, 24), (43, 59, 47)).astype(int)
    slack = size - (high - low)
    return tuple(size.tolist()), low - slack * margin[0] / margin.sum(0)


def _object_grid(shape: Shape, origin: np.ndarray, pose: np.ndarray) -> Grid:
    """Object coordinates (mm) of the centres of a grid with two samples a voxel and axis."""
    inverse = np.linalg.inv(pose).astype("f4")
    axes = [
        ((np.arange(2 * n) - 0.5) / 2 + o).astype("f4") for n, o in zip(shape, origin, strict=True)
    ]
    i, j, k = np.ix_(*axes)
    return [row[0] * i + row[1] * j + row[2] * k for row in inverse]


def _depth(grid: Grid, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in mm below the surface (negative outside), and in the coronal section the medial
    position in half widths and the height above the centre in mm.
    """
    x, y, z = grid
    row = ((y - curve[0, 0]) * np.float32(1 / (curve[1, 0] - curve[0, 0]))).astype(np.int16)
    sections = np.column_stack([curve[:, 1:5], np.cos(curve[:, 5]), np.sin(curve[:, 5])])
    cx, cz, width, height, cos, sin = (
        column.take(row, mode="clip") for column in sections.T.astype("f4", order="C")
    )
    x, z = x - cx, z - cz
    u, v = (x * cos + z * sin) / width, z * cos - x * sin
    radius = np.sqrt(u * u + (v / height) ** 2) + np.float32(1e-3)
    slope = np.sqrt((u / width) ** 2 + (v / height**2) ** 2) / radius + np.float32(1e-3)
    return np.minimum((1 - radius) / slope, _HALF_LENGTH - np.abs(y)), u, v


def _hook(grid: Grid, apex: np.ndarray) -> np.ndarray:
    """Depth below the surface of the uncus, the medial hook of the head; it ends at the border."""
    y, x, z = apex + np.array([4.5, 9.5, 0.5])
    return 3 * ball(grid, (x, y, z), (4, 4.5, 3))


def _paint_temporal_lobe(
    rng: np.random.Generator, shape: Shape, grid: Grid, depth: np.ndarray, section: Grid
) -> np.ndarray:
    """Tissue brightness around and in the object, later structures over earlier ones."""
    (x, y, z), (u, v) = grid, section
    wave, rim, grain, lump = (_fine(smooth_noise(rng, shape, s)) for s in (4, 2, 0.7, 2))
    tissue = _WHITE + 0.06 * lump + 0.05 * grain
    grey = _GREY + 0.04 * grain + 0.02 * lump
    # Nuclei and cortex far from the object: patches between white and grey.
    tissue -= 0.25 * np.clip(wave - 0.6, 0, 1) * (v > 0)
    # Sheets of cortex and fluid under the white matter below the object.
    fold = 1.6 * np.sin(x * rng.uniform(0.25, 0.5) + rng.uniform(0, 6)) + 1.2 * wave
    below = np.where(v < 0, -depth, -9) + fold
    sheet = _SHEETS.take((below * np.float32(0.85)).astype(np.int8), mode="clip")
    np.copyto(tissue, grey, where=sheet == 1)
    tissue[sheet == 2] = _FLUID
    # Amygdala and choroid plexus: grey as the object, without an edge of their own.
    amygdala = ball(grid, np.add((1, 13, 6.5), rng.normal(0, 1.2, 3)), (10, 9, 6.5))
    plexus = ball(grid, np.add((-5, -15, 12), rng.normal(0, 2, 3)), (4, 5, 3))
    weight = np.clip(3 * np.maximum(amygdala, plexus) + 0.6 * rim, 0, 1)
    tissue += weight * (grey * np.float32(rng.uniform(1, 1.25)) - tissue)
    # Entorhinal cortex runs into the medial side of the object: no edge there.
    np.copyto(tissue, grey, where=(u > 0.6) & (v < 0.5) & (depth > -1.6 + rim))
    # Fluid: the medial cistern, the temporal horn above and beside the object, the atrium behind.
    cistern = np.abs(x - 13 - 0.03 * (z + 4) ** 2 - wave) < 1.3 + 0.8 * rim + 0.08 * np.abs(y)
    horn = (depth > -1.2 - rng.uniform(0.3, 1.2) * rim) & (v > 0) & (u < 0.7)
    atrium = ball(grid, np.add((-6, -21, 8), rng.normal(0, 2, 3)), (6, 7, 6)) + 0.15 * wave > 0
    tissue[cistern | horn | atrium] = _FLUID
    # The object, with a brighter sheet (alveus) under its upper surface.
    alveus = (depth < 1.4) & (v > 0) & (rim > 0)
    return np.where(depth > 0, grey + np.float32(0.1) * alveus, tissue)


def _label(rng: np.random.Generator, depth: np.ndarray, border: float) -> np.ndarray:
    """Majority of the eight samples of a voxel, in front of voxel plane ``border`` 1, behind 2.

    A rater's hand is not exact: the outline wanders by 0.15 mm.
    """
    shape = tuple(n // 2 for n in depth.shape)
    hand = 0.15 * _fine(smooth_noise(rng, shape, 2))
    inside = _coarse((depth + hand > 0).astype("f4")) >= 0.5
    label = np.where(np.arange(shape[1])[:, None] > border, 1, 2) * inside
    for value in (1, 2):
        parts, count = ndimage.label(label == value)
        if count > 1:
            largest = 1 + np.argmax(np.bincount(parts.ravel())[1:])
            label[(parts > 0) & (parts != largest)] = 0
    return label.astype(np.uint8)


def _rescale(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Give it the maximum of one scanner or another; a fifth become whole numbers up to 255."""
    image = image / image.max()
    if rng.random() < 0.22:
        return np.round(image * np.float32(rng.uniform(100, 255)))
    return image * np.float32(np.exp(rng.uniform(np.log(100), np.log(1.7e6))))


def _fine(field: np.ndarray) -> np.ndarray:
    """Two samples a voxel and axis."""
    return field.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def _coarse(samples: np.ndarray) -> np.ndarray:
    """Mean of the eight samples of a voxel: partial volume."""
    halves = (samples[..., ::2] + samples[..., 1::2]) * np.float32(0.125)
    halves = halves[:, ::2] + halves[:, 1::2]
    return halves[::2] + halves[1::2]
