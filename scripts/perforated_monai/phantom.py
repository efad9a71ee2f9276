"""Phantoms: seeded volumes with labels, laid out as the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from .errors import UserError
from .files import write_json

Shape = tuple[int, int, int]
Triple = Sequence[float] | np.ndarray
Slabs = Iterator[tuple[np.ndarray, np.ndarray]]
Grid = Sequence[np.ndarray]  # coordinates x, y, z of every sample, or broadcasting to that

# Raise it whenever a seed gives other bytes than before: manifests name it.
GENERATOR_VERSION = 1
KINDS = ("hippocampus", "tumour", "ct")
MODALITIES = {
    "hippocampus": ("MRI",),
    "tumour": ("FLAIR", "T1w", "t1gd", "T2w"),
    "ct": ("CT",),
}
LABELS = {
    "hippocampus": ("background", "Anterior", "Posterior"),
    "tumour": ("background", "edema", "non-enhancing tumor", "enhancing tumour"),
    "ct": ("background", "liver", "spleen", "kidney"),
}


def make_phantoms(
    out: Path | str,
    cases: int = 20,
    seed: int = 0,
    channels: int | None = None,
    kind: str = "hippocampus",
    test_cases: int = 0,
    progress: bool = False,
    shape: Shape | None = None,
) -> Path:
    """Write a phantom dataset in MSD layout and return its folder.

    ``imagesTr``, ``labelsTr`` and, with ``test_cases``, ``imagesTs`` and ``labelsTs`` hold
    ``phantom_NNN.nii.gz``; held-out cases are numbered on after the training cases. Case k of a
    seed is the same volume in every set (``numpy.random.SeedSequence([seed, k])``). The folder is
    filled only when all files are complete; one that holds this very set is used as it is.

    Args:
        out: folder to make; it may exist when it is empty or holds this very set.
        cases: labelled training volumes.
        seed: of the whole set, 0 or more.
        channels: of an image; as the kind has (4 for ``"tumour"``, else 1) when not given.
        kind: ``"hippocampus"``, ``"tumour"`` or ``"ct"``.
        test_cases: labelled held-out volumes.
        progress: show a bar.
        shape: voxels of a ``"tumour"`` or ``"ct"`` volume; hippocampus crops draw their own.

    Raises:
        UserError: for a value out of range, a folder with other content, or a failed write.
    """
    _check(cases, seed, channels, kind, test_cases, shape)
    channels = channels or len(MODALITIES[kind])
    out = Path(out)
    description = _describe(cases, seed, channels, kind, test_cases, shape)
    try:
        if _holds(out, description):
            return out
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as staging:
            _fill(Path(staging), description, progress)
            _publish(Path(staging), out)
    except OSError as error:
        msg = (
            f"Cannot write phantoms to {out}: {error.strerror or error}. "
            "Free some space there or choose another folder; no case was left behind."
        )
        raise UserError(msg) from error
    return out


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
    depth += np.float32(0.25) * _fine(_smooth_noise(rng, shape, 2.5))
    image = _scan(rng, _coarse(_paint_temporal_lobe(rng, shape, grid, depth, section)))
    # The border is a plane of the image, whatever the pose, as raters work in coronal slices.
    border = pose[1] @ apex[[1, 0, 2]] - origin[1] + rng.normal(0, 0.2)
    return _rescale(rng, image), _label(rng, depth, border), _affine((1.0, 1.0, 1.0))


def tumour_phantom(
    rng: np.random.Generator, channels: int = 4, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a skull-stripped brain with a tumour, as MSD Task01 stores it.

    A non-enhancing core (2) lies in an enhancing rim (3) that is thin in places, and both lie
    inside edema (1). The channels are the first of FLAIR, T1w, T1 with contrast agent and T2w.

    Returns:
        image ``(X, Y, Z, channels)`` float32 (``(X, Y, Z)`` for one channel), 0 outside the brain;
        label ``(X, Y, Z)`` uint8; affine ``(4, 4)``, RAS, 1 mm. 48 to 64 voxels a side without
        ``shape``.
    """
    if shape is None:
        width, length, height = rng.integers(48, 65, 3).tolist()
        shape = (width, length, height)
    grid = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in shape))
    tissue = _brain(rng, shape, grid)
    grain, lump = (_smooth_noise(rng, shape, min(shape) * 0.06) for _ in range(2))
    radii = rng.uniform(0.4, 0.55) * rng.uniform(0.9, 1.1, 3)
    inside = _ball(grid, rng.uniform(-0.3, 0.3, 3), radii) + 0.1 * lump
    core, rim = rng.uniform(0.3, 0.4), rng.uniform(0.14, 0.22) * (1 + 0.7 * grain)
    label = np.select([inside < 0, inside < core, inside < core + rim], [0, 1, 3], 2)
    label = (label * (tissue > 0)).astype(np.uint8)
    tissue = np.where(label > 0, label + 3, tissue)
    image = np.stack([_channel(rng, row[tissue], tissue > 0) for row in _CONTRAST[:channels]], -1)
    return image[..., 0] if channels == 1 else image, label, _affine((1.0, 1.0, 1.0))


def ct_phantom(
    rng: np.random.Generator, shape: Shape = (512, 512, 600), slab: int = 8
) -> tuple[Slabs, np.ndarray]:
    """Draw a body in Hounsfield units slab by slab, so that a large volume needs little memory.

    Returns:
        an iterator over pairs of image ``(X, Y, <= slab)`` int16 and label ``(X, Y, <= slab)``
        uint8 (1 liver, 2 spleen, 3 kidneys) from foot to head, the same voxels for every ``slab``;
        affine ``(4, 4)``, RAS, 0.8 × 0.8 × 1 mm.
    """
    organs = _ORGANS.copy()
    organs[:, 2:] += rng.normal(0, 0.015, organs[:, 2:].shape)
    return _ct_slabs(rng, organs, shape, slab), _affine((0.8, 0.8, 1.0))


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
    return 3 * _ball(grid, (x, y, z), (4, 4.5, 3))


# T1 contrast as in Task04: medians in the labels and around them over the 1-99 % range.
_FLUID, _GREY, _WHITE = 0.1, 0.42, 0.85
# By depth under the object in steps of 1.2 mm: 0 white matter, 1 cortex, 2 a furrow.
_SHEETS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 1, 1, 0, 0], np.int8)


def _paint_temporal_lobe(
    rng: np.random.Generator, shape: Shape, grid: Grid, depth: np.ndarray, section: Grid
) -> np.ndarray:
    """Tissue brightness around and in the object, later structures over earlier ones."""
    (x, y, z), (u, v) = grid, section
    wave, rim, grain, lump = (_fine(_smooth_noise(rng, shape, s)) for s in (4, 2, 0.7, 2))
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
    amygdala = _ball(grid, np.add((1, 13, 6.5), rng.normal(0, 1.2, 3)), (10, 9, 6.5))
    plexus = _ball(grid, np.add((-5, -15, 12), rng.normal(0, 2, 3)), (4, 5, 3))
    weight = np.clip(3 * np.maximum(amygdala, plexus) + 0.6 * rim, 0, 1)
    tissue += weight * (grey * np.float32(rng.uniform(1, 1.25)) - tissue)
    # Entorhinal cortex runs into the medial side of the object: no edge there.
    np.copyto(tissue, grey, where=(u > 0.6) & (v < 0.5) & (depth > -1.6 + rim))
    # Fluid: the medial cistern, the temporal horn above and beside the object, the atrium behind.
    cistern = np.abs(x - 13 - 0.03 * (z + 4) ** 2 - wave) < 1.3 + 0.8 * rim + 0.08 * np.abs(y)
    horn = (depth > -1.2 - rng.uniform(0.3, 1.2) * rim) & (v > 0) & (u < 0.7)
    atrium = _ball(grid, np.add((-6, -21, 8), rng.normal(0, 2, 3)), (6, 7, 6)) + 0.15 * wave > 0
    tissue[cistern | horn | atrium] = _FLUID
    # The object, with a brighter sheet (alveus) under its upper surface.
    alveus = (depth < 1.4) & (v > 0) & (rim > 0)
    return np.where(depth > 0, grey + np.float32(0.1) * alveus, tissue)


def _ball(grid: Grid, centre: Triple, radii: Triple) -> np.ndarray:
    """1 at the centre of an ellipsoid, 0 on its surface, negative outside."""
    terms = [
        ((a - np.float32(c)) / np.float32(r)) ** 2
        for a, c, r in zip(grid, centre, radii, strict=True)
    ]
    return 1 - np.sqrt(terms[0] + terms[1] + terms[2])


def _label(rng: np.random.Generator, depth: np.ndarray, border: float) -> np.ndarray:
    """Majority of the eight samples of a voxel, in front of voxel plane ``border`` 1, behind 2.

    A rater's hand is not exact: the outline wanders by 0.15 mm.
    """
    shape = tuple(n // 2 for n in depth.shape)
    hand = 0.15 * _fine(_smooth_noise(rng, shape, 2))
    inside = _coarse((depth + hand > 0).astype("f4")) >= 0.5
    label = np.where(np.arange(shape[1])[:, None] > border, 1, 2) * inside
    for value in (1, 2):
        parts, count = ndimage.label(label == value)
        if count > 1:
            largest = 1 + np.argmax(np.bincount(parts.ravel())[1:])
            label[(parts > 0) & (parts != largest)] = 0
    return label.astype(np.uint8)


def _scan(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """What a scanner makes of it: a smooth bias field, some blur, Rician noise."""
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in tissue.shape))
    b = rng.normal(0, 0.1, 6).astype("f4")
    bias = np.exp(b[0] * x + b[1] * y + b[2] * z + b[3] * x * y + b[4] * y * z + b[5] * z * z)
    clean = ndimage.gaussian_filter(tissue * bias, rng.uniform(0.35, 0.55), truncate=3)
    real, imaginary = rng.standard_normal((2, *tissue.shape), dtype="f4") * rng.uniform(0.02, 0.045)
    return np.sqrt((clean + real) ** 2 + imaginary**2)


def _rescale(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Give it the maximum of one scanner or another; a fifth become whole numbers up to 255."""
    image = image / image.max()
    if rng.random() < 0.22:
        return np.round(image * np.float32(rng.uniform(100, 255)))
    return image * np.float32(np.exp(rng.uniform(np.log(100), np.log(1.7e6))))


def _smooth_noise(rng: np.random.Generator, shape: Shape, sigma: float) -> np.ndarray:
    """Gaussian random field of unit variance, smooth over ``sigma`` voxels."""
    field = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype="f4"), sigma, mode="wrap", truncate=3
    )
    return field / field.std()


def _fine(field: np.ndarray) -> np.ndarray:
    """Two samples a voxel and axis."""
    return field.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def _coarse(samples: np.ndarray) -> np.ndarray:
    """Mean of the eight samples of a voxel: partial volume."""
    halves = (samples[..., ::2] + samples[..., 1::2]) * np.float32(0.125)
    halves = halves[:, ::2] + halves[:, 1::2]
    return halves[::2] + halves[1::2]


def _affine(spacing: tuple[float, float, float]) -> np.ndarray:
    """RAS; the origin is not 0, as in MSD, so that a lost affine shows."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 1
    return affine


# Brightness by tissue: outside, ventricle, grey, white, edema, non-enhancing, enhancing tumour.
_CONTRAST = np.array(
    [
        (0, 0.15, 0.55, 0.45, 0.9, 0.7, 0.8),
        (0, 0.15, 0.5, 0.75, 0.45, 0.35, 0.45),
        (0, 0.15, 0.5, 0.72, 0.45, 0.32, 1.0),
        (0, 1.0, 0.6, 0.45, 0.85, 0.9, 0.65),
    ],
    np.float32,
)


def _brain(rng: np.random.Generator, shape: Shape, grid: Grid) -> np.ndarray:
    """Tissue 0 to 3 of ``_CONTRAST``: white matter, a folded grey rim, two ventricles."""
    fold, edge = (_smooth_noise(rng, shape, min(shape) * 0.04) for _ in range(2))
    depth = _ball(grid, (0, 0, 0), (0.87, 0.92, 0.83))
    ventricles = [_ball(grid, (side, 0.05, 0.1), (0.09, 0.4, 0.2)) for side in (-0.13, 0.13)]
    fluid = np.maximum(*ventricles) + 0.05 * edge > 0
    return np.select([depth < 0, depth + 0.05 * fold < 0.16, fluid], [0, 2, 1], 3)


def _channel(rng: np.random.Generator, tissue: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """One sequence: scanned on its own, then stripped of all but the brain."""
    return np.where(brain, _scan(rng, tissue) * np.float32(np.exp(rng.uniform(4, 8))), 0)


# HU, label, centre and half axes in the half sizes of the volume (x right, y front, z up);
# later ones lie over earlier ones.
_ORGANS = np.array(
    [
        (-100, 0, 0.0, 0.0, 0.0, 0.85, 0.65, 9.0),
        (40, 0, 0.0, 0.0, 0.0, 0.78, 0.58, 9.0),
        (-850, 0, -0.38, 0.05, 0.7, 0.28, 0.42, 0.5),
        (-850, 0, 0.38, 0.05, 0.7, 0.28, 0.42, 0.5),
        (400, 0, 0.0, -0.42, 0.0, 0.09, 0.09, 9.0),
        (60, 1, 0.36, 0.08, 0.05, 0.34, 0.38, 0.22),
        (50, 2, -0.5, -0.18, 0.08, 0.16, 0.2, 0.15),
        (35, 3, 0.28, -0.36, -0.25, 0.11, 0.12, 0.16),
        (35, 3, -0.28, -0.36, -0.22, 0.11, 0.12, 0.16),
    ],
    np.float32,
)


def _ct_slabs(rng: np.random.Generator, organs: np.ndarray, shape: Shape, slab: int) -> Slabs:
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in shape))
    for start in range(0, shape[2], slab):
        part = z[..., start : start + slab]
        image = np.full((*shape[:2], part.shape[2]), -1000, np.int16)
        label = np.zeros(image.shape, np.uint8)
        for hu, value, *ellipsoid in organs:
            inside = _ball([x, y, part], ellipsoid[:3], ellipsoid[3:]) > 0
            image[inside], label[inside] = hu, value
        noise = rng.standard_normal((part.shape[2], *shape[:2]), dtype="f4")
        image += (15 * noise.transpose(1, 2, 0)).astype(np.int16)
        yield np.maximum(image, -1024), label


def _check(
    cases: int, seed: int, channels: int | None, kind: str, test_cases: int, shape: Shape | None
) -> None:
    """Refuse what no set can have."""
    if kind not in KINDS:
        msg = f"kind must be one of {', '.join(KINDS)}; got {kind!r}."
        raise UserError(msg)
    for name, value, least in (
        ("cases", cases, 1),
        ("seed", seed, 0),
        ("test_cases", test_cases, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{name} must be a whole number, {least} or more; got {value!r}."
            raise UserError(msg)
    most = len(MODALITIES[kind])
    if channels is not None and channels not in range(1, most + 1):
        msg = (
            f"A {kind} phantom has 1 to {most} channels; got {channels!r}. "
            "kind='tumour' has up to 4."
        )
        raise UserError(msg)
    if shape is not None and (kind == "hippocampus" or len(shape) != 3 or min(shape) < 16):
        msg = (
            f"shape must be three sizes of 16 or more, for kind='tumour' or 'ct'; got {shape!r} "
            f"for {kind!r}."
        )
        raise UserError(msg)


def _describe(
    cases: int, seed: int, channels: int, kind: str, test_cases: int, shape: Shape | None
) -> dict[str, Any]:
    """``dataset.json``: the MSD keys, and under ``generator`` all that decides the bytes."""
    names = [f"phantom_{k:03d}.nii.gz" for k in range(cases + test_cases)]
    return {
        "name": f"phantom_{kind}",
        "description": f"Synthetic volumes ({kind}) for demos and tests; no patient data",
        "reference": "perforated_monai.phantom",
        "licence": "Apache-2.0",
        "release": str(GENERATOR_VERSION),
        "tensorImageSize": "4D" if channels > 1 else "3D",
        "modality": {str(i): name for i, name in enumerate(MODALITIES[kind][:channels])},
        "labels": {str(i): name for i, name in enumerate(LABELS[kind])},
        "numTraining": cases,
        "numTest": test_cases,
        "training": [
            {"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:cases]
        ],
        "test": [f"./imagesTs/{n}" for n in names[cases:]],
        "generator": {
            "name": "perforated_monai.phantom",
            "version": GENERATOR_VERSION,
            "seed": seed,
            "kind": kind,
            "channels": channels,
            "shape": None if shape is None else list(shape),
        },
    }


def _files(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Image and label of every case, training first, relative to the set's folder."""
    training = [(case["image"], case["label"]) for case in description["training"]]
    return training + [(i, i.replace("imagesTs", "labelsTs")) for i in description["test"]]


def _holds(out: Path, description: dict[str, Any]) -> bool:
    """Whether ``out`` already is this set; raises when it holds anything else."""
    if not out.exists() or (out.is_dir() and not _visible(out)):
        return False
    index = out / "dataset.json"
    same = False
    if index.is_file():
        with contextlib.suppress(ValueError):
            same = json.loads(index.read_text(encoding="utf-8")) == description
    if same and all((out / f).is_file() for pair in _files(description) for f in pair):
        return True
    msg = (
        f"The folder for phantoms must be new, empty or hold the very same set; {out} holds other "
        "content. Choose another folder or remove it."
    )
    raise UserError(msg)


def _visible(folder: Path) -> list[Path]:
    """All but what an interrupted run left behind."""
    return [path for path in folder.iterdir() if not path.name.startswith(".partial-")]


def _fill(folder: Path, description: dict[str, Any], progress: bool) -> None:
    """Write every case and ``dataset.json``, all of it on the disk when it returns."""
    files = _files(description)
    for image, label in files:
        (folder / image).parent.mkdir(exist_ok=True)
        (folder / label).parent.mkdir(exist_ok=True)
    for k, (image, label) in enumerate(tqdm(files, desc="phantoms", disable=not progress)):
        slabs, affine, shape, dtype = _case(k, description["generator"])
        with (
            _volume(folder / image, shape, dtype, affine) as image_file,
            _volume(folder / label, shape[:3], np.uint8, affine) as label_file,
        ):
            for image_slab, label_slab in slabs:
                image_file.write(image_slab.astype(dtype, copy=False).tobytes(order="F"))
                label_file.write(label_slab.tobytes(order="F"))
    write_json(folder / "dataset.json", description, indent=1)


def _case(k: int, generator: dict[str, Any]) -> tuple[Slabs, np.ndarray, tuple[int, ...], Any]:
    """Slabs, affine, shape and storage type of case ``k``."""
    rng = np.random.default_rng(np.random.SeedSequence([generator["seed"], k]))
    shape = generator["shape"] and tuple(generator["shape"])
    if generator["kind"] == "ct":
        shape = shape or (512, 512, 600)
        slabs, affine = ct_phantom(rng, shape)
        return slabs, affine, shape, np.int16
    if generator["kind"] == "tumour":
        image, label, affine = tumour_phantom(rng, generator["channels"], shape)
    else:
        image, label, affine = hippocampus_phantom(rng)
    whole = image.max() <= 255 and np.array_equal(image, np.round(image))
    dtype = np.uint8 if whole else np.float32
    return iter([(image, label)]), affine, image.shape, dtype


@contextlib.contextmanager
def _volume(path: Path, shape: tuple[int, ...], dtype: Any, affine: np.ndarray) -> Iterator[Any]:
    """Open a ``.nii.gz`` for its voxels in Fortran order; synced when left.

    nibabel writes whole arrays only. No time stamp goes into the file: equal seeds, equal bytes.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    with path.open("wb") as file:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            stream.write(header.binaryblock + bytes(4))
            yield stream
        file.flush()
        os.fsync(file.fileno())


def _publish(staging: Path, out: Path) -> None:
    """Move the complete set under its final names, ``dataset.json`` last."""
    for path in sorted(staging.iterdir(), key=lambda p: p.name == "dataset.json"):
        path.replace(out / path.name)
